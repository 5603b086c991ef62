"""How much of the private images a reconstruction shows.

Images are arrays or tensors [n, C, H, W] in pixel units; guesses are clamped to [0, 1] first and
what is not a finite number counts as 0, so an attack that diverged is scored, not left out.
Every measure is per image; averages are taken over images afterwards, never inside.
Guesses are paired with truths once (:func:`match`), and every measure uses that pairing.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np

PSNR_CAP = 60.0
"""dB; an exact copy scores this and not infinity."""

SSIM_WINDOW = 11
SSIM_SIGMA = 1.5
SMALL_WINDOW = 7
_MSE_AT_CAP = 10 ** (-PSNR_CAP / 10)


def pixels(images: Any) -> np.ndarray:
    """Images as float64, clamped to [0, 1]; pixels that are not finite are 0."""
    if hasattr(images, "detach"):
        images = images.detach().cpu().numpy()
    array = np.asarray(images, dtype=np.float64)
    return np.clip(np.where(np.isfinite(array), array, 0.0), 0.0, 1.0)


def mse(guesses: Any, truths: Any) -> np.ndarray:
    """Mean squared error of each pair, [n]."""
    ours, theirs = _pair(guesses, truths)
    return np.square(ours - theirs).mean(axis=(1, 2, 3))


def psnr(guesses: Any, truths: Any) -> np.ndarray:
    """Peak signal-to-noise ratio of each pair in dB, [n], at most :data:`PSNR_CAP`.

    >>> psnr(np.full((1, 1, 2, 2), 0.6), np.full((1, 1, 2, 2), 0.5)).round(6)
    array([20.])
    """
    return to_psnr(mse(guesses, truths))


def to_psnr(error: Any) -> np.ndarray:
    """Mean squared errors as dB."""
    return -10.0 * np.log10(np.maximum(error, _MSE_AT_CAP))


def ssim(guesses: Any, truths: Any) -> np.ndarray:
    """Structural similarity of each pair, [n], data range 1 (Wang et al. 2004).

    The window is Gaussian, 11 wide with sigma 1.5, where the shorter side has 11 pixels; on smaller
    images uniform, 7 wide or the largest odd width that fits. The mean is over windows inside the
    image, as there and in scikit-image. Values of different windows are not comparable, and those
    of 8x8 images rest on four windows.
    """
    from scipy.ndimage import correlate1d

    ours, theirs = _pair(guesses, truths)
    side = min(ours.shape[2:])
    width = SSIM_WINDOW if side >= SSIM_WINDOW else min(SMALL_WINDOW, side - (side + 1) % 2)
    radius = width // 2
    offsets = np.arange(-radius, radius + 1)
    kernel = (
        np.exp(-(offsets**2) / (2 * SSIM_SIGMA**2)) if width == SSIM_WINDOW else 0.0 * offsets + 1
    )
    kernel /= kernel.sum()

    def mean(values: np.ndarray) -> np.ndarray:
        for axis in (2, 3):
            values = correlate1d(values, kernel, axis=axis)
        return values[..., radius : -radius or None, radius : -radius or None]

    one, other = mean(ours), mean(theirs)
    both = one * other
    squares = one**2 + other**2
    covariance, spread = mean(ours * theirs) - both, mean(ours**2 + theirs**2) - squares
    small, large = 0.01**2, 0.03**2
    found = (2 * both + small) * (2 * covariance + large)
    return (found / ((squares + small) * (spread + large))).mean(axis=(1, 2, 3))


def match(guesses: Any, truths: Any) -> np.ndarray:
    """The one-to-one pairing with the least total squared error.

    Args:
        guesses, truths: images [n, C, H, W] of one batch.

    Returns:
        int64 [n]: ``guesses[match(guesses, truths)]`` stand beside ``truths``.
    """
    from scipy.optimize import linear_sum_assignment

    ours, theirs = _pair(guesses, truths)
    count = len(ours)
    if count < 2:
        return np.arange(count)
    columns = linear_sum_assignment(distances(theirs, ours))[1]
    return columns.astype(np.int64)


def distances(left: np.ndarray, right: np.ndarray) -> np.ndarray:
    """Squared distances [n, m] between images, exact enough to order near-copies."""
    a, b = left.reshape(len(left), -1), right.reshape(len(right), -1)
    if a.size * len(b) <= 2**24:
        return np.square(a[:, None] - b[None]).sum(axis=2)
    return np.stack([np.square(row - b).sum(axis=1) for row in a])


def identify(
    guesses: Any, truths: Any, labels: Any, candidates: Any, candidate_labels: Any, *,
    count: int = 100, seed: int = 0,
) -> tuple[np.ndarray, np.ndarray]:  # fmt: skip
    """Whether each guess is nearer to its truth than to held-out images of the same class.

    Args:
        guesses: [n, C, H, W] paired with ``truths``, or [k, n, C, H, W] by several attacks.
        truths: the private images.
        labels: true classes [n].
        candidates: held-out images [m, C, H, W] (auxiliary, test), none of them a victim.
        candidate_labels: their classes [m].
        count: how many images the truth is one of; each image draws its own ``count - 1``
            others, or all there are of its class where there are fewer.
        seed: of that draw.

    Returns:
        bool [n] or [k, n], strictly nearest by squared error; and int64 [n], how many images the
        truth was one of, itself included (chance is its inverse). One without others of its class
        is not identified.
    """
    ours, theirs, pool = pixels(guesses), pixels(truths), pixels(candidates)
    nearest = np.zeros(ours.shape[:-3], dtype=bool)
    among = np.ones(len(theirs), dtype=np.int64)
    for index, others in enumerate(rivals(labels, candidate_labels, count, seed)):
        among[index] += len(others)
        if len(others):
            own = ours[..., index, :, :, :].reshape(-1, theirs[0].size)
            to_truth = distances(own, theirs[index : index + 1])[:, 0]
            nearest[..., index] = to_truth < distances(own, pool[others]).min(axis=1)
    return nearest, among


def rivals(labels: Any, candidate_labels: Any, count: int, seed: int) -> Iterator[np.ndarray]:
    """Of each example, which ``count - 1`` candidates of its class it is told apart from."""
    classes = np.asarray(candidate_labels)
    members = {label: np.flatnonzero(classes == label) for label in np.unique(np.asarray(labels))}
    for index, label in enumerate(np.asarray(labels)):
        others = members[label]
        if len(others) >= count:
            rng = np.random.default_rng([seed, index])
            others = rng.choice(others, count - 1, replace=False)
        yield others


def label_accuracy(guessed: Any, truths: Any) -> float:
    """Share of labels that two batches have in common as multisets: 1 - sum|difference| / 2n.

    >>> label_accuracy([3, 3, 5, 1], [5, 3, 1, 1])
    0.75
    """
    ours, theirs = np.asarray(guessed).reshape(-1), np.asarray(truths).reshape(-1)
    if len(ours) != len(theirs) or not len(theirs):
        raise ValueError(f"{len(ours)} labels for {len(theirs)} images")
    size = int(max(ours.max(), theirs.max())) + 1
    gap = np.bincount(ours, minlength=size) - np.bincount(theirs, minlength=size)
    return float(1 - np.abs(gap).sum() / (2 * len(theirs)))


def _pair(guesses: Any, truths: Any) -> tuple[np.ndarray, np.ndarray]:
    """Both as clamped float64 [n, C, H, W] of one shape."""
    ours, theirs = pixels(guesses), pixels(truths)
    if ours.shape != theirs.shape or ours.ndim != 4:
        raise ValueError(f"guesses {ours.shape} and truths {theirs.shape} are not pairs of images")
    return ours, theirs
