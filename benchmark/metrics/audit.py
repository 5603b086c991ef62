"""The objective audit: was it the evidence that ran out, or the optimiser that failed?

A defense is credited only where the attack explained what it saw at least as well as the truth
does, and still did not find it.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import ArrayLike

OK, EXHAUSTED, FAILED, BROKEN = "ok", "evidence-exhausted", "optimiser-failed", "broken-attack"

TOLERANCE = 0.1
"""Share of a cell's images that may fall short before the cell's verdict says so."""

RESOLUTION = 1e-7
"""Losses below this are equal: one minus a cosine has no finer steps in float32."""

BROKEN_LOSS = 1e-6
"""Without a defense the truth must explain the evidence; above this loss it does not."""


def verdict(recovered: bool, loss_guess: float, loss_truth: float, undefended: bool) -> str:
    """The verdict on one image.

    Args:
        recovered: whether its PSNR exceeds tau.
        loss_guess: the attack's objective at its guess, prior left out.
        loss_truth: the same at the truth, with the client's true randomness.
        undefended: whether there is no defense, so that ``loss_truth`` has to vanish.
    """
    if undefended and not loss_truth <= BROKEN_LOSS:
        return BROKEN
    if recovered:
        return OK
    return EXHAUSTED if loss_guess <= max(loss_truth, RESOLUTION) else FAILED


def shares(verdicts: Sequence[str]) -> dict[str, float]:
    """Share of images with each verdict."""
    count = max(1, len(verdicts))
    return {
        name: sum(v == name for v in verdicts) / count for name in (OK, EXHAUSTED, FAILED, BROKEN)
    }


def summary(verdicts: Sequence[str]) -> str:
    """The verdict on a cell: the gravest that more than a tenth of its images have.

    >>> summary(["ok"] * 9 + ["optimiser-failed"])
    'ok'
    """
    found = shares(verdicts)
    for name in (BROKEN, FAILED, EXHAUSTED):
        if found[name] > (0 if name == BROKEN else TOLERANCE):
            return name
    return OK


def uncredited(success: ArrayLike, verdicts: Sequence[str]) -> np.ndarray:
    """Leakage [n] that a defense must be assumed to have: recovered, or not credited for it."""
    return np.maximum(np.asarray(success, float), [v in (FAILED, BROKEN) for v in verdicts])
