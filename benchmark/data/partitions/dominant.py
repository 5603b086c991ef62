"""Clients with dominant classes."""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike

from benchmark.data.datasets.base import DataError
from benchmark.data.partitions.base import Parts, by_class, deal, register, settle


@register
def dominant(
    labels: ArrayLike, clients: int, seed: int, *,
    alpha: float = 0.8, group: int = 3, minimum: int = 1,
) -> Parts:  # fmt: skip
    """A share ``alpha`` of every class goes to clients it is dominant for, the rest to all.

    Client i has ``group`` neighbouring classes, each group two classes on from the one before,
    so that of ten classes 0-1-2, 2-3-4, 4-5-6, 6-7-8, 8-9-0 take turns. Source: HyperFL's data
    split (Guo et al., AAAI 2025, arXiv:2412.07187), where clients draw equal numbers; here all
    images are dealt out. A class that is nobody's dominant one goes to all.
    """
    if not 0 <= alpha <= 1 or group < 1:
        raise DataError(f"a share of {alpha:g} in groups of {group} classes is impossible")
    rng = np.random.default_rng(seed)
    members_of = by_class(labels)
    classes = len(members_of)
    turns = -(-classes // 2)
    favours = np.zeros((clients, classes))
    for client in range(clients):
        start = 2 * (client % turns)
        favours[client, [(start + step) % classes for step in range(group)]] = 1
    everyone = np.full(clients, 1 / clients)
    parts: Parts = [np.empty(0, dtype=np.int64) for _ in range(clients)]
    for label, members in enumerate(members_of):
        members = rng.permutation(members)
        common = len(members) - round(alpha * len(members))
        favoured = favours[:, label] / max(1, favours[:, label].sum())
        deal(parts, members[:common], everyone)
        deal(parts, members[common:], favoured if favoured.any() else everyone)
    return settle(parts, minimum, rng)
