"""Clients computed together give what they give one after the other, which is the oracle."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, ClassVar

import pytest
import torch
from torch import Generator

from benchmark.defenses.base import Defense
from benchmark.federated import client as clients_of
from benchmark.federated.client import Client, one_by_one, rounds, stack_size
from benchmark.federated.evaluation import Evaluation
from benchmark.federated.setting import Setting, schema
from benchmark.federated.simulation import draw_batches, start
from benchmark.federated.update import Batch, Update
from benchmark.federated.wire import WireError, decode, decode_all, encode, encode_all
from tests import sentences, tiny

SETTINGS: dict[str, Callable[[Defense], Setting]] = {
    "fedsgd": lambda defense: tiny.setting_of(defense, batch_size=4),
    "fedavg": lambda defense: tiny.fedavg(defense, local_steps=3, batch_size=4),
}
COUNT = 3
every_point = pytest.mark.parametrize("defense", tiny.points(), ids=repr)
every_algorithm = pytest.mark.parametrize("facts", SETTINGS.values(), ids=list(SETTINGS))


def drawn(setting: Setting, number: int) -> tuple[list[list[Batch]], list[Generator]]:
    """Every client's batches of a round, Poisson draws for those that want them, and its stream."""
    parts = [tiny.clusters(12 + index, index) for index in range(COUNT)]
    batches = [
        draw_batches(setting, part, (index, number), "s", 0.3) for index, part in enumerate(parts)
    ]
    return batches, [tiny.rng(10 * number + index) for index in range(COUNT)]


def close(one: Any, other: Any) -> bool:
    return list(one) == list(other) and all(
        torch.allclose(one[n], other[n], atol=2e-6, rtol=1e-4) for n in one
    )


@every_point
@every_algorithm
def test_together_is_one_after_the_other(
    defense: Defense, facts: Callable[[Defense], Setting], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Updates, private parameters, what is held back and what is sealed, over two rounds."""
    monkeypatch.setattr(clients_of, "STACKED", 2**24)  # HyperFL's own width has a million
    setting = facts(defense)
    assert stack_size(setting) >= COUNT and one_by_one(setting) == ""
    weights, together = start(setting, COUNT, 0, tiny.SECRET)
    turns = [client.copy() for client in together]
    for number in range(2):
        sent = rounds(together, weights, *drawn(setting, number))
        columns = zip(turns, *drawn(setting, number), strict=True)
        alone = [client.round(weights, own, rng) for client, own, rng in columns]
        for one, other, client, oracle in zip(sent, alone, together, turns, strict=True):
            if defense.zeros == "withheld":  # two entries of nearly one size may change places
                assert close(one + client.memory, other + oracle.memory)
                kept = [sum(int(t.count_nonzero()) for t in u.values()) for u in (one, other)]
                assert kept[0] == kept[1]
            else:
                assert close(one, other) and close(client.memory, oracle.memory)
                assert len(encode(one)) == len(encode(other))
            assert close(client.private, oracle.private)
            assert close(client.revealed, oracle.revealed)


def test_texts_are_stacked_too() -> None:
    setting = sentences.setting_of("none", batch_size=2)
    weights, together = start(setting, COUNT, 0, tiny.SECRET)
    batches = [tiny.batches_of(setting, *tiny.images_of(setting, k)) for k in range(COUNT)]
    alone = [c.copy().round(weights, b, tiny.rng()) for c, b in zip(together, batches, strict=True)]
    sent = rounds(together, weights, batches, [tiny.rng() for _ in range(COUNT)])
    assert all(close(one, other) for one, other in zip(sent, alone, strict=True))


@every_algorithm
def test_a_row_that_diverges_does_not_touch_the_others(
    facts: Callable[[Defense], Setting],
) -> None:
    """Bit for bit: the same stack with one client's data replaced by what is no number."""
    setting = facts(Defense())
    weights, clients = start(setting, COUNT, 0, tiny.SECRET)
    batches, rngs = drawn(setting, 0)
    clean = rounds(clients, weights, batches, rngs)
    batches[1] = [(images * torch.nan, labels) for images, labels in batches[1]]
    spoilt = rounds(clients, weights, batches, rngs)
    assert not any(tensor.isfinite().all() for tensor in spoilt[1].values())
    for row in (0, 2):
        assert all(torch.equal(spoilt[row][name], clean[row][name]) for name in clean[row])


@dataclass(frozen=True, kw_only=True)
class OwnTraining(Defense):
    """Trains in a way that says nothing of stacks."""

    def local(self, client: Any, broadcast: Update, batches: Any, rng: Generator) -> Update:
        return client.train(broadcast, batches, rng) * 2.0


@dataclass(frozen=True, kw_only=True)
class Sampled(Defense):
    """Plain training on batches of any size."""

    sampling: ClassVar[str] = "poisson"


@pytest.mark.parametrize(
    ("defense", "limit", "reason"),
    [
        (OwnTraining(), clients_of.STACKED, "one client at a time"),
        (Sampled(), clients_of.STACKED, "differ in size"),
        (Defense(), 10_000, "more than 5000 parameters"),
    ],
    ids=["own training", "Poisson", "large"],
)
def test_what_cannot_be_stacked_takes_turns_and_says_why(
    defense: Defense, limit: int, reason: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(clients_of, "STACKED", limit)
    setting = tiny.setting_of(defense, batch_size=4)
    assert stack_size(setting) == 1 and reason in one_by_one(setting)
    weights, clients = start(setting, COUNT, 0, tiny.SECRET)
    turns = [client.copy() for client in clients]
    sent = rounds(clients, weights, *drawn(setting, 0))
    columns = zip(turns, *drawn(setting, 0), strict=True)
    for one, (client, own, rng) in zip(sent, columns, strict=True):
        other = client.round(weights, own, rng)
        assert all(torch.equal(one[name], other[name]) for name in other)


def test_stacks_are_no_larger_than_they_may_be(monkeypatch: pytest.MonkeyPatch) -> None:
    setting, sizes = tiny.setting_of("none", batch_size=4), []

    def spy(clients: list[Client], *columns: Any) -> list[Update]:
        sizes.append(len(clients))
        return clients_of_train(clients, *columns)

    clients_of_train = clients_of.train_together
    entries = sum(torch.Size(shape).numel() for shape in schema(setting).values())
    monkeypatch.setattr(clients_of, "STACKED", 2 * entries)
    monkeypatch.setattr(clients_of, "train_together", spy)
    weights, clients = start(setting, COUNT, 0, tiny.SECRET)
    rounds(clients, weights, *drawn(setting, 0))
    assert sizes == [2, 1]


@pytest.mark.parametrize("name", ["fedrep", "hyperfl"])
def test_personal_models_are_measured_together_as_one_by_one(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    setting, test = tiny.setting_of(name), tiny.clusters(50, 9)
    weights, clients = start(setting, COUNT, 0, tiny.SECRET)
    owned = [tiny.clusters(20, index).labels for index in range(COUNT)]
    together = Evaluation(setting, test, owned)(weights, clients)
    monkeypatch.setattr(clients_of, "STACKED", 1)
    alone = Evaluation(setting, test, owned)(weights, clients)
    assert together.accuracy == alone.accuracy and together.personal == alone.personal
    assert together.loss == pytest.approx(alone.loss, rel=1e-5)


def test_messages_of_a_round_are_those_of_each_update() -> None:
    """Encoded and decoded together or each on its own: the same bytes, the same tensors."""
    source = tiny.rng(3)
    dense = {"a": torch.randn(40, 30, generator=source), "b": torch.randn(7, generator=source)}
    sparse = {n: t * (torch.rand(t.shape, generator=source) < 0.1) for n, t in dense.items()}
    levels = {n: t.sign() * 0.5 for n, t in dense.items()}
    updates = [Update(u) for u in (dense, sparse, levels, {n: t * 0.0 for n, t in dense.items()})]
    messages, shapes = encode_all(updates), {n: tuple(t.shape) for n, t in dense.items()}
    assert messages == [encode(update) for update in updates]
    for update, message, arrived in zip(
        updates, messages, decode_all(messages, shapes), strict=True
    ):
        assert all(torch.equal(arrived[n], update[n]) for n in update)
        assert all(torch.equal(decode(message, shapes)[n], t) for n, t in arrived.items())
    updates[2] = updates[2].map(lambda t: t / 0)
    with pytest.raises(WireError, match="a: holds NaN or infinity"):
        encode_all(updates)
