"""Partitions: every image has one client, every client has images."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from benchmark.config.registry import PARTITIONS
from benchmark.data.datasets.base import DataError
from benchmark.data.partitions.dirichlet import dirichlet
from benchmark.data.partitions.dominant import dominant
from benchmark.data.partitions.iid import iid


def partition(kind: str, *given: Any, **options: Any) -> list[np.ndarray]:
    return PARTITIONS[kind](*given, **options)


LABELS = np.random.default_rng(0).integers(10, size=2000)


@settings(max_examples=150, deadline=None)
@given(
    kind=st.sampled_from(PARTITIONS.names()),
    labels=st.lists(st.integers(0, 9), min_size=1, max_size=120),
    clients=st.integers(1, 15),
    minimum=st.integers(1, 9),
    seed=st.integers(0, 2**32),
)
def test_each_index_once_and_no_client_below_the_minimum(
    kind: str, labels: list[int], clients: int, minimum: int, seed: int
) -> None:
    if clients * minimum > len(labels):
        with pytest.raises(DataError, match="cannot give each"):
            partition(kind, labels, clients, seed, minimum=minimum)
        return
    parts = partition(kind, labels, clients, seed, minimum=minimum)
    assert len(parts) == clients
    assert sorted(np.concatenate(parts).tolist()) == list(range(len(labels)))
    assert all(len(part) >= minimum and (np.diff(part) > 0).all() for part in parts)
    assert all(part.dtype == np.int64 for part in parts)


@pytest.mark.parametrize("kind", PARTITIONS.names())
def test_the_seed_decides_and_the_global_state_does_not(kind: str) -> None:
    one = partition(kind, LABELS, 10, 5)
    np.random.seed(1)
    same, other = partition(kind, torch.from_numpy(LABELS), 10, 5), partition(kind, LABELS, 10, 6)
    assert all(map(np.array_equal, one, same))
    assert not all(map(np.array_equal, one, other))


def test_iid_clients_are_of_equal_size_and_mix() -> None:
    parts = iid(LABELS, 7, 0)
    assert {len(part) for part in parts} <= {285, 286}
    shares = np.stack([np.bincount(LABELS[part], minlength=10) / len(part) for part in parts])
    assert np.abs(shares - np.bincount(LABELS) / 2000).max() < 0.07


def skew(parts: list[np.ndarray]) -> float:
    """Mean share of a client's most frequent class."""
    return float(np.mean([np.bincount(LABELS[part]).max() / len(part) for part in parts]))


def test_smaller_alpha_means_less_alike_clients() -> None:
    skews = [skew(dirichlet(LABELS, 10, 0, alpha=alpha)) for alpha in (0.1, 1.0, 100.0)]
    assert skews[0] > skews[1] > skews[2]
    assert skews[2] < 0.2


def test_dirichlet_shares_have_the_moments_of_dirichlet() -> None:
    """Var of a share is (1/k)(1 - 1/k) / (k alpha + 1), here over many seeds."""
    clients, alpha = 4, 0.7
    labels = np.zeros(1000, dtype=int)
    shares = np.array([[len(p) / 1000 for p in dirichlet(labels, clients, seed, alpha=alpha)]
                       for seed in range(800)])  # fmt: skip
    assert shares.mean(0) == pytest.approx(np.full(4, 0.25), abs=0.03)
    expected = 0.25 * 0.75 / (clients * alpha + 1)
    assert shares.var(0).mean() == pytest.approx(expected, rel=0.1)


def test_dominant_clients_follow_hyperfls_groups() -> None:
    parts = dominant(LABELS, 10, 0)
    for client, part in enumerate(parts):
        counts = np.bincount(LABELS[part], minlength=10)
        start = 2 * (client % 5)
        group = [(start + step) % 10 for step in range(3)]
        assert set(np.argsort(counts)[-3:].tolist()) == set(group)
        assert counts[group].sum() / counts.sum() == pytest.approx(0.86, abs=0.04)  # .8 + 3/10 * .2


def test_dominant_with_share_zero_is_spread_evenly() -> None:
    for part in dominant(LABELS, 10, 0, alpha=0.0):
        assert np.bincount(LABELS[part], minlength=10) / 20 == pytest.approx(1.0, abs=0.3)


@pytest.mark.parametrize(
    ("kind", "options", "message"),
    [
        ("pathological", {}, "'pathological' is unknown.*allowed: dirichlet, dominant, iid"),
        ("dirichlet", {"alpha": 0.0}, "alpha must be positive"),
        ("dominant", {"alpha": 1.5}, "1.5 .* is impossible"),
    ],
)
def test_impossible_partitions_are_one_clear_line(kind: str, options: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        partition(kind, LABELS, 10, 0, **options)
