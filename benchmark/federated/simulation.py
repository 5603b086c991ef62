"""Rounds of federated learning, every message through the wire, watched at the checkpoints."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from benchmark.federated.client import Client, newcomer, rounds
from benchmark.federated.evaluation import Evaluation, Measured
from benchmark.federated.server import Server
from benchmark.federated.setting import Setting, initial, schema
from benchmark.federated.update import Batch, Update
from benchmark.federated.wire import WireError, decode_all, encode_all
from benchmark.runtime.randomness import generator


@dataclass(frozen=True)
class Protocol:
    """What a scenario prescribes for training (params.yaml, ``federation``).

    ``sampling_rate`` is the probability with which any client's example joins a Poisson draw.
    """

    rounds: int
    learning_rate: float
    momentum: float
    evaluate_every: int = 5
    sampling_rate: float = 1.0


@dataclass(frozen=True)
class Examples:
    """Normalised model inputs [n, C, H, W], or words [n, length], and labels int64 [n]."""

    images: Tensor
    labels: Tensor

    def __len__(self) -> int:
        return len(self.labels)


@dataclass(frozen=True)
class Observation:
    """State after ``round`` rounds, and what the round that led to it measured.

    ``accuracy`` is on the test set: the server's model, or the mean over clients of their own
    models' accuracy on their own mixes of labels (personalised defenses). ``personal`` is always
    that mean, and None where it is not measured. All are None between evaluations. Bytes are per
    client, seconds per client and round. ``messages`` are the round's, in the order of the clients.
    """

    round: int
    weights: Update
    clients: Sequence[Client]
    accuracy: float | None
    loss: float | None
    uplink: float
    downlink: float
    seconds: float
    messages: Sequence[bytes] = ()
    personal: float | None = None


class Diverged(RuntimeError):
    """Training left the finite numbers; ``round`` is the first round that could not be sent."""

    def __init__(self, number: int) -> None:
        super().__init__(f"training diverged in round {number}")
        self.round = number


def start(setting: Setting, clients: int, seed: int, secret: str) -> tuple[Update, list[Client]]:
    """Initial shared weights (public) and clients (their private parameters keyed by secret)."""
    shared = setting.defense.shared
    public = initial(setting, generator(setting.scenario, "model", seed))
    weights = Update({n: t for n, t in public.items() if shared(n)})
    streams = [generator(secret, "private parameters", seed, index) for index in range(clients)]
    return weights, [newcomer(setting, weights, rng) for rng in streams]


def simulate(
    setting: Setting,
    protocol: Protocol,
    parts: Sequence[Examples],
    test: Examples,
    seed: int,
    secret: str,
) -> Iterator[Observation]:
    """Train all clients for all rounds; yields the start as round 0, then every round.

    Args:
        parts: each client's own examples.
        secret: keys the clients' randomness; the data order is public.

    Raises:
        Diverged: a client or the server holds numbers that are not finite.
    """
    count = len(parts)
    weights, clients = start(setting, count, seed, secret)
    rate = protocol.learning_rate
    if setting.algorithm == "fedsgd":  # in FedAvg the clients step, at the setting's local_lr
        rate = setting.defense.shared_rate(rate)
    server = Server(weights, rate, protocol.momentum)
    measure = Evaluation(setting, test, [part.labels for part in parts])
    found = measure(server.weights, clients)
    yield Observation(
        0, server.weights, clients, found.accuracy, found.loss, 0.0, 0.0, 0.0,
        personal=found.personal,
    )  # fmt: skip
    names = schema(setting)
    for number in range(1, protocol.rounds + 1):
        (down,) = _sendable([server.weights], number)
        (broadcast,) = decode_all([down], names)
        keys = [(setting.scenario, seed, index, number) for index in range(count)]
        batches = [
            draw_batches(setting, part, own, secret, protocol.sampling_rate)
            for part, own in zip(parts, keys, strict=True)
        ]
        private = [generator(secret, "round", seed, index, number) for index in range(count)]
        began = time.perf_counter()
        sent = setting.defense.message(rounds(clients, broadcast, batches, private))
        seconds = time.perf_counter() - began
        messages = _sendable(sent, number)
        server.step(decode_all(messages, names))
        last = number == protocol.rounds
        now = last or number % protocol.evaluate_every == 0
        found = measure(server.weights, clients) if now else Measured()
        yield Observation(
            number, server.weights, clients, found.accuracy, found.loss,
            sum(map(len, messages)) / count, float(len(down)), seconds / count, messages,
            found.personal,
        )  # fmt: skip


def _sendable(updates: Sequence[Update], number: int) -> list[bytes]:
    try:
        return encode_all(updates)
    except WireError:
        raise Diverged(number) from None


def draw_batches(
    setting: Setting, part: Examples, keys: Sequence[object], secret: str, rate: float = 1.0
) -> list[Batch]:
    """One batch per local step, without replacement; or a Poisson draw, keyed by the secret.

    Every example joins a Poisson draw with probability ``rate``, which is public: one that
    followed the number of the client's examples would change with every single one of them.
    """
    if setting.defense.sampling == "poisson":
        rng = generator(secret, "sampling", *keys)
        draws = [torch.rand(len(part), generator=rng) < rate for _ in range(setting.local_steps)]
        return [(part.images[chosen], part.labels[chosen]) for chosen in draws]
    rng = generator("batches", *keys)
    wanted, order = setting.local_steps * setting.batch_size, torch.empty(0, dtype=torch.long)
    while len(order) < wanted:
        order = torch.cat([order, torch.randperm(len(part), generator=rng)])
    rows = order[:wanted].split(setting.batch_size)
    return [(part.images[chosen], part.labels[chosen]) for chosen in rows]
