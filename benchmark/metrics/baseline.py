"""What can be guessed without attacking: leakage counts only where it exceeds this.

Three guesses per private image, in PSNR: the mean of its class, the nearest auxiliary image (an
oracle picks it, so no choice among auxiliary images does better), and what the attack itself
found for another victim with the same label.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from benchmark.metrics.images import distances, match, pixels, psnr, to_psnr


def class_mean(truths: Any, labels: Any, auxiliary: Any, auxiliary_labels: Any) -> np.ndarray:
    """PSNR [n] of guessing the mean auxiliary image of the right class.

    Classes that the auxiliary images lack get the mean of all.
    """
    images, classes = pixels(auxiliary), np.asarray(auxiliary_labels)
    everything = images.mean(axis=0)
    means = {
        label: images[classes == label].mean(axis=0) if (classes == label).any() else everything
        for label in np.unique(np.asarray(labels))
    }
    return psnr(np.stack([means[label] for label in np.asarray(labels)]), truths)


def nearest(truths: Any, auxiliary: Any) -> np.ndarray:
    """PSNR [n] of the auxiliary image, of whatever class, that lies nearest."""
    private, images = pixels(truths), pixels(auxiliary)
    size = private[0].size
    return to_psnr(distances(private, images).min(axis=1) / size)


def without_attack(truths: Any, labels: Any, auxiliary: Any, auxiliary_labels: Any) -> np.ndarray:
    """PSNR [n] of the better of :func:`class_mean` and :func:`nearest`."""
    return np.maximum(
        class_mean(truths, labels, auxiliary, auxiliary_labels), nearest(truths, auxiliary)
    )


def swapped(
    guesses: np.ndarray,
    truths: np.ndarray,
    labels: np.ndarray,
    match: Callable[[Any, Any], np.ndarray] = match,
    measure: Callable[[Any, Any], np.ndarray] = psnr,
) -> np.ndarray:
    """Cells' guesses held against the truth of other victims.

    Each victim's images are scored with the whole guess of a donor: the victim that shares most
    labels with it, the next in line where several do. The pairing is made anew, as for the real
    guess. An image whose label the donor lacks has no swapped guess.

    Args:
        guesses: of k cells about v victims, [k, v, n, ...].
        truths: [v, n, ...].
        labels: true classes [v, n].
        match: pairs the guesses and the truths of one batch.
        measure: what paired guesses and truths [m, ...] score.

    Returns:
        Scores [k, v, n], NaN where there is no swapped guess.
    """
    cells, victims, each = guesses.shape[:3]
    values = np.full((cells, victims, each), np.nan)
    if victims < 2 or not cells:
        return values
    donors = [
        max(((victim + step) % victims for step in range(1, victims)),
            key=lambda other: _overlap(own, labels[other]))
        for victim, own in enumerate(labels)
    ]  # fmt: skip
    taken = np.stack([
        cell[donor][match(cell[donor], truth)]
        for cell in guesses
        for donor, truth in zip(donors, truths, strict=True)
    ])  # fmt: skip
    against = np.concatenate([truths] * cells)
    scores = measure(np.concatenate(taken), np.concatenate(against)).reshape(values.shape)
    shared = np.stack([np.isin(own, labels[d]) for own, d in zip(labels, donors, strict=True)])
    return np.where(shared, scores, values)


def _overlap(left: np.ndarray, right: np.ndarray) -> int:
    """How many labels two batches share as multisets."""
    size = int(max(left.max(), right.max())) + 1
    return int(np.minimum(np.bincount(left, minlength=size),
                          np.bincount(right, minlength=size)).sum())  # fmt: skip
