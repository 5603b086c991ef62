"""Dual gradient pruning: send the middle of every tensor, withhold both extremes.

Source: Xue et al., AAAI 2024, arXiv:2401.16687, Algorithm 1 and 2.
"""

from __future__ import annotations

from dataclasses import dataclass

from torch import Generator, Tensor

from benchmark.defenses.base import Defense, register, require
from benchmark.defenses.parts.rank import band, count, share_of
from benchmark.federated.update import Update


@register
@dataclass(frozen=True, kw_only=True)
class DualGradientPruning(Defense):
    """Drop the largest and the smallest entries of every tensor, by exact rank."""

    name = "dgp"
    title = "DGP (dual gradient pruning)"
    cite = "xue2024revisiting"
    url = "https://arxiv.org/abs/2401.16687"
    summary = (
        "Per tensor, the 5% largest and the 75% smallest entries are withheld, with error feedback."
    )
    zeros = "withheld"
    note = (
        "Our reading: weights and biases alike, ranks rather than percentiles, error feedback on "
        "the raw gradient, and at least one entry of every tensor is sent."
    )

    drop_largest: float = 0.05
    drop_smallest: float = 0.75

    def __post_init__(self) -> None:
        for field in ("drop_largest", "drop_smallest"):
            value = getattr(self, field)
            require(0 <= value < 1, f"dgp.{field} must be in [0, 1), not {value}")
        require(
            self.drop_largest + self.drop_smallest < 1,
            "dgp.drop_largest and dgp.drop_smallest must leave something to send",
        )

    def protect(
        self, update: Update, memory: Update, rng: Generator | None
    ) -> tuple[Update, Update]:
        """Prune the update plus what earlier rounds held back; hold back the rest."""
        carried = update + memory
        sent = carried.map(self._middle)
        return sent, carried - sent

    def _middle(self, tensor: Tensor) -> Tensor:
        entries, largest = tensor.numel(), share_of(self.drop_largest)
        middle = 1 - largest - share_of(self.drop_smallest)
        return band(tensor, count(largest, entries), max(1, count(middle, entries)))
