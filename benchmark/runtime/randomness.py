"""Two families of random numbers: public ones pair the defenses, private ones nobody may redraw.

Public streams (splits, initial weights, victims, data order, attack starts) are keyed by facts
that do not name a defense, so that every defense meets the same ones. Client-private streams
(noise, embeddings, heads) are keyed by a secret that stays with the truth: an attacker who could
derive them would be judged against a defense that does not exist.
"""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import Generator


def seed_of(*keys: object) -> int:
    """A 63-bit seed that depends on the printed form of every key.

    >>> seed_of("digits", 0) == seed_of("digits", 0) != seed_of("digits", 1)
    True
    """
    text = "\x1f".join(map(str, keys)).encode()
    return int.from_bytes(hashlib.sha256(text).digest()[:8], "big") >> 1


def generator(*keys: object) -> Generator:
    """A torch generator seeded by :func:`seed_of`."""
    import torch

    return torch.Generator().manual_seed(seed_of(*keys))
