"""Small evidence to attack: one undefended gradient on 6x6 images with random weights."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.func import functional_call, grad

from benchmark.defenses.base import build
from benchmark.evidence.base import Evidence, Hidden, Term
from benchmark.evidence.generic import linear_layers
from benchmark.federated.setting import Setting, stateless_model


@pytest.fixture(autouse=True)
def one_thread() -> Any:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def predict(
    setting: Setting, guess: Mapping[str, Tensor], hidden: Mapping[str, Tensor], data: Any
) -> dict[str, dict[str, Tensor]]:
    """The gradient of the training loss, the head's times a hidden factor if there is one."""

    def loss(weights: dict[str, Tensor]) -> Tensor:
        return functional_call(
            stateless_model(setting), weights, (guess["images"], {}, guess["labels"])
        )

    update = grad(loss)(dict(data["shared"]))
    if "factor" in hidden:
        size = hidden["factor"].exp()
        update = {n: t * size if n.startswith("head") else t for n, t in update.items()}
    return {"update": update}


def predict_branching(setting: Setting, guess: Any, hidden: Any, data: Any) -> Any:
    """The same, by way of a decision on values that vmap cannot take."""
    update = predict(setting, guess, hidden, data)["update"]
    if float(guess["images"].detach().sum()) > 1e9:
        return {"update": {name: -tensor for name, tensor in update.items()}}
    return {"update": update}


def setting_of(batch_size: int = 1, labels: bool = True, model: str = "elu") -> Setting:
    return Setting(
        scenario="tiny",
        model=model,
        shape=(1, 6, 6),
        classes=10,
        mean=(0.4,),
        std=(0.3,),
        algorithm="fedsgd",
        local_steps=1,
        local_lr=0.1,
        private_lr=0.1,
        batch_size=batch_size,
        labels_given=labels,
        defense=build("none", {}),
    )


def victims(
    count: int = 3,
    *,
    batch_size: int = 1,
    labels: str = "given",
    hidden: bool = False,
    scale: float = 1.0,
    function: Callable[..., Any] = predict,
    model: str = "elu",
) -> tuple[list[Evidence], list[Tensor], list[Tensor]]:
    """Evidence, true pixels and true labels of several victims of one model."""
    setting = setting_of(batch_size, labels == "given", model)
    rng = torch.Generator().manual_seed(5)
    network = stateless_model(setting)
    network.initialise(rng)
    shared = {name: p.detach().clone() for name, p in network.named_parameters()}
    evidences, images, truths = [], [], []
    for _ in range(count):
        pixels = torch.rand(batch_size, 1, 6, 6, generator=rng)
        label = torch.randint(10, (batch_size,), generator=rng)
        soft = torch.nn.functional.one_hot(label, 10).float()
        guess = {"images": setting.normalise(pixels), "labels": soft}
        value = predict(setting, guess, {}, {"shared": shared})["update"]
        value = {name: scale * tensor for name, tensor in value.items()}
        evidences.append(
            Evidence(
                name="plain",
                knowledge="oblivious",
                setting=setting,
                predict=function,
                # An empty branch, as predictions of models without noise have.
                data={"shared": shared, "private": {}, "noise": {}},
                terms={"update": Term(value=value)},
                hidden={"factor": Hidden(shape=(1,), prior=1e-3)} if hidden else {},
                linear=linear_layers(value),
                labels=labels,  # type: ignore[arg-type]
                given=label if labels == "given" else None,
            )
        )
        images.append(pixels)
        truths.append(label)
    return evidences, images, truths


@pytest.fixture(name="victims")
def _victims() -> Callable[..., Any]:
    return victims
