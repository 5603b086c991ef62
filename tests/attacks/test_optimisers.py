"""Optimisers on functions whose minimum is known, and against scipy."""

from __future__ import annotations

import dataclasses
import time

import numpy as np
import pytest
import torch
from scipy.optimize import minimize

from benchmark.attacks.engine.optimisers import LBFGS, Evaluation, Problem, SignedAdam


def problem(function, starts: torch.Tensor, **options) -> Problem:
    """Trials of one variable x [size] under `function(x) -> scalar`, in float64."""
    slope = torch.func.vmap(torch.func.grad_and_value(function))

    def evaluate(variables):
        gradient, value = slope(variables["x"])
        return Evaluation(value, value, {"x": gradient})

    def fresh(attempt, rows=None):
        rng = torch.Generator().manual_seed(attempt)
        drawn = torch.randn(starts.shape, generator=rng, dtype=starts.dtype)
        return {"x": (drawn if attempt else starts)[slice(None) if rows is None else rows].clone()}

    return Problem(evaluate=evaluate, fresh=fresh, **options)


def rosenbrock(x: torch.Tensor) -> torch.Tensor:
    return (100 * (x[1:] - x[:-1] ** 2) ** 2 + (1 - x[:-1]) ** 2).sum()


def test_lbfgs_solves_ill_conditioned_quadratics() -> None:
    scales = torch.logspace(0, 4, 12, dtype=torch.float64)
    starts = torch.randn(5, 12, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    best = LBFGS(tolerance=1e-14).minimise(
        problem(lambda x: 0.5 * (scales * x * x).sum(), starts), 150
    )
    assert best.stopped == ["converged"] * 5
    assert float(best.variables["x"].abs().max()) < 1e-6


def test_lbfgs_needs_about_as_many_evaluations_as_scipy() -> None:
    starts = torch.tensor([[-1.2, 1.0, -0.5, 0.8], [0.0, 0.0, 0.0, 0.0]], dtype=torch.float64)
    best = LBFGS(tolerance=1e-12, patience=1000).minimise(problem(rosenbrock, starts), 400)
    assert best.stopped == ["converged"] * 2
    assert torch.allclose(best.variables["x"], torch.ones_like(starts), atol=1e-4)
    for row, spent in zip(starts, best.evaluations.tolist(), strict=True):

        def both(x):
            gradient, value = torch.func.grad_and_value(rosenbrock)(torch.tensor(x))
            return float(value), gradient.numpy()

        peer = minimize(both, row.numpy(), jac=True, method="L-BFGS-B", tol=1e-15)
        assert spent <= 2 * peer.nfev + 10


def test_trials_do_not_influence_each_other() -> None:
    rng = torch.Generator().manual_seed(3)
    starts = torch.randn(4, 6, generator=rng, dtype=torch.float64)
    for optimiser in (LBFGS(patience=1000), SignedAdam(lr=0.05, signed=("x",))):
        together = optimiser.minimise(problem(rosenbrock, starts), 60)
        for row in range(4):
            alone = optimiser.minimise(problem(rosenbrock, starts[row : row + 1]), 60)
            assert torch.allclose(alone.total[0], together.total[row], rtol=1e-9)
            assert torch.allclose(alone.variables["x"][0], together.variables["x"][row], rtol=1e-9)


def test_a_trials_bits_do_not_depend_on_its_neighbours() -> None:
    """Two trials on a plateau, which start afresh after some steps, next to others that never do
    and to some that do at once: what is drawn is a trial's own next attempt, not the stack's."""

    def plateau(x):
        return torch.where(x[0] > 50, torch.nan, 1 - torch.exp(-(x**2).sum()))

    far = torch.full((2, 3), 30.0, dtype=torch.float64)

    def among(others: torch.Tensor):
        return LBFGS().minimise(problem(plateau, torch.cat([far, others])), 60)

    neighbours = [torch.full((3, 3), value, dtype=torch.float64) for value in (0.5, 25.0, 99.0)]
    first, *others = [among(n) for n in neighbours]
    assert int(first.evaluations[0]) > 1 and float(first.total[0]) < 1e-6
    for other in others:
        assert torch.equal(other.variables["x"][:2], first.variables["x"][:2])
        assert torch.equal(other.total[:2], first.total[:2])
        assert torch.equal(other.evaluations[:2], first.evaluations[:2])


def test_two_loop_recursion_is_the_dense_bfgs_inverse() -> None:
    """The direction from the memory equals the one from the explicitly updated inverse."""
    from benchmark.attacks.engine.optimisers import _Search

    rng = torch.Generator().manual_seed(1)
    size, pairs = 5, 3
    search = _Search(LBFGS(history=4), torch.zeros(1, size, dtype=torch.float64))
    root = torch.randn(size, size, generator=rng, dtype=torch.float64)
    hessian = root @ root.T + torch.eye(size)
    inverse = None
    for k in range(pairs):
        move = torch.randn(size, generator=rng, dtype=torch.float64)
        bend = hessian @ move
        search.moves[0, k], search.bends[0, k] = move, bend
        rho = 1 / (move @ bend)
        search.rho[0, k] = rho
        search.slot[0] = k + 1
        scale = (move @ bend) / (bend @ bend)
        search.scale[0] = scale
    for k in range(pairs):
        move, bend, rho = search.moves[0, k], search.bends[0, k], search.rho[0, k]
        if inverse is None:
            inverse = search.scale[0] * torch.eye(size, dtype=torch.float64)
        left = torch.eye(size) - rho * torch.outer(move, bend)
        inverse = left @ inverse @ left.T + rho * torch.outer(move, move)
    gradient = torch.randn(1, size, generator=rng, dtype=torch.float64)
    search.gradient = gradient
    search._aim(torch.tensor([True]))
    assert torch.allclose(search.direction[0], -inverse @ gradient[0])


def test_a_trial_that_meets_nan_starts_afresh_and_the_others_go_on() -> None:
    def well(x):
        return torch.where(x[0] > 5, torch.nan, (x**2).sum())

    starts = torch.tensor([[9.0, 0.0], [1.0, 1.0]], dtype=torch.float64)
    best = LBFGS().minimise(problem(well, starts), 60)
    assert best.stopped == ["converged"] * 2
    assert best.evaluations[0] > best.evaluations[1]


def test_a_stalled_trial_starts_afresh() -> None:
    """A flat start with a loss of one, and the minimum elsewhere."""

    def plateau(x):
        return 1 - torch.exp(-(x**2).sum())

    starts = torch.full((1, 2), 30.0, dtype=torch.float64)
    best = LBFGS().minimise(problem(plateau, starts), 100)
    assert float(best.total[0]) < 1e-9


@pytest.mark.parametrize("optimiser", [LBFGS(), SignedAdam()], ids=["lbfgs", "signed"])
def test_the_budget_is_kept_and_counted(optimiser) -> None:
    calls = []

    def evaluate(variables):
        calls.append(1)
        x = variables["x"]
        return Evaluation(1 + (x**2).sum(1), 1 + (x**2).sum(1), {"x": 2 * x})

    start = {"x": torch.ones(3, 2)}
    best = optimiser.minimise(Problem(evaluate=evaluate, fresh=lambda attempt, rows: start), 17)
    assert len(calls) == 17
    assert best.evaluations.tolist() == [17] * 3


@pytest.mark.parametrize("optimiser", [LBFGS(), SignedAdam()], ids=["lbfgs", "signed"])
def test_a_deadline_returns_the_best_so_far(optimiser) -> None:
    starts = torch.full((2, 3), 2.0, dtype=torch.float64)
    past = problem(rosenbrock, starts, deadline=time.monotonic() - 1)
    best = optimiser.minimise(past, 1000)
    assert best.stopped == ["timeout"] * 2
    assert best.evaluations.tolist() == [1, 1]
    assert best.total.isfinite().all()


def test_signed_adam_is_torchs_adam_on_signs_with_milestones() -> None:
    start = torch.tensor([1.5, -0.7, 0.2], dtype=torch.float64)
    scales = torch.tensor([1.0, 10.0, 0.1], dtype=torch.float64)
    seen = []

    def evaluate(variables):
        x = variables["x"]
        seen.append(x[0].clone())
        value = (scales * x * x).sum(1)
        return Evaluation(value, value, {"x": 2 * scales * x})

    optimiser = SignedAdam(lr=0.1, signed=("x",))
    optimiser.minimise(
        Problem(evaluate=evaluate, fresh=lambda attempt, rows: {"x": start[None].clone()}), 40
    )
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
    seen = []

    def evaluate(variables):
        x = variables["x"]
        seen.append(x[0].clone())
        value = (scales * x * x).sum(1)
        return Evaluation(value, value, {"x": 2 * scales * x})

    rule = SignedAdam(
        lr=0.1, fall=fall, least=0.1, warmup=5, clip=1.0, weight_decay=0.01, signed=()
    )
    rule.minimise(
        Problem(evaluate=evaluate, fresh=lambda attempt, rows: {"x": start[None].clone()}), 25
    )
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
    low, high = torch.full((1, 2), -0.5), torch.full((1, 2), 0.5)
    losses = []

    def evaluate(variables):
        x = variables["x"]
        value = ((x - 3) ** 2).sum(1)
        losses.append(float(value[0]))
        if len(losses) > 1:
            assert float(x.max()) <= 0.5
        return Evaluation(value, value, {"x": 2 * (x - 3)})

    start = {"x": torch.tensor([[4.0, 2.0]])}
    best = SignedAdam(signed=("x",)).minimise(
        Problem(evaluate=evaluate, fresh=lambda attempt, rows: start, box={"x": (low, high)}), 20
    )
    assert float(best.total[0]) == pytest.approx(np.min(losses))


def far_and_near(trials: int, seen: list[int]):
    """|x - where|^2 for every trial, which can be narrowed; all but the last start close by."""
    where = torch.arange(trials, dtype=torch.float64)[:, None] / trials
    starts = where + 0.01
    starts[-1] += 50

    def evaluate(variables, rows=None):
        x = variables["x"]
        gap = x - (where if rows is None else where[rows])
        seen.append(len(x))
        return Evaluation(gap.square().sum(1), gap.square().sum(1), {"x": 2 * gap})

    return Problem(
        evaluate=evaluate,
        fresh=lambda attempt, rows: {"x": starts.clone()},
        narrowed=lambda rows: lambda variables: evaluate(variables, rows),
    )


def test_converged_trials_leave_the_stack_and_are_not_counted() -> None:
    rule = SignedAdam(lr=0.01, signed=(), tolerance=1e-6)
    seen: list[int] = []
    best = rule.minimise(far_and_near(7, seen), 600)
    assert best.stopped == ["converged"] * 6 + ["budget"]
    assert int(best.evaluations[:6].max()) < 300 and int(best.evaluations[6]) == 600
    assert seen[0] == 7 and seen[-1] == 1 and len(seen) == 600
    assert set(seen) <= {7, 3, 1}
    assert (best.data[:6] <= 1e-6).all() and float(best.data[6]) > 1
    target = torch.arange(6, dtype=torch.float64)[:, None] / 7
    assert torch.allclose(best.variables["x"][:6], target, atol=2e-3)


def test_leaving_the_stack_changes_no_trial() -> None:
    rule = SignedAdam(lr=0.01, signed=(), tolerance=1e-6)
    narrowed, whole = far_and_near(7, []), far_and_near(7, [])
    one = rule.minimise(narrowed, 600)
    other = rule.minimise(dataclasses.replace(whole, narrowed=None), 600)
    assert torch.equal(one.variables["x"], other.variables["x"])
    assert one.evaluations.tolist() == other.evaluations.tolist()
    assert one.stopped == other.stopped


def test_a_search_ends_when_every_trial_has_converged() -> None:
    seen: list[int] = []
    rule = SignedAdam(lr=0.01, signed=(), tolerance=1e4)
    best = rule.minimise(far_and_near(3, seen), 100)
    assert best.stopped == ["converged"] * 3 and best.evaluations.tolist() == [1, 1, 1]
    assert len(seen) < 20
