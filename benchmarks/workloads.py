"""The workloads on which engine and peer are compared: networks, victims, one kind of evidence.

Images are smooth and random, 3x32x32, normalised like CIFAR-10; ten classes, labels given, one
gradient of the cross-entropy at untrained weights. The networks are the board's own, except that
ResNet-18 has BatchNorm in evaluation mode, as the peer's users have it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.func import functional_call, grad
from torch.nn import functional as F

from benchmark.defenses.base import build as defense
from benchmark.evidence.base import Evidence, Tensors, Term
from benchmark.federated.setting import Setting
from benchmark.models.base import VictimModel, build
from benchmark.models.resnet18 import residual
from benchmark.runtime.randomness import generator

SHAPE, CLASSES = (3, 32, 32), 10
MEAN, STD = (0.4914, 0.4822, 0.4465), (0.2470, 0.2435, 0.2616)


@dataclass(frozen=True)
class Workload:
    """One row of the table; ``ratio`` is what the engine is expected to reach."""

    model: str
    batch_size: int
    victims: int
    iterations: int
    ratio: float


WORKLOADS = {
    "lenet-8": Workload("lenet", 1, 8, 100, 5.0),
    "lenet-32": Workload("lenet", 1, 32, 100, 7.0),
    "convnet-1": Workload("convnet", 1, 8, 100, 1.7),
    "convnet-4": Workload("convnet", 4, 4, 50, 1.35),
    "resnet18": Workload("resnet18", 1, 2, 8, 1.25),
}


@lru_cache
def network(model: str) -> VictimModel:
    """The network under attack with weights that are the same in every process."""
    made = residual(SHAPE, CLASSES, nn.BatchNorm2d) if model == "resnet18" else None
    made = made or build(model, SHAPE, CLASSES)
    made.initialise(generator("speed", "weights", model))
    return made.eval()


def predict(
    setting: Setting, guess: Tensors, hidden: Tensors, data: Mapping[str, Any]
) -> dict[str, Tensors]:
    """The gradient of the mean training loss."""

    def loss(weights: dict[str, Tensor]) -> Tensor:
        images, labels = guess["images"], guess["labels"]
        return functional_call(network(setting.model), weights, (images, {}, labels))

    return {"update": grad(loss)(dict(data["shared"]))}


def make(workload: Workload, path: Path) -> None:
    """Write victims: pixels [V, B, 3, 32, 32], labels [V, B], starts, and gradients by name."""
    setting, net = _setting(workload), network(workload.model)
    weights = {name: p.detach() for name, p in net.named_parameters()}
    found: dict[str, list[Tensor]] = {}
    for k in range(workload.victims):
        rng = generator("speed", "victim", k)
        coarse = torch.rand(workload.batch_size, 3, 4, 4, generator=rng)
        pixels = F.interpolate(coarse, SHAPE[1:], mode="bicubic").clamp(0, 1)
        labels = torch.randperm(CLASSES, generator=rng)[: workload.batch_size]
        guess = {"images": setting.normalise(pixels), "labels": F.one_hot(labels, CLASSES).float()}
        gradient = predict(setting, guess, {}, {"shared": weights})["update"]
        # Where the attack `ig` begins for this seed.
        rng = generator("attack start", k, 0, 0, "images")
        row = {
            "pixels": pixels,
            "labels": labels,
            "start": torch.randn(pixels.shape, generator=rng),
        }
        for name, tensor in (row | {f"gradient.{n}": t for n, t in gradient.items()}).items():
            found.setdefault(name, []).append(tensor)
    stacked = {name: torch.stack(column).contiguous() for name, column in found.items()}
    save_file(stacked, path, {"model": workload.model})


def load(path: Path) -> tuple[str, dict[str, Tensor]]:
    """The model's name, and the tensors that :func:`make` wrote."""
    with safe_open(path, "pt") as file:
        tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
        return file.metadata()["model"], tensors


def evidences(workload: Workload, tensors: Mapping[str, Tensor]) -> list[Evidence]:
    """What the engine's attack is given."""
    setting = _setting(workload)
    shared = {name: p.detach() for name, p in network(workload.model).named_parameters()}
    return [
        Evidence(
            name="speed",
            knowledge="oblivious",
            setting=setting,
            predict=predict,
            data={"shared": shared},
            terms={"update": Term(value={n: tensors[f"gradient.{n}"][k] for n in shared})},
            labels="given",
            given=tensors["labels"][k],
        )
        for k in range(workload.victims)
    ]


def _setting(workload: Workload) -> Setting:
    return Setting(
        scenario="speed",
        model=workload.model,
        shape=SHAPE,
        classes=CLASSES,
        mean=MEAN,
        std=STD,
        algorithm="fedsgd",
        local_steps=1,
        local_lr=0.1,
        private_lr=0.1,
        batch_size=workload.batch_size,
        labels_given=True,
        defense=defense("none", {}),
    )
