"""A search at low resolution and its restoration: what each part adds, and whose image it is."""

from __future__ import annotations

from dataclasses import replace
from functools import lru_cache
from typing import Any

import pytest
import torch
from torch.nn import functional as F

from benchmark.attacks.base import Unsupported, get
from benchmark.attacks.rog import enlarged, reduced
from benchmark.config.errors import ParamsError
from benchmark.defenses.base import build
from benchmark.pipeline.attack import readable
from tests import tiny
from tests.attacks.learners import error, public_of, rounds

ROG = get("rog").configured(scale=0.75, rate=0.15, iterations=40, examples=64, width=16, epochs=80)
PUBLIC = public_of()


@lru_cache(maxsize=1)
def attacked() -> tuple[Any, Any, Any]:
    transcripts, truths = rounds(tiny.setting_of("none"), 8)
    evidences = readable(transcripts)["oblivious"]
    return ROG.run(evidences, PUBLIC), truths, evidences


def mean_error(guesses: Any, truths: Any) -> float:
    return sum(error(g, t) for g, t in zip(guesses, truths, strict=True)) / len(truths)


@pytest.mark.parametrize("shape", [(1, 8, 8), (3, 7, 12)], ids=str)
def test_enlarging_is_bicubic_interpolation(shape: tuple[int, int, int]) -> None:
    small = torch.rand(2, shape[0], 4, 5, generator=tiny.rng(0))
    expected = F.interpolate(small, size=shape[1:], mode="bicubic", align_corners=False)
    assert torch.allclose(enlarged(small, shape), expected, atol=1e-6)


def test_a_small_guess_predicts_what_its_enlargement_does() -> None:
    evidence = attacked()[2][0]
    question = reduced(evidence, 0.5)
    assert question.setting.shape == (1, 3, 3)
    labels = torch.eye(10)[:1]
    small = {"images": torch.randn(1, 1, 3, 3, generator=tiny.rng(0)), "labels": labels}
    large = {"images": enlarged(small["images"], (1, 6, 6)), "labels": labels}
    one = question.predict(question.setting, small, {}, question.data)["update"]
    two = evidence.predict(evidence.setting, large, {}, evidence.data)["update"]
    assert tiny.relative_error(one, two) < 1e-6


def test_restoring_adds_to_what_the_message_says() -> None:
    """Better than the search alone and than the auxiliary mean; not so for another's message."""
    guesses, truths, evidences = attacked()
    searched = ROG._found(evidences, range(8), None)
    plain = mean_error([enlarged(g.images, (1, 6, 6)) for g in searched], truths)
    blind = mean_error([PUBLIC.images.mean(0).expand_as(t) for t in truths], truths)
    own = mean_error([g.images for g in guesses], truths)
    swapped = mean_error([g.images for g in guesses[1:] + guesses[:1]], truths)
    assert own < 0.5 * plain and own < 0.5 * blind < swapped


def test_equal_seeds_give_equal_guesses() -> None:
    guesses, _, evidences = attacked()
    again = ROG.run(evidences, PUBLIC)
    assert all(torch.equal(a.images, b.images) for a, b in zip(again, guesses, strict=True))


def test_batches_and_local_steps_are_read_and_masked_terms_refused() -> None:
    few = ROG.configured(iterations=4, examples=8, epochs=1)
    evidences = readable(rounds(tiny.fedavg("none", batch_size=2), 2)[0])["oblivious"]
    for guess in few.run(evidences, PUBLIC):
        assert guess.images.shape == (6, 1, 6, 6)
        # Its own search and one for each of the two batches that it learns from, of three steps.
        assert (guess.evaluations, guess.simulated) == (4 + 2 * 4, 2 * 3)
    pruned = readable(rounds(tiny.setting_of(build("pruning", {})), 1)[0])["nonzero-entries"]
    with pytest.raises(Unsupported, match="masks"):
        ROG.run(pruned, PUBLIC)
    with pytest.raises(Unsupported, match="simulate"):
        ROG.run([replace(attacked()[2][0], simulate=None)], PUBLIC)
    with pytest.raises(ParamsError, match="rog.scale"):
        ROG.configured(scale=0.0)
