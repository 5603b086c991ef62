"""Objectives against plain numpy, at every scale."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from benchmark.attacks.parts.objectives import Cosine, SquaredError, mismatch, prepare
from benchmark.evidence.base import Term


def draw(seed: int, scale: float = 1.0) -> tuple[dict, dict, dict, dict]:
    rng = np.random.default_rng(seed)
    shapes = {"weight": (4, 3), "bias": (4,)}
    value = {
        k: torch.tensor(scale * rng.normal(size=s), dtype=torch.float32) for k, s in shapes.items()
    }
    guess = {
        k: torch.tensor(scale * rng.normal(size=s), dtype=torch.float32) for k, s in shapes.items()
    }
    mask = {k: torch.tensor(rng.random(s) < 0.6, dtype=torch.float32) for k, s in shapes.items()}
    variance = {
        k: torch.tensor(rng.random(s) + 0.1, dtype=torch.float32) for k, s in shapes.items()
    }
    return value, guess, mask, variance


def flat(tensors: dict) -> np.ndarray:
    return np.concatenate([t.double().numpy().ravel() for t in tensors.values()])


def loss(objective, term: Term, guess: dict, kind: str = "direction") -> float:
    vector = torch.cat([t.reshape(-1) for t in guess.values()])
    return float(mismatch(objective, kind, vector, prepare(term)))


def cosine(p: np.ndarray, v: np.ndarray) -> float:
    return 1 - p @ v / np.linalg.norm(p) / np.linalg.norm(v)


@given(seed=st.integers(0, 10**6), scale=st.sampled_from([1e-12, 1e-6, 1.0, 1e6]))
def test_objectives_are_numpys_whatever_the_scale(seed: int, scale: float) -> None:
    value, guess, mask, variance = draw(seed, scale)
    p, v, m, s = map(flat, (guess, value, mask, variance))
    if not m.any():
        return
    root = m / np.sqrt(s)
    cases = [
        (Term(value=value), np.ones_like(p)),
        (Term(value=value, mask=mask), m),
        (Term(value=value, mask=mask, variance=variance), root),
    ]
    for term, weight in cases:
        wp, wv = weight * p, weight * v
        expected = ((wp - wv) ** 2).sum() / (wv**2).sum()
        assert loss(SquaredError(), term, guess) == pytest.approx(expected, rel=1e-4)
        assert loss(Cosine(), term, guess) == pytest.approx(cosine(wp, wv), rel=1e-4, abs=1e-6)
        # Values are compared by squares whatever the attack.
        assert loss(Cosine(), term, guess, "value") == pytest.approx(expected, rel=1e-4)


def test_one_variance_for_all_entries_changes_nothing() -> None:
    value, guess, _, _ = draw(1)
    uniform = {k: torch.tensor(0.3) for k in value}
    for objective in (SquaredError(), Cosine()):
        assert loss(objective, Term(value=value, variance=uniform), guess) == pytest.approx(
            loss(objective, Term(value=value), guess), rel=1e-5
        )


def test_entries_without_noise_outweigh_noisy_ones() -> None:
    value, guess, _, _ = draw(2)
    variance = {"weight": torch.tensor(1.0), "bias": torch.tensor(0.0)}
    right = {"weight": guess["weight"], "bias": value["bias"]}
    assert loss(SquaredError(), Term(value=value, variance=variance), right) < 1e-6


def test_bounds_are_hinges_to_the_nearest_admissible_magnitude() -> None:
    value = {"w": torch.tensor([3.0, 0.0, 0.0, 0.0, 0.0, 4.0])}
    mask = {"w": torch.tensor([1.0, 0, 0, 0, 0, 1])}
    guess = {"w": torch.tensor([3.0, 0.5, -1.5, 2.8, -9.0, 4.0])}
    low, high = {"w": torch.tensor(1.0)}, {"w": torch.tensor(3.0)}
    # |-1.5| is .5 above the lower bound, |2.8| is .2 below the upper one; |v|^2 = 25.
    both = Term(value=value, mask=mask, lower=low, upper=high)
    for objective in (SquaredError(), Cosine()):
        assert loss(objective, both, guess) == pytest.approx((0.5**2 + 0.2**2) / 25, rel=1e-5)
    below = Term(value=value, mask=mask, lower=low)
    infinite = Term(value=value, mask=mask, lower=low, upper={"w": torch.tensor(torch.inf)})
    expected = (0.5**2 + 1.8**2 + 8**2) / 25
    assert loss(SquaredError(), below, guess) == pytest.approx(expected, rel=1e-5)
    assert loss(SquaredError(), infinite, guess) == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize("objective", [SquaredError(), Cosine()], ids=repr)
def test_bounds_without_an_end_have_finite_gradients(objective) -> None:
    value = {"w": torch.tensor([3.0, 0.0, 0.0])}
    term = Term(
        value=value,
        mask={"w": torch.tensor([1.0, 0, 0])},
        lower={"w": torch.tensor(1.0)},
        upper={"w": torch.tensor(torch.inf)},
    )
    target = prepare(term)
    slope = torch.func.grad(lambda p: mismatch(objective, "direction", p, target))
    assert slope(torch.tensor([2.0, 5.0, 0.0])).isfinite().all()


def test_bounds_need_a_mask() -> None:
    value = {"w": torch.ones(3)}
    with pytest.raises(ValueError, match="mask"):
        prepare(Term(value=value, lower=value))


def test_mask_that_does_not_fit_is_refused() -> None:
    with pytest.raises(ValueError, match="update.*fit"):
        prepare(Term(value={"w": torch.ones(3)}, mask={"w": torch.ones(4)}), "update")


def test_cosine_of_a_zero_prediction_is_one_without_gradient() -> None:
    target = prepare(Term(value={"w": torch.tensor([1.0, -2.0])}))
    value, slope = torch.func.grad_and_value(lambda p: Cosine()(p, target))(torch.zeros(2))[::-1]
    assert float(value) == 1.0
    assert (slope == 0).all()


def test_zero_target_is_explained_by_zero_alone() -> None:
    target = prepare(Term(value={"w": torch.zeros(3)}))
    for objective in (Cosine(), SquaredError()):
        assert float(objective(torch.zeros(3), target)) == 0.0
        assert float(objective(torch.ones(3), target)) >= 1.0
        slope = torch.func.grad(lambda p, o=objective: o(p, target))(torch.ones(3))
        assert slope.isfinite().all()


@given(seed=st.integers(0, 10**6))
def test_cosine_loss_near_a_match_keeps_its_digits(seed: int) -> None:
    """1 - 0.99999999 is zero in float32; half the squared distance of unit vectors is not."""
    rng = np.random.default_rng(seed)
    v = rng.normal(size=500)
    p = (3 * (v + 1e-4 * rng.normal(size=500))).astype(np.float32)
    v = v.astype(np.float32)
    target = prepare(Term(value={"w": torch.tensor(v)}))
    expected = cosine(p.astype(np.float64), v.astype(np.float64))
    assert float(Cosine()(torch.tensor(p), target)) == pytest.approx(expected, rel=1e-2)
