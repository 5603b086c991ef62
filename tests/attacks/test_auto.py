"""The ensemble: its rounds, when it leaves a victim alone, and what it does not polish."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from benchmark.attacks.auto import BUDGETS, DONE, PRIOR, Ensemble, better
from benchmark.attacks.base import get
from benchmark.attacks.parts.optimisation import Found
from benchmark.evidence.first_linear import first_linear_layer
from benchmark.evidence.generic import oblivious
from benchmark.metrics import images as privacy
from benchmark.metrics.selection import EXPLAINED
from tests.tiny import observe, setting_of


def short(**changes: object) -> Ensemble:
    attack = get("auto").configured(lbfgs_evaluations=4, adam_evaluations=8, **changes)
    assert isinstance(attack, Ensemble)
    return attack


@pytest.mark.parametrize("budget", sorted(BUDGETS))
def test_a_budget_is_so_many_times_the_standard_one(victims, budget) -> None:
    assert sum(BUDGETS[budget]) == budget
    for guess in short(budget=budget).run(victims(2)[0]):
        assert guess.evaluations == budget * 12 and guess.stopped == "budget"


def test_a_larger_budget_contains_the_smaller_one(victims) -> None:
    """What later rounds find replaces the first round's only where it is better."""
    evidences = victims(4)[0]
    losses = [[g.loss for g in short(budget=b).run(evidences)] for b in (1, 3, 10)]
    for less, more in zip(losses, losses[1:], strict=False):
        assert all(b <= a + 1e-3 for a, b in zip(less, more, strict=True))  # the prior has a say
    assert sum(losses[-1]) < sum(losses[0])


def test_victims_that_are_explained_cost_no_more(victims) -> None:
    evidences, images, _ = victims(3)
    first = get("auto").run(evidences)
    assert all(g.loss <= DONE and g.stopped == "converged" for g in first)
    for guess, truth in zip(first, images, strict=True):
        assert torch.allclose(guess.images, truth, atol=1e-3)
    again = get("auto").configured(budget=10).run(evidences)
    assert [g.evaluations for g in again] == [g.evaluations for g in first]


def test_what_is_noisy_is_searched_with_a_prior_alone(victims) -> None:
    evidences = [replace(e, noisy=True) for e in victims(2)[0]]
    plain = get("ig").configured(optimiser={"lr": 0.2}, iterations=12).run(evidences)
    for ours, theirs in zip(short().run(evidences), plain, strict=True):
        assert ours.evaluations == theirs.evaluations == 12
        assert torch.equal(ours.images, theirs.images)


def found(data: float, total: float, evaluations: int = 5) -> Found:
    return Found({}, total, data, evaluations, "budget")


def test_the_smoothest_explanation_is_kept() -> None:
    """What explains the evidence comes first, however rough; of two such, the smoother one."""
    blind = found(0.3, 0.301)
    assert better(blind, found(EXPLAINED / 2, 0.5)).data == EXPLAINED / 2
    assert better(found(1e-6, 3e-3), found(1e-5, 1e-3)).data == 1e-5
    assert better(blind, found(0.2, 0.35)).data == 0.3
    assert better(blind, found(0.2, 0.35)).evaluations == 10


def test_of_several_explanations_the_prior_decides(victims) -> None:
    """One observed entry is explained by almost any image: the guess is a smooth one."""
    evidences, _, _ = victims(2)
    blind = []
    for evidence in evidences:
        (term,) = evidence.terms.values()
        mask = {name: torch.zeros_like(tensor) for name, tensor in term.value.items()}
        mask["head.bias"][:2] = 1.0
        blind.append(replace(evidence, terms={"update": replace(term, mask=mask)}))
    attack = get("auto").configured(lbfgs_evaluations=6, adam_evaluations=60)
    setting = evidences[0].setting
    for guess in attack.run(blind):
        assert guess.loss <= EXPLAINED
        noise = torch.randn(guess.images.shape, generator=torch.Generator().manual_seed(0))
        assert float(PRIOR(setting.normalise(guess.images))) < 0.5 * float(PRIOR(noise))


def linear_first(size: int, seed: int = 0):
    """A victim whose network begins with a linear layer."""
    return observe(setting_of("none", model="mlp", batch_size=size, labels_given=False), seed=seed)[
        0
    ]


@pytest.mark.parametrize(
    "read", [oblivious, first_linear_layer], ids=["oblivious", "first-linear-layer"]
)
def test_what_a_closed_form_certifies_is_not_searched(read) -> None:
    """A batch without labels, which no search of ten evaluations finds."""
    victim = linear_first(8)
    evidence = read(victim.transcript)
    attack = short(budget=10)
    (guess,) = attack.run([evidence])
    (peeled,) = get("peeling").run([evidence])
    order = privacy.match(guess.images.numpy(), victim.truth["pixels"])
    assert torch.allclose(guess.images[order], victim.truth["pixels"], atol=1e-4)
    assert guess.evaluations == peeled.evaluations and guess.stopped == "converged"
    assert guess.loss == pytest.approx(attack.loss(evidence, guess.images, guess.soft), abs=1e-9)
    assert guess.loss < EXPLAINED and guess.applicable is None
    if read is oblivious:
        assert guess.labels is not None
        assert guess.labels[order].tolist() == victim.truth["labels"].tolist()


def test_certified_images_are_kept_where_others_are_searched() -> None:
    """Three of eighteen come off: the search begins at them, and they stay as they are."""
    victim = linear_first(18, seed=1)
    evidence = oblivious(victim.transcript)
    attack = short()
    (guess,) = attack.run([evidence])
    (peeled,) = get("peeling").run([evidence])
    assert peeled.applicable is not None and peeled.labels is not None
    sure = peeled.images[peeled.applicable]
    assert 0 < len(sure) < 18
    distance, place = torch.cdist(sure.flatten(1), guess.images.flatten(1)).min(1)
    assert float(distance.max()) < 1e-6 and len(set(place.tolist())) == len(sure)
    assert guess.labels is not None
    assert torch.equal(guess.labels[place], peeled.labels[peeled.applicable])
    assert guess.evaluations == peeled.evaluations + 12 and guess.stopped == "budget"
    assert guess.loss == pytest.approx(
        attack.loss(evidence, guess.images, guess.soft, guess.hidden), abs=1e-9
    )


def test_granted_labels_stay_those_of_the_batch() -> None:
    """A certified image replaces one of its own label."""
    setting = setting_of("none", model="mlp", batch_size=18)
    victim = observe(setting, seed=1)[0]
    (guess,) = short().run([oblivious(victim.transcript)])
    assert guess.labels is not None
    assert sorted(guess.labels.tolist()) == sorted(victim.truth["labels"].tolist())
