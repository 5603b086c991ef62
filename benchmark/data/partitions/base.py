"""How the training examples are spread over clients: one way a file, named after it.

Each is a function of labels [n], the number of clients and a seed, with ``minimum``, the examples
that every client has at least, and an ``alpha`` where it takes one. It returns one sorted int64
array of indices per client; together they hold each index exactly once. Sizes may differ.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.typing import ArrayLike

from benchmark.config.registry import PARTITIONS
from benchmark.data.datasets.base import DataError

Parts = list[np.ndarray]
Partition = Callable[..., Parts]


def register(function: Partition) -> Partition:
    """Enter a partition under its function's name, which is also its file's.

    Raises:
        PluginError: the name is taken, or is not the file's.
    """
    name = function.__name__.replace("_", "-")
    return PARTITIONS.enter(name, function, function.__module__)


def by_class(labels: ArrayLike) -> list[np.ndarray]:
    """Indices of each class from 0 to the largest."""
    known = np.asarray(labels)
    return [np.flatnonzero(known == label) for label in range(int(known.max()) + 1)]


def deal(parts: Parts, indices: np.ndarray, shares: np.ndarray) -> None:
    """Append to each part its share of ``indices``, all of them dealt out."""
    ends = np.rint(np.cumsum(shares) * len(indices)).astype(int)
    ends[-1] = len(indices)
    for client, chunk in enumerate(np.split(indices, ends[:-1])):
        parts[client] = np.concatenate([parts[client], chunk])


def settle(parts: Parts, minimum: int, rng: np.random.Generator) -> Parts:
    """Sort, after the largest parts have filled up those below ``minimum``."""
    total = sum(map(len, parts))
    if minimum < 1 or minimum * len(parts) > total:
        raise DataError(f"{total} images cannot give each of {len(parts)} clients {minimum}")
    parts = [rng.permutation(part) for part in parts]
    for client in range(len(parts)):
        while len(parts[client]) < minimum:
            richest = int(np.argmax([len(part) for part in parts]))
            parts[client] = np.append(parts[client], parts[richest][-1])
            parts[richest] = parts[richest][:-1]
    return [np.sort(part).astype(np.int64) for part in parts]
