"""What a client computes in one round: named tensors with arithmetic, immutable by convention."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence

import torch
from torch import Tensor

Batch = tuple[Tensor, Tensor]
"""Normalised model inputs [B, C, H, W], or words [B, length], and labels int64 [B]."""


class Update(Mapping[str, Tensor]):
    """Named tensors of one round, a gradient (FedSGD) or weights before minus after (FedAvg).

    Both point the way that the server subtracts. Tensors are float32 of the parameters' shapes.

    >>> one = Update({"w": torch.ones(2)})
    >>> (one + one * 2.0)["w"]
    tensor([3., 3.])
    """

    def __init__(self, tensors: Mapping[str, Tensor]) -> None:
        self._tensors = dict(tensors)

    def __getitem__(self, name: str) -> Tensor:
        return self._tensors[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._tensors)

    def __len__(self) -> int:
        return len(self._tensors)

    def __repr__(self) -> str:
        return f"Update({', '.join(f'{n}{tuple(t.shape)}' for n, t in self.items())})"

    def map(self, function: Callable[[Tensor], Tensor]) -> Update:
        """Apply ``function`` to every tensor on its own."""
        return Update({name: function(tensor) for name, tensor in self.items()})

    def __add__(self, other: Mapping[str, Tensor]) -> Update:
        """Entry by entry; names that ``other`` lacks count as zero there."""
        return Update({n: t + other[n] if n in other else t for n, t in self.items()})

    def __sub__(self, other: Mapping[str, Tensor]) -> Update:
        """Entry by entry; names that ``other`` lacks count as zero there."""
        return Update({n: t - other[n] if n in other else t for n, t in self.items()})

    def __mul__(self, factor: float | Tensor) -> Update:
        return self.map(lambda tensor: tensor * factor)

    def norm(self) -> Tensor:
        """Euclidean norm over all entries of all tensors (a scalar)."""
        return torch.sqrt(sum((t.square().sum() for t in self.values()), torch.zeros(())))


def stacked(rows: Sequence[Mapping[str, Tensor]]) -> dict[str, Tensor]:
    """Tensors of equal names and shapes, along a new first dimension."""
    return {name: torch.stack([row[name] for row in rows]) for name in rows[0]}
