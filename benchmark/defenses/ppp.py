"""PRECODE with partial perturbation: noise on the gradients that the bottleneck leaves exact.

Source: Scheliga, Maeder, Seeland, arXiv:2208.04767v1.
"""

from __future__ import annotations

from dataclasses import dataclass

from torch import Generator

from benchmark.defenses.base import Defense, gaussian, register, require
from benchmark.defenses.parts.bottleneck import Bottlenecked
from benchmark.federated.update import Update
from benchmark.models.base import VictimModel


@register
@dataclass(frozen=True, kw_only=True)
class PartialPerturbation(Defense):
    """Add noise of ``noise`` to the layers before the bottleneck, and to its encoder if asked."""

    name = "ppp"
    title = "PPP (PRECODE, partially perturbed)"
    cite = "scheliga2022combining"
    url = "https://arxiv.org/abs/2208.04767v1"
    summary = "PRECODE, plus noise on the gradients of the layers in front of it."
    randomised = True
    note = (
        "Our reading of the abstract, which says neither which layers are perturbed nor how "
        "strongly: everything before the bottleneck, once with a clean and once with a noised "
        "encoder."
    )

    width: int = 256
    beta: float = 1e-3
    noise: float = 1e-2
    noised_encoder: bool = False

    def __post_init__(self) -> None:
        require(self.width >= 1, f"ppp.width must be at least 1, not {self.width}")
        require(self.beta >= 0, f"ppp.beta must not be negative, not {self.beta}")
        require(self.noise > 0, f"ppp.noise must be positive, not {self.noise}")

    def wrap(self, model: VictimModel) -> VictimModel:
        """The model with PRECODE's bottleneck in front of its head."""
        return Bottlenecked(model, self.width, self.beta)

    def perturbed(self, name: str) -> bool:
        """Whether noise is added to the gradient of parameter ``name``."""
        return name.startswith("features.") or (self.noised_encoder and name.startswith("encoder."))

    def protect(
        self, update: Update, memory: Update, rng: Generator | None
    ) -> tuple[Update, Update]:
        """Noise the layers that an attack ignoring the bottleneck would still use."""
        noised = {
            name: tensor + gaussian(tensor, self.noise, rng) if self.perturbed(name) else tensor
            for name, tensor in update.items()
        }
        return Update(noised), memory
