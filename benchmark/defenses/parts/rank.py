"""Choosing entries of a tensor by the rank of their size."""

from __future__ import annotations

import torch
from torch import Tensor


def band(tensor: Tensor, skip: int, keep: int) -> Tensor:
    """``tensor`` with everything zeroed but ``keep`` entries, after the ``skip`` largest by size.

    Ranks are exact: with many equal or zero entries a threshold would keep too many or too few.
    """
    flat = tensor.flatten()
    order = torch.argsort(flat.abs(), descending=True, stable=True)
    chosen = order[skip : skip + keep]
    kept = torch.zeros_like(flat).scatter(0, chosen, flat.gather(0, chosen))
    return kept.view(tensor.shape)
