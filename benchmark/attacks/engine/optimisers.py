"""Minimising many independent trials at once: every tensor has the trials as first dimension.

No trial looks at another: step sizes, memories, line searches and restarts are kept per trial.
The result of a trial is the iterate with the least loss of its own, not the last one.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal, Protocol

import torch
from torch import Tensor

Variables = dict[str, Tensor]
"""Name -> [trials, ...]."""


@dataclass(frozen=True)
class Evaluation:
    """Losses and gradients at one point per trial.

    total [trials] is what is minimised, data [trials] its part without priors, gradients as the
    variables.
    """

    total: Tensor
    data: Tensor
    gradients: Variables


Evaluate = Callable[[Variables], Evaluation]


@dataclass(frozen=True)
class Problem:
    """What an optimiser is given.

    evaluate   losses and gradients at a point per trial
    narrowed   (rows) -> the same for those trials alone, in that order; None: not to be had
    fresh      (attempt, rows) -> random starts for those trials, None for all; attempt 0 is a
               trial's first, and what a trial's n-th attempt is depends on that trial alone
    box        lowest and highest values of a variable, [1, ...] tensors, for those that have them
    rates      first-order step sizes of single variables; others use the optimiser's own
    deadline   instant of `time.monotonic` after which the best so far is returned
    """

    evaluate: Evaluate
    fresh: Callable[[int, Sequence[int] | None], Variables]
    narrowed: Callable[[Tensor], Evaluate] | None = None
    box: Mapping[str, tuple[Tensor, Tensor]] = field(default_factory=dict)
    rates: Mapping[str, float] = field(default_factory=dict)
    deadline: float | None = None

    def late(self) -> bool:
        return self.deadline is not None and time.monotonic() >= self.deadline


@dataclass
class Best:
    """The best point of every trial so far, and how many evaluations were spent on it."""

    variables: Variables
    total: Tensor
    data: Tensor
    evaluations: Tensor
    stopped: list[str] = field(default_factory=list)

    @classmethod
    def of(cls, start: Variables) -> Best:
        first = next(iter(start.values()))
        unknown = first.new_full((first.shape[0],), torch.inf)
        return cls(
            {k: v.clone() for k, v in start.items()},
            unknown,
            unknown.clone(),
            torch.zeros(first.shape[0], dtype=torch.int64, device=first.device),
        )

    def note(self, variables: Variables, at: Evaluation, running: Tensor | None = None) -> None:
        """Count an evaluation of the running trials and keep what improved."""
        better = at.total < self.total  # false for NaN
        if running is not None:
            better = better & running
            self.evaluations += running
        else:
            self.evaluations += 1
        self.total = torch.where(better, at.total, self.total)
        self.data = torch.where(better, at.data, self.data)
        for name, value in variables.items():
            self.variables[name] = torch.where(_as(better, value), value, self.variables[name])

    def take(self, rows: Tensor) -> Best:
        """The same for some of the trials."""
        return Best(
            {name: value[rows] for name, value in self.variables.items()},
            self.total[rows],
            self.data[rows],
            self.evaluations[rows],
        )

    def put(self, rows: Tensor, best: Best) -> None:
        """Write back what :meth:`take` took."""
        for name, value in best.variables.items():
            self.variables[name] = self.variables[name].index_copy(0, rows, value)
        self.total = self.total.index_copy(0, rows, best.total)
        self.data = self.data.index_copy(0, rows, best.data)
        self.evaluations = self.evaluations.index_copy(0, rows, best.evaluations)


class Optimiser(Protocol):
    """Minimises a problem within a number of evaluations per trial."""

    def minimise(self, problem: Problem, evaluations: int) -> Best: ...


@dataclass(frozen=True)
class SignedAdam:
    """Adam on the sign of the images' gradient; plain Adam on everything else.

    Source: Geiping et al., NeurIPS 2020. Images are projected to their box after every step.

    A trial whose data loss falls to the tolerance is done: what it is evaluated at afterwards is
    neither kept nor counted. Once half of a stack is done it is halved.

    lr            step size of the images, in normalised model inputs
    fall          how step sizes fall: by the factor `decay` at each of the `milestones` (shares of
                  the budget), or to the share `least` along a line or half a cosine
    warmup        steps over which step sizes rise in proportion to their number
    clip          largest norm of a trial's gradient, all variables together; None for any
    weight_decay  share of every variable that a step of size one takes away, apart from Adam's
                  means (Loshchilov and Hutter, ICLR 2019)
    signed        the variables whose gradient's sign is used
    tolerance     data loss of a trial that is done
    """

    lr: float = 0.1
    fall: Literal["steps", "linear", "cosine"] = "steps"
    milestones: tuple[float, ...] = (3 / 8, 5 / 8, 7 / 8)
    decay: float = 0.1
    least: float = 0.0
    warmup: int = 0
    clip: float | None = None
    weight_decay: float = 0.0
    beta1: float = 0.9
    beta2: float = 0.999
    epsilon: float = 1e-8
    signed: tuple[str, ...] = ("images",)
    tolerance: float = 1e-10

    def minimise(self, problem: Problem, evaluations: int) -> Best:
        """At most `evaluations` steps, each from one gradient evaluation."""
        point, evaluate = problem.fresh(0, None), problem.evaluate
        state = _Moments.of(point)
        whole = best = Best.of(point)
        rows = torch.arange(len(best.total), device=best.total.device)
        why = "budget"
        for step in range(evaluations):
            if step and problem.late():
                why = "timeout"
                break
            running = ~(best.data <= self.tolerance)
            if step % _LOOK == 0:
                left, half = int(running.sum()), len(rows) // 2
                if not left:
                    break
                if problem.narrowed and left <= half and evaluations - step >= _WORTH_HALVING:
                    whole.put(rows, best)
                    kept = running.int().argsort(descending=True, stable=True)[:half]
                    rows, best, running = rows[kept], best.take(kept), running[kept]
                    point, state = {n: v[kept] for n, v in point.items()}, state.take(kept)
                    evaluate = problem.narrowed(rows)
            at = evaluate(point)
            best.note(point, at, running)
            slower = self._share(step, evaluations)
            moves = state.moves(self, _clipped(at.gradients, self.clip), step)
            if self.weight_decay:
                moves = {n: move + self.weight_decay * point[n] for n, move in moves.items()}
            point = {
                name: value - problem.rates.get(name, self.lr) * slower * moves[name]
                for name, value in point.items()
            }
            for name, (low, high) in problem.box.items():
                point[name] = point[name].clamp(low, high)
        whole.put(rows, best)
        return _ended(whole, why, whole.data <= self.tolerance)

    def _share(self, step: int, steps: int) -> float:
        """What part of the step size a step has."""
        risen = min(1.0, (step + 1) / self.warmup) if self.warmup else 1.0
        if self.fall == "steps":
            return risen * self.decay ** sum(step >= m * steps for m in self.milestones)
        if step < self.warmup:
            return risen
        gone = (step - self.warmup) / max(1, steps - self.warmup)
        left = 1 - gone if self.fall == "linear" else 0.5 * (1 + math.cos(math.pi * gone))
        return self.least + (1 - self.least) * left


def _clipped(gradients: Variables, most: float | None) -> Variables:
    """Every trial's gradient, at most so long."""
    if most is None:
        return gradients
    length = _join(gradients).norm(dim=1)
    share = (most / length).clamp(max=1.0).nan_to_num(0.0)
    return {name: slope * _as(share, slope) for name, slope in gradients.items()}


# Steps between two looks at who is done, and the steps left for which a new stack, with a trace of
# its own, is worth it.
_LOOK = 8
_WORTH_HALVING = 256


@dataclass
class _Moments:
    """Adam's running means of gradients and of their squares, by variable."""

    names: list[str]
    first: list[Tensor]
    second: list[Tensor]

    @classmethod
    def of(cls, point: Variables) -> _Moments:
        zeros = [torch.zeros_like(value) for value in point.values()]
        return cls(list(point), zeros, [zero.clone() for zero in zeros])

    def take(self, rows: Tensor) -> _Moments:
        first, second = ([tensor[rows] for tensor in part] for part in (self.first, self.second))
        return _Moments(self.names, first, second)

    def moves(self, rule: SignedAdam, gradients: Variables, step: int) -> Variables:
        """Update the means; how far to move at a step size of one."""
        # A trial whose loss is not finite stays where it is until Adam's memory moves it on.
        finite = ((name, gradients[name].nan_to_num(0.0, 0.0, 0.0)) for name in self.names)
        seen = [slope.sign() if name in rule.signed else slope for name, slope in finite]
        torch._foreach_lerp_(self.first, seen, 1 - rule.beta1)
        torch._foreach_mul_(self.second, rule.beta2)
        torch._foreach_addcmul_(self.second, seen, seen, 1 - rule.beta2)
        root = torch._foreach_sqrt(self.second)
        torch._foreach_div_(root, (1 - rule.beta2 ** (step + 1)) ** 0.5)
        torch._foreach_add_(root, rule.epsilon)
        moved = torch._foreach_div(self.first, root)
        torch._foreach_div_(moved, 1 - rule.beta1 ** (step + 1))
        return dict(zip(self.names, moved, strict=True))


@dataclass(frozen=True)
class LBFGS:
    """Limited-memory BFGS (two-loop recursion) with a weak Wolfe line search.

    Sources: Nocedal and Wright, "Numerical Optimization", algorithm 7.4; the bracketing of Lewis
    and Overton, Math. Programming 141, 2013. Every evaluation serves all trials, each at its own
    stage of its own line search. A trial whose search fails forgets its curvature; one that
    fails again, or that no longer improves, starts afresh at another random point as long as
    evaluations are left.

    history     curvature pairs kept
    tolerance   a trial with a loss below it is done
    patience    a fresh start after this many accepted steps that gained less than `progress`
    searches    evaluations of one line search before it fails
    """

    history: int = 20
    tolerance: float = 1e-10
    patience: int = 8
    progress: float = 1e-3
    searches: int = 10
    decrease: float = 1e-4
    curvature: float = 0.9

    def minimise(self, problem: Problem, evaluations: int) -> Best:
        """At most `evaluations` gradient evaluations per trial."""
        start = problem.fresh(0, None)
        best = Best.of(start)
        shapes = {name: value.shape[1:] for name, value in start.items()}
        state = _Search(self, _join(start))
        attempts = [0] * len(best.total)  # of each trial: another's restarts are no matter
        while True:
            running = ~state.done
            if not bool(running.any()):
                return _ended(best, "converged")
            spent = int(best.evaluations.max())
            if spent >= evaluations:
                return _ended(best, "budget", state.done)
            if spent and problem.late():
                return _ended(best, "timeout", state.done)
            trial = _split(state.trial(), shapes)
            at = problem.evaluate(trial)
            best.note(trial, at, running)
            state.observe(at.total, _join(at.gradients))
            stuck = state.stuck.nonzero().flatten().tolist()
            for row in stuck:
                attempts[row] += 1
            for attempt in sorted({attempts[row] for row in stuck}):
                rows = [row for row in stuck if attempts[row] == attempt]
                state.restart(rows, _join(problem.fresh(attempt, rows)))


class _Search:
    """The line searches and memories of all trials; one `observe` per evaluation."""

    def __init__(self, rule: LBFGS, point: Tensor) -> None:
        trials, size = point.shape
        self.rule = rule
        self.point = point
        self.rows = torch.arange(trials, device=point.device)
        self.loss = point.new_full((trials,), torch.inf)
        self.gradient = torch.zeros_like(point)
        self.direction = torch.zeros_like(point)
        self.slope = point.new_zeros(trials)
        self.step = point.new_zeros(trials)
        self.low = point.new_zeros(trials)
        self.high = point.new_full((trials,), torch.inf)
        self.tries = point.new_zeros(trials)
        self.idle = point.new_zeros(trials)
        self.begun = torch.zeros(trials, dtype=torch.bool, device=point.device)
        self.done = torch.zeros_like(self.begun)
        self.stuck = torch.zeros_like(self.begun)
        self.slot = torch.zeros(trials, dtype=torch.int64, device=point.device)
        self.moves = point.new_zeros(trials, rule.history, size)
        self.bends = point.new_zeros(trials, rule.history, size)
        # 1 / (move . bend); zero marks an empty place, which then drops out of the recursion.
        self.rho = point.new_zeros(trials, rule.history)
        self.scale = point.new_ones(trials)

    def trial(self) -> Tensor:
        """Where every trial wants to be evaluated next."""
        return torch.addcmul(self.point, self.step[:, None], self.direction)

    def observe(self, loss: Tensor, gradient: Tensor) -> None:
        """Move every trial's line search on by what was found at `trial()`."""
        rule = self.rule
        active = ~self.done
        finite = loss.isfinite() & gradient.isfinite().all(1)
        gradient = torch.where(finite[:, None], gradient, 0.0)
        along = (gradient * self.direction).sum(1)
        enough = finite & (loss <= self.loss + rule.decrease * self.step * self.slope)
        flat = along >= rule.curvature * self.slope
        first = active & ~self.begun
        accept = active & ((self.begun & enough & flat) | (first & finite))
        # A search that ran out of tries but did descend is worth keeping.
        last = self.tries + 1 >= rule.searches
        accept = accept | (active & self.begun & last & enough)
        fail = active & ~accept & (last | (first & ~finite))
        seek = active & ~accept & ~fail

        shorter = seek & ~enough
        longer = seek & enough
        self.high = torch.where(shorter, self.step, self.high)
        self.low = torch.where(longer, self.step, self.low)
        # Least point of the parabola through the loss, the slope and this loss, kept inside.
        rise = loss - self.loss - self.step * self.slope
        guess = -0.5 * self.slope * self.step.square() / rise
        guess = torch.where(guess.isfinite() & (self.low == 0), guess, 0.5 * (self.low + self.high))
        width = self.high - self.low
        inside = torch.minimum(
            torch.maximum(guess, self.low + 0.1 * width), self.high - 0.1 * width
        )
        wider = torch.where(self.high.isinf(), 2 * self.step, 0.5 * (self.low + self.high))
        self.step = torch.where(shorter, inside, torch.where(longer, wider, self.step))
        self.tries = torch.where(seek, self.tries + 1, self.tries)

        memory = (self.rho != 0).any(1)
        forget = fail & memory & self.begun
        self.stuck = fail & ~forget
        if bool(accept.any()):
            self._accept(accept, loss, gradient)
        if bool(forget.any()):
            self._forget(forget)
        if bool((accept | forget).any()):
            self._aim(accept | forget)

    def restart(self, rows: Sequence[int], fresh: Tensor) -> None:
        """Begin again at `fresh`, one point for each of the trials `rows`, which are stuck."""
        places = torch.as_tensor(rows, device=self.point.device)
        stuck = torch.zeros_like(self.stuck).index_fill_(0, places, True)
        self._forget(stuck)
        self.point = self.point.index_copy(0, places, fresh)
        self.direction = torch.where(stuck[:, None], 0.0, self.direction)
        self.loss = torch.where(stuck, torch.inf, self.loss)
        self.begun = self.begun & ~stuck
        self.step = torch.where(stuck, 0.0, self.step)
        for counter in (self.tries, self.idle):
            counter.masked_fill_(stuck, 0.0)
        self.stuck = self.stuck & ~stuck

    def _accept(self, accept: Tensor, loss: Tensor, gradient: Tensor) -> None:
        rule = self.rule
        pairs = accept & self.begun
        move = self.step[:, None] * self.direction
        bend = gradient - self.gradient
        product = (move * bend).sum(1)
        square = bend.square().sum(1)
        curved = pairs & (product > 1e-10 * move.norm(dim=1) * bend.norm(dim=1)) & (square > 0)
        rows = self.rows[curved]
        if len(rows):
            place = self.slot[rows]
            self.moves[rows, place] = move[rows]
            self.bends[rows, place] = bend[rows]
            self.rho[rows, place] = product[rows].reciprocal()
            self.scale[rows] = product[rows] / square[rows]
            self.slot[rows] = (place + 1) % rule.history
        idle = pairs & (self.loss - loss < rule.progress * self.loss)
        self.idle = torch.where(pairs, torch.where(idle, self.idle + 1, 0.0), self.idle)
        self.stuck = self.stuck | (accept & (self.idle >= rule.patience))
        self.point = torch.where(pairs[:, None], self.point + move, self.point)
        self.loss = torch.where(accept, loss, self.loss)
        self.gradient = torch.where(accept[:, None], gradient, self.gradient)
        self.begun = self.begun | accept
        self.done = self.done | (accept & (loss <= rule.tolerance))

    def _forget(self, which: Tensor) -> None:
        self.rho[which] = 0.0
        self.moves[which] = 0.0
        self.bends[which] = 0.0
        self.slot[which] = 0
        self.scale[which] = 1.0

    def _aim(self, which: Tensor) -> None:
        """New directions, from the two-loop recursion over every trial's memory."""
        rule = self.rule
        towards = self.gradient.clone()
        factors = []
        stored = int((self.rho != 0).sum(1).max())  # later places are empty in every trial
        for back in range(1, stored + 1):
            place = (self.slot - back) % rule.history
            rho = self.rho[self.rows, place]
            factor = rho * (self.moves[self.rows, place] * towards).sum(1)
            towards = torch.addcmul(towards, -factor[:, None], self.bends[self.rows, place])
            factors.append((place, rho, factor))
        towards = towards * self.scale[:, None]
        for place, rho, factor in reversed(factors):
            undo = rho * (self.bends[self.rows, place] * towards).sum(1)
            towards = torch.addcmul(towards, (factor - undo)[:, None], self.moves[self.rows, place])
        slope = -(towards * self.gradient).sum(1)
        downhill = slope.isfinite() & (slope < 0)
        memory = (self.rho != 0).any(1) & downhill
        towards = torch.where(downhill[:, None], towards, self.gradient)
        slope = torch.where(downhill, slope, -self.gradient.square().sum(1))
        # Without curvature the first step moves no coordinate by more than one in sum.
        cautious = self.gradient.abs().sum(1).reciprocal().clamp(max=1.0)
        step = torch.where(memory, torch.ones_like(slope), cautious)
        self.direction = torch.where(which[:, None], -towards, self.direction)
        self.slope = torch.where(which, slope, self.slope)
        self.step = torch.where(which, step, self.step)
        self.low = torch.where(which, 0.0, self.low)
        self.high = torch.where(which, torch.inf, self.high)
        self.tries = torch.where(which, 0.0, self.tries)


def _as(mask: Tensor, like: Tensor) -> Tensor:
    return mask.reshape(-1, *([1] * (like.dim() - 1)))


def _join(variables: Variables) -> Tensor:
    return torch.cat([v.flatten(1) for v in variables.values()], 1)


def _split(flat: Tensor, shapes: Mapping[str, torch.Size]) -> Variables:
    sizes = [shape.numel() for shape in shapes.values()]
    parts = flat.split(sizes, 1)
    return {
        name: part.reshape(flat.shape[0], *shape)
        for (name, shape), part in zip(shapes.items(), parts, strict=True)
    }


def _ended(best: Best, why: str, done: Tensor | None = None) -> Best:
    trials = best.total.shape[0]
    flags = [False] * trials if done is None else done.tolist()
    best.stopped = ["converged" if flag else why for flag in flags]
    return best
