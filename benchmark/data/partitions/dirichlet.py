"""Uneven classes and sizes: each class is divided by shares from a Dirichlet distribution."""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike

from benchmark.data.datasets.base import DataError
from benchmark.data.partitions.base import Parts, by_class, deal, register, settle


@register
def dirichlet(
    labels: ArrayLike, clients: int, seed: int, *,
    alpha: float = 0.5, minimum: int = 1,
) -> Parts:  # fmt: skip
    """Each class is divided by shares from Dirichlet(alpha): small alpha, uneven clients.

    Source: Hsu, Qi and Brown 2019, arXiv:1909.06335, in the per-class form of Yurochkin et al.
    2019, arXiv:1905.12022.
    """
    if not alpha > 0:
        raise DataError(f"alpha must be positive, not {alpha:g}")
    rng = np.random.default_rng(seed)
    parts: Parts = [np.empty(0, dtype=np.int64) for _ in range(clients)]
    for members in by_class(labels):
        shares = rng.dirichlet(np.full(clients, alpha))
        deal(parts, rng.permutation(members), shares)
    return settle(parts, minimum, rng)
