"""Peeling takes images off a first linear layer exactly, and takes nothing that is none."""

from __future__ import annotations

import math
import os
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from benchmark.attacks.base import Unsupported, get
from benchmark.attacks.peeling import Peeled, peel, slopes_behind
from benchmark.data.datasets import base as datasets
from benchmark.evidence.base import Term
from benchmark.evidence.first_linear import first_linear_layer
from benchmark.evidence.generic import client_update, linear_layers, oblivious
from benchmark.metrics import images as privacy
from benchmarks.peeling import as_published, on_the_board
from tests.tiny import fedavg, images_of, observe, setting_of

PUBLISHED = 0.722
"""Share of a batch of 128 Fashion-MNIST images, from the authors' second table."""


def batch(size: int, seed: int = 0, **facts: Any):
    return observe(setting_of("none", model="mlp", batch_size=size, **facts), seed=seed)[0]


def peeled(victim) -> Any:
    return get("peeling").run([oblivious(victim.transcript)])[0]


ENDS = torch.zeros(1, dtype=torch.float64), torch.ones(1, dtype=torch.float64)
SEEN = [[0], [0, 1], [1, 2], [2, 3], [0, 1, 2, 3]]
"""Which images each unit of a small network reacts to: one alone, the others in a chain."""


def chained(seen: list[list[int]]) -> tuple[Peeled, Tensor, Tensor]:
    """What comes off four images whose units see them as told, with the images and labels."""
    rng = torch.Generator().manual_seed(3)
    first = torch.full((len(seen), 4), -1.0, dtype=torch.float64)
    for unit, images in enumerate(seen):
        first[unit, images] = 1.0
    second = torch.randn(3, len(seen), generator=rng, dtype=torch.float64)
    images = torch.diag(torch.tensor([0.9, 0.7, 0.5, 0.3], dtype=torch.float64))
    labels = torch.tensor([2, 0, 0, 1])

    def slopes(inputs: Tensor) -> Tensor:
        outputs = inputs @ first.T
        mean = (outputs.relu() @ second.T).softmax(1) @ second
        return (mean[:, None] - second) * (outputs > 0)[:, None] / 4

    arriving = slopes(images)[torch.arange(4), labels]
    found = peel(arriving.T @ images, arriving.sum(0), slopes, ENDS, 4, torch.arange(3))
    return found, images, labels


def test_a_chain_is_decoded_from_its_single_end() -> None:
    found, images, labels = chained(SEEN)
    assert torch.allclose(found.inputs, images, atol=1e-12)  # in this order: one per round
    assert torch.equal(found.labels, labels)


def test_without_a_unit_that_sees_one_image_nothing_is_taken() -> None:
    found, _, _ = chained(SEEN[1:])
    assert len(found.inputs) == 0


@pytest.mark.parametrize(
    ("units", "error", "taken"),
    [(1, 1e-9, 1), (1, 1e-5, 0), (3, 1e-5, 1), (3, 1e-3, 0)],
)
def test_one_unit_has_to_agree_more_closely_than_several(units, error, taken) -> None:
    image = torch.tensor([0.2, 0.8], dtype=torch.float64)
    arriving = torch.linspace(1, 2, units, dtype=torch.float64)

    def slopes(inputs: Tensor) -> Tensor:
        caused = -arriving.repeat(100, 1)  # of a hundred labels, the second comes near
        caused[1] *= -(1 + error)
        return caused.expand(len(inputs), 100, units)

    found = peel(torch.outer(arriving, image), arriving, slopes, ENDS, 1, torch.arange(100))
    assert found.labels.tolist() == [1] * taken


def test_candidates_outside_the_pixels_range_are_no_images() -> None:
    arriving = torch.ones(3, dtype=torch.float64)

    def slopes(inputs: Tensor) -> Tensor:
        return arriving.expand(len(inputs), 1, 3)

    for pixel, taken in ((0.5, 1), (1.1, 0), (-0.1, 0)):
        weight = torch.full((3, 2), pixel, dtype=torch.float64)
        found = peel(weight, arriving, slopes, ENDS, 1, torch.arange(1))
        assert len(found.inputs) == taken


def test_slopes_are_the_bias_gradients_of_single_images() -> None:
    """The gradient at the layer's output is what the layer's bias receives."""
    victim = batch(1)
    evidence = oblivious(victim.transcript)
    slopes = slopes_behind(evidence, "features.fc1")(victim.truth["images"].flatten(1).double())
    for label in range(10):
        guess = {
            "images": victim.truth["images"],
            "labels": F.one_hot(torch.tensor([label]), 10).float(),
        }
        shared = evidence.data["shared"]
        update = client_update(victim.transcript.setting, guess, {}, shared, {})
        assert torch.allclose(slopes[0, label].float(), update["features.fc1.bias"], atol=1e-7)


@pytest.mark.parametrize("granted", [True, False], ids=["labels given", "labels unknown"])
@pytest.mark.parametrize("size", [1, 4, 8, 16])
def test_batches_are_exact_with_their_labels(size, granted) -> None:
    victim = batch(size, labels_given=granted)
    guess = peeled(victim)
    order = privacy.match(guess.images.numpy(), victim.truth["pixels"])
    assert guess.applicable.all()
    assert torch.allclose(guess.images[order], victim.truth["pixels"], atol=1e-4)
    assert guess.labels[order].tolist() == victim.truth["labels"].tolist()
    assert guess.loss < 1e-8


def test_one_local_step_is_a_gradient_times_its_rate() -> None:
    setting = replace(fedavg("none", local_steps=1, batch_size=4), model="mlp")
    victim = observe(setting)[0]
    guess = peeled(victim)
    order = privacy.match(guess.images.numpy(), victim.truth["pixels"])
    assert torch.allclose(guess.images[order], victim.truth["pixels"], atol=1e-4)


def test_evidence_without_labels_gets_none() -> None:
    victim = batch(4)
    evidence = first_linear_layer(victim.transcript)
    assert evidence is not None
    guess = get("peeling").run([evidence])[0]
    order = privacy.match(guess.images.numpy(), victim.truth["pixels"])
    assert torch.allclose(guess.images[order], victim.truth["pixels"], atol=1e-4)
    assert guess.labels is None and guess.loss < 1e-6


def test_images_that_no_unit_shows_are_grey_and_said_to_be_out_of_reach() -> None:
    victim = batch(18, seed=1)  # a few come off, the others do not
    guess = peeled(victim)
    found = int(guess.applicable.sum())
    assert 0 < found < 18 and not guess.applicable[found:].any()
    distance = torch.cdist(guess.images[:found].flatten(1), victim.truth["pixels"].flatten(1))
    assert float(distance.min(1).values.max()) < 1e-3
    assert (guess.images[found:] == 0.5).all()
    assert sorted(guess.labels.tolist()) == sorted(victim.truth["labels"].tolist())  # as granted


@pytest.mark.parametrize("size", [1, 4])
def test_noise_is_taken_for_no_image(size) -> None:
    evidence = oblivious(batch(size).transcript)
    rng = torch.Generator().manual_seed(0)
    noisy = {
        n: t + 1e-2 * t.abs().max() * torch.randn(t.shape, generator=rng)
        for n, t in evidence.terms["update"].value.items()
    }
    changed = replace(evidence, terms={"update": Term(value=noisy)}, linear=linear_layers(noisy))
    guess = get("peeling").run([changed])[0]
    assert not guess.applicable.any() and (guess.images == 0.5).all()


def test_a_gradient_of_zeros_gives_a_guess() -> None:
    evidence = oblivious(batch(3).transcript)
    zero = {n: torch.zeros_like(t) for n, t in evidence.terms["update"].value.items()}
    guess = get("peeling").run([replace(evidence, linear=linear_layers(zero))])[0]
    assert guess.images.isfinite().all() and not guess.applicable.any()


def test_time_is_kept() -> None:
    victim = batch(4)
    late = get("peeling").run([oblivious(victim.transcript)], deadline=time.monotonic() - 1)[0]
    assert late.stopped == "timeout" and not late.applicable.any()


@pytest.mark.parametrize(
    ("setting", "reason"),
    [
        (setting_of("none", model="elu"), "the first layer is not a linear one"),
        (replace(fedavg("none"), model="mlp"), "several local steps"),
        (setting_of("precode", model="mlp"), "changed the model's layers"),
        (setting_of("fedrep", model="mlp"), "not everything behind"),
    ],
    ids=["convolution first", "local steps", "another model", "private head"],
)
def test_what_cannot_be_done_is_refused(setting, reason) -> None:
    with pytest.raises(Unsupported, match=reason):
        get("peeling").run([oblivious(observe(setting)[0].transcript)])


def test_masked_or_noisy_evidence_is_refused() -> None:
    evidence = oblivious(batch(2).transcript)
    (term,) = evidence.terms.values()
    mask = {n: torch.ones_like(t) for n, t in term.value.items()}
    masked = replace(evidence, terms={"update": replace(term, mask=mask)})
    for other in (masked, replace(evidence, noisy=True)):
        assert "every entry" in (get("peeling").refusal(other) or "")
    assert get("peeling").refusal(replace(evidence, linear={}))


def fashion() -> bool:
    folder = os.environ.get("LEAKBOARD_DATA")
    return bool(folder) and (Path(folder or "") / "FashionMNIST" / "raw").exists()


@pytest.mark.skipif(not fashion(), reason="Fashion-MNIST is not in LEAKBOARD_DATA")
def test_published_shares_are_reached_without_a_false_image() -> None:
    """Ten networks and batches of Fashion-MNIST, as the authors draw them."""
    known = datasets.load("fashion-mnist")
    outcomes = {b: [as_published(known, b, seed) for seed in range(10)] for b in (64, 128)}
    assert sum(o.false + o.mislabelled for some in outcomes.values() for o in some) == 0
    shares = {b: torch.tensor([o.share for o in some]) for b, some in outcomes.items()}
    assert float(shares[64].mean()) >= 0.95
    error = float(shares[128].std()) / math.sqrt(10)
    assert abs(float(shares[128].mean()) - PUBLISHED) <= 2 * error


@pytest.mark.parametrize("size", [4, 8])
def test_digits_come_off_the_boards_network_in_single_precision(size) -> None:
    outcomes = [on_the_board(datasets.load("digits"), size, seed) for seed in range(3)]
    assert [(o.share, o.false, o.mislabelled) for o in outcomes] == [(1.0, 0, 0)] * 3


def test_equal_images_of_one_label_are_left_alone() -> None:
    """Their gradients coincide: no unit shows one of them alone."""
    setting = setting_of("none", model="mlp", batch_size=2)
    pixels, _ = images_of(setting, 0)
    pixels[1] = pixels[0]
    victim = batch(2)
    shared = oblivious(victim.transcript).data["shared"]
    labels = F.one_hot(torch.tensor([3, 3]), 10).float()
    guess = {"images": setting.normalise(pixels), "labels": labels}
    update = client_update(setting, guess, {}, shared, {})
    evidence = replace(
        oblivious(victim.transcript),
        terms={"update": Term(value=update)},
        linear=linear_layers(update),
        given=torch.tensor([3, 3]),
    )
    assert not get("peeling").run([evidence])[0].applicable.any()
