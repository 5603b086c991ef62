"""HyperFL: a shared hypernetwork generates the feature extractor from a private embedding.

Source: Guo et al., AAAI 2025, arXiv:2412.07187, section 4 and Algorithm 1.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Generator, Tensor, nn
from torch.func import functional_call
from torch.nn import functional as F

from benchmark.defenses.base import Defense, register, require
from benchmark.models.base import VictimModel

GENERATED = (nn.Linear, nn.Conv2d)


class Generated(VictimModel):
    """``hyper`` turns ``embedding`` into the weights of the features; the ``head`` is private."""

    def __init__(self, model: VictimModel, embedding: int, hidden: int) -> None:
        super().__init__(nn.Sequential(), model.head)
        self._extractor = (model.features,)  # a tuple hides its weights: they are generated
        self.embedding = nn.Parameter(torch.zeros(embedding))
        self.hyper = nn.ModuleDict({"hidden": nn.Linear(embedding, hidden)})
        for name, weight in model.features.named_parameters():
            output = nn.Linear(hidden, weight.numel())
            # theta = W f + b then begins with the variance that its layer's own rule has, f being
            # relu of a standard normal embedding's image: |f| ** 2 is about hidden / 6
            output.initial_bound = _bound(model, name) / (1 + hidden / 6) ** 0.5
            self.hyper[slot(name)] = output

    @property
    def extractor(self) -> nn.Module:
        """The feature extractor without state: called with generated weights only."""
        return self._extractor[0]

    def generated(self) -> dict[str, Tensor]:
        """The feature extractor's weights, by name."""
        code = F.relu(self.hyper["hidden"](self.embedding))
        return {
            name: self.hyper[slot(name)](code).view(weight.shape)
            for name, weight in self.extractor.named_parameters()
        }

    def run(self, images: Tensor, noise: Mapping[str, Tensor]) -> tuple[Tensor, Tensor]:
        """Logits of the generated model."""
        logits = self.head(functional_call(self.extractor, self.generated(), (images,)))
        return logits, logits.new_zeros(())

    def initialise(self, rng: Generator) -> None:
        """The default rule, and a standard normal embedding."""
        super().initialise(rng)
        nn.init.normal_(self.embedding, generator=rng)


def _bound(model: VictimModel, name: str) -> float:
    """Range of the initial rule for the feature extractor's parameter ``name``."""
    layer = model.features.get_submodule(name.rpartition(".")[0])
    assert isinstance(layer, GENERATED)
    return float(getattr(layer, "initial_bound", layer.weight[0].numel() ** -0.5))


def slot(name: str) -> str:
    """The hypernetwork output that makes the parameter ``name`` (modules may not have dots)."""
    return name.replace(".", "_")


@register
@dataclass(frozen=True, kw_only=True)
class HyperFL(Defense):
    """Share the hypernetwork; embedding and head are private."""

    name = "hyperfl"
    reads = ("images",)
    title = "HyperFL"
    cite = "guo2025new"
    url = "https://arxiv.org/abs/2412.07187"
    summary = (
        "Only a hypernetwork is shared; the weights it generates, embedding and head are private."
    )
    note = (
        "Our reading: the hypernetwork is scaled down with the victim model and initialised so "
        "that the generated weights have their layers' usual size; without that they are several "
        "times larger, and training diverges or every client's first gradient vanishes."
    )

    embedding: int = 64
    hidden: int = 128
    rate: float = 0.1

    def __post_init__(self) -> None:
        for field in ("embedding", "hidden"):
            value = getattr(self, field)
            require(value >= 1, f"hyperfl.{field} must be at least 1, not {value}")
        require(self.rate > 0, f"hyperfl.rate must be positive, not {self.rate}")

    def impossible(self, model: VictimModel) -> tuple[str, str] | None:
        """Features of linear and convolutional layers: of others no initial size is known."""
        for name, layer in model.features.named_modules():
            if list(layer.parameters(recurse=False)) and not isinstance(layer, GENERATED):
                kind = type(layer).__name__
                return "", f"features.{name} is a {kind}: only linear and Conv2d are generated"
        return None

    def shared_rate(self, rate: float) -> float:
        """Smaller by ``rate``: a step on the hypernetwork moves the generated weights by more."""
        return rate * self.rate

    def wrap(self, model: VictimModel) -> VictimModel:
        """The model whose features are generated."""
        return Generated(model, self.embedding, self.hidden)

    def shared(self, name: str) -> bool:
        """The hypernetwork alone."""
        return name.startswith("hyper.")

    def trained_before_shared(self, name: str) -> bool:
        """The head, before hypernetwork and embedding move together."""
        return name.startswith("head.")
