"""What holds for every registered defense, at its defaults and at every operating point."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import pytest
import torch

import benchmark.defenses
from benchmark.defenses import base
from benchmark.defenses.base import Defense, build, names
from benchmark.federated.client import Client
from benchmark.federated.setting import Setting, schema, stateless_model
from benchmark.federated.simulation import start
from benchmark.federated.update import Update
from benchmark.federated.wire import decode, encode
from tests import tiny

every_point = pytest.mark.parametrize("defense", tiny.points(), ids=repr)


def same(left: Any, right: Any) -> bool:
    """Equal names, shapes and bits."""
    return list(left) == list(right) and all(
        left[n].shape == right[n].shape
        and left[n].numpy().tobytes() == right[n].contiguous().numpy().tobytes()
        for n in left
    )


def a_round(defense: Defense, seed: int, setting: Setting | None = None) -> tuple[Update, Client]:
    """One client's round on fixed data and weights; ``seed`` of its private randomness."""
    setting = setting or tiny.setting_of(defense, batch_size=3)
    weights, (client,) = start(setting, 1, 0, tiny.SECRET)
    pixels, labels = tiny.images_of(setting, 0)
    return client.round(weights, tiny.batches_of(setting, pixels, labels), tiny.rng(seed)), client


def an_update(defense: Defense, seed: int) -> Update:
    """Something to protect, of the right names and shapes."""
    source = tiny.rng(seed)
    shapes = schema(tiny.setting_of(defense))
    return Update({n: torch.randn(shape, generator=source) for n, shape in shapes.items()})


def test_every_file_is_a_defense_of_its_name() -> None:
    folder = Path(benchmark.defenses.__path__[0])
    assert names() and {"none", "dp", "dgp", "hyperfl"} <= set(names())
    for name in names():
        assert (folder / f"{name.replace('-', '_')}.py").is_file()
        defense = base.get(name)
        assert defense.name == name
        assert defense.title and defense.summary
        assert bool(defense.cite) == defense.url.startswith("https://"), "both, or not published"


@every_point
def test_it_is_a_value(defense: Defense) -> None:
    assert defense == type(defense)(**defense.parameters())
    assert hash(defense) == hash(type(defense)(**defense.parameters()))
    with pytest.raises(dataclasses.FrozenInstanceError):
        defense.noise = 0.5  # type: ignore[attr-defined]
    for field in dataclasses.fields(defense):
        with pytest.raises(dataclasses.FrozenInstanceError):
            setattr(defense, field.name, 1)


@every_point
def test_a_setting_survives_json(defense: Defense) -> None:
    setting = tiny.fedavg(defense)
    again = Setting.from_json(json.loads(json.dumps(setting.to_json())))
    assert again == setting and hash(again) == hash(setting)
    assert type(again.defense) is type(defense)


@every_point
@pytest.mark.parametrize("algorithm", ["fedsgd", "fedavg"])
def test_server_and_attacker_see_only_bytes(defense: Defense, algorithm: str) -> None:
    setting = tiny.setting_of(defense) if algorithm == "fedsgd" else tiny.fedavg(defense)
    sent, _ = a_round(defense, 1, setting)
    assert list(sent) == list(schema(setting))
    positive = {name: tensor + 0.0 for name, tensor in sent.items()}  # the wire drops -0.0's sign
    assert same(decode(encode(sent), schema(setting)), positive)


@every_point
def test_what_stays_is_never_sent(defense: Defense) -> None:
    setting = tiny.setting_of(defense, batch_size=3)
    sent, client = a_round(defense, 1, setting)
    everything = dict(stateless_model(setting).named_parameters())
    assert set(sent) | set(client.private) == set(everything)
    assert not set(sent) & set(client.private)
    assert bool(client.private) == type(defense).personalised()
    assert all(defense.shared(name) for name in sent)
    assert not any(defense.shared(name) for name in client.private)
    held = {name for name in client.private if defense.trained_before_shared(name)}
    assert all(f"private.{name}" in client.revealed for name in held)


@every_point
def test_equal_draws_give_equal_messages(defense: Defense) -> None:
    first, client = a_round(defense, 1)
    second, twin = a_round(defense, 1)
    assert same(first, second)
    assert same(client.private, twin.private) and same(client.memory, twin.memory)
    other, _ = a_round(defense, 2)
    update = an_update(defense, 3)
    nothing = update.map(torch.zeros_like)
    noisy = not same(
        defense.protect(update, nothing, tiny.rng())[0], defense.protect(update, nothing, None)[0]
    )
    draws = bool(stateless_model(tiny.setting_of(defense)).noise_shapes(1))
    private = noisy or draws or type(defense).local is not Defense.local
    assert same(first, other) != private


@every_point
def test_protection_is_a_function_of_its_generator(defense: Defense) -> None:
    update, memory = an_update(defense, 3), an_update(defense, 4) * 0.1
    before = update.map(torch.clone)
    once, twice = (defense.protect(update, memory, tiny.rng(5)) for _ in range(2))
    assert same(once[0], twice[0]) and same(once[1], twice[1])
    expected, kept = defense.protect(update, memory, None)
    assert same(expected, defense.protect(update, memory, None)[0])
    assert same(update, before), "the update was changed in place"
    assert list(expected) == list(update) == list(once[0])
    assert all(torch.isfinite(tensor).all() for tensor in once[0].values())
    if not same(once[0], expected):
        assert not same(once[0], defense.protect(update, memory, tiny.rng(6))[0])
    assert list(kept) == list(memory)


@every_point
def test_what_is_held_back_is_not_lost(defense: Defense) -> None:
    update, memory = an_update(defense, 3), an_update(defense, 4)
    sent, kept = defense.protect(update, memory, tiny.rng(5))
    if same(kept, memory):
        return  # no error feedback
    assert same(sent + kept, update + memory)


@pytest.mark.parametrize(
    ("name", "fields"),
    [
        ("dp", {"noise": 0.0}), ("dp", {"noise": -1.0}), ("dp", {"clip": 0.0}),
        ("dp", {"delta": 0.0}), ("dp", {"delta": 1.0}), ("dp", {"noise": float("nan")}),
        ("dpsgd", {"noise": 0.0}), ("dpsgd", {"clip": -1.0}), ("dpsgd", {"delta": 2.0}),
        ("pruning", {"keep": 0.0}), ("pruning", {"keep": 1.5}), ("pruning", {"keep": -0.1}),
        ("dgp", {"drop_largest": -0.1}), ("dgp", {"drop_smallest": 1.0}),
        ("dgp", {"drop_largest": 0.5, "drop_smallest": 0.5}),
        ("dgp", {"drop_smallest": float("nan")}),
        ("precode", {"width": 0}), ("precode", {"beta": -1e-3}),
        ("ppp", {"width": 0}), ("ppp", {"noise": 0.0}), ("ppp", {"beta": -1.0}),
        ("hyperfl", {"embedding": 0}), ("hyperfl", {"hidden": 0}), ("hyperfl", {"rate": 0.0}),
        ("fedrep", {"private_layers": 0}), ("fedrep", {"private_layers": 3}),
    ],
    ids=str,
)  # fmt: skip
def test_an_impossible_value_is_one_clear_line(name: str, fields: dict[str, Any]) -> None:
    with pytest.raises(ValueError) as caught:
        build(name, fields)
    message = str(caught.value)
    assert "\n" not in message
    assert any(f"{name}.{field}" in message for field in fields)


@pytest.mark.parametrize("name", names())
def test_an_unknown_field_is_named_with_what_is_allowed(name: str) -> None:
    with pytest.raises(ValueError, match=f"defenses.{name}: 'sigma' is no key here") as caught:
        build(name, {"sigma": 1.0})
    assert all(f.name in str(caught.value) for f in dataclasses.fields(base.get(name)))


def test_an_unknown_defense_is_told_which_there_are() -> None:
    with pytest.raises(ValueError, match="defenses: 'soteria' is unknown.*dgp"):
        build("soteria", {})


def test_two_defenses_cannot_have_one_name() -> None:
    impostor = type("Impostor", (Defense,), {"name": "none", "__module__": "elsewhere.none"})
    with pytest.raises(ValueError, match="two defenses are called 'none'"):
        base.register(impostor)
    file = {"name": "other", "__module__": "benchmark.defenses.none"}
    misnamed = type("Misnamed", (Defense,), file)
    with pytest.raises(ValueError, match="its name must be 'none'"):
        base.register(misnamed)
    assert base.get("none").__module__ == "benchmark.defenses.none"


def test_only_differential_privacy_states_an_epsilon() -> None:
    stated = {d.name for d in tiny.points() if d.guarantee(rounds=2, rate=0.1) is not None}
    assert stated == {"dp", "dpsgd"}
    client, example = (build(n, {}).guarantee(rounds=2, rate=0.1) for n in ("dp", "dpsgd"))
    assert client and (client.unit, client.adversary) == ("client", "server")
    assert example and (example.unit, example.adversary) == ("example", "server")
