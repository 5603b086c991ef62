"""Optimisers on functions whose minimum is known, against scipy, and in stacks that refill."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest
import torch
from scipy.optimize import minimize

from benchmark.attacks.engine.adam import SignedAdam
from benchmark.attacks.engine.base import Evaluation, Limits
from benchmark.attacks.engine.lbfgs import LBFGS, LBFGSState
from benchmark.attacks.engine.refill import PLACES, Ended, Trial, minimise, rounds


@dataclass
class Plain:
    """A stack of trials of one variable x [size] under ``function(x, shift) -> scalar``."""

    function: Callable[..., torch.Tensor]
    rows: int
    size: int
    evaluated: int = 0

    def __post_init__(self) -> None:
        self.shift = torch.zeros(self.rows, self.size, dtype=torch.float64)
        self.slope = torch.func.vmap(torch.func.grad_and_value(self.function))

    def put(self, row: int, numbers: Mapping[str, Any]) -> None:
        self.shift[row] = numbers["shift"]

    def __call__(self, variables: dict[str, torch.Tensor]) -> Evaluation:
        self.evaluated += 1
        gradient, value = self.slope(variables["x"], self.shift)
        return Evaluation(value, value, {"x": gradient})


def search(
    optimiser: Any, function: Any, starts: torch.Tensor, evaluations: int, rows: int = 0,
    shifts: torch.Tensor | None = None, places: list[int] | None = None, **options: Any,
) -> list[Ended]:  # fmt: skip
    """Trials that begin at ``starts`` [trials, size]; fresh starts are normal, by attempt."""
    shifts = torch.zeros_like(starts) if shifts is None else shifts

    def fresh(number: int) -> Callable[[int], dict[str, torch.Tensor]]:
        def draw(attempt: int) -> dict[str, torch.Tensor]:
            rng = torch.Generator().manual_seed(attempt)
            drawn = torch.randn(starts.shape[1], generator=rng, dtype=starts.dtype)
            return {"x": drawn if attempt else starts[number].clone()}

        return draw

    trials = [
        Trial({"shift": shifts[k]}, fresh(k), places[k] if places else k)
        for k in range(len(starts))
    ]
    box = options.pop("box", {})
    stack = Plain(lambda x, shift: function(x - shift), rows or len(starts), starts.shape[1])
    return minimise(optimiser, stack, trials, Limits(evaluations, box), **options)


def rosenbrock(x: torch.Tensor) -> torch.Tensor:
    return (100 * (x[1:] - x[:-1] ** 2) ** 2 + (1 - x[:-1]) ** 2).sum()


def test_lbfgs_solves_ill_conditioned_quadratics() -> None:
    scales = torch.logspace(0, 4, 12, dtype=torch.float64)
    starts = torch.randn(5, 12, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    best = search(LBFGS(tolerance=1e-14), lambda x: 0.5 * (scales * x * x).sum(), starts, 150)
    assert [b.stopped for b in best] == ["converged"] * 5
    assert max(float(b.variables["x"].abs().max()) for b in best) < 1e-6


def test_lbfgs_needs_about_as_many_evaluations_as_scipy() -> None:
    starts = torch.tensor([[-1.2, 1.0, -0.5, 0.8], [0.0, 0.0, 0.0, 0.0]], dtype=torch.float64)
    best = search(LBFGS(tolerance=1e-12, patience=1000), rosenbrock, starts, 400)
    assert [b.stopped for b in best] == ["converged"] * 2
    for row, each in zip(starts, best, strict=True):
        spent = each.evaluations
        assert torch.allclose(each.variables["x"], torch.ones_like(row), atol=1e-4)

        def both(x):
            gradient, value = torch.func.grad_and_value(rosenbrock)(torch.tensor(x))
            return float(value), gradient.numpy()

        peer = minimize(both, row.numpy(), jac=True, method="L-BFGS-B", tol=1e-15)
        assert spent <= 2 * peer.nfev + 10


@pytest.mark.parametrize(
    "optimiser", [LBFGS(patience=1000), SignedAdam(lr=0.05, signed=("x",))], ids=["lbfgs", "signed"]
)
@pytest.mark.parametrize("rows", [1, 3, 8, 16])
def test_a_trials_bits_do_not_depend_on_neighbours_order_or_rows(optimiser, rows) -> None:
    """Twenty trials in one stack, refilled as it must be, and each of them alone."""
    rng = torch.Generator().manual_seed(3)
    starts = torch.randn(20, 6, generator=rng, dtype=torch.float64)
    shifts = torch.randn(20, 6, generator=rng, dtype=torch.float64)
    order = torch.randperm(20, generator=rng)
    mixed = search(optimiser, rosenbrock, starts[order], 40, rows, shifts[order])
    for number, found in zip(order.tolist(), mixed, strict=True):
        one = slice(number, number + 1)
        (alone,) = search(optimiser, rosenbrock, starts[one], 40, rows, shifts[one])
        assert alone.total == found.total and alone.evaluations == found.evaluations
        assert torch.equal(alone.variables["x"], found.variables["x"])


def test_a_trials_fresh_starts_are_its_own() -> None:
    """Two trials on a plateau, which start afresh after some steps, next to others that never do
    and to some that do at once: what is drawn is a trial's own next attempt, not the stack's."""

    def plateau(x):
        return torch.where(x[0] > 50, torch.nan, 1 - torch.exp(-(x**2).sum()))

    far = torch.full((2, 3), 30.0, dtype=torch.float64)

    def among(others: torch.Tensor) -> list[Ended]:
        return search(LBFGS(), plateau, torch.cat([far, others]), 60)[:2]

    neighbours = [torch.full((3, 3), value, dtype=torch.float64) for value in (0.5, 25.0, 99.0)]
    first, *others = [among(n) for n in neighbours]
    assert first[0].evaluations > 1 and first[0].total < 1e-6
    for other in others:
        for mine, theirs in zip(first, other, strict=True):
            assert torch.equal(mine.variables["x"], theirs.variables["x"])
            assert (mine.total, mine.evaluations) == (theirs.total, theirs.evaluations)


def test_two_loop_recursion_is_the_dense_bfgs_inverse() -> None:
    """The direction from the memory equals the one from the explicitly updated inverse."""
    rng = torch.Generator().manual_seed(1)
    size, pairs = 5, 3
    state = LBFGSState(LBFGS(history=4), {"x": torch.zeros(1, size, dtype=torch.float64)})
    root = torch.randn(size, size, generator=rng, dtype=torch.float64)
    hessian = root @ root.T + torch.eye(size)
    for k in range(4 - pairs, 4):  # the latest last
        s = torch.randn(size, generator=rng, dtype=torch.float64)
        y = hessian @ s
        state.s[0, k], state.y[0, k], state.rho[0, k] = s, y, 1 / (s @ y)
        state.scale[0] = (s @ y) / (y @ y)
    state.stored = pairs
    inverse = state.scale[0] * torch.eye(size, dtype=torch.float64)
    for k in range(4 - pairs, 4):
        s, y, rho = state.s[0, k], state.y[0, k], state.rho[0, k]
        left = torch.eye(size) - rho * torch.outer(s, y)
        inverse = left @ inverse @ left.T + rho * torch.outer(s, s)
    gradient = torch.randn(1, size, generator=rng, dtype=torch.float64)
    state.gradient = gradient
    state._aim(torch.tensor([True]))
    assert torch.allclose(state.direction[0], -inverse @ gradient[0])


def test_a_trial_that_meets_nan_starts_afresh_and_the_others_go_on() -> None:
    def well(x):
        return torch.where(x[0] > 5, torch.nan, (x**2).sum())

    starts = torch.tensor([[9.0, 0.0], [1.0, 1.0]], dtype=torch.float64)
    best = search(LBFGS(), well, starts, 60)
    assert [b.stopped for b in best] == ["converged"] * 2
    assert best[0].evaluations > best[1].evaluations


def test_a_stalled_trial_starts_afresh() -> None:
    """A flat start with a loss of one, and the minimum elsewhere."""

    def plateau(x):
        return 1 - torch.exp(-(x**2).sum())

    starts = torch.full((1, 2), 30.0, dtype=torch.float64)
    assert search(LBFGS(), plateau, starts, 100)[0].total < 1e-9


@pytest.mark.parametrize("optimiser", [LBFGS(), SignedAdam()], ids=["lbfgs", "signed"])
def test_the_budget_is_kept_and_counted(optimiser) -> None:
    best = search(optimiser, lambda x: 1 + (x**2).sum(), torch.ones(3, 2, dtype=torch.float64), 17)
    assert [b.evaluations for b in best] == [17] * 3
    assert [b.stopped for b in best] == ["budget"] * 3


@pytest.mark.parametrize("optimiser", [LBFGS(), SignedAdam()], ids=["lbfgs", "signed"])
def test_a_deadline_returns_the_best_so_far(optimiser) -> None:
    starts = torch.full((2, 3), 2.0, dtype=torch.float64)
    best = search(optimiser, rosenbrock, starts, 1000, rows=1, deadline=time.monotonic() - 1)
    assert [b.stopped for b in best] == ["timeout"] * 2
    assert [b.evaluations for b in best] == [1, 1]
    assert all(np.isfinite(b.total) for b in best)


def path(
    rule: SignedAdam, start: torch.Tensor, scales: torch.Tensor, steps: int
) -> list[torch.Tensor]:
    """The points at which scales . x^2 is evaluated."""
    state, seen = rule.begin({"x": start[None]}, Limits(steps)), []
    for _ in range(steps):
        x = state.point()["x"]
        seen.append(x[0].clone())
        value = (scales * x * x).sum(1)
        state.observe(Evaluation(value, value, {"x": 2 * scales * x}))
    return seen


def test_signed_adam_is_torchs_adam_on_signs_with_milestones() -> None:
    start = torch.tensor([1.5, -0.7, 0.2], dtype=torch.float64)
    scales = torch.tensor([1.0, 10.0, 0.1], dtype=torch.float64)
    seen = path(SignedAdam(lr=0.1, signed=("x",)), start, scales, 40)
    x = start.clone().requires_grad_()
    adam = torch.optim.Adam([x], lr=0.1)
    plan = torch.optim.lr_scheduler.MultiStepLR(adam, [15, 25, 35], 0.1)
    for k in range(40):
        assert torch.allclose(x.detach(), seen[k], atol=1e-9), k
        x.grad = (2 * scales * x).detach().sign()
        adam.step()
        plan.step()


@pytest.mark.parametrize("fall", ["linear", "cosine"])
def test_step_sizes_rise_and_fall_as_torchs_schedulers_have_them(fall) -> None:
    """AdamW with clipped gradients, a linear warm-up, and a line or half a cosine to a tenth."""
    start = torch.tensor([1.5, -0.7, 0.2], dtype=torch.float64)
    scales = torch.tensor([1.0, 10.0, 0.1], dtype=torch.float64)
    rule = SignedAdam(
        lr=0.1, fall=fall, least=0.1, warmup=5, clip=1.0, weight_decay=0.01, signed=()
    )
    seen = path(rule, start, scales, 25)
    x = start.clone().requires_grad_()
    adam = torch.optim.AdamW([x], lr=0.1, weight_decay=0.01)
    rise = torch.optim.lr_scheduler.LinearLR(adam, 0.2, 1.0, 4)
    if fall == "linear":
        after = torch.optim.lr_scheduler.LinearLR(adam, 1.0, 0.1, 20)
    else:
        after = torch.optim.lr_scheduler.CosineAnnealingLR(adam, 20, 0.01)
    plan = torch.optim.lr_scheduler.SequentialLR(adam, [rise, after], [5])
    for k in range(25):
        assert torch.allclose(x.detach(), seen[k], atol=1e-9), k
        x.grad = 2 * scales * x.detach()
        torch.nn.utils.clip_grad_norm_([x], 1.0)
        adam.step()
        plan.step()


def test_the_box_holds_and_the_best_iterate_is_returned() -> None:
    box = {"x": (torch.full((1, 2), -0.5), torch.full((1, 2), 0.5))}
    state = SignedAdam(signed=("x",)).begin({"x": torch.tensor([[4.0, 2.0]])}, Limits(20, box))
    for _ in range(3):
        x = state.point()["x"]
        state.observe(Evaluation(x.sum(1), x.sum(1), {"x": 2 * (x - 3)}))
        assert float(state.point()["x"].max()) <= 0.5

    seen = []

    def bowl(x):
        return ((x - 3) ** 2).sum()

    starts = torch.tensor([[4.0, 2.0]], dtype=torch.float64)
    for steps in range(1, 21):  # with a fixed rate it overshoots
        (best,) = search(SignedAdam(lr=2.0, milestones=()), bowl, starts, steps)
        assert best.total == pytest.approx(float(bowl(best.variables["x"])))
        seen.append(best.total)
    assert seen == sorted(seen, reverse=True)


def test_a_solved_trial_makes_way_for_the_next_of_its_class() -> None:
    """Nineteen begin near their minimum and one far away, in eight rows."""
    where = torch.arange(20, dtype=torch.float64)[:, None] / 20
    starts = where + 0.01
    starts[-1] += 50
    rule = SignedAdam(lr=0.01, signed=(), tolerance=1e-6)
    best = search(rule, lambda x: x.square().sum(), starts, 600, rows=8, shifts=where)
    assert [b.stopped for b in best] == ["converged"] * 19 + ["budget"]
    assert max(b.evaluations for b in best[:19]) < 300 and best[19].evaluations == 600
    for k in range(19):
        assert float((best[k].variables["x"] - where[k]).abs()) < 2e-3


def test_no_evaluation_is_made_when_every_trial_has_ended() -> None:
    stack = Plain(lambda x, shift: x.square().sum(), 4, 3)
    trials = [Trial({"shift": torch.zeros(3)}, lambda _: {"x": torch.ones(3)}, k) for k in range(9)]
    best = minimise(SignedAdam(tolerance=1e4), stack, trials, Limits(100))
    assert [b.evaluations for b in best] == [1] * 9 and stack.evaluated == 3


def test_rows_are_taken_by_class_of_place_and_by_all_that_wait() -> None:
    for rows in (1, 2, 8, 32):
        seen = []
        places = [7 * k for k in range(45)]
        for taken in rounds(places, rows):
            assert all(places[n] % min(PLACES, rows) == row % min(PLACES, rows)
                       for row, n in taken.items())  # fmt: skip
            seen += taken.values()
        assert sorted(seen) == list(range(45))


def test_trials_that_are_held_together_begin_and_end_together() -> None:
    """Pairs in four rows: the second of each begins far away."""
    starts = torch.tensor([[0.0], [9.0]] * 5, dtype=torch.float64)
    best = search(
        SignedAdam(lr=0.1, signed=(), tolerance=1e-6), lambda x: x.square().sum(), starts, 30,
        rows=4, coupled=2,
    )  # fmt: skip
    assert [b.stopped for b in best] == ["converged", "budget"] * 5
    assert [b.evaluations for b in best] == [1, 30] * 5
