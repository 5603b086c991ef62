"""Attacks that search: an objective, priors, an optimiser, a start and a label strategy.

A new attack of this family is a declaration of ten lines, see `ig.py` and `dlg.py`.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from benchmark.attacks.base import Attack, Guess
from benchmark.attacks.engine.base import Evaluation, Limits, Optimiser, Variables
from benchmark.attacks.engine.batch import Stack, rows_of, structure, victim_tree
from benchmark.attacks.engine.memory import device
from benchmark.attacks.engine.refill import Ended, Trial, minimise, places_of, rounds
from benchmark.attacks.parts import words
from benchmark.attacks.parts.labels import Labels
from benchmark.attacks.parts.objectives import Objective
from benchmark.attacks.parts.priors import GroupConsistency, Prior
from benchmark.attacks.parts.starts import Normal, Start, Starts
from benchmark.config.errors import ParamsError

if TYPE_CHECKING:
    from benchmark.evidence.base import Evidence


@dataclass(frozen=True, kw_only=True)
class OptimisationAttack(Attack):
    """Searches for the images whose message resembles what was observed.

    iterations   gradient evaluations per restart
    restarts     independent random starts; the one with the least total loss is the guess
    box          whether images are kept inside the range of valid pixels
    rate         step size of label logits for first-order optimisers
    init         the kind of first images, in normalised model inputs
    group        what holds the restarts of a victim together, if anything does

    Hidden variables that the evidence asks for are optimised together with the images.
    """

    pools = True

    objective: Objective
    optimiser: Optimiser
    labels: Labels
    priors: tuple[Prior, ...] = ()
    group: GroupConsistency | None = None
    init: Start = Normal()
    box: bool = False
    iterations: int = 100
    restarts: int = 1
    rate: float = 0.1

    def __post_init__(self) -> None:
        self.at_least_one("iterations", "restarts")
        if not self.rate > 0:
            raise ParamsError(f"attacks.{self.name}.rate must be above 0, not {self.rate}")

    def supports(self, evidence: Evidence) -> str | None:
        """Refuses evidence that shows nothing, and labels that cannot be had."""
        if not evidence.terms:
            return "the evidence has no terms to match"
        if (hidden := words.reason(evidence)) is not None:
            return hidden
        if evidence.labels == "eliminated":
            return None
        return self.labels.reason(evidence)

    def planned(self, evidence: Evidence) -> int:
        """The whole budget."""
        return self.iterations * self.restarts * evidence.cost

    def labels_from(self, evidence: Evidence) -> str:
        """Joint where the strategy says so, also if the labels were granted (as DLG does)."""
        if evidence.labels != "eliminated" and self.labels.soft(evidence) is None:
            return "joint"
        return super().labels_from(evidence)

    def reconstruct(
        self,
        evidences: Sequence[Evidence],
        public: Any,
        seeds: Sequence[int],
        deadline: float | None,
    ) -> list[Guess]:
        """Minimise over all victims and restarts, in stacks that refill."""
        found = self.search(evidences, seeds, deadline)
        return [self.guess(e, f) for e, f in zip(evidences, found, strict=True)]

    def search(
        self,
        evidences: Sequence[Evidence],
        seeds: Sequence[int],
        deadline: float | None,
        begin: Sequence[Variables | None] | None = None,
    ) -> list[Found]:
        """The best point of every victim; `begin` has where the first restart of each starts, or
        None."""
        if not evidences:
            return []
        fixed = [self._soft(e) for e in evidences]
        centres = words.centres(evidences)
        evidences = [words.searched(e) for e in evidences]
        first, restarts, place = evidences[0], self.restarts, device()
        starts = Starts(first, seeds, fixed[0] is None, self.init, begin, centres)
        numbers = [victim_tree(e, s) for e, s in zip(evidences, fixed, strict=True)]
        trials = [
            Trial(numbers[victim], partial(starts.one, victim, k), spot * restarts + k)
            for victim, spot in enumerate(places_of(evidences))
            for k in range(restarts)
        ]
        coupled = 1 if self.group is None else restarts
        rows = max(_rows(first, len(trials), place), coupled) // coupled * coupled
        stack = Stack(
            structure(first, self.objective, self.priors, fixed[0] is None),
            numbers[0],
            starts.one(0, 0, 0),
            rows,
            self.iterations * -(-len(trials) // rows),
            place,
        )
        ended = minimise(
            self.optimiser,
            stack if self.group is None else Coupled(stack, self.group, restarts),
            trials,
            Limits(
                self.iterations,
                self._box(first, place),
                {"logits": self.rate, **{f"hidden.{n}": h.lr for n, h in first.hidden.items()}},
            ),
            deadline=deadline,
            coupled=coupled,
            place=place,
        )
        return [
            _best(ended[k * restarts : (k + 1) * restarts], stack) for k in range(len(evidences))
        ]

    def measure(
        self,
        evidences: Sequence[Evidence],
        images: Sequence[Tensor],
        soft: Sequence[Tensor | None],
        hidden: Sequence[Mapping[str, Tensor]],
    ) -> list[float]:
        """The data term at given points, each victim with its own labels and hidden variables."""
        return data_losses(self.objective, evidences, images, soft, hidden)

    def _soft(self, evidence: Evidence) -> Tensor | None:
        """Fixed soft labels, or None where they are to be optimised."""
        if evidence.labels == "eliminated":
            setting = evidence.setting
            return torch.full((setting.images, setting.classes), 1.0 / setting.classes)
        return self.labels.soft(evidence)

    def _box(self, evidence: Evidence, place: torch.device) -> dict[str, tuple[Tensor, Tensor]]:
        if not self.box:
            return {}
        ends = torch.zeros(1, 1, *evidence.setting.shape, device=place)
        return {
            "images": (evidence.setting.normalise(ends), evidence.setting.normalise(ends + 1)),
        }

    def guess(self, evidence: Evidence, found: Found) -> Guess:
        """What was found of one victim, as pixels and probabilities."""
        fixed, variables = self._soft(evidence), found.variables
        soft = variables["logits"].softmax(-1) if fixed is None else fixed
        known = evidence.labels != "eliminated"
        return Guess(
            images=words.content(evidence, variables["images"]),
            labels=soft.argmax(-1) if known else None,
            soft=soft if known else None,
            hidden={name: variables[f"hidden.{name}"] for name in evidence.hidden},
            loss=found.data,
            evaluations=found.evaluations,
            stopped=found.stopped,
            strategy=found.strategy,
            chunk=found.chunk,
        )


@dataclass(frozen=True)
class Found:
    """The best point of one victim: its variables, their losses with priors (``total``) and
    without (``data``), and what it took; see :class:`Guess`."""

    variables: Variables
    total: float
    data: float
    evaluations: int
    stopped: str
    strategy: str = ""
    chunk: int = 0


def data_losses(
    objective: Objective,
    evidences: Sequence[Evidence],
    images: Sequence[Tensor],
    soft: Sequence[Tensor | None],
    hidden: Sequence[Mapping[str, Tensor]],
) -> list[float]:
    """An objective at given points, without priors; arguments as in :meth:`Attack.losses`."""
    evidences = [words.searched(e) for e in evidences]
    first, place = evidences[0], device()
    uniform = torch.full((first.setting.images, first.setting.classes), 1.0 / first.setting.classes)
    numbers = [
        victim_tree(e, uniform if s is None else s.float())
        for e, s in zip(evidences, soft, strict=True)
    ]
    points = [
        {
            "images": words.inputs(e, x),
            **{f"hidden.{name}": h[name].float() for name in first.hidden},
        }
        for e, x, h in zip(evidences, images, hidden, strict=True)
    ]
    shape = structure(first, objective, (), joint_labels=False)
    rows = _rows(first, len(evidences), place)
    stack = Stack(shape, numbers[0], points[0], rows, place=place)
    losses = [math.nan] * len(evidences)
    for taken in rounds(places_of(evidences), stack.rows):
        for row, number in taken.items():
            stack.put(row, numbers[number])
        chosen = [points[taken.get(row, min(taken.values()))] for row in range(stack.rows)]
        at = {name: torch.stack([p[name] for p in chosen]).to(place) for name in points[0]}
        found = stack.data_loss(at).tolist()
        for row, number in taken.items():
            losses[number] = found[row]
    return losses


class Coupled:
    """A stack whose rows are held together, the restarts of one victim side by side."""

    def __init__(self, stack: Stack, group: GroupConsistency, restarts: int) -> None:
        self.stack, self.group, self.restarts = stack, group, restarts
        self.rows, self.put = stack.rows, stack.put

    def __call__(self, variables: Variables) -> Evaluation:
        """The stack's evaluation with what holds its rows together."""
        victims = torch.arange(self.rows) // self.restarts
        return self.group.added(self.stack(variables), variables, victims.to(self.stack.place))


def _rows(evidence: Evidence, trials: int, place: torch.device) -> int:
    observed = sum(v.numel() for term in evidence.terms.values() for v in term.value.values())
    pixels = math.prod(words.searched_shape(evidence))
    return rows_of(observed, evidence.setting.images, pixels, trials, place.type)


def _best(restarts: Sequence[Ended], stack: Stack) -> Found:
    """The best of a victim's restarts, and the evaluations of all of them."""
    best = min(restarts, key=lambda each: each.total if math.isfinite(each.total) else math.inf)
    return Found(
        best.variables,
        best.total,
        best.data,
        sum(each.evaluations for each in restarts),
        "timeout" if any(each.stopped == "timeout" for each in restarts) else best.stopped,
        stack.strategy,
        stack.rows,
    )
