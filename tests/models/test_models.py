"""What every victim model must bear: all attacks differentiate it twice, in batches of victims."""

from __future__ import annotations

import importlib

import pytest
import torch
from torch import nn
from torch.func import functional_call, grad, vmap
from torch.nn import functional as F

from benchmark.models.base import VictimModel, build, names, reads, register

SHAPES = [(1, 8, 8), (1, 28, 28), (3, 32, 32)]
PARAMETERS = {
    ("elu", (1, 8, 8)): 14_074,
    ("lenet", (3, 32, 32)): 15_826,
    ("convnet", (3, 32, 32)): 242_122,
    ("mlp", (3, 32, 32)): 4_206_602,
    ("resnet18", (3, 32, 32)): 11_173_962,
}

every_model = pytest.mark.parametrize("name", [n for n in names() if reads(n) == "images"])


def fresh(name: str, shape: tuple[int, int, int] = (1, 8, 8), seed: int = 0) -> VictimModel:
    model = build(name, shape, 10)
    model.initialise(torch.Generator().manual_seed(seed))
    return model


def images_of(shape: tuple[int, int, int], count: int = 3) -> torch.Tensor:
    return torch.rand(count, *shape, generator=torch.Generator().manual_seed(1))


def test_the_registry_holds_the_published_models() -> None:
    assert {"elu", "lenet", "convnet", "mlp"} <= set(names())


@every_model
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_logits_are_the_head_of_the_features(name: str, shape: tuple[int, int, int]) -> None:
    model = fresh(name, shape)
    images = images_of(shape)
    features = model.features(images)
    assert features.shape == (3, model.head.in_features)
    assert isinstance(model.head, nn.Linear) and model.head.bias is not None
    logits = model(images)
    assert logits.shape == (3, 10) and torch.equal(logits, model.head(features))


@pytest.mark.parametrize(("name", "shape"), PARAMETERS, ids=str)
def test_models_have_the_published_size(name: str, shape: tuple[int, int, int]) -> None:
    count = sum(parameter.numel() for parameter in build(name, shape, 10).parameters())
    assert count == PARAMETERS[name, shape]


@every_model
def test_names_are_plain(name: str) -> None:
    for parameter in dict(fresh(name).named_parameters()):
        part, *layer, kind = parameter.split(".")
        assert part in ("features", "head") and kind in ("weight", "bias")
        assert bool(layer) == (part == "features") and layer[:1] != ["0"]
        assert all(word.isalnum() and not word.isdigit() for word in layer)


@every_model
def test_the_generator_alone_decides_the_start(name: str) -> None:
    torch.manual_seed(1)
    one = fresh(name).state_dict()
    torch.manual_seed(2)
    state = torch.get_rng_state()
    model = build(name, (1, 8, 8), 10)
    state = torch.get_rng_state()
    model.initialise(torch.Generator().manual_seed(0))
    assert torch.equal(state, torch.get_rng_state())
    same, other = model.state_dict(), fresh(name, seed=1).state_dict()
    assert all(torch.equal(one[key], same[key]) for key in one)
    drawn = [key for key, value in one.items() if value.unique().numel() > 1]  # norms start alike
    assert drawn and all(not torch.equal(one[key], other[key]) for key in drawn)


@every_model
def test_weights_start_within_their_rule_and_fill_it(name: str) -> None:
    for module in fresh(name).modules():
        if isinstance(module, nn.Linear | nn.Conv2d):
            bound = 0.5 if name == "lenet" else module.weight[0].numel() ** -0.5
            largest = float(module.weight.detach().abs().max())
            assert 0.9 * bound < largest <= bound
            assert module.bias is None or float(module.bias.detach().abs().max()) <= bound


def test_a_wrapped_model_keeps_its_own_rule() -> None:
    inner = build("lenet", (1, 8, 8), 10)
    wrapped = VictimModel(inner.features, inner.head)
    wrapped.initialise(torch.Generator().manual_seed(0))
    assert float(wrapped.head.weight.detach().abs().max()) > 0.45


@every_model
def test_nothing_works_in_place(name: str) -> None:
    assert not any(getattr(module, "inplace", False) for module in fresh(name).modules())
    images = images_of((1, 8, 8))
    before = images.clone()
    fresh(name)(images)
    assert torch.equal(images, before)


def gradient_of(model: VictimModel):
    """(image, label) -> gradients of the loss by parameter name; for one image."""
    parameters = dict(model.named_parameters())

    def loss(weights, image, label):
        return F.cross_entropy(functional_call(model, weights, (image[None],)), label[None])

    return lambda image, label: grad(loss)(parameters, image, label)


@every_model
def test_gradients_of_stacked_victims_are_those_of_a_loop(name: str) -> None:
    model = fresh(name, (1, 16, 16)).double()
    images, labels = images_of((1, 16, 16)).double(), torch.tensor([3, 0, 7])
    stacked = vmap(gradient_of(model))(images, labels)
    for index in range(3):
        model.zero_grad()
        F.cross_entropy(model(images[index : index + 1]), labels[index : index + 1]).backward()
        for key, parameter in model.named_parameters():
            assert torch.allclose(stacked[key][index], parameter.grad, atol=1e-10)


@every_model
def test_matching_gradients_can_be_differentiated_by_the_image(name: str) -> None:
    """The double backward of every attack, against central differences."""
    model = fresh(name, (1, 12, 12)).double()
    image, label = images_of((1, 12, 12), 1)[0].double(), torch.tensor(4)
    gradient = gradient_of(model)
    target = gradient(images_of((1, 12, 12), 2)[1].double(), label)

    def mismatch(guess):
        return sum((value - target[key]).square().sum() for key, value in gradient(guess, label).items())  # noqa: E501  # fmt: skip

    slope = grad(mismatch)(image)
    assert bool(slope.isfinite().all()) and float(slope.detach().norm()) > 0
    step = 1e-6 * torch.rand(image.shape, dtype=image.dtype, generator=torch.Generator().manual_seed(3))  # noqa: E501  # fmt: skip
    numeric = (mismatch(image + step) - mismatch(image - step)) / 2
    assert float((slope * step).sum().detach()) == pytest.approx(float(numeric.detach()), rel=1e-3)


def test_an_unknown_model_lists_what_there_is() -> None:
    with pytest.raises(ValueError, match=r"'resnet'.*elu"):
        build("resnet", (1, 8, 8), 10)


def test_images_too_small_for_the_pooling_are_refused() -> None:
    with pytest.raises(ValueError, match="at least 5x5"):
        build("convnet", (1, 4, 8), 10)
    assert build("convnet", (1, 5, 5), 10)(torch.zeros(1, 1, 5, 5)).shape == (1, 10)


def test_a_name_cannot_be_taken_twice() -> None:
    with pytest.raises(ValueError, match="elu"):
        register("elu")(lambda shape, classes: build("elu", shape, classes))


@every_model
def test_every_model_has_a_docstring(name: str) -> None:
    assert importlib.import_module(f"benchmark.models.{name}").__doc__
