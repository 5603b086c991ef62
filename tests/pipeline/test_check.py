"""What a scenario's model cannot have is refused in one line, before anything is trained."""

from __future__ import annotations

from typing import Any

import pytest

from benchmark.config.errors import ParamsError
from benchmark.config.schema import Params, load_params
from benchmark.defenses.base import build
from benchmark.pipeline.check import refuse_impossible
from tests import tiny


def params(model: str, defense: str, **fields: Any) -> Params:
    """The committed parameters with one entrant more, at one point, on another model."""
    found = load_params()
    digits = found.scenarios["digits"]
    federation = digits.federation.model_copy(update={"model": model})
    entrants = {"none": {"default": {}}, defense: {"p": fields}}
    scenario = digits.model_copy(update={"federation": federation, "entrants": entrants})
    return found.model_copy(update={"scenarios": {"digits": scenario}})


def test_the_committed_parameters_are_possible() -> None:
    refuse_impossible(load_params())


@pytest.mark.parametrize("model", ["lenet", "convnet", "resnet18", "mlp"])
def test_a_model_with_one_layer_of_that_name_cannot_keep_two(model: str) -> None:
    with pytest.raises(ParamsError) as caught:
        refuse_impossible(params(model, "fedrep", private_layers=2))
    assert str(caught.value) == (
        "defenses.fedrep.points.p.private_layers: 2 is not allowed: on the model "
        f"'{model}' of scenarios.digits it must be 1 at most"
    )
    refuse_impossible(params(model, "fedrep", private_layers=1))


def test_two_layers_are_kept_where_there_are_two() -> None:
    refuse_impossible(params("elu", "fedrep", private_layers=2))
    kept = [
        len([n for n, _ in tiny.trained(setting)[1][0].private.items()])
        for setting in (
            tiny.setting_of(build("fedrep", {"private_layers": count})) for count in (1, 2)
        )
    ]
    assert kept == [2, 4], "weights and biases"


def test_hyperfl_makes_linear_and_convolutional_layers_only() -> None:
    with pytest.raises(ParamsError) as caught:
        refuse_impossible(params("resnet18", "hyperfl"))
    assert str(caught.value).startswith("scenarios.digits.entrants: 'hyperfl' is not allowed: ")
    assert "features.norm is a GroupNorm" in str(caught.value)
    for model in ("elu", "lenet", "convnet", "mlp"):
        refuse_impossible(params(model, "hyperfl"))


@pytest.mark.parametrize("model", ["elu", "lenet", "convnet", "resnet18", "mlp"])
@pytest.mark.parametrize("defense", ["precode", "ppp", "dpsgd", "dgp"])
def test_these_can_be_had_on_every_model_of_images(model: str, defense: str) -> None:
    refuse_impossible(params(model, defense))
