"""The public facts of a federated round: what server, client and attacker all know."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass, replace
from functools import lru_cache
from typing import TYPE_CHECKING, Any, Literal

from benchmark.defenses.base import Defense, build
from benchmark.federated.wire import Schema

if TYPE_CHECKING:
    from torch import Generator, Tensor

    from benchmark.models.base import VictimModel


@dataclass(frozen=True, kw_only=True)
class Setting:
    """Model, data format, federated protocol and defense of a round.

    Attributes:
        shape: of an image, (C, H, W); pixels are in [0, 1] and enter the model as
            (pixel - mean) / std. Of a text (length,); words enter the model by their number.
        local_steps: gradient steps of a client per round, each on its own batch; 1 in FedSGD.
        local_lr: step size of local steps; ``private_lr`` that of parameters that stay.
        batch_size: images per local step.
        labels_given: whether the server is granted the batch's labels.
        vocabulary: how many words there are; 0 for images.
        cuts: where the imprint block of a malicious server cuts the images' brightness; empty for
            a server that follows the protocol.
    """

    scenario: str
    model: str
    shape: tuple[int, ...]
    classes: int
    mean: tuple[float, ...]
    std: tuple[float, ...]
    algorithm: Literal["fedsgd", "fedavg"]
    local_steps: int
    local_lr: float
    private_lr: float
    batch_size: int
    labels_given: bool
    defense: Defense
    vocabulary: int = 0
    cuts: tuple[float, ...] = ()

    @property
    def images(self) -> int:
        """Private images behind one message."""
        return self.batch_size * self.local_steps

    def with_batch_size(self, batch_size: int) -> Setting:
        """The same setting with another number of images per local step."""
        return replace(self, batch_size=batch_size)

    def normalise(self, pixels: Tensor) -> Tensor:
        """Pixels [..., C, H, W] in [0, 1] as model inputs; words [..., length] are left alone."""
        if self.vocabulary:
            return pixels
        mean, std = self._moments(pixels)
        return (pixels - mean) / std

    def denormalise(self, inputs: Tensor) -> Tensor:
        """Model inputs [..., C, H, W] as pixels, clamped to [0, 1]."""
        mean, std = self._moments(inputs)
        return (inputs * std + mean).clamp(0, 1)

    def _moments(self, like: Tensor) -> tuple[Tensor, Tensor]:
        return (
            like.new_tensor(self.mean).view(-1, 1, 1),
            like.new_tensor(self.std).view(-1, 1, 1),
        )

    def to_json(self) -> dict[str, Any]:
        """As JSON holds it."""
        content = {k: v for k, v in asdict(self).items() if k != "defense"}
        for name in ("vocabulary", "cuts"):
            if not content[name]:
                del content[name]
        content["defense"] = {"name": self.defense.name, "fields": self.defense.parameters()}
        return content

    @classmethod
    def from_json(cls, content: dict[str, Any]) -> Setting:
        """The inverse of :meth:`to_json`."""
        facts = dict(content)
        defense = facts.pop("defense")
        for name in ("shape", "mean", "std", "cuts"):
            facts[name] = tuple(facts.get(name, ()))
        return cls(**facts, defense=build(defense["name"], defense["fields"]))


@lru_cache(maxsize=64)
def stateless_model(setting: Setting) -> VictimModel:
    """The model under the defense, called through `functional_call` only: its parameters are
    nobody's."""
    from benchmark.models.base import build as build_model
    from benchmark.models.parts.imprint import imprinted

    model = build_model(setting.model, setting.shape, setting.classes, setting.vocabulary)
    if setting.cuts:
        model = imprinted(model, math.prod(setting.shape), setting.cuts)
    return setting.defense.wrap(model)


def initial(setting: Setting, rng: Generator) -> dict[str, Tensor]:
    """All parameters as the public rule draws them from ``rng``; crafted ones are what they are."""
    model = stateless_model(setting)
    model.initialise(rng)
    return {name: parameter.detach().clone() for name, parameter in model.named_parameters()}


@lru_cache(maxsize=64)
def schema(setting: Setting) -> Schema:
    """Names and shapes of what travels, in both directions."""
    return {
        name: tuple(parameter.shape)
        for name, parameter in stateless_model(setting).named_parameters()
        if setting.defense.shared(name)
    }
