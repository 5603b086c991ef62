"""A simulated round is what a client sends: the same code, the attacker's own random numbers."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from benchmark.defenses.base import Defense, build
from benchmark.pipeline.attack import readable
from tests import tiny
from tests.attacks.learners import images_of

every_point = pytest.mark.parametrize("defense", tiny.points(), ids=repr)
SETTINGS = {
    "B=1": lambda defense: tiny.setting_of(defense),
    "fedavg": lambda defense: tiny.fedavg(defense, local_steps=2, batch_size=2),
}


@every_point
@pytest.mark.parametrize("facts", SETTINGS.values(), ids=list(SETTINGS))
def test_every_reading_that_simulates_shows_its_terms(defense: Defense, facts: Any) -> None:
    setting = facts(defense)
    found = readable([tiny.observe(setting)[0].transcript])
    pixels, labels = images_of(setting.images, seed=3)
    batch = {"images": setting.normalise(pixels), "labels": labels}
    for evidence in (e for (e,) in found.values()):
        if evidence.simulate is None:
            continue
        (shown,) = evidence.simulate(setting, [batch], evidence.data, tiny.rng(1))
        (again,) = evidence.simulate(setting, [batch], evidence.data, tiny.rng(1))
        for name, term in evidence.terms.items():
            for tensor, value in term.value.items():
                assert shown[name][tensor].shape == value.shape
                assert torch.equal(shown[name][tensor], again[name][tensor])
    assert found["oblivious"][0].simulate is not None


@pytest.mark.parametrize("name", ["none", "pruning", "dgp"])
def test_the_victims_own_batch_gives_the_victims_own_message(name: str) -> None:
    """Where nothing is random or private."""
    setting = tiny.fedavg(build(name, {}))
    victim = tiny.observe(setting)[0]
    found = readable([victim.transcript])
    evidence = found["oblivious" if name == "none" else "bpda-eot"][0]
    batch = {"images": victim.truth["images"], "labels": victim.truth["labels"]}
    shown = evidence.simulate(setting, [batch], evidence.data, tiny.rng(1))[0]["update"]
    assert tiny.relative_error(shown, victim.transcript.message) < 1e-6


def test_oblivious_rounds_are_undefended_and_adaptive_ones_are_not() -> None:
    setting = tiny.setting_of(build("pruning", {"keep": 0.1}))
    victim = tiny.observe(setting)[0]
    found = readable([victim.transcript])
    batch = {"images": victim.truth["images"], "labels": victim.truth["labels"]}
    share = {
        name: float(
            torch.cat(
                [
                    t.flatten()
                    for t in e.simulate(setting, [batch], e.data, tiny.rng(1))[0]["update"].values()
                ]
            )
            .ne(0)
            .float()
            .mean()
        )
        for name, (e,) in found.items()
        if e.simulate is not None
    }
    assert share["oblivious"] > 0.9 and share["bpda-eot"] < 0.12


def test_noise_and_private_parameters_come_from_the_given_stream() -> None:
    for name in ("dp", "fedrep", "precode"):
        setting = tiny.setting_of(build(name, {}))
        victim = tiny.observe(setting)[0]
        entry = readable([victim.transcript])["oblivious" if name != "dp" else "bpda-eot"][0]
        batch = {"images": victim.truth["images"], "labels": victim.truth["labels"]}
        one, two = (
            entry.simulate(setting, [batch], entry.data, tiny.rng(k))[0]["update"] for k in (1, 2)
        )
        assert not all(torch.equal(one[n], two[n]) for n in one)
