"""Closed-form inversion of a linear layer against the layer's true input."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from benchmark.attacks.base import Unsupported, get
from benchmark.attacks.parts.layers import layer_input, rank_one_misfit
from benchmark.defenses.base import build
from benchmark.evidence.base import Term
from benchmark.evidence.generic import oblivious
from benchmark.pipeline.attack import readable
from tests.tiny import observe, setting_of


def rank_one(seed: int = 0, out: int = 40, size: int = 12):
    rng = torch.Generator().manual_seed(seed)
    inputs = torch.randn(size, generator=rng)
    delta = torch.randn(out, generator=rng)
    return torch.outer(delta, inputs), delta, inputs


@pytest.mark.parametrize("scale", [1.0, 1e-20, 1e20])
def test_without_noise_the_input_is_exact_whatever_the_gradients_size(scale) -> None:
    weight, bias, inputs = rank_one()
    found, seen = layer_input(scale * weight, scale * bias)
    assert torch.allclose(found, inputs, rtol=1e-5)
    assert seen.all()


def test_under_equal_noise_the_estimate_is_the_nearest_matrix_of_rank_one() -> None:
    weight, bias, inputs = rank_one()
    rng = torch.Generator().manual_seed(1)
    weight = weight + 0.2 * torch.randn(weight.shape, generator=rng)
    bias = bias + 0.2 * torch.randn(bias.shape, generator=rng)
    found, _ = layer_input(weight, bias)
    top = np.linalg.svd(torch.cat([weight, bias[:, None]], 1).numpy())[2][0]
    assert np.allclose(found.numpy(), top[:-1] / top[-1], rtol=1e-3)
    naive = (weight / bias[:, None])[bias.abs().argmax()]
    assert (found - inputs).norm() < 0.6 * (naive - inputs).norm()


def test_noisy_rows_count_by_their_precision() -> None:
    weight, bias, inputs = rank_one()
    rng = torch.Generator().manual_seed(2)
    spread = torch.where(torch.arange(40) < 20, 1.0, 1e-3)
    weight = weight + spread[:, None] * torch.randn(weight.shape, generator=rng)
    bias = bias + spread * torch.randn(bias.shape, generator=rng)
    precision = (spread[:, None].expand(weight.shape) ** -2, spread**-2)
    found, _ = layer_input(weight, bias, precision)
    plain, _ = layer_input(weight, bias)
    assert (found - inputs).norm() < 0.01 * (plain - inputs).norm()


def test_entries_that_were_not_sent_are_completed_and_columns_without_any_are_unknown() -> None:
    weight, bias, inputs = rank_one()
    rng = torch.Generator().manual_seed(3)
    sent = (torch.rand(weight.shape, generator=rng) < 0.3).float()
    sent[:, 5] = 0
    half = (torch.arange(40) % 2).float()
    found, seen = layer_input(weight * sent, bias * half, (sent, half))
    assert seen.tolist() == [float(k != 5) for k in range(12)]
    assert float(found[5]) == 0
    known = seen.bool()
    assert torch.allclose(found[known], inputs[known], rtol=1e-3)


def test_a_gradient_of_zeros_tells_nothing() -> None:
    found, seen = layer_input(torch.zeros(4, 3), torch.zeros(4))
    assert (found == 0).all() and (seen == 0).all()


@pytest.mark.parametrize("model", ["mlp", "elu"])
def test_images_are_recovered_through_a_linear_first_layer_and_through_convolutions(model) -> None:
    victims = observe(setting_of("none", model=model), 3)
    guesses = get("analytic").run([oblivious(v.transcript) for v in victims])
    for guess, victim in zip(guesses, victims, strict=True):
        assert float((guess.images - victim.truth["pixels"]).square().mean()) < 1e-5
        assert guess.labels.tolist() == victim.truth["labels"].tolist()
        assert (guess.evaluations == 0) == (model == "mlp")


def test_pruned_messages_are_completed_where_the_reading_says_what_was_sent() -> None:
    victim = observe(setting_of("none", model="mlp"))[0]
    evidence = oblivious(victim.transcript)
    update = evidence.terms["update"].value
    mask = {n: (t.abs() >= t.abs().flatten().quantile(0.8)).float() for n, t in update.items()}
    pruned = {n: t * mask[n] for n, t in update.items()}
    linear = {"features.fc1": (pruned["features.fc1.weight"], pruned["features.fc1.bias"])}
    as_sent = replace(evidence, terms={"update": Term(value=pruned)}, linear=linear)
    masked = replace(as_sent, terms={"update": Term(value=pruned, mask=mask)})

    def error(reading) -> float:
        guess = get("analytic").run([replace(reading, labels="eliminated", given=None)])[0]
        return float((guess.images - victim.truth["pixels"]).abs().median())

    assert error(masked) < 1e-3 < error(as_sent)


def test_a_bottlenecks_noise_behind_the_layer_hides_nothing() -> None:
    """The ratio in front of PRECODE is the input, whatever was drawn behind it."""
    victim = observe(setting_of("precode"))[0]
    guess = get("analytic").run([oblivious(victim.transcript)])[0]
    assert torch.allclose(guess.images, victim.truth["pixels"], atol=1e-3)


def test_several_images_behind_one_gradient_are_refused() -> None:
    evidence = oblivious(observe(setting_of("none", model="mlp", batch_size=2))[0].transcript)
    with pytest.raises(Unsupported, match="several images"):
        get("analytic").run([evidence])


@pytest.mark.parametrize(
    ("defense", "model", "read", "applies"),
    [
        ("none", "mlp", "oblivious", True),
        ("none", "elu", "oblivious", True),
        (build("pruning", {"keep": 0.1}), "elu", "nonzero-entries", True),
        (build("pruning", {"keep": 0.1}), "elu", "oblivious", False),
        (build("dp", {"noise": 0.1}), "mlp", "oblivious", False),
        (build("dp", {"noise": 0.1}), "mlp", "bpda-eot", True),
    ],
    ids=str,
)
def test_it_applies_where_the_gradient_is_one_inputs_up_to_known_noise(
    defense, model, read, applies
) -> None:
    victims = observe(setting_of(defense, model=model), 2)
    evidences = readable([v.transcript for v in victims])[read]
    for guess in get("analytic").run(evidences):
        assert guess.applicable.tolist() == [applies]


def test_fewer_features_than_pixels_do_not_determine_an_image() -> None:
    (victim,) = observe(setting_of("none", model="lenet", shape=(1, 16, 16)))
    evidence = oblivious(victim.transcript)
    assert evidence.linear["head"][0].shape[1] < 256
    assert get("analytic").run([evidence])[0].applicable.tolist() == [False]


def test_the_misfit_of_rank_one_is_the_singular_values() -> None:
    """With the best input, what is left is everything but the largest singular value."""
    weight, bias, _ = rank_one()
    rng = torch.Generator().manual_seed(1)
    weight = weight + 0.2 * torch.randn(weight.shape, generator=rng)
    sizes = np.linalg.svd(torch.cat([weight, bias[:, None]], 1).numpy())[1]
    expected = np.sqrt((sizes[1:] ** 2).sum() / (sizes**2).sum())
    found, _ = layer_input(weight, bias)
    assert rank_one_misfit(weight, bias, found) == pytest.approx(expected, rel=1e-4)
    assert rank_one_misfit(torch.zeros(3, 2), torch.zeros(3), torch.zeros(2)) == 1.0
