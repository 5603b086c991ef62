"""Adam, on the sign of the gradient where that is asked for, with a schedule per row."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

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
    per_row,
)


@dataclass(frozen=True)
class SignedAdam(Optimiser):
    """Adam on the sign of the images' gradient; plain Adam on everything else.

    Source: Geiping et al., NeurIPS 2020. Images are projected to their box after every step.

    lr            step size of the images, in normalised model inputs
    fall          how step sizes fall: by the factor `decay` at each of the `milestones` (shares of
                  the budget), or to the share `least` along a line or half a cosine
    warmup        steps over which step sizes rise in proportion to their number
    clip          largest norm of a row's gradient, all variables together; None for any
    weight_decay  share of every variable that a step of size one takes away, apart from Adam's
                  means (Loshchilov and Hutter, ICLR 2019)
    signed        the variables whose gradient's sign is used
    tolerance     data loss of a row that is solved
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

    def begin(self, start: Variables, limits: Limits) -> AdamState:
        """One step per gradient evaluation."""
        return AdamState(self, start, limits)

    def is_solved(self, best: Best) -> Tensor:
        """By the data loss, without priors."""
        return best.data <= self.tolerance

    def share(self, step: int, steps: int) -> float:
        """What part of the step size a step has."""
        risen = min(1.0, (step + 1) / self.warmup) if self.warmup else 1.0
        if self.fall == "steps":
            return risen * self.decay ** sum(step >= m * steps for m in self.milestones)
        if step < self.warmup:
            return risen
        gone = (step - self.warmup) / max(1, steps - self.warmup)
        left = 1 - gone if self.fall == "linear" else 0.5 * (1 + math.cos(math.pi * gone))
        return self.least + (1 - self.least) * left


class AdamState(State):
    """Running means of gradients and of their squares, and each row's own number of steps."""

    def __init__(self, rule: SignedAdam, start: Variables, limits: Limits) -> None:
        self.rule, self.limits, self.names = rule, limits, list(start)
        self.values = {name: value.clone() for name, value in start.items()}
        self.first = [torch.zeros_like(value) for value in start.values()]
        self.second = [torch.zeros_like(value) for value in start.values()]
        like = next(iter(start.values()))
        self.step = torch.zeros(len(like), dtype=torch.int64, device=like.device)
        steps = range(limits.evaluations)
        # how far a step moves, and the roots of the bias corrections, by a row's number of steps
        self.table = like.new_tensor(
            [
                [
                    rule.share(k, limits.evaluations),
                    rule.share(k, limits.evaluations) / (1 - rule.beta1 ** (k + 1)),
                    (1 - rule.beta2 ** (k + 1)) ** -0.5,
                ]
                for k in steps
            ]
        )

    def enter(self, rows: Tensor, start: Variables) -> None:
        self.step[rows] = 0
        for name, first, second in zip(self.names, self.first, self.second, strict=True):
            self.values[name][rows] = start[name]
            first[rows] = 0.0
            second[rows] = 0.0

    def point(self) -> Variables:
        return dict(self.values)

    def observe(self, at: Evaluation) -> None:
        rule, limits = self.rule, self.limits
        gradients = _clipped(at.gradients, rule.clip)
        # A row whose loss is not finite stays where it is until Adam's memory moves it on.
        finite = ((name, gradients[name].nan_to_num(0.0, 0.0, 0.0)) for name in self.names)
        seen = [slope.sign() if name in rule.signed else slope for name, slope in finite]
        torch._foreach_lerp_(self.first, seen, 1 - rule.beta1)
        torch._foreach_mul_(self.second, rule.beta2)
        torch._foreach_addcmul_(self.second, seen, seen, 1 - rule.beta2)
        plain, unbiased, root = self.table[self.step.clamp(max=limits.evaluations - 1)].unbind(1)
        for name, first, second in zip(self.names, self.first, self.second, strict=True):
            value, rate = self.values[name], limits.rates.get(name, rule.lr)
            spread = second.sqrt().mul_(per_row(root, value)).add_(rule.epsilon)
            step = first.mul(per_row(unbiased, value)).div_(spread)
            if rule.weight_decay:
                step.addcmul_(value, per_row(rule.weight_decay * plain, value))
            value = value - rate * step
            if name in limits.box:
                value = value.clamp(*limits.box[name])
            self.values[name] = value
        self.step += 1


def _clipped(gradients: Variables, most: float | None) -> Variables:
    """Every row's gradient, at most so long."""
    if most is None:
        return gradients
    length = joined(gradients).norm(dim=1)
    share = (most / length).clamp(max=1.0).nan_to_num(0.0)
    return {name: slope * per_row(share, slope) for name, slope in gradients.items()}
