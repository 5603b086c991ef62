"""Attacks that solve or learn: they minimise nothing that says how well a guess explains."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from torch import Tensor

from benchmark.attacks.base import Attack
from benchmark.attacks.parts.objectives import SquaredError
from benchmark.attacks.parts.optimisation import data_losses

if TYPE_CHECKING:
    from benchmark.evidence.base import Evidence


class DirectAttack(Attack):
    """An attack without an objective of its own, judged by how near its message comes."""

    def measure(
        self,
        evidences: Sequence[Evidence],
        images: Sequence[Tensor],
        soft: Sequence[Tensor | None],
        hidden: Sequence[Mapping[str, Tensor]],
    ) -> list[float]:
        """The relative squared distance of the whole message, as for attacks that search."""
        return data_losses(SquaredError(), evidences, images, soft, hidden)
