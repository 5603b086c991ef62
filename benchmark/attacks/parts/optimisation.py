"""Attacks that search: an objective, priors, an optimiser, a start and a label strategy.

A new attack of this family is a declaration of ten lines, see `ig.py` and `dlg.py`.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from benchmark.attacks.base import Attack, Guess
from benchmark.attacks.engine.batch import Engine, Plan, Stack, plan, structure, victim_tree
from benchmark.attacks.engine.memory import device
from benchmark.attacks.engine.optimisers import Best, Evaluation, Optimiser, Problem, Variables
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
        """Minimise over all victims and restarts together, in chunks that memory allows."""
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
        fixed = [self._soft(e) for e in evidences]
        joint = fixed[0] is None
        centres = words.centres(evidences)
        evidences = [words.searched(e) for e in evidences]
        first = evidences[0]
        stack = Stack.of([victim_tree(e, s) for e, s in zip(evidences, fixed, strict=True)])
        shape = structure(first, self.objective, self.priors, joint)
        place = device()
        chosen = _plan(first, place)
        trials = len(evidences) * self.restarts
        victims = torch.arange(len(evidences)).repeat_interleave(self.restarts)
        starts = Starts(first, seeds, self.restarts, joint, self.init, begin, centres)
        chunks = (
            chosen.chunks(trials) if self.group is None else _whole(chosen, self.restarts, trials)
        )
        found: list[Best] = []
        strategy = chosen.strategy
        for number, chunk in enumerate(chunks):
            numbers = stack.take(victims[chunk]).to(place)
            engine = Engine(shape, numbers, strategy, self.iterations)
            problem = Problem(
                evaluate=self._grouped(engine, victims[chunk].to(place)),
                narrowed=engine.narrowed if self.group is None else None,
                fresh=partial(starts.draw, chunk=chunk, place=place),
                box=self._box(first, place),
                rates={
                    "logits": self.rate,
                    **{f"hidden.{name}": h.lr for name, h in first.hidden.items()},
                },
                deadline=_share(deadline, len(chunks) - number),
            )
            found.append(self.optimiser.minimise(problem, self.iterations))
            strategy = engine.strategy
        size = max(c.stop - c.start for c in chunks) if strategy == "vmap" else 1
        return [
            replace(_pick(found, chunks, k, self.restarts), strategy=strategy, chunk=size)
            for k in range(len(evidences))
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

    def _grouped(self, engine: Engine, victims: Tensor) -> Callable[[Variables], Evaluation]:
        """The engine's evaluations, with what holds restarts together."""
        group = self.group
        if group is None:
            return engine
        return lambda point: group.added(engine(point), point, victims)

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
    first = evidences[0]
    uniform = torch.full((first.setting.images, first.setting.classes), 1.0 / first.setting.classes)
    labels = [uniform if s is None else s.float() for s in soft]
    stack = Stack.of([victim_tree(e, s) for e, s in zip(evidences, labels, strict=True)])
    shape = structure(first, objective, (), joint_labels=False)
    inputs = [words.inputs(e, x) for e, x in zip(evidences, images, strict=True)]
    variables = {"images": torch.stack(inputs)}
    for name in first.hidden:
        variables[f"hidden.{name}"] = torch.stack([h[name].float() for h in hidden])
    losses: list[float] = []
    place = device()
    chosen = _plan(first, place)
    for chunk in chosen.chunks(len(evidences)):
        rows = torch.arange(len(evidences))[chunk]
        engine = Engine(shape, stack.take(rows).to(place), chosen.strategy)
        losses += engine.data_loss({k: v[chunk].to(place) for k, v in variables.items()}).tolist()
    return losses


def _plan(evidence: Evidence, place: torch.device) -> Plan:
    observed = sum(v.numel() for term in evidence.terms.values() for v in term.value.values())
    pixels = math.prod(words.searched_shape(evidence))
    return plan(observed, evidence.setting.images, pixels, place.type)


def _whole(chosen: Plan, restarts: int, trials: int) -> list[slice]:
    """Chunks that keep the restarts of a victim together."""
    victims = replace(chosen, chunk=max(1, chosen.chunk // restarts)).chunks(trials // restarts)
    return [slice(restarts * c.start, restarts * c.stop) for c in victims]


def _share(deadline: float | None, remaining: int) -> float | None:
    """This chunk's fair part of the time that is left."""
    if deadline is None:
        return None
    now = time.monotonic()
    return now + max(0.0, deadline - now) / remaining


def _pick(found: Sequence[Best], chunks: Sequence[slice], victim: int, restarts: int) -> Found:
    """The best restart of one victim, and the evaluations of all of them."""
    best: tuple[Best, int] | None = None
    spent, late = 0, False
    for trial in range(victim * restarts, (victim + 1) * restarts):
        number = next(k for k, c in enumerate(chunks) if c.start <= trial < c.stop)
        result, row = found[number], trial - chunks[number].start
        spent += int(result.evaluations[row])
        late = late or result.stopped[row] == "timeout"
        if best is None or float(result.total[row]) < float(best[0].total[best[1]]):
            best = (result, row)
    assert best is not None
    result, row = best
    return Found(
        {name: value[row].cpu() for name, value in result.variables.items()},
        float(result.total[row]),
        float(result.data[row]),
        spent,
        "timeout" if late else result.stopped[row],
    )
