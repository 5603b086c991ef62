"""A linear layer's gradient lies in the span of its inputs, however it was protected."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch import Tensor
from torch.func import functional_call

from benchmark.attacks.base import get
from benchmark.defenses.base import Defense, build
from benchmark.evidence.base import Evidence, Term
from benchmark.evidence.first_linear import (
    first_linear_evidence,
    first_linear_layer,
    first_linear_layer_nonzero,
    first_linear_name,
    in_front,
    nearest,
)
from benchmark.federated.setting import Setting
from benchmark.federated.update import Update
from benchmark.models.base import build as build_model
from benchmark.pipeline.attack import readable
from tests import tiny
from tests.tiny import Victim

HEARD = [
    build("none", {}),
    build("fedrep", {}),
    build("pruning", {"keep": 0.1}),
    build("dgp", {}),
    build("dgp", {"drop_largest": 0.1, "drop_smallest": 0.85}),
    build("precode", {"width": 6}),
]
"""Whose first linear layer shows exact entries of the gradient, with or without gaps."""


def loss_at(victim: Victim, evidence: Evidence, pixels: Tensor) -> float:
    soft = None if evidence.labels == "eliminated" else victim.soft
    return get("ig").losses([evidence], [pixels], [soft])[0]


def read(victim: Victim) -> Evidence:
    """Of what was sent where there are gaps, otherwise of the whole layer."""
    evidence = first_linear_layer_nonzero(victim.transcript) or first_linear_layer(
        victim.transcript
    )
    assert evidence is not None
    return evidence


@pytest.mark.parametrize("size", [1, 3])
@pytest.mark.parametrize("defense", HEARD, ids=repr)
def test_the_truth_explains_the_rows_without_label_noise_or_head(
    defense: Defense, size: int
) -> None:
    setting = tiny.setting_of(defense, batch_size=size, labels_given=False)
    for victim in tiny.observe(setting, 2):
        evidence = read(victim)
        assert evidence.labels == "eliminated" and not evidence.hidden
        other = torch.rand(victim.truth["pixels"].shape, generator=tiny.rng(3))
        assert loss_at(victim, evidence, victim.truth["pixels"]) < 1e-6
        assert loss_at(victim, evidence, other) > 1e-3


def test_one_images_rows_are_its_input_times_what_arrives() -> None:
    """The prediction against the outer product of autograd's own two factors."""
    (victim,) = tiny.observe(tiny.setting_of("none"))
    setting, seen = victim.transcript.setting, victim.transcript
    plain = build_model("elu", (1, 6, 6), 10)
    sent = {n.removeprefix("features."): t for n, t in seen.broadcast.items()}
    front = in_front(setting, "features.fc")
    inputs = functional_call(front, {n: sent[n] for n, _ in front.named_parameters()},
                             (victim.truth["images"],))  # fmt: skip
    weights = {n: t for n, t in sent.items() if not n.startswith("head")}
    assert plain.features[-2].out_features == 48 and weights["fc.weight"].shape[1] == 144
    evidence = read(victim)
    found = evidence.predict(setting, victim.guess, {}, evidence.data)["first_linear_layer"]
    largest = max(float(seen.message[f"features.fc.{part}"].abs().max())
                  for part in ("weight", "bias"))  # fmt: skip
    bias = seen.message["features.fc.bias"] / largest
    assert torch.allclose(found["features.fc.bias"], bias, atol=1e-5)
    assert torch.allclose(found["features.fc.weight"], bias[:, None] * inputs, atol=1e-5)


@pytest.mark.parametrize(
    ("defense", "size", "clear"),
    [
        (build("none", {}), 1, True),
        (build("precode", {"width": 6}), 1, True),
        (build("none", {}), 2, False),
        (build("dgp", {}), 1, False),
        (build("dp", {"noise": 0.1}), 1, False),
    ],
    ids=repr,
)
def test_what_arrived_is_known_where_nothing_is_missing(
    defense: Defense, size: int, clear: bool
) -> None:
    """Then a guess is worse by as much as its inputs are off in size, not in direction alone."""
    (victim,) = tiny.observe(tiny.setting_of(defense, batch_size=size))
    evidence = read(victim)
    assert bool(evidence.data["clear"]) == clear
    if clear:
        larger = dict(evidence.data["shared"])
        for name in ("conv1", "conv2"):  # larger inputs, by way of other weights
            for part in ("weight", "bias"):
                key = f"features.{name}.{part}"
                larger[key] = 1.2 * larger[key]
        setting, data = evidence.setting, {**evidence.data, "shared": larger}
        found = evidence.predict(setting, victim.guess, {}, data)["first_linear_layer"]
        truth = evidence.terms["first_linear_layer"].value
        assert torch.allclose(found["features.fc.bias"], truth["features.fc.bias"])
        assert tiny.relative_error(found, truth) > 0.1


@pytest.mark.parametrize("scale", [0.0, 1e-10, 1e-25])
def test_gradients_of_any_size_are_explained(scale: float) -> None:
    (victim,) = tiny.observe(tiny.setting_of("none"))
    faint = replace(victim.transcript, message=victim.transcript.message * scale)
    small = replace(victim, transcript=faint)
    assert loss_at(small, read(small), victim.truth["pixels"]) < 1e-6


@pytest.mark.parametrize("count", [1, 4])
def test_nearest_rows_are_weighted_least_squares(count: int) -> None:
    """Row by row, against torch's solver of ordinary least squares on root-weighted entries."""
    source = tiny.rng(8)
    made, inputs = torch.randn(7, 12, generator=source), torch.randn(count, 12, generator=source)
    precision = torch.rand(7, 12, generator=source) * (torch.rand(7, 12, generator=source) > 0.4)
    found = nearest(made, precision, inputs)
    for row, weight, ours in zip(made, precision, found, strict=True):
        root = weight.double().sqrt()
        least = torch.linalg.lstsq(root[:, None] * inputs.double().T, (root * row)[:, None])
        assert torch.allclose(ours.double(), (inputs.double().T @ least.solution)[:, 0], atol=1e-4)
    unknown = nearest(made, torch.zeros_like(precision), inputs)
    assert torch.equal(unknown, torch.zeros_like(made))


def test_noise_counts_by_its_variance() -> None:
    """A column drowned in known noise costs nothing; without the variance it would."""
    (victim,) = tiny.observe(tiny.setting_of("none"))
    message = dict(victim.transcript.message)
    name = "features.fc.weight"
    spread = torch.zeros_like(message[name])
    spread[:, :40] = 4.0
    message[name] = message[name] + spread.sqrt() * torch.randn(spread.shape, generator=tiny.rng())
    noised = replace(victim.transcript, message=Update(message))
    variance = {n: torch.zeros(()) for n in message} | {name: spread}
    knowing = first_linear_evidence(noised, Term(value=message, variance=variance), noisy=True)
    ignorant = first_linear_evidence(noised, Term(value=message))
    assert knowing and ignorant and knowing.noisy
    assert loss_at(victim, knowing, victim.truth["pixels"]) < 1e-4
    assert loss_at(victim, ignorant, victim.truth["pixels"]) > 0.1


@pytest.mark.parametrize("size", [1, 3])
@pytest.mark.parametrize("name", ["dp", "dpsgd"])
def test_clipping_does_not_move_the_rows_and_noise_is_declared(name: str, size: int) -> None:
    """Clipping rescales what arrives, of all images or of each: the inputs stay."""
    quiet = build(name, {"noise": 1e-9, "clip": 0.05})
    (victim,) = tiny.observe(tiny.setting_of(quiet, batch_size=size))
    (evidence,) = readable([victim.transcript])["first-linear-layer-noisy"]
    assert evidence.noisy
    assert loss_at(victim, evidence, victim.truth["pixels"]) < 1e-6


@pytest.mark.parametrize(
    ("setting", "layer"),
    [
        (tiny.setting_of("none"), "features.fc"),
        (tiny.setting_of("none", model="lenet"), "head"),
        (tiny.setting_of("hyperfl"), None),
        (tiny.setting_of("precode", model="lenet"), None),
    ],
)
def test_the_first_linear_layer_is_found_or_there_is_no_evidence(
    setting: Setting, layer: str | None
) -> None:
    (victim,) = tiny.observe(setting)
    evidence = first_linear_layer(victim.transcript)
    assert (evidence is None) == (layer is None)
    if evidence:
        assert first_linear_name(setting) == layer
        assert set(evidence.terms["first_linear_layer"].value) == {
            f"{layer}.weight",
            f"{layer}.bias",
        }


@pytest.mark.parametrize(
    "setting",
    [
        tiny.fedavg("none"),
        tiny.setting_of(build("fedrep", {"private_layers": 2})),
        tiny.setting_of("none", batch_size=48),
    ],
    ids=["local steps", "private layer", "as many images as rows"],
)
def test_rows_that_say_nothing_are_not_read(setting: Setting) -> None:
    (victim,) = tiny.observe(setting)
    assert first_linear_layer(victim.transcript) is None


@pytest.mark.parametrize("defense", [HEARD[0], HEARD[3]], ids=repr)
def test_the_rows_of_a_trained_network_give_the_image_away(defense: Defense) -> None:
    """Where matching the gradient needs far longer."""
    setting = tiny.setting_of(defense)
    victims = tiny.observe(setting, 3, start_from=tiny.trained(tiny.setting_of("none")))
    seen = [read(victim) for victim in victims]
    guesses = get("ig").configured(iterations=150).run(seen)
    for victim, guess in zip(victims, guesses, strict=True):
        assert float((guess.images - victim.truth["pixels"]).square().mean()) < 1e-3
