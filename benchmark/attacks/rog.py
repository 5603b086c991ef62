"""Reconstruction from obfuscated gradients: a small image is searched for, and then restored.

Source: Yue, Jin, Wong, Baron and Dai, USENIX Security 2023, arXiv:2206.04055, and its public code:
an image of a fourth of the resolution, bicubically enlarged on its way into the model; squared
distance of the gradients; Adam at 0.05 for 100 iterations, falling to a tenth along half a cosine;
then networks that were trained on other images restore what the low resolution lost, one of them
told the label. FedAvg is unrolled.

Our readings: one small convolutional network in place of their generator, denoiser and
super-resolver, and it learns from what the search makes of auxiliary images' simulated messages, so
that it knows what the defense did to them. Boards of 8x8 images, which have little to lose, search
for three quarters of the rows and columns in larger steps.

Reference: undefended 24.3 dB on EMNIST and 23.1 dB on CIFAR-10 (as reported by Guo et al., AAAI
2025, arXiv:2412.07187). Much of the quality is the learned prior's: hold it against the same attack
on another victim's message, as the no-attack baseline does.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from benchmark.attacks.base import Guess, register
from benchmark.attacks.engine.adam import SignedAdam
from benchmark.attacks.parts import learning
from benchmark.attacks.parts.auxiliary import batches, require
from benchmark.attacks.parts.direct import DirectAttack
from benchmark.attacks.parts.labels import Given, Inferred, Joint
from benchmark.attacks.parts.objectives import SquaredError
from benchmark.attacks.parts.optimisation import OptimisationAttack
from benchmark.config.errors import ParamsError
from benchmark.evidence.base import Evidence, Predict, Tensors
from benchmark.runtime.randomness import generator, seed_of

if TYPE_CHECKING:
    from benchmark.federated.setting import Setting


@lru_cache(maxsize=16)
def _stretch(small: int, large: int) -> Tensor:
    """[large, small] the bicubic interpolation of a column of ``small`` pixels."""
    eye = torch.eye(small).view(1, 1, small, small)
    return F.interpolate(eye, size=(large, small), mode="bicubic", align_corners=False)[0, 0]


def enlarged(images: Tensor, shape: tuple[int, ...]) -> Tensor:
    """Images [..., C, h, w] at the resolution of ``shape`` (C, H, W), bicubically."""
    _, height, width = shape
    down, across = _stretch(images.shape[-2], height), _stretch(images.shape[-1], width)
    return down @ images @ across.T


@dataclass(frozen=True)
class FromSmall:
    """What guesses of a lower resolution predict: those of a ``setting``'s, once enlarged."""

    predict: Predict
    setting: Setting

    def __call__(
        self, small: Setting, guess: Tensors, hidden: Tensors, data: Mapping[str, Any]
    ) -> Mapping[str, Tensors]:
        images = enlarged(guess["images"], self.setting.shape)
        return self.predict(self.setting, {**guess, "images": images}, hidden, data)


def reduced(evidence: Evidence, scale: float) -> Evidence:
    """The evidence as a question about images with ``scale`` times as many rows and columns."""
    channels, height, width = evidence.setting.shape
    small = (channels, math.ceil(scale * height), math.ceil(scale * width))
    return replace(
        evidence,
        setting=replace(evidence.setting, shape=small),
        predict=FromSmall(evidence.predict, evidence.setting),
    )


class Restorer(nn.Module):
    """Three convolutions from enlarged images and their labels to what the images lack."""

    def __init__(self, channels: int, classes: int, width: int) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            nn.Conv2d(channels + classes, width, 3, padding=1),
            nn.ReLU(),
            nn.Conv2d(width, width, 3, padding=1),
            nn.ReLU(),
        )
        self.last = nn.Conv2d(width, channels, 3, padding=1)
        self.channels = channels

    def forward(self, seen: Tensor) -> Tensor:
        """Images and planes of their labels [k, 1, C + classes, H, W] to pixels [k, 1, C, H, W]."""
        inner = seen[:, 0]
        return (inner[:, : self.channels] + self.last(self.layers(inner))).unsqueeze(1)


@dataclass(frozen=True, kw_only=True)
class RestoredSearch(DirectAttack):
    """A search at low resolution, and a network that restores what it finds.

    scale        rows and columns that are searched for, as a share of the image's
    iterations   gradient evaluations of every search
    rate         Adam's first step size in it
    examples     auxiliary images whose searches the restorer learns from
    width        channels of its hidden layers
    epochs       passes over the examples
    """

    scale: float = 0.25
    iterations: int = 100
    rate: float = 0.05
    examples: int = 96
    width: int = 32
    epochs: int = 100

    def __post_init__(self) -> None:
        self.at_least_one("iterations", "examples", "width", "epochs")
        if not 0 < self.scale <= 1:
            raise ParamsError(f"attacks.{self.name}.scale must be in (0, 1], not {self.scale}")
        if not self.rate > 0:
            raise ParamsError(f"attacks.{self.name}.rate must be above 0, not {self.rate}")

    def supports(self, evidence: Evidence) -> str | None:
        """Needs messages that can be simulated, and terms that other messages have as well."""
        if evidence.simulate is None:
            return "the evidence does not say how to simulate a client's message"
        if any(term.mask is not None for term in evidence.terms.values()):
            return "the terms' masks are one message's own"
        return self._search.supports(evidence)

    def labels_from(self, evidence: Evidence) -> str:
        """As its search."""
        return self._search.labels_from(evidence)

    def reconstruct(
        self,
        evidences: Sequence[Evidence],
        public: Any,
        seeds: Sequence[int],
        deadline: float | None,
    ) -> list[Guess]:
        """Search, learn from the same search on auxiliary images, restore."""
        known, first = require(public, self.name), evidences[0]
        setting = first.setting
        rng = generator("attack", self.name, setting.scenario)
        images, labels = batches(known, -(-self.examples // setting.images), setting.images, rng)
        shown = learning.simulated(first, images, labels, rng, deadline)
        images, labels = images[: len(shown)], labels[: len(shown)]
        lessons = [_as_if(first, terms, own) for terms, own in zip(shown, labels, strict=True)]
        practice = [seed_of(self.name, number) for number in range(len(lessons))]
        tried = self._found(lessons, practice, deadline)
        seen = torch.stack(
            [self._seen(lesson, g) for lesson, g in zip(lessons, tried, strict=True)]
        )
        order = learning.fitting(seen[:, :, : setting.shape[0]], images)
        targets = images[torch.arange(len(images))[:, None], order]
        restorer = Restorer(setting.shape[0], setting.classes, self.width)
        learning.initialise(restorer, rng)
        nn.init.zeros_(restorer.last.weight)  # at first it changes nothing
        late = learning.fit(
            restorer, seen.flatten(0, 1).unsqueeze(1), targets.flatten(0, 1).unsqueeze(1),
            self.epochs, 3e-3, rng, deadline,
        )  # fmt: skip
        found = self._found(evidences, seeds, deadline)
        with torch.no_grad():
            restored = [
                restorer(self._seen(e, g).unsqueeze(1))[:, 0].clamp(0, 1)
                for e, g in zip(evidences, found, strict=True)
            ]
        practised = sum(g.evaluations for g in tried)
        guesses = [
            replace(
                g,
                images=x,
                evaluations=practised + g.evaluations,
                simulated=len(shown) * setting.local_steps,
                stopped="timeout" if late else g.stopped,
            )
            for g, x in zip(found, restored, strict=True)
        ]
        return self.valued(evidences, guesses)

    @property
    def _search(self) -> OptimisationAttack:
        return OptimisationAttack(
            name=self.name,
            objective=SquaredError(),
            optimiser=SignedAdam(lr=self.rate, fall="cosine", least=0.1, signed=()),
            labels=Given() | Inferred() | Joint(),
            box=True,
            iterations=self.iterations,
        )

    def _found(
        self, evidences: Sequence[Evidence], seeds: Sequence[int], deadline: float | None
    ) -> list[Guess]:
        small = [reduced(e, self.scale) for e in evidences]
        return self._search.reconstruct(small, None, seeds, deadline)

    def _seen(self, evidence: Evidence, guess: Guess) -> Tensor:
        """[N, C + classes, H, W] what the restorer sees of a low-resolution guess."""
        setting = evidence.setting
        pixels = enlarged(guess.images, setting.shape)
        soft = guess.soft
        if soft is None:
            soft = torch.full((setting.images, setting.classes), 1 / setting.classes)
        planes = soft[:, :, None, None].expand(-1, -1, *pixels.shape[2:])
        return torch.cat([pixels, planes], 1)


def _as_if(evidence: Evidence, shown: Mapping[str, Tensors], labels: Tensor) -> Evidence:
    """The evidence of another client, of whom the terms would have ``shown`` these values."""
    terms = {
        name: replace(term, value={tensor: shown[name][tensor] for tensor in term.value})
        for name, term in evidence.terms.items()
    }
    if evidence.labels == "eliminated":
        return replace(evidence, terms=terms, place=None)
    return replace(evidence, terms=terms, labels="given", given=labels, place=None)


ROG = register(
    RestoredSearch(
        name="rog",
        title="ROG (reconstruction from obfuscated gradients)",
        cite="yue2023gradient",
        url="https://arxiv.org/abs/2206.04055",
        summary="A search at low resolution, restored by a network that saw such searches.",
        threat="auxiliary",
    )
)
