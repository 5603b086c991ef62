"""FedRep: a shared feature extractor and a private head; the control for HyperFL.

Source: Collins et al., ICML 2021, arXiv:2102.07078, Algorithm 1.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Literal

from benchmark.defenses.base import Defense, register
from benchmark.models.base import VictimModel


@register
@dataclass(frozen=True, kw_only=True)
class FedRep(Defense):
    """Keep the last one or two linear layers private, train them before the shared ones."""

    name = "fedrep"
    reads = ("images",)
    title = "FedRep (private head)"
    cite = "collins2021exploiting"
    url = "https://arxiv.org/abs/2102.07078"
    summary = "The last layers stay with the client; everything before them is shared."
    note = "The control for HyperFL: the same private head without a hypernetwork."

    PRIVATE: ClassVar[tuple[str, ...]] = ("head.", "features.fc.")

    private_layers: Literal[1, 2] = 1

    def __post_init__(self) -> None:
        if self.private_layers not in (1, 2):
            raise ValueError(f"fedrep.private_layers must be 1 or 2, not {self.private_layers}")

    def impossible(self, model: VictimModel) -> tuple[str, str] | None:
        """As many private layers as the model has linear ones at its end, under those names."""
        names = [name for name, _ in model.named_parameters()]
        there = [any(name.startswith(layer) for name in names) for layer in self.PRIVATE]
        most = there.index(False) if False in there else len(there)
        return ("private_layers", f"must be {most} at most") if self.private_layers > most else None

    def shared(self, name: str) -> bool:
        """Everything before the private layers."""
        return not name.startswith(self.PRIVATE[: self.private_layers])
