"""SPEAR recovers whole batches exactly, and refuses what has not the batch's rank."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from benchmark.attacks.base import Unsupported, get
from benchmark.evidence.base import Term
from benchmark.evidence.generic import oblivious
from benchmark.metrics import images as privacy
from tests.tiny import observe, setting_of


def batch(size: int, **facts):
    return observe(setting_of("none", model="mlp", batch_size=size, **facts))[0]


@pytest.mark.parametrize("granted", [True, False], ids=["labels given", "labels unknown"])
@pytest.mark.parametrize("size", [1, 2, 4, 8])
def test_batches_are_exact_with_their_labels(size, granted) -> None:
    victim = batch(size, labels_given=granted)
    guess = get("spear").run([oblivious(victim.transcript)])[0]
    order = privacy.match(guess.images.numpy(), victim.truth["pixels"])
    assert guess.stopped == "converged"
    assert torch.allclose(guess.images[order], victim.truth["pixels"], atol=1e-4)
    assert guess.labels[order].tolist() == victim.truth["labels"].tolist()
    assert guess.loss < 1e-8


def test_labels_that_repeat_are_assigned_to_their_images() -> None:
    victim = batch(11)  # of ten classes
    guess = get("spear").run([oblivious(victim.transcript)])[0]
    order = privacy.match(guess.images.numpy(), victim.truth["pixels"])
    assert guess.labels[order].tolist() == victim.truth["labels"].tolist()


def test_noise_gives_the_gradient_full_rank_and_is_refused() -> None:
    evidence = oblivious(batch(4).transcript)
    update = dict(evidence.terms["update"].value)
    noise = torch.randn(1024, 36, generator=torch.Generator().manual_seed(0))
    update["features.fc1.weight"] = update["features.fc1.weight"] + 1e-3 * noise
    noisy = replace(evidence, terms={"update": Term(value=update)})
    with pytest.raises(Unsupported, match="rank 36, not that of a batch of 4"):
        get("spear").run([noisy])


@pytest.mark.parametrize(
    ("setting", "reason"),
    [
        (setting_of("none", model="elu", batch_size=2), "not a linear one followed by ReLU"),
        (setting_of("none", model="mlp", batch_size=64), "hides a batch of 64"),
        (setting_of("none", model="mlp", batch_size=30), "2\\^29 draws"),
    ],
    ids=["convolution first", "more images than inputs", "too many draws"],
)
def test_what_cannot_be_done_is_refused(setting, reason) -> None:
    with pytest.raises(Unsupported, match=reason):
        get("spear").run([oblivious(observe(setting)[0].transcript)])


def test_a_gradient_of_zeros_gives_a_guess() -> None:
    evidence = oblivious(batch(3).transcript)
    zero = {n: torch.zeros_like(t) for n, t in evidence.terms["update"].value.items()}
    guess = get("spear").run([replace(evidence, terms={"update": Term(value=zero)})])[0]
    assert guess.images.isfinite().all()
    assert guess.applicable.tolist() == [False] * 3, "its rank is not that of a batch"


def test_the_draws_are_kept_and_what_was_not_found_stays_at_the_mean() -> None:
    victim = batch(12)
    guess = get("spear").configured(draws=4096).run([oblivious(victim.transcript)])[0]
    assert guess.stopped == "budget"
    assert bool(guess.applicable.all()), "more draws would have done"
    mean = victim.transcript.setting.denormalise(torch.zeros(1, 1, 6, 6))
    assert any(torch.allclose(image, mean[0]) for image in guess.images)
