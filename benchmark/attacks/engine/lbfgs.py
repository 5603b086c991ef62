"""L-BFGS with a memory and a line search per row."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from benchmark.attacks.engine.base import (
    Best,
    Evaluation,
    Limits,
    Optimiser,
    State,
    Variables,
    joined,
    parted,
)


@dataclass(frozen=True)
class LBFGS(Optimiser):
    """Limited-memory BFGS (two-loop recursion) with a weak Wolfe line search.

    Sources: Nocedal and Wright, "Numerical Optimization", algorithm 7.4; the bracketing of Lewis
    and Overton, Math. Programming 141, 2013. Every evaluation serves all rows, each at its own
    stage of its own line search. A row whose search fails forgets its curvature; one that fails
    again, or that no longer improves, has to begin afresh at another point.

    history     curvature pairs kept
    tolerance   a row with a loss below it is solved
    patience    a row has failed after this many accepted steps that gained less than `progress`
    searches    evaluations of one line search before it fails
    """

    history: int = 20
    tolerance: float = 1e-10
    patience: int = 8
    progress: float = 1e-3
    searches: int = 10
    decrease: float = 1e-4
    curvature: float = 0.9

    def begin(self, start: Variables, limits: Limits) -> LBFGSState:
        """One trial point per gradient evaluation."""
        return LBFGSState(self, start)

    def is_solved(self, best: Best) -> Tensor:
        """By the loss that is minimised."""
        return best.total <= self.tolerance


class LBFGSState(State):
    """Points, memories and line searches. ``s``, ``y`` and ``rho`` as in Nocedal and Wright, the
    latest pair last; a rho of zero marks an empty place, which drops out of the recursion."""

    may_fail = True

    def __init__(self, rule: LBFGS, start: Variables) -> None:
        self.rule = rule
        self.shapes = {name: value.shape[1:] for name, value in start.items()}
        self.values = joined(start)
        rows, size = self.values.shape
        new = self.values.new_zeros
        self.loss = self.values.new_full((rows,), torch.inf)
        self.gradient, self.direction = new(rows, size), new(rows, size)
        self.slope, self.step, self.low = new(rows), new(rows), new(rows)
        self.high = self.values.new_full((rows,), torch.inf)
        self.line_search_evaluations, self.stalled = new(rows), new(rows)
        self.begun = torch.zeros(rows, dtype=torch.bool, device=self.values.device)
        self.failed = torch.zeros_like(self.begun)
        self.s, self.y = new(rows, rule.history, size), new(rows, rule.history, size)
        self.rho, self.scale = new(rows, rule.history), self.values.new_ones(rows)
        self.stored = 0  # no row has more pairs

    def enter(self, rows: Tensor, start: Variables) -> None:
        self._forget(rows)
        self.values[rows] = joined(start)
        self.loss[rows] = torch.inf
        for part in (self.direction, self.step, self.line_search_evaluations, self.stalled):
            part[rows] = 0.0
        self.begun[rows] = False
        self.failed[rows] = False

    def point(self) -> Variables:
        trial = torch.addcmul(self.values, self.step[:, None], self.direction)
        return parted(trial, self.shapes)

    def observe(self, at: Evaluation) -> None:
        """Move every row's line search on by what was found at its trial point."""
        rule, loss, gradient = self.rule, at.total, joined(at.gradients)
        active = ~self.failed
        finite = loss.isfinite() & gradient.isfinite().all(1)
        gradient = torch.where(finite[:, None], gradient, 0.0)
        along = (gradient * self.direction).sum(1)
        enough = finite & (loss <= self.loss + rule.decrease * self.step * self.slope)
        flat = along >= rule.curvature * self.slope
        first = active & ~self.begun
        accept = active & ((self.begun & enough & flat) | (first & finite))
        # A search that ran out of evaluations but did descend is worth keeping.
        last = self.line_search_evaluations + 1 >= rule.searches
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
        self.line_search_evaluations += seek

        forget = fail & (self.rho != 0).any(1) & self.begun
        self.failed = self.failed | (fail & ~forget)
        if bool(accept.any()):
            self._accept(accept, loss, gradient)
        if bool(forget.any()):
            self._forget(forget)
        if bool((accept | forget).any()):
            self._aim(accept | forget)

    def _accept(self, accept: Tensor, loss: Tensor, gradient: Tensor) -> None:
        rule = self.rule
        moved = accept & self.begun
        s, y = self.step[:, None] * self.direction, gradient - self.gradient
        product, square = (s * y).sum(1), y.square().sum(1)
        curved = moved & (product > 1e-10 * s.norm(dim=1) * y.norm(dim=1)) & (square > 0)
        rows = curved.nonzero().flatten()
        if len(rows):
            for memory, latest in (
                (self.s, s),
                (self.y, y),
                (self.rho, product.reciprocal()),
            ):
                memory[rows] = torch.cat([memory[rows, 1:], latest[rows, None]], 1)
            self.scale[rows] = product[rows] / square[rows]
            self.stored = min(rule.history, self.stored + 1)
        slow = self.loss - loss < rule.progress * self.loss
        self.stalled = torch.where(moved, torch.where(slow, self.stalled + 1, 0.0), self.stalled)
        self.failed = self.failed | (accept & (self.stalled >= rule.patience))
        self.values = torch.where(moved[:, None], self.values + s, self.values)
        self.loss = torch.where(accept, loss, self.loss)
        self.gradient = torch.where(accept[:, None], gradient, self.gradient)
        self.begun = self.begun | accept

    def _forget(self, rows: Tensor) -> None:
        """Empty the memories of these rows, a mask or numbers."""
        for memory in (self.rho, self.s, self.y):
            memory[rows] = 0.0
        self.scale[rows] = 1.0

    def _aim(self, which: Tensor) -> None:
        """New directions, from the two-loop recursion over every row's memory."""
        pairs = range(self.rule.history - self.stored, self.rule.history)
        towards, factors = self.gradient, {}
        for k in reversed(pairs):
            factors[k] = self.rho[:, k] * (self.s[:, k] * towards).sum(1)
            towards = torch.addcmul(towards, factors[k][:, None], self.y[:, k], value=-1)
        towards = towards * self.scale[:, None]
        for k in pairs:
            beta = self.rho[:, k] * (self.y[:, k] * towards).sum(1)
            towards = torch.addcmul(towards, (factors[k] - beta)[:, None], self.s[:, k])
        slope = -(towards * self.gradient).sum(1)
        downhill = slope.isfinite() & (slope < 0)
        curved = (self.rho != 0).any(1) & downhill
        towards = torch.where(downhill[:, None], towards, self.gradient)
        slope = torch.where(downhill, slope, -self.gradient.square().sum(1))
        # Without curvature the first step moves no coordinate by more than one in sum.
        cautious = self.gradient.abs().sum(1).reciprocal().clamp(max=1.0)
        step = torch.where(curved, 1.0, cautious)
        self.direction = torch.where(which[:, None], -towards, self.direction)
        self.slope = torch.where(which, slope, self.slope)
        self.step = torch.where(which, step, self.step)
        self.low = torch.where(which, 0.0, self.low)
        self.high = torch.where(which, torch.inf, self.high)
        self.line_search_evaluations = torch.where(which, 0.0, self.line_search_evaluations)
