"""A variational bottleneck between features and head.

Source: Scheliga, Maeder, Seeland, WACV 2022, arXiv:2108.04725, section 3.
"""

from __future__ import annotations

import math
from collections.abc import Mapping

from torch import Tensor, nn
from torch.nn import functional as F

from benchmark.models.base import VictimModel


class Bottlenecked(VictimModel):
    """``features``, then encoder, a normal sample and decoder, then ``head``.

    The encoder gives mean and, through softplus, standard deviation of ``width`` variables; the
    decoder returns to the features' size. Sampling is on in training and in use.
    """

    def __init__(self, model: VictimModel, width: int, beta: float) -> None:
        super().__init__(model.features, model.head)
        size = model.head.in_features
        self.encoder = nn.Linear(size, 2 * width)
        self.decoder = nn.Linear(width, size)
        self.width, self.beta = width, beta

    def noise_shapes(self, images: int) -> dict[str, tuple[int, ...]]:
        """One standard normal draw per image and bottleneck variable."""
        return {"bottleneck": (images, self.width)}

    def run(self, images: Tensor, noise: Mapping[str, Tensor]) -> tuple[Tensor, Tensor]:
        """Logits, and beta times the mean divergence from a standard normal, in bits."""
        mean, spread = self.encoder(self.features(images)).chunk(2, dim=-1)
        std = F.softplus(spread)
        sample = mean + std * noise["bottleneck"]
        nats = 0.5 * (mean.square() + std.square() - 1) - std.log()
        divergence = nats.sum(-1).mean() / math.log(2)
        return self.head(self.decoder(sample)), self.beta * divergence
