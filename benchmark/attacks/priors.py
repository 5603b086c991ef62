"""What images look like, before any evidence: penalties on normalised model inputs [N, C, H, W]."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

from torch import Tensor


class Prior(Protocol):
    """A penalty on a batch of normalised images; 0 means "no opinion"."""

    def __call__(self, images: Tensor) -> Tensor: ...


@dataclass(frozen=True)
class TotalVariation:
    """weight * (mean |horizontal difference| + mean |vertical difference|).

    Source: Geiping et al., NeurIPS 2020: anisotropic, means rather than sums, normalised space.
    """

    weight: float = 1e-4

    def __call__(self, images: Tensor) -> Tensor:
        across = (images[..., :, 1:] - images[..., :, :-1]).abs().mean()
        down = (images[..., 1:, :] - images[..., :-1, :]).abs().mean()
        return self.weight * (across + down)


@dataclass(frozen=True)
class L2:
    """weight * mean squared value: images stay near the data set's mean."""

    weight: float = 1e-6

    def __call__(self, images: Tensor) -> Tensor:
        return self.weight * images.square().mean()
