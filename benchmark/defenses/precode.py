"""PRECODE: a variational bottleneck before the last linear layer.

Source: Scheliga, Maeder, Seeland, WACV 2022, arXiv:2108.04725 (width 256, beta 1e-3).
"""

from __future__ import annotations

from dataclasses import dataclass

from benchmark.defenses.base import Defense, register, require
from benchmark.defenses.parts.bottleneck import Bottlenecked
from benchmark.models.base import VictimModel


@register
@dataclass(frozen=True, kw_only=True)
class Precode(Defense):
    """Insert the bottleneck; its noise makes the gradients of the layers behind it random."""

    name = "precode"
    title = "PRECODE"
    cite = "scheliga2022precode"
    url = "https://arxiv.org/abs/2108.04725"
    summary = "A variational bottleneck before the last layer makes the gradients behind it random."
    randomised = True
    note = "Our reading: the bottleneck is scaled down with the victim model."

    width: int = 256
    beta: float = 1e-3

    def __post_init__(self) -> None:
        require(self.width >= 1, f"precode.width must be at least 1, not {self.width}")
        require(self.beta >= 0, f"precode.beta must not be negative, not {self.beta}")

    def wrap(self, model: VictimModel) -> VictimModel:
        """The model with the bottleneck in front of its head."""
        return Bottlenecked(model, self.width, self.beta)
