"""What images look like, before any evidence: penalties on normalised model inputs [N, C, H, W]."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from benchmark.attacks.engine.base import Evaluation, Variables


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


@dataclass(frozen=True)
class VectorLength:
    """weight * (mean length of the last dimension - ``length``) ** 2, relative to ``length``.

    Source: Balunović et al., NeurIPS 2022, arXiv:2202.08827: the vectors of a sentence are about
    as long as a model's word vectors are; here that of 48 standard normal numbers.
    """

    weight: float = 0.1
    length: float = 48**0.5

    def __call__(self, images: Tensor) -> Tensor:
        mean = images.square().sum(-1).sqrt().mean()
        return self.weight * (mean / self.length - 1).square()


@dataclass(frozen=True)
class GroupConsistency:
    """weight * mean squared distance of a victim's restarts to their own mean.

    Source: Yin et al., CVPR 2021, section 3.3: seeds that search for the same image pull each
    other towards what they agree on. The mean is taken as it is, without the paper's registration
    of the images to each other, and is no variable.
    """

    weight: float = 0.01

    def added(self, at: Evaluation, point: Variables, victims: Tensor) -> Evaluation:
        """An evaluation with the penalty in its totals and in the images' gradient.

        Args:
            point: where it was made; "images" [trials, N, C, H, W].
            victims: [trials] int64, equal for the restarts of one victim.
        """
        images = point["images"]
        _, group = victims.unique(return_inverse=True)
        size = torch.bincount(group).to(images)
        total = images.new_zeros(len(size), *images.shape[1:]).index_add_(0, group, images)
        gap = images - (total / size.reshape(-1, *[1] * (images.dim() - 1)))[group]
        penalty = self.weight * gap.flatten(1).square().mean(1)
        slope = 2 * self.weight * gap / images[0].numel()
        gradients = {**at.gradients, "images": at.gradients["images"] + slope}
        return Evaluation(at.total + penalty, at.data, gradients)
