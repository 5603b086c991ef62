"""A client's round under its defense, as an attacker computes it on a batch of its own.

It serves attacks that learn from simulated messages, probing, and predictions by BPDA and EOT
(Athalye et al., ICML 2018, arXiv:1802.00420).
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Generator, Tensor
from torch.autograd import Function

from benchmark.evidence.base import Data, Tensors, Terms
from benchmark.federated.client import Batch, Client
from benchmark.federated.setting import Setting, initial, schema, skeleton
from benchmark.federated.update import Update
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
    shared = {name: t for name, t in weights.items() if setting.defense.shared(name)}
    private = {name: t for name, t in weights.items() if name not in shared}
    client, rng = _client(setting, shared, private), generator("attacker", "rehearsal", number)
    return _message(client, shared, batch, rng) if defended else _update(client, shared, batch, rng)


def simulate_undefended(setting: Setting, batch: Tensors, data: Data, rng: Generator) -> Terms:
    """The update that a client computes of a batch, before its defense changes it."""
    client = fresh_client(setting, data["shared"], rng)
    return {"update": _update(client, data["shared"], batch, rng)}


def simulate_round(setting: Setting, batch: Tensors, data: Data, rng: Generator) -> Terms:
    """The message that a client sends of a batch in its first round."""
    client = fresh_client(setting, data["shared"], rng)
    return {"update": _message(client, data["shared"], batch, rng)}


def fresh_client(setting: Setting, shared: Tensors, rng: Generator) -> Client:
    """A client that has held nothing back, with private parameters drawn from ``rng``."""
    names = [name for name, _ in skeleton(setting).named_parameters() if name not in shared]
    drawn = initial(setting, rng) if names else {}
    return _client(setting, shared, {name: drawn[name] for name in names})


def _client(setting: Setting, shared: Tensors, private: dict[str, Tensor]) -> Client:
    return Client(setting, private, Update(shared).map(torch.zeros_like))


def _update(client: Client, shared: Tensors, batch: Tensors, rng: Generator) -> Update:
    return client.train(Update(shared), _steps(client.setting, batch), rng)


def _message(client: Client, shared: Tensors, batch: Tensors, rng: Generator) -> Update:
    sent = client.round(Update(shared), _steps(client.setting, batch), rng)
    return client.setting.defense.message([sent])[0]


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
