"""Rounds of learning: what is learnt, sent, counted and drawn."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import pytest
import torch

from benchmark.defenses.base import Defense, build
from benchmark.federated import simulation
from benchmark.federated.evaluation import Evaluation
from benchmark.federated.server import Server
from benchmark.federated.setting import Setting, schema, stateless_model
from benchmark.federated.simulation import (
    Examples,
    Observation,
    Protocol,
    draw_batches,
    simulate,
    start,
)
from benchmark.federated.update import Update
from benchmark.federated.wire import HEADER, encode, encode_all
from tests import tiny


def run(setting: Setting, rounds: int, secret: str = tiny.SECRET, **protocol: Any) -> list[Any]:
    """What every round measured, and the shared weights after it."""
    parts = [tiny.clusters(40, seed) for seed in range(3)]
    chosen = Protocol(**{"rounds": rounds, "learning_rate": 0.1, "momentum": 0.9, **protocol})
    seen = simulate(setting, chosen, parts, tiny.clusters(200, 9), 0, secret)
    return [replace(each, weights=each.weights.map(torch.clone)) for each in seen]


@pytest.mark.parametrize("name", ["none", "dgp", "precode", "fedrep", "hyperfl"])
def test_every_kind_of_defense_learns(name: str) -> None:
    setting = tiny.setting_of(build(name, {"hidden": 8} if name == "hyperfl" else {}))
    seen = run(setting.with_batch_size(16), 60)
    assert seen[0].accuracy < 0.45 and seen[-1].accuracy > 0.85
    assert seen[-1].loss < seen[0].loss
    assert [each.round for each in seen] == list(range(61))


def test_local_steps_learn() -> None:
    setting = tiny.fedavg("none", local_steps=4, batch_size=16)
    seen = run(replace(setting, local_lr=0.2), 15, learning_rate=1.0, momentum=0.0)
    assert seen[-1].accuracy > 0.85


def test_a_model_that_diverged_is_wrong_also_about_class_zero() -> None:
    setting = tiny.setting_of("none")
    weights, clients = start(setting, 1, 0, tiny.SECRET)
    test = Examples(tiny.clusters(8, 9).images, torch.zeros(8, dtype=torch.int64))
    judge = Evaluation(setting, test, [test.labels])
    assert judge(weights.map(lambda t: t * torch.nan), clients).accuracy == 0.0


def test_accuracy_is_measured_now_and_then_and_at_the_end() -> None:
    seen = run(tiny.setting_of("none", batch_size=4), 7, evaluate_every=3)
    assert [s.round for s in seen if s.accuracy is not None] == [0, 3, 6, 7]
    assert [s.accuracy is None for s in seen] == [s.loss is None for s in seen]


@pytest.mark.parametrize("name", ["none", "pruning", "fedrep"])
def test_bytes_are_the_lengths_of_what_was_encoded(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    lengths: list[int] = []

    def spy(updates: Any) -> list[bytes]:
        lengths.extend(len(encode(update)) for update in updates)
        return encode_all(updates)

    monkeypatch.setattr(simulation, "encode_all", spy)
    setting = tiny.setting_of(name, batch_size=4)
    seen = run(setting, 2)
    assert (seen[0].uplink, seen[0].downlink) == (0.0, 0.0)
    for number, observed in enumerate(seen[1:]):
        down, *up = lengths[4 * number : 4 * number + 4]
        assert observed.downlink == down == len(encode(seen[number].weights))
        assert observed.uplink == sum(up) / 3
    dense = HEADER.size + sum(1 + 4 * math.prod(s) for s in schema(setting).values())
    assert seen[1].downlink == dense
    assert seen[2].uplink < 0.25 * dense if name == "pruning" else seen[2].uplink == dense


@pytest.mark.parametrize("momentum", [0.0, 0.9])
def test_the_servers_step_is_torchs_on_the_mean(momentum: float) -> None:
    source = tiny.rng(1)
    parameter = torch.randn(5, generator=source, requires_grad=True)
    server = Server(Update({"w": parameter.detach().clone()}), lr=0.3, momentum=momentum)
    reference = torch.optim.SGD([parameter], lr=0.3, momentum=momentum)
    for _ in range(4):
        received = [Update({"w": torch.randn(5, generator=source)}) for _ in range(3)]
        server.step(received)
        parameter.grad = sum(update["w"] for update in received) / 3  # type: ignore[assignment]
        reference.step()
        assert torch.allclose(server.weights["w"], parameter.detach(), atol=1e-6)


def test_fedavg_is_the_mean_of_the_clients_models() -> None:
    """Server step 1: the new weights are the clients' weights after their local steps, averaged."""
    setting = tiny.fedavg("none", local_steps=2, batch_size=4)
    parts = [tiny.clusters(40, seed) for seed in range(3)]
    weights, _ = start(setting, 3, 0, tiny.SECRET)
    ends = []
    for index, part in enumerate(parts):
        model = {n: t.clone().requires_grad_() for n, t in weights.items()}
        optimiser = torch.optim.SGD(model.values(), lr=setting.local_lr)
        for batch in draw_batches(setting, part, ("tiny", 0, index, 1), tiny.SECRET):
            optimiser.zero_grad()
            logits = torch.func.functional_call(stateless_model(setting), model, batch[0])
            torch.nn.functional.cross_entropy(logits, batch[1]).backward()
            optimiser.step()
        ends.append(model)
    seen = run(setting, 1, learning_rate=1.0, momentum=0.0)
    for name, tensor in seen[1].weights.items():
        expected = sum(end[name].detach() for end in ends) / 3
        assert torch.allclose(tensor, expected, atol=1e-6)


def test_fedsgd_is_one_step_on_the_mean_gradient() -> None:
    setting = tiny.setting_of("none", batch_size=4)
    parts = [tiny.clusters(40, seed) for seed in range(3)]
    weights, clients = start(setting, 3, 0, tiny.SECRET)
    received = []
    for index, (client, part) in enumerate(zip(clients, parts, strict=True)):
        batches = draw_batches(setting, part, ("tiny", 0, index, 1), tiny.SECRET)
        received.append(client.round(weights, batches, tiny.rng()))
    seen = run(setting, 1)
    for name, tensor in seen[1].weights.items():
        mean = sum(update[name] for update in received) / 3
        assert torch.allclose(tensor, weights[name] - 0.1 * mean, atol=1e-6)


# ------------------------------------------------------------------- public and private draws


def parameters(defense: str, seed: int = 0, secret: str = tiny.SECRET) -> tuple[Update, Any]:
    return start(tiny.setting_of(defense), 2, seed, secret)


@pytest.mark.parametrize("name", ["dp", "dpsgd", "pruning", "dgp", "precode", "ppp", "fedrep"])
def test_common_layers_begin_alike_under_every_defense(name: str) -> None:
    plain, _ = parameters("none")
    weights, _ = parameters(name)
    common = [n for n in weights if n in plain]
    assert any(n.startswith("features.") for n in common)
    assert all(torch.equal(weights[n], plain[n]) for n in common)


def test_another_seed_is_another_start() -> None:
    one, two = parameters("none", 0)[0], parameters("none", 1)[0]
    assert not torch.equal(one["head.weight"], two["head.weight"])


@pytest.mark.parametrize("name", ["fedrep", "hyperfl"])
def test_private_parameters_are_keyed_by_the_secret(name: str) -> None:
    shared, (first, second) = parameters(name)
    again, (same, _) = parameters(name)
    other, (stranger, _) = parameters(name, secret="another")
    for key, tensor in first.private.items():
        assert torch.equal(tensor, same.private[key])
        assert not torch.equal(tensor, second.private[key])
        assert not torch.equal(tensor, stranger.private[key])
    for key, tensor in shared.items():
        assert torch.equal(tensor, again[key]) and torch.equal(tensor, other[key])


@pytest.mark.parametrize("name", ["none", "dgp", "precode", "hyperfl"])
def test_the_order_of_data_is_public_and_the_same_for_all(name: str) -> None:
    part, keys = tiny.clusters(30, 1), ("tiny", 0, 1, 2)
    plain = draw_batches(tiny.fedavg("none"), part, keys, "a")
    other = draw_batches(tiny.fedavg(name), part, keys, "b")
    for (ours, _), (theirs, _) in zip(plain, other, strict=True):
        assert torch.equal(ours, theirs)


def numbered(count: int) -> Examples:
    """Examples that can be told apart by their pixels."""
    images = torch.arange(count).float().view(-1, 1, 1, 1).expand(-1, 1, 6, 6)
    return Examples(images, torch.zeros(count, dtype=torch.long))


def test_batches_of_a_round_repeat_nothing_before_all_was_seen() -> None:
    part = numbered(10)
    batches = draw_batches(tiny.fedavg("none", 5, 2), part, (0,), "s")
    seen = torch.cat([images[:, 0, 0, 0] for images, _ in batches])
    assert [len(labels) for _, labels in batches] == [2] * 5
    assert sorted(seen.tolist()) == list(range(10))
    longer = draw_batches(tiny.fedavg("none", 6, 4), part, (0,), "s")
    assert [len(labels) for _, labels in longer] == [4] * 6


def test_poisson_sampling_is_independent_and_secret() -> None:
    """Every example joins with the public rate, whatever the others do; nobody can redraw it."""
    setting, part = tiny.setting_of("dpsgd", batch_size=4), numbered(20)
    drawn = []
    for number in range(600):
        ((images, labels),) = draw_batches(setting, part, (number,), "s", 0.2)
        drawn.append(torch.isin(torch.arange(20).float(), images[:, 0, 0, 0]))
        assert len(images) == len(labels)
    joined = torch.stack(drawn).double()
    sizes = joined.sum(1)
    assert float(sizes.mean()) == pytest.approx(4, abs=0.3)
    assert float(sizes.var()) == pytest.approx(20 * 0.2 * 0.8, rel=0.25), "not a fixed size"
    assert float(sizes.min()) == 0, "a draw may be empty"
    assert (joined.mean(0) - 0.2).abs().max() < 0.08
    one, again, other = (
        draw_batches(setting, numbered(200), (1,), key, 0.02)[0][0] for key in ("s", "s", "t")
    )
    assert torch.equal(one, again)
    assert one.shape != other.shape or not torch.equal(one, other)


def test_poisson_sampling_survives_empty_rounds() -> None:
    setting = tiny.setting_of("dpsgd", batch_size=1)
    parts = [numbered(30)]
    protocol = Protocol(4, 0.1, 0.0, sampling_rate=1 / 30)
    seen = list(simulate(setting, protocol, parts, numbered(3), 0, "s"))
    assert all(torch.isfinite(t).all() for t in seen[-1].weights.values())


def test_one_example_more_changes_neither_the_rate_nor_the_normaliser() -> None:
    """Where the additional example is not drawn, the client sends the same bytes; and it is drawn
    as often as any other one."""
    setting, joined = tiny.setting_of("dpsgd", batch_size=4), 0
    larger = tiny.clusters(21, 1)
    smaller = Examples(larger.images[:20], larger.labels[:20])

    def sent(part: Examples, number: int) -> tuple[int, bytes]:
        weights, (client,) = start(setting, 1, 0, tiny.SECRET)
        batches = draw_batches(setting, part, (number,), "s", 0.2)
        return len(batches[0][1]), encode(client.round(weights, batches, tiny.rng(number)))

    for number in range(40):
        (many, message), (few, other) = sent(larger, number), sent(smaller, number)
        assert many - few in (0, 1)
        assert (message == other) is (many == few)
        joined += many - few
    assert 1 <= joined <= 20


def test_two_runs_are_one() -> None:
    defense: Defense = build("ppp", {"width": 8, "noise": 0.1})
    setting = tiny.setting_of(defense, batch_size=4)
    first, second = run(setting, 3), run(setting, 3)
    other = run(setting, 3, secret="another")

    def weights(seen: list[Observation]) -> torch.Tensor:
        return torch.cat([t.flatten() for t in seen[-1].weights.values()])

    assert torch.equal(weights(first), weights(second))
    assert not torch.equal(weights(first), weights(other))
