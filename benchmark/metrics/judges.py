"""What recovery means for the kind of private data at hand: images, or texts.

A judge pairs guesses with truths, scores the pairs, and knows what can be guessed without an
attack. Its first measure decides about success. Both judges score the same rows of the same tables;
each leaves the other's columns empty.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np

from benchmark.metrics import baseline as floor
from benchmark.metrics import images as privacy
from benchmark.metrics import tokens


class Judge(Protocol):
    """Scores guesses for one kind of private data; arrays are [n] per private example.

    measures   columns of victims.csv, the one that decides first
    floor      the column for what was guessed without an attack, in units of the first measure
    """

    @property
    def measures(self) -> tuple[str, ...]: ...

    @property
    def floor(self) -> str: ...

    def match(self, guesses: Any, truths: Any) -> np.ndarray:
        """int64 [n]: ``guesses[match(...)]`` stand beside the ``truths`` of their batch."""

    def score(self, guesses: Any, truths: Any) -> dict[str, np.ndarray]:
        """Every measure of guesses that are paired with truths."""

    def partner(self, guesses: Any, truths: Any) -> np.ndarray:
        """The first measure of one batch, paired first."""

    def without_attack(
        self, truths: Any, labels: Any, auxiliary: Any, auxiliary_labels: Any
    ) -> np.ndarray:
        """The first measure of the best guess that needs no message."""

    def identify(self, guesses: Any, truths: Any, labels: Any, candidates: Any,
                 candidate_labels: Any, *, count: int, seed: int) -> np.ndarray:  # fmt: skip
        """Whether each guess is nearer to its truth than to others of its class."""

    def tau(self, truths: Any, labels: Any, auxiliary: Any, auxiliary_labels: Any,
            minimum_psnr: float) -> float:  # fmt: skip
        """The first measure above which an example is recovered; see :func:`floor.tau`."""

    def summary(self, rows: Sequence[Mapping[str, Any]]) -> dict[str, float]:
        """What a row of cells.csv says of its rows of victims.csv."""


@dataclass(frozen=True)
class Images:
    """PSNR decides: see :mod:`benchmark.metrics.images` and :mod:`benchmark.metrics.baseline`."""

    measures: tuple[str, ...] = ("psnr", "ssim", "mse")
    floor: str = "floor_psnr"

    def match(self, guesses: Any, truths: Any) -> np.ndarray:
        """On squared error."""
        return privacy.match(guesses, truths)

    def score(self, guesses: Any, truths: Any) -> dict[str, np.ndarray]:
        """Arrays by measure."""
        found = privacy.score(guesses, truths)
        return {name: getattr(found, name) for name in self.measures}

    def partner(self, guesses: Any, truths: Any) -> np.ndarray:
        """PSNR."""
        return floor.matched_psnr(guesses, truths)

    def without_attack(
        self, truths: Any, labels: Any, auxiliary: Any, auxiliary_labels: Any
    ) -> np.ndarray:
        """PSNR of class mean or nearest image."""
        return floor.without_attack(truths, labels, auxiliary, auxiliary_labels)

    def identify(self, guesses: Any, truths: Any, labels: Any, candidates: Any,
                 candidate_labels: Any, *, count: int, seed: int) -> np.ndarray:  # fmt: skip
        """By squared error."""
        return privacy.identify(
            guesses, truths, labels, candidates, candidate_labels, count=count, seed=seed
        )[0]

    def tau(self, truths: Any, labels: Any, auxiliary: Any, auxiliary_labels: Any,
            minimum_psnr: float) -> float:  # fmt: skip
        """In dB."""
        return floor.tau(truths, labels, auxiliary, auxiliary_labels, minimum=minimum_psnr)

    def summary(self, rows: Sequence[Mapping[str, Any]]) -> dict[str, float]:
        """Quantiles of PSNR, means of the others."""
        psnr = _column(rows, "psnr")
        return {
            "psnr_mean": float(psnr.mean()),
            "psnr_median": float(np.median(psnr)),
            "psnr_q10": float(np.quantile(psnr, 0.1)),
            "psnr_q90": float(np.quantile(psnr, 0.9)),
            "psnr_max": float(psnr.max()),
            "ssim_mean": float(_column(rows, "ssim").mean()),
            "mse_mean": float(_column(rows, "mse").mean()),
            "floor_psnr": float(np.median(_column(rows, "floor_psnr"))),
        }


@dataclass(frozen=True)
class Texts:
    """The share of right words decides: see :mod:`benchmark.metrics.tokens`."""

    vocabulary: tuple[str, ...]
    measures: tuple[str, ...] = ("exact_tokens", "rouge1", "rouge2", "rougeL")
    floor: str = "floor_tokens"

    def match(self, guesses: Any, truths: Any) -> np.ndarray:
        """On right words."""
        return tokens.match(guesses, truths)

    def score(self, guesses: Any, truths: Any) -> dict[str, np.ndarray]:
        """Arrays by measure."""
        found = tokens.score(guesses, truths, self.vocabulary)
        return dict(zip(self.measures, (found.exact, found.rouge1, found.rouge2, found.rougeL),
                        strict=True))  # fmt: skip

    def partner(self, guesses: Any, truths: Any) -> np.ndarray:
        """Share of right words."""
        ours = np.asarray(guesses)
        return tokens.exact(ours[tokens.match(ours, truths)], truths)

    def without_attack(
        self, truths: Any, labels: Any, auxiliary: Any, auxiliary_labels: Any
    ) -> np.ndarray:
        """Share of right words of the usual or the nearest sentence."""
        return tokens.without_attack(truths, labels, auxiliary, auxiliary_labels)

    def identify(self, guesses: Any, truths: Any, labels: Any, candidates: Any,
                 candidate_labels: Any, *, count: int, seed: int) -> np.ndarray:  # fmt: skip
        """By right words."""
        return tokens.identify(
            guesses, truths, labels, candidates, candidate_labels, count=count, seed=seed
        )

    def tau(self, truths: Any, labels: Any, auxiliary: Any, auxiliary_labels: Any,
            minimum_psnr: float) -> float:  # fmt: skip
        """:data:`tokens.SUCCESS` at least."""
        guessed = tokens.without_attack(truths, labels, auxiliary, auxiliary_labels)
        return max(tokens.SUCCESS, float(np.quantile(guessed, floor.TAU_QUANTILE)))

    def summary(self, rows: Sequence[Mapping[str, Any]]) -> dict[str, float]:
        """Means, and the median of the floor as for images."""
        means = {name: float(_column(rows, name).mean()) for name in self.measures}
        return means | {"floor_tokens": float(np.median(_column(rows, "floor_tokens")))}


EMPTY = {
    name: None
    for judge in (Images(), Texts(()))
    for name in (*judge.measures, judge.floor)
}  # fmt: skip
"""All judges' columns, blank."""


def judge_of(facts: Mapping[str, Any]) -> Judge:
    """The judge for a data set's public facts."""
    words = facts.get("vocabulary")
    return Texts(tuple(words)) if words else Images()


def _column(rows: Sequence[Mapping[str, Any]], name: str) -> np.ndarray:
    return np.array([row[name] for row in rows], float)
