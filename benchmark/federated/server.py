"""The server: averages what it decodes and moves the shared weights. It adds no privacy."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from benchmark.federated.update import Update, stacked


@dataclass
class Server:
    """Stochastic gradient descent with momentum on the mean of the clients' updates.

    Attributes:
        weights: the shared parameters.
        lr: step size; 1 applies FedAvg's mean difference as it is.
        momentum: of the server's velocity, 0 for none.
    """

    weights: Update
    lr: float
    momentum: float = 0.0
    velocity: Update | None = field(default=None)

    def step(self, received: Sequence[Update]) -> None:
        """Apply one round's messages, each client counting the same."""
        mean = Update(stacked(received)).map(lambda rows: rows.mean(0))
        moved = mean if self.velocity is None else self.velocity * self.momentum + mean
        self.velocity = moved if self.momentum else None
        self.weights = self.weights - moved * self.lr
