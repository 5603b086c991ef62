"""What an optimiser and the stack that it moves tell each other.

Every tensor has the rows of a stack as its first dimension. No row looks at another: step sizes,
memories, line searches and restarts are kept per row.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass, field

import torch
from torch import Tensor

Variables = dict[str, Tensor]
"""Name -> [rows, ...]."""


@dataclass(frozen=True)
class Evaluation:
    """Losses and gradients at one point per row.

    total [rows] is what is minimised, data [rows] its part without priors, gradients as the
    variables.
    """

    total: Tensor
    data: Tensor
    gradients: Variables


@dataclass(frozen=True)
class Limits:
    """What holds for all rows of a search.

    evaluations   gradient evaluations of one row
    box           lowest and highest values of a variable, [1, ...] tensors, where there are any
    rates         first-order step sizes of single variables; others use the optimiser's own
    """

    evaluations: int
    box: Mapping[str, tuple[Tensor, Tensor]] = field(default_factory=dict)
    rates: Mapping[str, float] = field(default_factory=dict)


@dataclass
class Best:
    """The point with the least loss of every row so far, and the evaluations spent on the row.

    It is this point that a search returns, not the last one.
    """

    variables: Variables
    total: Tensor
    data: Tensor
    evaluations: Tensor

    @classmethod
    def of(cls, start: Variables) -> Best:
        first = next(iter(start.values()))
        unknown = first.new_full((len(first),), torch.inf)
        spent = torch.zeros(len(first), dtype=torch.int64, device=first.device)
        return cls({k: v.clone() for k, v in start.items()}, unknown, unknown.clone(), spent)

    def enter(self, rows: Tensor, start: Variables) -> None:
        """Forget these rows: others begin there."""
        for name, value in start.items():
            self.variables[name][rows] = value
        self.total[rows] = torch.inf
        self.data[rows] = torch.inf
        self.evaluations[rows] = 0

    def note(self, variables: Variables, at: Evaluation, running: Tensor) -> None:
        """Count an evaluation of the running rows and keep what improved."""
        better = (at.total < self.total) & running  # false for NaN
        self.evaluations += running
        self.total = torch.where(better, at.total, self.total)
        self.data = torch.where(better, at.data, self.data)
        for name, value in variables.items():
            self.variables[name] = torch.where(per_row(better, value), value, self.variables[name])


class State(ABC):
    """The rows of one search.

    failed   [rows] bool: rows that can only begin afresh elsewhere, if ``may_fail``
    """

    may_fail = False
    failed: Tensor

    @abstractmethod
    def enter(self, rows: Tensor, start: Variables) -> None:
        """Begin the rows (int64 [n]) at ``start`` [n, ...], whatever was there before."""

    @abstractmethod
    def point(self) -> Variables:
        """Where every row is to be evaluated next."""

    @abstractmethod
    def observe(self, at: Evaluation) -> None:
        """Move every row on by what was found at ``point()``."""


class Optimiser(ABC):
    """Minimises the losses of all rows at once."""

    @abstractmethod
    def begin(self, start: Variables, limits: Limits) -> State:
        """The state of rows that begin at ``start``."""

    @abstractmethod
    def is_solved(self, best: Best) -> Tensor:
        """[rows] bool: whose loss is so small that nothing is left to do."""


def per_row(mask: Tensor, like: Tensor) -> Tensor:
    """[rows] shaped so that it spreads over [rows, ...]."""
    return mask.reshape(-1, *([1] * (like.dim() - 1)))


def joined(variables: Variables) -> Tensor:
    """[rows, all values]."""
    return torch.cat([v.flatten(1) for v in variables.values()], 1)


def parted(flat: Tensor, shapes: Mapping[str, torch.Size]) -> Variables:
    """The inverse of :func:`joined`, for variables of these ``shapes`` in every row."""
    parts = flat.split([shape.numel() for shape in shapes.values()], 1)
    return {
        name: part.reshape(len(flat), *shape)
        for (name, shape), part in zip(shapes.items(), parts, strict=True)
    }
