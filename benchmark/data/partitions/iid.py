"""Independent and identically distributed: shuffled and dealt out."""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike

from benchmark.data.partitions.base import Parts, register, settle


@register
def iid(labels: ArrayLike, clients: int, seed: int, *, minimum: int = 1) -> Parts:
    """Shuffled and dealt out; sizes differ by one at most."""
    rng = np.random.default_rng(seed)
    order = rng.permutation(len(np.asarray(labels)))
    return settle(np.array_split(order, clients), minimum, rng)
