"""Learning from auxiliary images: simulated messages, and networks that are trained on them."""

from __future__ import annotations

import time
from collections import OrderedDict
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING

import torch
from scipy.optimize import linear_sum_assignment
from torch import Generator, Tensor, nn
from torch.nn import functional as F

from benchmark.federated.client import stack_size

if TYPE_CHECKING:
    from benchmark.evidence.base import Evidence, Tensors


def simulated(
    evidence: Evidence, images: Tensor, labels: Tensor, rng: Generator, deadline: float | None
) -> list[Mapping[str, Tensors]]:
    """What the evidence's terms would show of auxiliary batches.

    Args:
        evidence: of any victim that was sent the same weights; it must be able to simulate.
        images: [batches, N, C, H, W] pixels, ``labels`` [batches, N].
        deadline: an instant of `time.monotonic` after which no further batch is begun.
    """
    assert evidence.simulate is not None
    setting, size = evidence.setting, stack_size(evidence.setting)
    inputs = setting.normalise(images)
    found: list[Mapping[str, Tensors]] = []
    for start in range(0, len(images), size):
        if found and deadline is not None and time.monotonic() > deadline:
            break
        rows = zip(inputs[start : start + size], labels[start : start + size], strict=True)
        batches = [{"images": pixels, "labels": classes} for pixels, classes in rows]
        found += evidence.simulate(setting, batches, evidence.data, rng)
    return found


class Learned:
    """The latest networks of this process. Cells of different defenses often simulate the same
    messages, bit for bit, and would learn the same from them."""

    def __init__(self, kept: int = 8) -> None:
        self._kept, self._networks = kept, OrderedDict[str, nn.Module]()

    def network(
        self, key: str, train: Callable[[], tuple[nn.Module, bool]]
    ) -> tuple[nn.Module, bool]:
        """The network of ``key``, which covers all that ``train`` depends on, and whether a
        deadline ended its training; such a network is not kept."""
        if key in self._networks:
            self._networks.move_to_end(key)
            return self._networks[key], False
        network, late = train()
        if not late:
            self._networks[key] = network
            while len(self._networks) > self._kept:
                self._networks.popitem(last=False)
        return network, late


def initialise(network: nn.Module, rng: Generator) -> None:
    """Draw all weights from ``rng`` alone, by the rule for layers before ReLU; biases are zero."""
    for layer in network.modules():
        if isinstance(layer, nn.Linear | nn.Conv2d):
            nn.init.kaiming_uniform_(layer.weight, nonlinearity="relu", generator=rng)
            if layer.bias is not None:
                nn.init.zeros_(layer.bias)


def fit(
    network: nn.Module,
    inputs: Tensor,
    targets: Tensor,
    epochs: int,
    rate: float,
    rng: Generator,
    deadline: float | None = None,
    batch: int = 64,
) -> bool:
    """Train on squared error whatever the order of a target's images; Adam, half a cosine.

    Args:
        inputs: what the network takes, [examples, ...].
        targets: [examples, N, ...] images; the network returns the same shape per example.
        rate: the first step size; it falls to zero.
        deadline: an instant of `time.monotonic` after which training ends.
        batch: examples in one step of training.

    Returns:
        Whether the deadline ended it.
    """
    steps = epochs * -(-len(inputs) // batch)
    optimiser = torch.optim.Adam(network.parameters(), lr=rate, fused=True)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimiser, steps)
    for _ in range(epochs):
        for rows in torch.randperm(len(inputs), generator=rng).split(batch):
            if deadline is not None and time.monotonic() > deadline:
                return True
            optimiser.zero_grad()
            distance(network(inputs[rows]), targets[rows]).backward()
            optimiser.step()
            schedule.step()
    return False


def distance(guesses: Tensor, targets: Tensor) -> Tensor:
    """Mean squared error of batches [examples, N, ...], each in the order that fits best."""
    if targets.shape[1] == 1:
        return F.mse_loss(guesses, targets)
    order = fitting(guesses.detach(), targets)
    return F.mse_loss(guesses, targets[torch.arange(len(targets))[:, None], order])


def fitting(guesses: Tensor, targets: Tensor) -> Tensor:
    """Which target [examples, N] every guess [examples, N, ...] of the same example is nearest to,
    each target being one guess's."""
    pairwise = torch.cdist(guesses.flatten(2), targets.flatten(2)).square()
    return torch.stack(
        [torch.as_tensor(linear_sum_assignment(costs)[1]) for costs in pairwise.numpy()]
    )
