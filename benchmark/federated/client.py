"""Clients: the state that they keep between rounds, and what they compute in one.

Clients that received the same broadcast are computed together, as rows of one stack. One after the
other they give the same numbers up to rounding.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import torch
from torch import Generator, Tensor
from torch.nn import functional as F

from benchmark.defenses.base import Defense
from benchmark.federated.local_steps import (
    Step,
    Tensors,
    gradient,
    local_training,
    stacked_gradient,
)
from benchmark.federated.setting import Setting, initial, stateless_model
from benchmark.federated.update import Batch, Update, stacked

STACKED = 2**21
"""Parameters in one stack: networks too large for two rows gain nothing from a second one."""


@dataclass
class Client:
    """One client's state.

    Attributes:
        private: the parameters that never leave it, by name.
        memory: what its defense carries from round to round (error feedback).
        revealed: the randomness and private values of its latest round, for the sealed truth:
            ``noise.<name>`` [N, ...] per image, ``private.<name>`` as the shared step used them.
    """

    setting: Setting
    private: dict[str, Tensor]
    memory: Update
    revealed: dict[str, Tensor] = field(default_factory=dict)

    def copy(self) -> Client:
        """An independent client in the same state."""
        return Client(
            self.setting,
            {name: tensor.clone() for name, tensor in self.private.items()},
            self.memory.map(torch.clone),
        )

    def round(self, broadcast: Update, batches: Sequence[Batch], rng: Generator) -> Update:
        """Receive, train, protect: one round as the defense has it."""
        self.revealed = {}
        return self.protect(self.setting.defense.local(self, broadcast, batches, rng), rng)

    def train(self, broadcast: Update, batches: Sequence[Batch], rng: Generator) -> Update:
        """One gradient on one batch (FedSGD), or local steps, one on each batch (FedAvg)."""
        drawn = self._drawn(batches, rng)
        found = local_training(self.setting, broadcast, self.private, *drawn, gradient)
        return self._trained(drawn[1], *found)

    def protect(self, update: Update, rng: Generator) -> Update:
        """What the defense sends in place of ``update``; what it holds back is remembered."""
        sent, self.memory = self.setting.defense.protect(update, self.memory, rng)
        return sent

    def gradient(self, broadcast: Update, inputs: Tensor, labels: Tensor) -> dict[str, Tensor]:
        """Gradient of the mean training loss with respect to the shared parameters."""
        step = self._step(inputs, labels, torch.Generator().manual_seed(0))
        return gradient(self.setting, broadcast, self.private, step)

    def _drawn(self, batches: Sequence[Batch], rng: Generator) -> tuple[list[Step], list[Step]]:
        """The steps of both passes of :func:`local_training`, with fresh noise for each."""
        before = any(map(self.setting.defense.trained_before_shared, self.private))
        first = [self._step(*batch, rng) for batch in (batches if before else ())]
        return first, [self._step(*batch, rng) for batch in batches]

    def _step(self, inputs: Tensor, labels: Tensor, rng: Generator) -> Step:
        shapes = stateless_model(self.setting).noise_shapes(len(inputs))
        noise = {name: torch.randn(shape, generator=rng) for name, shape in shapes.items()}
        return inputs, F.one_hot(labels, self.setting.classes).float(), noise

    def _trained(
        self, steps: Sequence[Step], update: Tensors, met: Tensors, own: Tensors
    ) -> Update:
        """Take over the outcome of :func:`local_training`."""
        self.private = dict(own)
        self.revealed |= {f"private.{name}": tensor for name, tensor in met.items()}
        for name in steps[0][2]:
            self.revealed[f"noise.{name}"] = torch.cat([noise[name] for _, _, noise in steps])
        return Update(update)


def newcomer(setting: Setting, shared: Tensors, rng: Generator) -> Client:
    """A client that holds nothing back yet, with private parameters drawn from ``rng``."""
    private = [n for n, _ in stateless_model(setting).named_parameters() if n not in shared]
    drawn = initial(setting, rng) if private else {}
    held = Update({name: torch.zeros_like(tensor) for name, tensor in shared.items()})
    return Client(setting, {name: drawn[name] for name in private}, held)


def rounds(
    clients: Sequence[Client],
    broadcast: Update,
    batches: Sequence[Sequence[Batch]],
    rngs: Sequence[Generator],
) -> list[Update]:
    """:meth:`Client.round` of clients that received the same, in stacks where that can be done.

    Args:
        batches: per client, one per local step.
        rngs: per client, of its private randomness.
    """
    setting, sent = clients[0].setting, []
    size, defense = stack_size(setting), setting.defense
    if size == 1:
        columns = zip(clients, batches, rngs, strict=True)
        return [client.round(broadcast, own, rng) for client, own, rng in columns]
    together = train_together if type(defense).local is Defense.local else defense.local_together
    for start in range(0, len(clients), size):
        rows = slice(start, start + size)
        for client in clients[rows]:
            client.revealed = {}
        updates = together(clients[rows], broadcast, batches[rows], rngs[rows])
        protected = zip(clients[rows], updates, rngs[rows], strict=True)
        sent += [client.protect(update, rng) for client, update, rng in protected]
    return sent


def train_together(
    clients: Sequence[Client],
    broadcast: Update,
    batches: Sequence[Sequence[Batch]],
    rngs: Sequence[Generator],
) -> list[Update]:
    """:meth:`Client.train` of clients whose batches have equal sizes, as one stack."""
    if len(clients) == 1:
        return [clients[0].train(broadcast, batches[0], rngs[0])]
    columns = zip(clients, batches, rngs, strict=True)
    drawn = [client._drawn(own, rng) for client, own, rng in columns]
    first, steps = (
        [_stacked_step(column) for column in zip(*own, strict=True)]
        for own in zip(*drawn, strict=True)
    )
    shared = {n: tensor.expand(len(clients), *tensor.shape) for n, tensor in broadcast.items()}
    private = stacked([client.private for client in clients])
    setting = clients[0].setting
    stacks = local_training(setting, shared, private, first, steps, stacked_gradient)
    found = zip(*(_unstacked(stack, len(clients)) for stack in stacks), strict=True)
    return [c._trained(d[1], *own) for c, d, own in zip(clients, drawn, found, strict=True)]


def _stacked_step(steps: Sequence[Step]) -> Step:
    inputs, labels, noise = zip(*steps, strict=True)
    return torch.stack(inputs), torch.stack(labels), stacked(noise)


def _unstacked(stack: Tensors, count: int) -> list[dict[str, Tensor]]:
    columns = {name: tensor.unbind() for name, tensor in stack.items()}
    return [{name: column[row] for name, column in columns.items()} for row in range(count)]


def stack_size(setting: Setting) -> int:
    """How many clients are computed together, a function of the setting alone."""
    entries = sum(tensor.numel() for tensor in stateless_model(setting).parameters())
    return 1 if one_by_one(setting) else STACKED // entries


def one_by_one(setting: Setting) -> str:
    """Why the clients of a round take turns; empty where they are computed together."""
    defense, kind = setting.defense, type(setting.defense)
    if kind.local is not Defense.local and kind.local_together is Defense.local_together:
        return "the defense trains one client at a time"
    if kind.local is Defense.local and defense.sampling != "fixed":
        return "batches differ in size"
    if 2 * sum(tensor.numel() for tensor in stateless_model(setting).parameters()) > STACKED:
        return f"the network has more than {STACKED // 2} parameters"
    return ""
