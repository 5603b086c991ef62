"""A client's round under its defense, as an attacker computes it on a batch of its own.

It serves attacks that learn from simulated messages, probing, and predictions by BPDA and EOT
(Athalye et al., ICML 2018, arXiv:1802.00420).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Generator, Tensor
from torch.autograd import Function

from benchmark.evidence.base import Data, Tensors, Terms
from benchmark.federated.client import Client, newcomer, rounds, train_together
from benchmark.federated.setting import Setting, schema
from benchmark.federated.update import Batch, Update
from benchmark.runtime.randomness import generator


def simulate_client(
    setting: Setting, weights: Tensors, batch: Tensors, number: int, defended: bool = True
) -> Update:
    """The message of a client that has held nothing back, or its update if it is not defended.

    Args:
        weights: shared and private ones.
        batch: ``images`` [N, ...] and ``labels`` int64 [N].
        number: which public stream of random numbers it draws from.
    """
    shared = Update({name: t for name, t in weights.items() if setting.defense.shared(name)})
    private = {name: t for name, t in weights.items() if name not in shared}
    client = Client(setting, private, shared.map(torch.zeros_like))
    steps, rng = _steps(setting, batch), generator("attacker", "rehearsal", number)
    if not defended:
        return client.train(shared, steps, rng)
    return setting.defense.message([client.round(shared, steps, rng)])[0]


def simulate_undefended(
    setting: Setting, batches: Sequence[Tensors], data: Data, rng: Generator
) -> list[Terms]:
    """The updates that clients compute of batches, before their defense changes them."""
    updates = train_together(*_first_round(setting, batches, data, rng))
    return [{"update": update} for update in updates]


def simulate_round(
    setting: Setting, batches: Sequence[Tensors], data: Data, rng: Generator
) -> list[Terms]:
    """The messages that clients send of batches in their first round."""
    updates = rounds(*_first_round(setting, batches, data, rng))
    return [{"update": setting.defense.message([update])[0]} for update in updates]


def _first_round(
    setting: Setting, batches: Sequence[Tensors], data: Data, rng: Generator
) -> tuple[list[Client], Update, list[list[Batch]], list[Generator]]:
    clients = [newcomer(setting, data["shared"], rng) for _ in batches]
    steps = [_steps(setting, batch) for batch in batches]
    return clients, Update(data["shared"]), steps, [rng] * len(clients)


def _steps(setting: Setting, batch: Tensors) -> list[Batch]:
    images, labels = (batch[name].split(setting.batch_size) for name in ("images", "labels"))
    return list(zip(images, labels, strict=True))


class SimulatedRound(Function):
    """The mean message of several simulated rounds, without a derivative.

    ``apply(setting, names, count, images, labels, *weights)`` simulates ``count`` rounds of a
    client whose parameters ``names`` have the values ``weights`` on ``images`` [N, ...] with label
    probabilities ``labels`` [N, classes], and returns the message's tensors in the order of the
    setting's schema.
    A defense's own code may do what vmap refuses, so that stacks are taken apart, row by row.
    """

    @staticmethod
    def forward(
        setting: Setting,
        names: tuple[str, ...],
        count: int,
        images: Tensor,
        labels: Tensor,
        *weights: Tensor,
    ) -> tuple[Tensor, ...]:
        known = dict(zip(names, (t.detach() for t in weights), strict=True))
        batch = {"images": images.detach(), "labels": labels.detach().argmax(-1)}
        with torch.enable_grad():
            rounds = [simulate_client(setting, known, batch, k) for k in range(count)]
        return tuple(torch.stack([r[n] for r in rounds]).mean(0).detach() for n in schema(setting))

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
        ctx.mark_non_differentiable(*output)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[None, ...]:
        return (None,) * len(ctx.needs_input_grad)

    @staticmethod
    def vmap(info: Any, in_dims: tuple[Any, ...], *args: Any) -> tuple[Any, Any]:
        rows = [
            SimulatedRound.apply(
                *(
                    arg.select(dim, k) if isinstance(dim, int) else arg
                    for arg, dim in zip(args, in_dims, strict=True)
                )
            )
            for k in range(info.batch_size)
        ]
        stacks = tuple(torch.stack(column) for column in zip(*rows, strict=True))
        return stacks, (0,) * len(stacks)
