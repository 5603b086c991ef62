"""Stacks that refill: a row that is done takes the next trial that waits.

A trial's numbers must not depend on who else is in the stack. What a row computes does not depend
on its neighbours, but the last bits depend on how its numbers lie in memory: libraries read up to
32 bytes at once, and sum what comes before the first such border by itself. Rows that lie eight
places apart lie alike, whatever the sizes, so a trial's place in a stack is its own modulo eight;
among the rows of its class it takes the first that is free.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import torch

from benchmark.attacks.engine.base import Best, Evaluation, Limits, Optimiser, Variables

PLACES = 8
"""So many rows lie differently in memory."""
_LOOK = {"cpu": 1, "cuda": 8}
"""Steps between two looks at who is done: on a GPU each look waits for all that was asked of it."""


@dataclass(frozen=True)
class Trial:
    """One search that waits for a row.

    numbers   the victim's, as the stack takes them
    fresh     attempt -> where to begin; attempt 0 is the first, later ones follow failures
    place     whole number: where in a stack it may be
    """

    numbers: Mapping[str, Any]
    fresh: Callable[[int], Variables]
    place: int


@dataclass(frozen=True)
class Ended:
    """The best point of a trial, what it took, and why it ended: "converged", "budget" or
    "timeout"."""

    variables: Variables
    total: float
    data: float
    evaluations: int
    stopped: str


class Evaluator(Protocol):
    """A stack: rows that are filled one by one and evaluated together."""

    rows: int

    def put(self, row: int, numbers: Mapping[str, Any]) -> None: ...

    def __call__(self, variables: Variables) -> Evaluation: ...


def minimise(
    optimiser: Optimiser,
    stack: Evaluator,
    trials: Sequence[Trial],
    limits: Limits,
    *,
    deadline: float | None = None,
    coupled: int = 1,
    place: torch.device | None = None,
) -> list[Ended]:
    """Search for all trials, in the order in which they wait.

    Args:
        deadline: an instant of `time.monotonic`; later, what runs ends with its best so far, and
            what waits is evaluated once.
        coupled: so many trials in a row begin and end together, in neighbouring rows.
        place: where variables lie.
    """
    queues = Queues([t.place for t in trials[::coupled]], stack.rows // coupled)
    ended: dict[int, Ended] = {}
    running = Running(optimiser, stack, limits, place or torch.device("cpu"))
    while True:
        entering = [
            (slot * coupled + k, number * coupled + k)
            for slot, number in queues.next()
            for k in range(coupled)
        ]
        if entering:
            running.enter([(row, number, trials[number]) for row, number in entering])
        if not running.trials:
            return [ended[number] for number in range(len(trials))]
        running.step()
        late = deadline is not None and time.monotonic() >= deadline
        done = running.done(late)
        for slot in {row // coupled for row in done}:
            rows = range(slot * coupled, (slot + 1) * coupled)
            if all(row in done for row in rows):
                ended |= {running.trials[row]: running.leave(row, done[row]) for row in rows}
                queues.free(slot)


class Queues:
    """Who waits for which slot: one queue for each class of places."""

    def __init__(self, places: Sequence[int], slots: int) -> None:
        self.classes = min(PLACES, slots)
        self.waiting: list[deque[int]] = [deque() for _ in range(self.classes)]
        for number, place in enumerate(places):
            self.waiting[place % self.classes].append(number)
        self.empty = set(range(slots))

    def next(self) -> Iterator[tuple[int, int]]:
        """(slot, number) of all that can begin."""
        for slot in sorted(self.empty):
            if queue := self.waiting[slot % self.classes]:
                self.empty.remove(slot)
                yield slot, queue.popleft()

    def free(self, slot: int) -> None:
        self.empty.add(slot)


class Running:
    """The rows of a stack that are taken, and what is known of them."""

    def __init__(
        self, optimiser: Optimiser, stack: Evaluator, limits: Limits, place: torch.device
    ) -> None:
        self.optimiser, self.stack, self.limits, self.place = optimiser, stack, limits, place
        self.trials: dict[int, int] = {}
        self._of: dict[int, Trial] = {}
        self._age = [0] * stack.rows
        self._attempt = [0] * stack.rows
        self._looked = 0

    def enter(self, entering: Sequence[tuple[int, int, Trial]]) -> None:
        """Fill rows; idle ones hold what the first trial holds, so that they have numbers."""
        if not hasattr(self, "state"):
            first = entering[0][2]
            for row in range(self.stack.rows):
                self.stack.put(row, first.numbers)
            start = {
                name: value.to(self.place).expand(self.stack.rows, *value.shape).contiguous()
                for name, value in first.fresh(0).items()
            }
            self.state = self.optimiser.begin(start, self.limits)
            self.best = Best.of(start)
            self.taken = torch.zeros(self.stack.rows, dtype=torch.bool, device=self.place)
        for row, number, trial in entering:
            self.stack.put(row, trial.numbers)
            self.trials[row], self._of[row] = number, trial
            self._age[row] = self._attempt[row] = 0
        rows = [row for row, _, _ in entering]
        start = self._starts(rows)
        where = torch.tensor(rows, device=self.place)
        self.state.enter(where, start)
        self.best.enter(where, start)
        self.taken[where] = True

    def step(self) -> None:
        """One evaluation of all rows."""
        point = self.state.point()
        at = self.stack(point)
        self.best.note(point, at, self.taken & ~self.optimiser.is_solved(self.best))
        self.state.observe(at)
        for row in self.trials:
            self._age[row] += 1
        if self.state.may_fail and self._time_to_look():
            self._begin_failed_afresh()

    def done(self, late: bool) -> dict[int, str]:
        """Rows that need no more evaluations, and why."""
        budget = self.limits.evaluations
        done = {row: "budget" for row in self.trials if self._age[row] >= budget}
        if late:
            done |= {row: "timeout" for row in self.trials if row not in done}
        if done or self._time_to_look():
            solved = self.optimiser.is_solved(self.best).tolist()
            done |= {row: "converged" for row in self.trials if solved[row]}
        self._looked += 1
        return done

    def leave(self, row: int, why: str) -> Ended:
        """What became of a row, which is free then."""
        del self.trials[row], self._of[row]
        self.taken[row] = False
        best = self.best
        return Ended(
            {name: value[row].to("cpu", copy=True) for name, value in best.variables.items()},
            float(best.total[row]),
            float(best.data[row]),
            int(best.evaluations[row]),
            why,
        )

    def _time_to_look(self) -> bool:
        return self._looked % _LOOK[self.place.type] == 0

    def _begin_failed_afresh(self) -> None:
        failed = [row for row, is_so in enumerate(self.state.failed.tolist()) if is_so]
        rows = [row for row in failed if row in self.trials]
        if rows:
            for row in rows:
                self._attempt[row] += 1
            self.state.enter(torch.tensor(rows, device=self.place), self._starts(rows))

    def _starts(self, rows: Sequence[int]) -> Variables:
        drawn = [self._of[row].fresh(self._attempt[row]) for row in rows]
        return {n: torch.stack([one[n] for one in drawn]).to(self.place) for n in drawn[0]}


def places_of(evidences: Sequence[Any]) -> list[int]:
    """Where in a stack each victim may be: its own place, or that in the list."""
    return [k if e.place is None else e.place for k, e in enumerate(evidences)]


def rounds(places: Sequence[int], rows: int) -> Iterator[dict[int, int]]:
    """{row: number}, again and again until everybody was in the stack once."""
    queues = Queues(places, rows)
    while taken := dict(queues.next()):
        yield taken
        for row in taken:
            queues.free(row)
