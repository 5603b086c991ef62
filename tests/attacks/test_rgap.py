"""R-GAP against true layer inputs, and its rank analysis against counts by hand."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from benchmark.attacks.base import get
from benchmark.attacks.parts.layers import Layer
from benchmark.attacks.rgap import _deconvolved, _inverse
from benchmark.defenses.base import build
from benchmark.evidence.generic import oblivious
from tests.tiny import observe, setting_of


@pytest.mark.parametrize(
    "facts",
    [
        {"model": "elu"},
        {"model": "lenet"},
        {"model": "elu", "shape": (3, 7, 5), "mean": (0.4,) * 3, "std": (0.3,) * 3},
        {"model": "elu", "algorithm": "fedavg"},
    ],
    ids=str,
)
def test_images_are_recovered_without_a_search(facts) -> None:
    victims = observe(setting_of("none", **facts), 2)
    guesses = get("rgap").run([oblivious(v.transcript) for v in victims])
    for guess, victim in zip(guesses, victims, strict=True):
        assert float((guess.images - victim.truth["pixels"]).square().mean()) < 1e-6
        assert guess.evaluations == 0 and guess.applicable.tolist() == [True]


@pytest.mark.parametrize(
    "defense",
    [
        build("dp", {"clip": 1.0, "noise": 0.1, "delta": 1e-5}),
        build("pruning", {"keep": 0.1}),
    ],
    ids=["noise", "zeros"],
)
def test_equations_that_contradict_each_other_are_none_of_the_methods(defense) -> None:
    evidence = oblivious(observe(setting_of(defense))[0].transcript)
    assert get("rgap").run([evidence])[0].applicable.tolist() == [False]


@pytest.mark.parametrize(
    "module", [nn.ELU(), nn.ELU(0.5), nn.LeakyReLU(0.1), nn.Sigmoid(), nn.Tanh()], ids=repr
)
def test_activations_are_inverted(module) -> None:
    inputs = torch.linspace(-5, 5, 41, dtype=torch.float64)
    assert torch.allclose(_inverse(module, module(inputs)), inputs, rtol=1e-6)
    assert _inverse(module, torch.tensor([-9.0, 9.0], dtype=torch.float64)).isfinite().all()


def test_a_convolutions_input_solves_both_kinds_of_constraints() -> None:
    """More inputs than outputs: the gradient's equations have to be among them."""
    rng = torch.Generator().manual_seed(0)
    module = nn.Conv2d(3, 8, 3, stride=2, padding=1).double()
    inputs = torch.randn(3, 6, 6, generator=rng, dtype=torch.float64)
    arriving = torch.randn(8, 3, 3, generator=rng, dtype=torch.float64)
    output = module(inputs[None])
    gradients = torch.autograd.grad(output, list(module.parameters()), arriving[None])
    weights = {n: p.detach() for n, p in module.named_parameters()}
    layer = Layer("conv", module, weights, dict(zip(weights, gradients, strict=True)))
    assert output.numel() < inputs.numel()
    found, solved = _deconvolved(layer, weights, output[0].detach(), arriving, inputs.shape)
    assert solved
    assert torch.allclose(found.reshape(3, 6, 6), inputs, atol=1e-8)


def test_too_few_equations_are_counted_and_refused() -> None:
    """The second convolution on 32x32: 16*16*16 from weights, 8*16*9 from gradients, 8*32*32."""
    setting = setting_of("none", shape=(1, 32, 32))
    reason = get("rgap").refusal(oblivious(observe(setting)[0].transcript))
    assert reason == "features.conv2: 5248 equations for 8192 inputs"


def test_activations_that_lose_information_are_refused() -> None:
    evidence = oblivious(observe(setting_of("none", model="mlp"))[0].transcript)
    assert get("rgap").refusal(evidence) == "features.act1: ReLU cannot be inverted"


def test_a_batch_and_a_changed_model_are_refused() -> None:
    batch = oblivious(observe(setting_of("none", batch_size=2))[0].transcript)
    assert "single image" in get("rgap").refusal(batch)
    changed = oblivious(observe(setting_of("precode"))[0].transcript)
    assert "changed the model" in get("rgap").refusal(changed)
