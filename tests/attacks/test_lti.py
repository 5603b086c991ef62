"""A learned inverse: what it learns is in the message, and it learns whatever the defense does."""

from __future__ import annotations

from dataclasses import replace
from functools import lru_cache
from typing import Any

import pytest
import torch

from benchmark.attacks import lti
from benchmark.attacks.base import Unsupported, get
from benchmark.attacks.lti import Hash, message
from benchmark.attacks.parts.learning import Learned, distance
from benchmark.config.errors import ParamsError
from benchmark.defenses.base import build
from benchmark.pipeline.attack import readable
from tests import tiny
from tests.attacks.learners import error, public_of, rounds

LTI = get("lti").configured(
    examples=300, epochs=30, features=512, layers=2, width=128, batch=64, rate=1e-3
)
PUBLIC = public_of()
MEAN = PUBLIC.images.mean(0)


@lru_cache(maxsize=8)
def attacked(setting: Any, reading: str = "oblivious") -> tuple[Any, Any, Any]:
    transcripts, truths = rounds(setting, 8)
    evidences = readable(transcripts)[reading]
    return LTI.run(evidences, PUBLIC), truths, evidences


def mean_error(guesses: Any, truths: Any) -> float:
    errors = [error(g.images, t) for g, t in zip(guesses, truths, strict=True)]
    return sum(errors) / len(errors)


@pytest.mark.parametrize("batch_size", [1, 3])
def test_the_message_is_what_it_reads(batch_size: int) -> None:
    """Better than the auxiliary mean by far; with another victim's message, worse than it."""
    guesses, truths, _ = attacked(tiny.setting_of("none", batch_size=batch_size))
    blind = sum(error(MEAN.expand_as(t), t) for t in truths) / len(truths)
    swapped = mean_error(guesses[1:] + guesses[:1], truths)
    assert mean_error(guesses, truths) < blind / (4 if batch_size == 1 else 1.5) < blind < swapped


def test_knowing_the_defense_helps() -> None:
    setting = tiny.setting_of(build("pruning", {"keep": 0.05}))
    adaptive, truths, _ = attacked(setting, "bpda-eot")
    oblivious, _, _ = attacked(setting, "oblivious")
    assert mean_error(adaptive, truths) < mean_error(oblivious, truths) / 2


def test_a_guess_does_not_depend_on_who_else_is_attacked() -> None:
    guesses, _, evidences = attacked(tiny.setting_of("none"))
    alone = LTI.run(evidences[1:2], PUBLIC, seeds=[7])[0]
    assert torch.allclose(alone.images, guesses[1].images, atol=1e-5)
    again = LTI.run(evidences, PUBLIC)
    assert all(torch.equal(a.images, b.images) for a, b in zip(again, guesses, strict=True))


def test_granted_labels_are_kept_and_others_are_guessed() -> None:
    given, _, evidences = attacked(tiny.setting_of("none", batch_size=3))
    assert all(torch.equal(g.labels, e.given) for g, e in zip(given, evidences, strict=True))
    unknown, _, _ = attacked(tiny.setting_of("none", labels_given=False))
    truth = [int(e.given[0]) for e in attacked(tiny.setting_of("none"))[2]]
    right = sum(int(g.labels[0]) == label for g, label in zip(unknown, truth, strict=True))
    assert right >= 6


def test_evaluations_are_the_gradients_of_all_simulated_messages() -> None:
    """Three local steps of two images: three gradients a message, whatever a prediction costs."""
    few = LTI.configured(examples=10, epochs=1)
    for setting, gradients in ((tiny.setting_of("none"), 10), (tiny.fedavg("none"), 30)):
        evidences = readable(rounds(setting, 2)[0])["oblivious"]
        for guess in few.run(evidences, PUBLIC):
            assert (guess.evaluations, guess.simulated) == (0, gradients)


def test_the_size_of_a_gradient_does_not_matter() -> None:
    evidence = attacked(tiny.setting_of("none"))[2][0]
    shown = {name: term.value for name, term in evidence.terms.items()}
    small = {name: {k: 1e-10 * t for k, t in value.items()} for name, value in shown.items()}
    assert torch.allclose(message(evidence, small), message(evidence, shown), atol=1e-6)
    assert float(message(evidence, shown).norm()) == pytest.approx(1)


def test_hashing_keeps_inner_products_on_average() -> None:
    left, right = torch.randn(2, 4000, generator=tiny.rng(0))
    found = []
    for seed in range(200):
        hashed = Hash.of(torch.stack([left, right]), 512, tiny.rng(seed))
        plain = replace(hashed, mean=torch.zeros(512), deviation=torch.ones(512))
        one, two = plain(torch.stack([left, right]))
        found.append(float(one @ two))
    spread = float(left.norm() * right.norm()) / 512**0.5 / 200**0.5
    assert sum(found) / 200 == pytest.approx(float(left @ right), abs=4 * spread)


def test_the_loss_ignores_the_order_of_a_batch() -> None:
    guesses, order = torch.rand(5, 4, 1, 6, 6), torch.tensor([2, 0, 3, 1])
    assert float(distance(guesses, guesses[:, order])) == pytest.approx(0, abs=1e-12)
    assert float(distance(guesses, guesses[:, order] + 0.1)) == pytest.approx(0.01, rel=0.2)


def test_readings_that_cannot_be_simulated_are_refused() -> None:
    evidence = attacked(tiny.setting_of("none"))[2][0]
    with pytest.raises(Unsupported, match="simulate"):
        LTI.run([replace(evidence, simulate=None)], PUBLIC)
    with pytest.raises(ValueError, match="auxiliary images"):
        LTI.run([evidence])
    with pytest.raises(ParamsError, match="lti.examples"):
        LTI.configured(examples=0)


def test_a_deadline_in_the_past_still_gives_a_guess() -> None:
    transcripts, _ = rounds(tiny.setting_of("none"), 2)
    guesses = LTI.run(readable(transcripts)["oblivious"], PUBLIC, deadline=0.0)
    assert [g.stopped for g in guesses] == ["timeout", "timeout"]


def test_what_was_learnt_for_another_cell_is_what_this_one_would_learn() -> None:
    """Messages of a pruned client are simulated like an undefended one's, and only those."""
    few = LTI.configured(examples=30, epochs=2)
    fresh = [
        readable(rounds(tiny.setting_of(name), 2)[0])["oblivious"] for name in ("none", "precode")
    ]
    lti._LEARNED = Learned()
    before = [few.run(evidences, PUBLIC) for evidences in fresh]
    assert len(lti._LEARNED._networks) == 2
    pruned = readable(rounds(tiny.setting_of("pruning"), 2)[0])["oblivious"]
    found = few.run(pruned, PUBLIC)
    assert len(lti._LEARNED._networks) == 2
    few.configured(rate=1e-2).run(pruned, PUBLIC)
    assert len(lti._LEARNED._networks) == 3
    lti._LEARNED = Learned()
    again = [few.run(evidences, PUBLIC) for evidences in (*fresh, pruned)]
    for one, other in zip([*before, found], again, strict=True):
        assert all(torch.equal(a.images, b.images) for a, b in zip(one, other, strict=True))
