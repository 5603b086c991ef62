"""DGP and top-k against an independent implementation, entry by entry."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from benchmark.defenses.base import Defense, build
from benchmark.federated.update import Update
from tests import tiny

SIZES = [(1,), (3,), (4,), (5,), (8,), (10,), (19,), (20,), (48,), (72,), (99,), (100,), (8, 144)]


def sent_of(defense: Defense, tensor: Tensor) -> np.ndarray:
    """What is sent of one tensor by a client that holds nothing back yet."""
    sent, _ = defense.protect(Update({"t": tensor}), Update({"t": tensor * 0.0}), None)
    assert sent["t"].shape == tensor.shape
    return sent["t"].numpy().ravel()


def authors_dgp(tensor: Tensor) -> np.ndarray:
    """The training side of the authors' code: twentieth of largest off, then a fifth stays."""
    left = tensor.numpy().ravel().copy()
    n = left.size
    for _ in range(n // 20):
        left[np.argmax(np.abs(left))] = 0.0
    kept = np.zeros_like(left)
    for _ in range((2 * n // 5) // 2 or 1):
        at = np.argmax(np.abs(left))
        kept[at], left[at] = left[at], 0.0
    return kept


@pytest.mark.parametrize("shape", SIZES, ids=str)
def test_dgp_keeps_exactly_one_fifth_of_each_tensor(shape: tuple[int, ...]) -> None:
    tensor = torch.randn(shape, generator=tiny.rng(1))
    sent = sent_of(build("dgp", {}), tensor)
    assert np.count_nonzero(sent) == max(1, tensor.numel() // 5)
    assert np.array_equal(sent, authors_dgp(tensor))
    size = np.abs(tensor.numpy().ravel())
    above = (size > np.abs(sent).max()).sum()
    assert above == tensor.numel() // 20


@pytest.mark.parametrize("percent", range(1, 100))
def test_shares_are_what_is_written(percent: int) -> None:
    """Of 100 entries a share of .29 is 29: its product in floating point is a bit less."""
    tensor, share = torch.arange(1, 101).float(), percent / 100
    pruned = sent_of(build("pruning", {"keep": share}), tensor)
    assert np.count_nonzero(pruned) == percent
    fields = {"drop_largest": share, "drop_smallest": 0.0}
    assert np.count_nonzero(sent_of(build("dgp", fields), tensor)) == 100 - percent
    assert sent_of(build("dgp", fields), tensor).max() == 100 - percent


@settings(max_examples=150, deadline=None)
@given(
    values=st.lists(st.integers(-3, 3), min_size=1, max_size=150),
    largest=st.sampled_from([0.0, 0.05, 0.1, 0.3]),
    smallest=st.sampled_from([0.0, 0.5, 0.65]),
)
def test_dgp_ranks_are_exact_among_ties_and_zeros(
    values: list[int], largest: float, smallest: float
) -> None:
    """Whichever of equal entries are chosen, the sizes sent are those of the band's ranks."""
    tensor = torch.tensor(values, dtype=torch.float32)
    sent = sent_of(build("dgp", {"drop_largest": largest, "drop_smallest": smallest}), tensor)
    n = len(values)
    skip = int(largest * n + 1e-9)
    keep = max(1, int((1000 - round(1000 * largest) - round(1000 * smallest)) * n // 1000))
    ranked = sorted(np.abs(tensor.numpy()), reverse=True)[skip : skip + keep]
    assert sorted(np.abs(sent[sent != 0]), reverse=True) == [size for size in ranked if size]
    assert all(s in (0.0, v) for s, v in zip(sent, tensor.numpy(), strict=True))


@pytest.mark.parametrize("keep", [0.001, 0.01, 0.1, 0.3, 1.0])
@pytest.mark.parametrize("shape", SIZES, ids=str)
def test_pruning_sends_the_largest(shape: tuple[int, ...], keep: float) -> None:
    tensor = torch.randn(shape, generator=tiny.rng(2))
    sent = sent_of(build("pruning", {"keep": keep}), tensor)
    count = max(1, int(round(1000 * keep) * tensor.numel() // 1000))
    order = np.argsort(-np.abs(tensor.numpy().ravel()))
    expected = np.zeros_like(sent)
    expected[order[:count]] = tensor.numpy().ravel()[order[:count]]
    assert np.array_equal(sent, expected)


def test_tensors_are_ranked_apart() -> None:
    big, small = torch.randn(100, generator=tiny.rng(3)), torch.randn(100, generator=tiny.rng(4))
    update = Update({"big": big * 1e6, "small": small * 1e-6})
    for name, count in (("dgp", 20), ("pruning", 10)):
        sent, _ = build(name, {}).protect(update, update * 0.0, None)
        assert [int((t != 0).sum()) for t in sent.values()] == [count, count]


def test_what_is_not_sent_is_plus_zero() -> None:
    """A minus zero would cross the wire as an entry of its own."""
    tensor = -torch.rand(100, generator=tiny.rng(5)) - 0.1
    for name in ("dgp", "pruning"):
        sent = sent_of(build(name, {}), tensor)
        assert not np.signbit(sent[sent == 0]).any()


@pytest.mark.parametrize("name", ["dgp", "pruning"])
def test_over_the_rounds_nothing_is_lost_and_everything_is_ranked_anew(name: str) -> None:
    defense = build(name, {})
    memory = Update({"t": torch.zeros(60)})
    total, received = torch.zeros(60), torch.zeros(60)
    for number in range(12):
        update = Update({"t": torch.randn(60, generator=tiny.rng(number))})
        carried = update["t"] + memory["t"]
        sent, memory = defense.protect(update, memory, None)
        assert np.array_equal(sent["t"].numpy(), sent_of(defense, carried))
        total, received = total + update["t"], received + sent["t"]
    assert torch.allclose(total, received + memory["t"], atol=1e-5)
    assert not torch.allclose(total, received, atol=1e-2)
