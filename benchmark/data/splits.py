"""Disjoint splits of a data set, decided by what the images show or the sentences say.

An image's place depends on its pixels and the seed alone, not on its position in a file, so the
same image lands on the same side wherever it is read from. Near-duplicates are removed first:
an attack must not look good because an auxiliary image is the victim's twin.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping

import numpy as np
import torch

from benchmark.data.datasets.base import DataError, Dataset
from benchmark.data.text import PAD

DUPLICATE_MSE = 2e-3
"""Images closer than this (27 dB) count as one. It lies well below the distance of two
different images of a class, and far above any success threshold in PSNR."""

DUPLICATE_WORDS = 4
"""Sentences count as one where fewer words than this, in whatever order, are in one of them only:
one word replaced makes two, one replaced and one added three."""

_BLOCK = 2048


def split(dataset: Dataset, sizes: Mapping[str, int], seed: int) -> dict[str, Dataset]:
    """Divide ``dataset``, near-duplicates removed, into the named parts.

    Args:
        dataset: what to divide.
        sizes: numbers of examples, each at least 1.
        seed: another seed, other splits.

    Raises:
        DataError: there are not enough examples.
    """
    wanted = sum(sizes.values())
    keep = distinct(dataset, _order(dataset, seed), limit=wanted)
    if wanted > len(keep):
        raise DataError(
            f"{dataset.name}: {wanted} examples wanted, {len(keep)} are left "
            f"without near-duplicates"
        )
    ends = np.cumsum(list(sizes.values()))
    return {
        name: dataset.subset(keep[end - size : end])
        for (name, size), end in zip(sizes.items(), ends, strict=True)
    }


def distinct(dataset: Dataset, order: np.ndarray, limit: int | None = None) -> np.ndarray:
    """The indices of ``order`` whose content is no near-duplicate of an earlier kept one.

    Args:
        dataset: the images or sentences.
        order: int64 indices, the first of each pair of duplicates wins.
        limit: stop once so many are found.
    """
    pixels, threshold = _compared(dataset)
    kept = np.empty(0, dtype=np.int64)
    for start in range(0, len(order), _BLOCK):
        if limit is not None and len(kept) >= limit:
            break
        block = order[start : start + _BLOCK]
        fresh = pixels[torch.from_numpy(block)]
        twin = _near(fresh, fresh, threshold).tril(-1)
        seen = torch.zeros(len(block), dtype=torch.bool)
        for before in range(0, len(kept), _BLOCK):
            old = pixels[torch.from_numpy(kept[before : before + _BLOCK])]
            seen |= _near(fresh, old, threshold).any(1)
        # Within a block only a kept image hides its twins, so those with any are taken in turn.
        alive = ~seen
        for row in torch.nonzero(twin.any(1)).flatten().tolist():
            if alive[row] and bool((twin[row] & alive).any()):
                alive[row] = False
        kept = np.concatenate([kept, block[alive.numpy()]])
    return kept if limit is None else kept[:limit]


def _compared(dataset: Dataset) -> tuple[torch.Tensor, float]:
    """Points [n, m], and the squared distance below which two are one: pixels, or word counts."""
    if not dataset.vocabulary:
        pixels = dataset.images.flatten(1)
        return pixels, DUPLICATE_MSE * pixels.shape[1]
    counts = torch.zeros(len(dataset), len(dataset.vocabulary))
    counts.scatter_add_(1, dataset.images, torch.ones_like(dataset.images, dtype=counts.dtype))
    counts[:, PAD] = 0
    return counts, DUPLICATE_WORDS


def _near(left: torch.Tensor, right: torch.Tensor, threshold: float) -> torch.Tensor:
    """bool [n, m]: whose squared distance is below ``threshold``."""
    norms = left.square().sum(1)[:, None] + right.square().sum(1)[None, :]
    # The expanded square loses digits to cancellation: it only nominates, the difference decides.
    near = norms - 2 * left @ right.T < 2 * threshold + 1e-5 * norms
    rows, columns = torch.nonzero(near, as_tuple=True)
    for start in range(0, len(rows), 65536):
        pairs = slice(start, start + 65536)
        exact = (left[rows[pairs]] - right[columns[pairs]]).square().sum(1) < threshold
        near[rows[pairs], columns[pairs]] = exact
    return near


def _order(dataset: Dataset, seed: int) -> np.ndarray:
    """Indices sorted by a hash of seed and pixels (exact duplicates are neighbours)."""
    salt = f"{dataset.name}/{seed}/".encode()
    pixels = dataset.images.contiguous().numpy().astype("<f4", copy=False)
    keys = [hashlib.sha256(salt + image.tobytes()).digest() for image in pixels]
    return np.array(sorted(range(len(keys)), key=lambda i: (keys[i], int(dataset.labels[i]))),
                    dtype=np.int64)  # fmt: skip
