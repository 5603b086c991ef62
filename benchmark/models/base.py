"""What a victim model is, and the registry of architectures: one file each, named after it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TypeVar

from torch import Generator, Tensor, nn
from torch.nn import functional as F

from benchmark.config.registry import MODELS, Kind


class VictimModel(nn.Module):
    """A classifier in two parts: ``features``, an ``nn.Sequential``, and a linear ``head``.

    Parts are exposed because defenses act between them. Activations must not work in place.
    """

    features: nn.Sequential
    head: nn.Linear

    def __init__(self, features: nn.Sequential, head: nn.Linear) -> None:
        super().__init__()
        self.features = features
        self.head = head

    def noise_shapes(self, images: int) -> dict[str, tuple[int, ...]]:
        """Shapes [images, ...] of the standard normal draws that one forward pass consumes."""
        return {}

    def forward(
        self,
        images: Tensor,
        noise: Mapping[str, Tensor] | None = None,
        labels: Tensor | None = None,
    ) -> Tensor:
        """Logits [N, classes]; given soft ``labels`` [N, classes], the mean training loss."""
        logits, penalty = self.run(images, noise or {})
        if labels is None:
            return logits
        return F.cross_entropy(logits, labels) + penalty

    def run(self, images: Tensor, noise: Mapping[str, Tensor]) -> tuple[Tensor, Tensor]:
        """Logits, and what a defense adds to the loss (a scalar; zero here)."""
        logits = self.head(self.features(images))
        return logits, logits.new_zeros(())

    def initialise(self, rng: Generator) -> None:
        """Draw all weights afresh: PyTorch's default rules, from ``rng`` alone.

        A layer with an ``initial_bound`` is uniform within that, also where a defense has
        wrapped the model; one that was ``crafted`` keeps its weights.
        """
        for module in self.modules():
            if getattr(module, "crafted", False):
                continue
            if isinstance(module, nn.Embedding):
                nn.init.normal_(module.weight, generator=rng)
            elif isinstance(module, nn.Linear | nn.Conv2d):
                bound = getattr(module, "initial_bound", module.weight[0].numel() ** -0.5)
                nn.init.uniform_(module.weight, -bound, bound, generator=rng)
                if module.bias is not None:
                    nn.init.uniform_(module.bias, -bound, bound, generator=rng)


@dataclass(frozen=True)
class Architecture:
    """How to build a victim model, and what it reads."""

    build: Callable[..., VictimModel]
    reads: Kind


Builder = TypeVar("Builder", bound=Callable[..., VictimModel])


def register(name: str, reads: Kind = "images") -> Callable[[Builder], Builder]:
    """Enter an architecture: a function of image shape (C, H, W) and number of classes.

    One that ``reads`` text is a function of shape (length,), classes and vocabulary size.

    Raises:
        PluginError: the name is taken, or is not the file's.
    """

    def enter(builder: Builder) -> Builder:
        MODELS.enter(name, Architecture(builder, reads), builder.__module__)
        return builder

    return enter


names = MODELS.names


def reads(name: str) -> Kind:
    """What the architecture ``name`` reads.

    Raises:
        ParamsError: there is no such architecture.
    """
    return MODELS[name].reads


def build(name: str, shape: tuple[int, ...], classes: int, vocabulary: int = 0) -> VictimModel:
    """The architecture ``name`` for inputs of ``shape``; initialise it before use.

    Args:
        vocabulary: how many words texts have; 0 for images.

    Raises:
        ParamsError: there is no such architecture.
        ValueError: it reads the other kind of input.
    """
    if (reads(name) == "text") != (vocabulary > 0):
        raise ValueError(f"the model {name} reads {reads(name)} only")
    return MODELS[name].build(shape, classes, *([vocabulary] if vocabulary else []))
