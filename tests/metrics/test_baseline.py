"""The no-attack baseline: what is scored without attacking anybody."""

from __future__ import annotations

import numpy as np
import pytest

from benchmark.data.datasets.base import load
from benchmark.data.splits import split
from benchmark.metrics.baseline import class_mean, nearest, swapped, without_attack
from benchmark.metrics.images import PSNR_CAP, match, psnr
from benchmark.metrics.measures import Measures


def tau(*known: np.ndarray) -> float:
    return Measures("images").tau(*known, 20.0)


def flat(*levels: float) -> np.ndarray:
    """One constant image per level."""
    return np.stack([np.full((1, 8, 8), level) for level in levels])


def test_the_class_mean_is_of_the_right_class() -> None:
    auxiliary, classes = flat(0.2, 0.4, 0.9), [0, 0, 1]
    expected = psnr(flat(0.3, 0.9, 0.5), flat(0.5, 0.8, 0.1))
    assert class_mean(flat(0.5, 0.8, 0.1), [0, 1, 7], auxiliary, classes) == pytest.approx(expected)


def test_the_nearest_auxiliary_image_is_found_over_all_classes() -> None:
    rng = np.random.default_rng(0)
    truths, auxiliary = rng.random((20, 1, 8, 8)), rng.random((30, 1, 8, 8))
    best = [max(psnr(image[None], truth[None])[0] for image in auxiliary) for truth in truths]
    assert nearest(truths, auxiliary) == pytest.approx(best)


def test_the_baseline_without_an_attack_is_the_better_of_both() -> None:
    rng = np.random.default_rng(0)
    truths, auxiliary = rng.random((20, 1, 8, 8)), rng.random((30, 1, 8, 8))
    labels, classes = np.arange(20) % 3, np.arange(30) % 3
    both = without_attack(truths, labels, auxiliary, classes)
    parts = class_mean(truths, labels, auxiliary, classes), nearest(truths, auxiliary)
    assert both.tolist() == np.maximum(*parts).tolist()


def of_one_cell(guesses: list[np.ndarray], truths: list[np.ndarray], labels: list) -> np.ndarray:
    return swapped(np.stack([guesses]), np.stack(truths), np.array(labels))[0]


def test_swapped_scores_the_guess_for_another_victim_of_the_label() -> None:
    guesses = [flat(0.1), flat(0.2), flat(0.3), flat(0.4)]
    truths = [flat(0.5), flat(0.6), flat(0.7), flat(0.8)]
    values = of_one_cell(guesses, truths, [[3], [1], [3], [3]])
    assert values[0] == pytest.approx(psnr(flat(0.3), flat(0.5)))  # next in line with a 3: third
    assert values[2] == pytest.approx(psnr(flat(0.4), flat(0.7)))
    assert values[3] == pytest.approx(psnr(flat(0.1), flat(0.8)))
    assert np.isnan(values[1]).all()  # nobody else has a 1


def test_swapped_batches_are_matched_anew() -> None:
    guesses = [flat(0.9, 0.1), flat(0.8, 0.2)]
    truths = [flat(0.15, 0.85), flat(0.5, 0.5)]
    first = of_one_cell(guesses, truths, [[0, 1], [1, 0]])[0]
    order = match(guesses[1], truths[0])
    assert order.tolist() == [1, 0]
    assert first == pytest.approx(psnr(guesses[1][order], truths[0]))


def test_swapped_takes_the_donor_that_shares_most_labels() -> None:
    guesses = [flat(0.5, 0.5), flat(0.1, 0.1), flat(0.4, 0.4)]
    truths = [flat(0.5, 0.5)] * 3
    values = of_one_cell(guesses, truths, [[0, 1], [0, 2], [1, 0]])
    assert values[0] == pytest.approx(psnr(guesses[2], truths[0]))
    assert np.isnan(values[1]).tolist() == [False, True]  # nobody else has a 2


def test_swapped_scores_every_cell_alone() -> None:
    rng = np.random.default_rng(0)
    guesses, truths = rng.random((3, 4, 2, 1, 8, 8)), rng.random((4, 2, 1, 8, 8))
    labels = np.array([[0, 1], [1, 0], [1, 2], [0, 0]])
    together = swapped(guesses, truths, labels)
    for cell, values in zip(guesses, together, strict=True):
        assert np.array_equal(of_one_cell(cell, truths, labels), values, equal_nan=True)


def test_swapped_of_a_single_victim_is_unknown() -> None:
    assert np.isnan(of_one_cell([flat(0.5)], [flat(0.5)], [[0]])).all()


def test_a_perfect_attack_does_not_raise_its_own_baseline() -> None:
    rng = np.random.default_rng(0)
    truths = [rng.random((1, 1, 8, 8)) for _ in range(8)]
    values = of_one_cell(truths, truths, [[0]] * 8)
    assert values.max() < 12 < PSNR_CAP


def test_tau_is_the_quantile_but_never_below_its_minimum() -> None:
    rng = np.random.default_rng(0)
    truths, auxiliary = rng.random((50, 1, 8, 8)), rng.random((20, 1, 8, 8))
    labels, classes = np.zeros(50, int), np.zeros(20, int)
    assert tau(truths, labels, auxiliary, classes) == 20.0
    near = auxiliary[rng.integers(20, size=50)] + 0.01
    guessed = without_attack(near, labels, auxiliary, classes)
    assert tau(near, labels, auxiliary, classes) == pytest.approx(np.quantile(guessed, 0.99))


def test_tau_of_digits_lies_between_chance_and_recovery() -> None:
    sizes = {"client": 1000, "test": 296, "auxiliary": 300, "tuning": 80, "report": 120}
    parts = split(load("digits"), sizes, 0)
    auxiliary, held_out = parts["auxiliary"], parts["report"]
    value = tau(held_out.images, held_out.labels, auxiliary.images, auxiliary.labels)
    assert 20.0 < value < 23.0
    victims = parts["client"]
    guessed = without_attack(victims.images, victims.labels, auxiliary.images, auxiliary.labels)
    assert (guessed > value).mean() < 0.03
