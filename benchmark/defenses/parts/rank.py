"""Choosing entries of a tensor by the rank of their size."""

from __future__ import annotations

from fractions import Fraction

import torch
from torch import Tensor


def share_of(*shares: float) -> Fraction:
    """The exact sum of decimal shares as they are written: .29 is 29 hundredths, not a bit less."""
    return sum((Fraction(repr(share)) for share in shares), Fraction())


def count(share: Fraction, entries: int) -> int:
    """How many entries a share is, rounded down.

    >>> count(share_of(0.29), 100), int(0.29 * 100)
    (29, 28)
    """
    return int(share * entries)


def band(tensor: Tensor, skip: int, keep: int) -> Tensor:
    """``tensor`` with everything zeroed but ``keep`` entries, after the ``skip`` largest by size.

    Ranks are exact: with many equal or zero entries a threshold would keep too many or too few.
    """
    flat = tensor.flatten()
    order = torch.argsort(flat.abs(), descending=True, stable=True)
    chosen = order[skip : skip + keep]
    kept = torch.zeros_like(flat).scatter(0, chosen, flat.gather(0, chosen))
    return kept.view(tensor.shape)
