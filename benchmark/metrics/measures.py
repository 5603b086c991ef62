"""What recovery means for the kind of private data at hand: images, or texts.

Guesses are paired with truths, the pairs are measured by every function that the table of columns
names, and the first of these decides about success. Both kinds fill rows of the same tables; each
leaves the other's columns empty.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from importlib import import_module
from typing import Any, Literal

import numpy as np

from benchmark.metrics import baseline, images, tokens
from benchmark.results.columns import measures

TAU_QUANTILE = 0.99


@dataclass(frozen=True)
class Measures:
    """The measures of one kind of private data; arrays are [n] per private example."""

    data: Literal["images", "texts"]
    vocabulary: tuple[str, ...] = ()

    @property
    def first(self) -> str:
        """The measure that decides."""
        return measures(self.data)[0].name

    @property
    def baseline(self) -> str:
        """The column for what was guessed without an attack, in units of the first measure."""
        return f"baseline_{self.first}"

    @property
    def _module(self) -> Any:
        return tokens if self.data == "texts" else images

    def score(self, guesses: Any, truths: Any) -> dict[str, np.ndarray]:
        """Every measure of guesses that are paired with truths."""
        extra = (self.vocabulary,) if self.data == "texts" else ()
        found = {}
        for column in measures(self.data):
            module, name = column.metric.split(".")
            function = getattr(import_module(f"benchmark.metrics.{module}"), name)
            found[column.name] = function(guesses, truths, *extra)
        return found

    def match(self, guesses: Any, truths: Any) -> np.ndarray:
        """int64 [n]: ``guesses[match(...)]`` stand beside the ``truths`` of their batch."""
        return np.arange(1) if len(truths) == 1 else self._module.match(guesses, truths)

    def swapped(self, guesses: np.ndarray, truths: np.ndarray, labels: np.ndarray) -> np.ndarray:
        """:func:`baseline.swapped` in the first measure."""
        first = tokens.exact if self.data == "texts" else images.psnr
        return baseline.swapped(guesses, truths, labels, self.match, first)

    def without_attack(
        self, truths: Any, labels: Any, auxiliary: Any, auxiliary_labels: Any
    ) -> np.ndarray:
        """The first measure of the best guess that needs no message."""
        module = tokens if self.data == "texts" else baseline
        return module.without_attack(truths, labels, auxiliary, auxiliary_labels)

    def identify(self, guesses: Any, truths: Any, labels: Any, candidates: Any,
                 candidate_labels: Any, *, count: int, seed: int) -> np.ndarray:  # fmt: skip
        """Whether each guess is nearer to its truth than to others of its class."""
        found = self._module.identify(
            guesses, truths, labels, candidates, candidate_labels, count=count, seed=seed
        )
        return found if self.data == "texts" else found[0]

    def tau(self, truths: Any, labels: Any, auxiliary: Any, auxiliary_labels: Any,
            minimum_psnr: float) -> float:  # fmt: skip
        """The first measure above which an example is recovered, one per data set: what guesses
        without an attack reach in one case of a hundred, and ``minimum_psnr`` dB or
        :data:`tokens.SUCCESS` at least. ``truths`` are held-out examples that are no victims."""
        guessed = self.without_attack(truths, labels, auxiliary, auxiliary_labels)
        minimum = tokens.SUCCESS if self.data == "texts" else minimum_psnr
        return max(minimum, float(np.quantile(guessed, TAU_QUANTILE)))


def measures_of(facts: Mapping[str, Any]) -> Measures:
    """The measures for a data set's public facts."""
    words = facts.get("vocabulary")
    return Measures("texts", tuple(words)) if words else Measures("images")
