"""Leakage measures against independent implementations, and against faults seen elsewhere."""

from __future__ import annotations

from itertools import permutations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from skimage.metrics import peak_signal_noise_ratio, structural_similarity

from benchmark.metrics.images import (
    PSNR_CAP,
    distances,
    identify,
    label_accuracy,
    match,
    mse,
    pixels,
    psnr,
    ssim,
    to_psnr,
)
from benchmark.metrics.measures import Measures


def images(count: int, shape: tuple[int, int, int] = (1, 8, 8), seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).random((count, *shape))


def noisy(truths: np.ndarray, size: float, seed: int = 9) -> np.ndarray:
    return np.clip(truths + size * np.random.default_rng(seed).normal(size=truths.shape), 0, 1)


# ------------------------------------------------------------------- independent implementations


@pytest.mark.parametrize("shape", [(1, 8, 8), (1, 28, 28), (3, 32, 32)], ids=str)
@pytest.mark.parametrize("size", [0.01, 0.1, 0.5])
def test_psnr_is_scikit_images(shape: tuple[int, int, int], size: float) -> None:
    truths = images(5, shape)
    guesses = noisy(truths, size)
    expected = [peak_signal_noise_ratio(t, g, data_range=1) for t, g in
                zip(truths, guesses, strict=True)]  # fmt: skip
    assert psnr(guesses, truths) == pytest.approx(expected, rel=1e-9)


@pytest.mark.parametrize("shape", [(1, 8, 8), (3, 9, 10)], ids=str)
def test_ssim_of_small_images_is_scikit_images_with_a_window_of_7(
    shape: tuple[int, int, int],
) -> None:
    truths = images(5, shape)
    guesses = noisy(truths, 0.2)
    expected = [
        structural_similarity(t, g, data_range=1, win_size=7, channel_axis=0,
                              use_sample_covariance=False)
        for t, g in zip(truths, guesses, strict=True)
    ]  # fmt: skip
    assert ssim(guesses, truths) == pytest.approx(expected, abs=1e-6)


@pytest.mark.parametrize("shape", [(1, 11, 11), (1, 28, 28), (3, 32, 32)], ids=str)
def test_ssim_is_scikit_images_with_a_gaussian_window(shape: tuple[int, int, int]) -> None:
    truths = images(5, shape)
    guesses = noisy(truths, 0.2)
    expected = [
        structural_similarity(t, g, data_range=1, gaussian_weights=True, sigma=1.5,
                              channel_axis=0, use_sample_covariance=False)
        for t, g in zip(truths, guesses, strict=True)
    ]  # fmt: skip
    assert ssim(guesses, truths) == pytest.approx(expected, abs=1e-6)


def test_ssim_of_tiny_images_uses_the_largest_odd_window() -> None:
    truths = images(2, (1, 4, 6))
    guesses = noisy(truths, 0.2)
    expected = [structural_similarity(t[0], g[0], data_range=1, win_size=3,
                                      use_sample_covariance=False)
                for t, g in zip(truths, guesses, strict=True)]  # fmt: skip
    assert ssim(guesses, truths) == pytest.approx(expected, abs=1e-6)


@settings(max_examples=60, deadline=None)
@given(st.integers(1, 6), st.integers(0, 2**32 - 1))
def test_matching_is_the_best_of_all_pairings(count: int, seed: int) -> None:
    truths, guesses = images(count, (1, 2, 2), seed), images(count, (1, 2, 2), seed + 1)
    order = match(guesses, truths)
    assert sorted(order.tolist()) == list(range(count))
    best = min(mse(guesses[list(p)], truths).sum() for p in permutations(range(count)))
    assert mse(guesses[order], truths).sum() == pytest.approx(best, rel=1e-12)


@pytest.mark.parametrize("count", [3, 700])
def test_distances_are_exact_for_near_copies(count: int) -> None:
    left = images(count, (1, 8, 8))
    right = left[::-1] + 1e-9
    expected = np.array([[np.square(a - b).sum() for b in right] for a in left[:3]])
    assert np.allclose(distances(left, right)[:3], expected, rtol=1e-9, atol=0)


# --------------------------------------------------------------------------------- closed forms


def test_a_constant_error_has_a_closed_form() -> None:
    truths = np.full((3, 2, 4, 4), 0.5)
    guesses = truths + np.array([0.1, 0.01, -0.25]).reshape(3, 1, 1, 1)
    assert mse(guesses, truths) == pytest.approx([0.01, 0.0001, 0.0625])
    assert psnr(guesses, truths) == pytest.approx([20.0, 40.0, 12.0412], abs=1e-4)


def test_an_exact_copy_scores_the_cap_and_full_similarity() -> None:
    truths = images(3)
    result = Measures("images").score(truths, truths)
    assert result["psnr"].tolist() == [PSNR_CAP] * 3
    assert result["mse"].tolist() == [0.0] * 3
    assert result["ssim"] == pytest.approx([1.0] * 3)


def test_tensors_that_require_gradients_are_scored_like_arrays() -> None:
    truths, guesses = images(2), noisy(images(2), 0.1)
    tensor = torch.from_numpy(guesses).requires_grad_()
    assert psnr(tensor, torch.from_numpy(truths)).tolist() == psnr(guesses, truths).tolist()


def test_guesses_are_clamped_before_they_are_scored() -> None:
    truths = np.ones((1, 1, 8, 8))
    assert psnr(truths * 7, truths).tolist() == [PSNR_CAP]
    assert psnr(-truths, truths).tolist() == [0.0]


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_what_is_not_finite_counts_as_black_and_stays_in_the_average(value: float) -> None:
    truths = images(2)
    guesses = truths.copy()
    guesses[0] = value
    result = Measures("images").score(guesses, truths)
    assert result["psnr"][0] == psnr(np.zeros_like(truths[:1]), truths[:1])[0]
    assert result["psnr"][1] == PSNR_CAP
    assert np.isfinite([result["mse"], result["psnr"], result["ssim"]]).all()
    assert match(guesses, truths).tolist() == [0, 1]


def test_shapes_must_agree() -> None:
    with pytest.raises(ValueError, match="not pairs of images"):
        psnr(images(2), images(3))
    with pytest.raises(ValueError, match="not pairs of images"):
        mse(images(2)[0], images(2)[0])


def test_nothing_to_score_is_empty_not_an_error() -> None:
    nothing = np.empty((0, 1, 8, 8))
    result = Measures("images").score(nothing, nothing)
    assert len(result["psnr"]) == len(result["ssim"]) == len(match(nothing, nothing)) == 0


@pytest.mark.parametrize(
    ("guessed", "truth", "share"),
    [([1], [1], 1.0), ([1], [2], 0.0), ([1, 1], [1, 2], 0.5), ([2, 1, 1], [1, 2, 1], 1.0),
     ([0, 0, 0, 0], [0, 1, 2, 3], 0.25)],
)  # fmt: skip
def test_label_accuracy_counts_the_overlap(guessed: list, truth: list, share: float) -> None:
    assert label_accuracy(guessed, truth) == share
    assert label_accuracy(torch.tensor(guessed), torch.tensor(truth)) == share


def test_label_accuracy_needs_as_many_labels() -> None:
    with pytest.raises(ValueError, match="2 labels for 1 images"):
        label_accuracy([1, 2], [1])


# ------------------------------------------------------------------------------- identification


def test_identification_is_by_the_nearest_of_the_same_class() -> None:
    pool, classes = images(50), np.arange(50) % 2
    truths = images(4, seed=1)
    labels = np.array([0, 1, 0, 1])
    near, among = identify(noisy(truths, 0.02), truths, labels, pool, classes, count=10)
    assert near.all() and among.tolist() == [10] * 4
    near, among = identify(pool[:4], truths, labels, pool, classes, count=100)
    assert not near.any() and among.tolist() == [26] * 4  # all 25 of the class, and the truth


def test_a_guess_near_a_candidate_of_another_class_still_identifies() -> None:
    truth, candidate = np.zeros((1, 1, 8, 8)), np.full((1, 1, 8, 8), 0.5)
    guess = np.full((1, 1, 8, 8), 0.4)
    own = np.ones((1, 1, 8, 8))
    both = np.concatenate([candidate, own])
    assert not identify(guess, truth, [0], both, [0, 0])[0][0]
    assert identify(guess, truth, [0], both, [1, 0])[0][0]


def test_an_image_without_others_of_its_class_is_not_identified() -> None:
    truth = images(1)
    near, among = identify(truth, truth, [3], images(5), [0] * 5)
    assert not near[0] and among[0] == 1


def test_a_tie_does_not_identify() -> None:
    truth = images(1)
    assert not identify(np.zeros_like(truth), truth, [0], truth, [0])[0][0]


def test_guesses_that_know_nothing_identify_at_chance() -> None:
    count, size = 400, 20
    pool, truths, guesses = images(400, seed=1), images(count, seed=2), images(count, seed=3)
    near, among = identify(guesses, truths, np.zeros(count, int), pool, np.zeros(400), count=size)
    assert set(among.tolist()) == {size}
    assert near.mean() == pytest.approx(1 / size, abs=0.04)


def test_identification_is_deterministic_and_follows_its_seed() -> None:
    pool, truths, guesses = images(300, seed=1), images(60, seed=2), images(60, seed=3)

    def run(seed: int) -> list[bool]:
        zeros = np.zeros(60, int)
        return identify(guesses, truths, zeros, pool, np.zeros(300), count=3, seed=seed)[0].tolist()

    assert run(0) == run(0) != run(1)


# ------------------------------------------------------------------- faults of published systems


def test_channels_are_averaged_once() -> None:
    """Dividing an averaged error by the channels again adds 4.77 dB to every colour image."""
    truths, guesses = images(2, (3, 8, 8)), noisy(images(2, (3, 8, 8)), 0.1)
    direct = -10 * np.log10(np.square(truths - guesses).sum(axis=(1, 2, 3)) / (3 * 64))
    assert psnr(guesses, truths) == pytest.approx(direct)


def test_an_image_does_not_change_the_score_of_another() -> None:
    """Errors divided by a maximum, or averaged over the batch first, cannot be compared."""
    truths = images(4)
    guesses = noisy(truths, 0.1)
    for measure in (mse, psnr, ssim):
        values = [measure(guesses[i : i + 1], truths[i : i + 1])[0] for i in range(4)]
        assert measure(guesses, truths) == pytest.approx(values, abs=1e-9)


def test_one_exact_image_does_not_make_the_batch_infinite() -> None:
    truths = images(3)
    guesses = noisy(truths, 0.1)
    guesses[1] = truths[1]
    values = psnr(guesses, truths)
    assert values[1] == PSNR_CAP and np.isfinite(values).all() and values.mean() < PSNR_CAP


def test_the_mean_of_psnr_is_not_the_psnr_of_the_mean() -> None:
    truths = np.full((2, 1, 8, 8), 0.5)
    guesses = truths + np.array([0.001, 0.3]).reshape(2, 1, 1, 1)
    assert psnr(guesses, truths).mean() == pytest.approx((60 + 10.4576) / 2, abs=1e-3)
    assert to_psnr(mse(guesses, truths).mean()) < 14


def test_one_guess_cannot_be_matched_to_two_originals() -> None:
    """Best-of matching would pair the good guess with both near-identical originals."""
    truths = np.stack([np.full((1, 8, 8), 0.50), np.full((1, 8, 8), 0.52)])
    guesses = np.stack([np.full((1, 8, 8), 0.51), np.zeros((1, 8, 8))])
    order = match(guesses, truths)
    assert sorted(order.tolist()) == [0, 1]
    assert psnr(guesses[order], truths).min() < 7


def test_every_measure_uses_the_same_pairing() -> None:
    """The best original by SSIM is another than by error: only the pairing by error counts."""
    rng = np.random.default_rng(0)
    pattern = rng.random((1, 8, 8))
    truths = np.stack([0.1 * pattern, np.full((1, 8, 8), 0.5)])
    guesses = np.stack([0.45 + 0.1 * pattern, np.zeros((1, 8, 8))])
    paired = guesses[match(guesses, truths)]
    result = Measures("images").score(paired, truths)
    assert result["mse"] == pytest.approx(mse(paired, truths))
    assert result["ssim"] == pytest.approx(ssim(paired, truths))
    assert result["ssim"][0] < ssim(guesses[:1], truths[:1])[0]


def test_ssim_takes_pixels_to_range_from_0_to_1() -> None:
    """With a data range of 6 even unrelated images of low contrast look alike."""
    truths, guesses = 0.4 + 0.2 * images(20), 0.4 + 0.2 * images(20, seed=5)
    assert ssim(guesses, truths).mean() < 0.3
    wide = [structural_similarity(t[0], g[0], data_range=6.0) for t, g in
            zip(truths, guesses, strict=True)]  # fmt: skip
    assert np.mean(wide) > 0.8


def test_pixels_of_integers_are_clamped_not_rescaled() -> None:
    assert pixels(np.array([[[[0, 1, 255]]]])).tolist() == [[[[0.0, 1.0, 1.0]]]]
