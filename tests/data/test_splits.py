"""Splits: disjoint by content, free of twins, the same wherever the data is read."""

from __future__ import annotations

from itertools import combinations

import numpy as np
import pytest
import torch

from benchmark.data.datasets.base import DataError, Dataset, load
from benchmark.data.splits import DUPLICATE_MSE, distinct, split

SIZES = {"client": 1000, "test": 296, "auxiliary": 300, "tuning": 80, "report": 120}


def noise(count: int, seed: int = 0, side: int = 4) -> Dataset:
    """Random images: no two are near each other."""
    rng = torch.Generator().manual_seed(seed)
    images = torch.rand(count, 1, side, side, generator=rng)
    return Dataset("noise", images, torch.arange(count) % 10, 10)


def distances(left: torch.Tensor, right: torch.Tensor) -> np.ndarray:
    a, b = left.flatten(1).double().numpy(), right.flatten(1).double().numpy()
    return np.square(a[:, None] - b[None]).mean(-1)


def test_digits_have_no_image_near_one_on_another_side() -> None:
    parts = split(load("digits"), SIZES, 0)
    assert {name: len(part) for name, part in parts.items()} == SIZES
    for one, other in combinations(parts.values(), 2):
        assert distances(one.images, other.images).min() >= DUPLICATE_MSE


def test_every_part_of_digits_has_every_class() -> None:
    for part in split(load("digits"), SIZES, 0).values():
        assert set(part.labels.tolist()) == set(range(10))


def test_the_seed_decides() -> None:
    one, same, other = (split(load("digits"), SIZES, seed)["test"] for seed in (0, 0, 1))
    assert one.digest() == same.digest() != other.digest()


def test_images_keep_their_side_when_the_file_is_reordered() -> None:
    data = noise(200)
    shuffled = data.subset(torch.randperm(200, generator=torch.Generator().manual_seed(1)))
    sizes = {"client": 120, "test": 80}
    for name in sizes:
        assert split(data, sizes, 3)[name].digest() == split(shuffled, sizes, 3)[name].digest()


@pytest.mark.parametrize("change", [0.0, 0.5 * DUPLICATE_MSE**0.5])
def test_twins_are_kept_once(change: float) -> None:
    data = noise(60)
    twins = Dataset("noise", torch.cat([data.images, data.images + change]),
                    data.labels.repeat(2), 10)  # fmt: skip
    parts = split(twins, {"client": 30, "test": 30}, 0)
    assert sum(map(len, parts.values())) == 60
    assert distances(parts["client"].images, parts["test"].images).min() >= DUPLICATE_MSE


def test_different_images_of_a_class_are_not_twins() -> None:
    data = noise(60)
    moved = Dataset("noise", torch.cat([data.images, data.images + 2 * DUPLICATE_MSE**0.5]),
                    data.labels.repeat(2), 10)  # fmt: skip
    assert len(distinct(moved, np.arange(120))) == 120


def test_twins_are_found_as_a_slow_loop_finds_them(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("benchmark.data.splits._BLOCK", 32)  # so that several blocks meet
    rng = np.random.default_rng(0)
    base = noise(40, side=2).images
    images = base[rng.integers(40, size=150)] + 0.03 * torch.from_numpy(
        rng.normal(size=(150, 1, 2, 2)).astype("f4"))  # fmt: skip
    data = Dataset("noise", images, torch.zeros(150, dtype=torch.int64), 10)
    order = rng.permutation(150)
    near = distances(images, images) < DUPLICATE_MSE
    kept: list[int] = []
    for index in order:
        if not near[index, kept].any():
            kept.append(int(index))
    assert 10 < len(kept) < 140
    assert distinct(data, order).tolist() == kept
    assert distinct(data, order, limit=9).tolist() == kept[:9]


def test_too_few_examples_are_one_clear_line() -> None:
    with pytest.raises(DataError, match="51 examples wanted, 50 are left"):
        split(noise(50), {"client": 40, "test": 11}, 0)
