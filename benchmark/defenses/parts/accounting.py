"""Epsilon of a sampled Gaussian mechanism, from Opacus's Renyi accountant."""

from __future__ import annotations

import warnings
from functools import lru_cache

ALPHAS = (
    [1 + x / 100 for x in range(1, 100)] + [x / 10 for x in range(20, 110)] + list(range(11, 512))
)
"""Renyi orders; those close to 1 matter for the large epsilons at which noise is weak."""


@lru_cache(maxsize=256)
def epsilon(*, noise: float, rate: float, steps: int, delta: float) -> float:
    """Epsilon at ``delta`` after ``steps`` mechanisms of multiplier ``noise``, sampling ``rate``.

    Source: Mironov et al. 2019, arXiv:1908.10530, as implemented by Opacus.
    """
    from opacus.accountants import RDPAccountant

    import benchmark.compat  # noqa: F401  (before opacus, which imports torchvision)

    accountant = RDPAccountant()
    accountant.history = [(noise, rate, steps)]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # "optimal order is the smallest alpha": it may be
        return float(accountant.get_epsilon(delta=delta, alphas=ALPHAS))
