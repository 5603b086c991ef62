"""Which of its guesses an attacker would believe, by a rule that needs no truth.

Losses of different evidences are never compared. They are ordered from the bluntest to the
sharpest (the order in which they are registered), attacks from the board's own to the others
(the order of the scenario's list); an attacker believes the sharpest evidence that a guess
explains, and where none is explained the sharpest of all.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

EXPLAINED = 1e-3
"""A guess explains what was observed when the attack's loss there is at most this."""


@dataclass(frozen=True)
class Candidate:
    """One guess about one victim.

    evidence    place of its evidence, the sharpest last
    attack      place of its attack, the most trusted first
    explained   whether it explains the evidence, or known noise keeps anything from doing so
    """

    evidence: int
    attack: int
    explained: bool


def explains(loss: float, noisy: bool) -> bool:
    """Whether a guess with this loss explains its evidence.

    >>> explains(1e-6, noisy=False), explains(0.4, noisy=False), explains(0.4, noisy=True)
    (True, False, True)
    """
    return noisy or loss <= EXPLAINED


def select(candidates: Sequence[Candidate]) -> int:
    """The place of the candidate that the attacker believes.

    >>> select([Candidate(0, 0, True), Candidate(1, 0, False), Candidate(1, 1, False)])
    0

    Raises:
        ValueError: there is none.
    """
    if not candidates:
        raise ValueError("there is no guess to select")

    def trust(place: int) -> tuple[bool, int, int]:
        one = candidates[place]
        return one.explained, one.evidence, -one.attack

    return max(range(len(candidates)), key=trust)
