"""Where a search begins: kinds of first images, and the keyed random numbers behind them."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

import torch
from torch import Generator, Tensor

from benchmark.attacks.engine.base import Variables
from benchmark.attacks.parts.words import searched_shape
from benchmark.runtime.randomness import generator

if TYPE_CHECKING:
    from benchmark.evidence.base import Evidence


class Start(Protocol):
    """First images [N, C, H, W] of one trial, in normalised model inputs."""

    def __call__(self, shape: tuple[int, ...], rng: Generator) -> Tensor: ...


@dataclass(frozen=True)
class Normal:
    """Independent N(0, 1)."""

    def __call__(self, shape: tuple[int, ...], rng: Generator) -> Tensor:
        return torch.randn(shape, generator=rng)


@dataclass(frozen=True)
class Patterned:
    """A random N(0, 1) tile that is repeated ``tiles`` times along both sides of the image.

    Source: Wei et al., ESORICS 2020, arXiv:2004.10397, on geometric initialisation. The last
    tiles are cut where the side is no multiple.
    """

    tiles: int = 2

    def __call__(self, shape: tuple[int, ...], rng: Generator) -> Tensor:
        *lead, height, width = shape
        high, wide = math.ceil(height / self.tiles), math.ceil(width / self.tiles)
        tile = torch.randn((*lead, high, wide), generator=rng)
        return torch.tile(tile, (self.tiles, self.tiles))[..., :height, :width]


NEAR = 0.1
"""How far a text's starts lie from their centre, as a share of the draw for images."""


class Starts:
    """Where every trial starts: it depends on its victim's seed, its restart and its attempt.

    ``begin`` has, per victim, variables at which its first restart begins instead, or None;
    ``centres`` a vector that a text's starts lie around.
    """

    def __init__(
        self,
        evidence: Evidence,
        seeds: Sequence[int],
        joint_labels: bool,
        first: Start,
        begin: Sequence[Variables | None] | None = None,
        centres: Sequence[Tensor] | None = None,
    ) -> None:
        setting = evidence.setting
        self.first = first
        self.begin = begin
        self.centres = centres
        self.images = (setting.images, *searched_shape(evidence))
        self.logits = (setting.images, setting.classes) if joint_labels else None
        self.hidden = dict(evidence.hidden)
        self.seeds = list(seeds)

    def one(self, victim: int, restart: int, attempt: int) -> Variables:
        """Variables of one trial; attempt 0 comes before any failure.

        Drawn on the processor, so that all devices begin alike.
        """
        if self.begin is not None and not attempt and not restart:
            begun = self.begin[victim]
            if begun is not None:
                return begun
        seed = self.seeds[victim]
        # Images come from a stream of their own, so that every evidence begins at the same ones.
        rng = generator("attack start", seed, restart, attempt, "images")
        start = {"images": self.first(self.images, rng)}
        if self.centres is not None:
            start["images"] = self.centres[victim] + NEAR * start["images"]
        rng = generator("attack start", seed, restart, attempt, "labels")
        if self.logits is not None:
            start["logits"] = torch.randn(self.logits, generator=rng)
        for name, hidden in self.hidden.items():
            rng = generator("attack start", seed, restart, attempt, "hidden", name)
            start[f"hidden.{name}"] = (
                torch.randn(tuple(hidden.shape), generator=rng)
                if hidden.init == "normal"
                else torch.zeros(tuple(hidden.shape))
            )
        return start
