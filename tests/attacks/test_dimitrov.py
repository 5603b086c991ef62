"""Unrolled local steps, matched tensor by tensor; numbers of labels from both ends of a round."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch

from benchmark.attacks.base import Unsupported, get
from benchmark.attacks.dimitrov import StepCounts, layered
from benchmark.pipeline.attack import readable
from tests import tiny

DIMITROV = get("dimitrov")


def observed(count: int = 2, reading: str = "oblivious", **facts: Any) -> tuple[Any, Any]:
    options = {"algorithm": "fedavg", "local_steps": 2, "local_lr": 0.2, **facts}
    victims = tiny.observe(tiny.setting_of("none", **options), count)
    return readable([v.transcript for v in victims])[reading], victims


def test_earlier_layers_count_e_times_as_much_and_all_together_one() -> None:
    (evidence, _), _ = observed()
    terms = layered(evidence).terms
    assert sum(term.weight for term in terms.values()) == pytest.approx(1)
    first, second = terms["update/features.conv1.weight"], terms["update/features.conv2.weight"]
    assert first.weight / second.weight == pytest.approx(2.718281828)
    assert first.weight == terms["update/features.conv1.bias"].weight
    assert {name.partition("/")[2] for name in terms} == set(evidence.terms["update"].value)


def test_the_truth_explains_unrolled_steps_and_not_a_single_gradient() -> None:
    evidences, victims = observed(local_lr=0.5)
    pixels, soft = [v.truth["pixels"] for v in victims], [v.soft for v in victims]
    assert max(DIMITROV.losses(evidences, pixels, soft)) < 1e-6
    single = [
        replace(e, setting=replace(e.setting, local_steps=1, batch_size=2)) for e in evidences
    ]
    assert min(DIMITROV.losses(single, pixels, soft)) > 1e-4


def test_images_behind_local_steps_are_recovered() -> None:
    evidences, victims = observed()
    guesses = DIMITROV.configured(iterations=150).run(evidences)
    for guess, victim in zip(guesses, victims, strict=True):
        assert float((guess.images - victim.truth["pixels"]).square().mean()) < 2e-2
        assert guess.evaluations == 150


def test_labels_are_counted_over_all_steps() -> None:
    evidences, victims = observed(8, local_steps=3, batch_size=2, labels_given=False)
    for evidence, victim in zip(evidences, victims, strict=True):
        labels = StepCounts().soft(evidence).argmax(1)
        assert torch.equal(labels, victim.truth["labels"].sort().values)
    assert DIMITROV.labels_from(evidences[0]) == "inferred"


def test_messages_without_local_steps_are_refused() -> None:
    evidence = readable([tiny.observe(tiny.setting_of("none"))[0].transcript])["oblivious"]
    with pytest.raises(Unsupported, match="one step"):
        DIMITROV.run(evidence)
