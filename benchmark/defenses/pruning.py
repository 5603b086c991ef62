"""Gradient pruning: send the largest entries of every tensor, withhold the rest.

Source: Zhu et al., NeurIPS 2019, arXiv:1906.08935, section 5 (as a defense); Lin et al., ICLR
2018, arXiv:1712.01887 (error feedback).
"""

from __future__ import annotations

from dataclasses import dataclass

from torch import Generator

from benchmark.defenses.base import Defense, register, require
from benchmark.defenses.parts.rank import band, count, share_of
from benchmark.federated.update import Update


@register
@dataclass(frozen=True, kw_only=True)
class GradientPruning(Defense):
    """Send the share ``keep`` of largest magnitude, per tensor, with error feedback."""

    name = "pruning"
    title = "Gradient pruning"
    cite = "zhu2019deep"
    url = "https://arxiv.org/abs/1906.08935"
    summary = "Per tensor, only the largest entries are sent, with error feedback."
    zeros = "withheld"

    keep: float = 0.1

    def __post_init__(self) -> None:
        require(0 < self.keep <= 1, f"pruning.keep must be in (0, 1], not {self.keep}")

    def protect(
        self, update: Update, memory: Update, rng: Generator | None
    ) -> tuple[Update, Update]:
        """Send the largest entries of the update plus what earlier rounds held back."""
        carried = update + memory
        keep = share_of(self.keep)
        sent = carried.map(lambda t: band(t, 0, max(1, count(keep, t.numel()))))
        return sent, carried - sent
