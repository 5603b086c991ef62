"""Epsilon of a sampled Gaussian mechanism, from Opacus's accountants: the smaller of two bounds.

Renyi (Mironov, Talwar and Zhang 2019, arXiv:1908.10530) bounds everything that there is. The
privacy loss random variable (Gopi, Lee and Wutschitz, NeurIPS 2021, arXiv:2106.02848) is composed
numerically and tighter; its grid grows with epsilon and with the number of steps, and beyond
``LARGEST_LOSS`` exponentials overflow, so that weak noise is left to Renyi. Both are upper bounds,
and so is the smaller one. Neighbours differ by one unit that is there or not there.
"""

from __future__ import annotations

import math
import warnings
from functools import lru_cache

import numpy as np

ALPHAS = (
    [1 + x / 100 for x in range(1, 100)] + [x / 10 for x in range(20, 110)] + list(range(11, 512))
)
"""Renyi orders; those close to 1 matter for the large epsilons at which noise is weak."""
LARGEST_LOSS = 500.0
"""Half the width of the grid on which privacy losses are still composed: exp overflows at 709."""
LARGEST_GRID = 2**21
"""Points of that grid, which Opacus holds several arrays of."""
ERROR = 0.01
"""What the composed bound may lie above the truth; it is in the bound."""


@lru_cache(maxsize=256)
def epsilon(*, noise: float, rate: float, steps: int, delta: float) -> float:
    """Epsilon at ``delta`` after ``steps`` mechanisms of multiplier ``noise``, sampling ``rate``.

    Never negative. Zero: ``delta`` alone covers the difference that a unit makes, or nothing of it
    is sent (no steps, or a rate of zero). Infinity: no finite bound, as without noise.
    """
    if steps == 0 or rate == 0:
        return 0.0
    if noise == 0:
        return math.inf
    found = _renyi(noise, rate, steps, delta)
    composed = _composed(noise, rate, steps, delta)
    return max(0.0, found if composed is None else min(found, composed))


def _renyi(noise: float, rate: float, steps: int, delta: float) -> float:
    from opacus.accountants.analysis.rdp import get_privacy_spent

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # "optimal order is the smallest alpha": it may be
        curve = _divergences(noise, rate) * steps
        found = float(get_privacy_spent(orders=ALPHAS, rdp=curve, delta=delta)[0])
    return math.inf if math.isnan(found) else found


@lru_cache(maxsize=64)
def _divergences(noise: float, rate: float) -> np.ndarray:
    """Renyi divergence of one step at every order; seconds of computing for all of them."""
    from opacus.accountants.analysis.rdp import compute_rdp

    return compute_rdp(q=rate, noise_multiplier=noise, steps=1, orders=ALPHAS)


def _composed(noise: float, rate: float, steps: int, delta: float) -> float | None:
    """The bound from privacy losses; None where its grid would be too large, or Opacus gives up."""
    from opacus.accountants import PRVAccountant

    small = delta / 1000  # Opacus's own choice of the error in delta
    if (width := _renyi(noise, rate, steps, small / 4)) > LARGEST_LOSS:
        return None
    if 2 * width * math.sqrt(steps * math.log(12 / small) / 2) / ERROR > LARGEST_GRID:
        return None
    accountant = PRVAccountant()
    accountant.history = [(noise, rate, steps)]
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # the logarithm of zero, at a rate of one
            found = float(accountant.get_epsilon(delta, eps_error=ERROR, delta_error=small))
    except (ArithmeticError, MemoryError, RuntimeError, ValueError):
        return None  # it says so where rounding would dominate
    return found if math.isfinite(found) else None
