"""What evidence says at the truth of a tiny round, for the tests of closed forms."""

from __future__ import annotations

from typing import Any

from benchmark.attacks.base import get
from benchmark.evidence.base import Evidence, registered_evidence
from tests import tiny
from tests.tiny import Victim

ATTACKS = ("ig", "dlg")


def read(victim: Victim, name: str) -> Evidence:
    defense = victim.transcript.setting.defense.name
    entry = next(e for e in registered_evidence(defense) if e.name == name)
    evidence = entry.build(victim.transcript)
    assert evidence is not None
    return evidence


def at_truth(victim: Victim, evidence: Evidence) -> Any:
    """What the evidence predicts for the true images, labels and hidden variables."""
    hidden = evidence.reveal(evidence.setting, victim.truth, evidence.data)
    return evidence.predict(evidence.setting, victim.guess, hidden, evidence.data)


def error(victim: Victim, evidence: Evidence, term: str = "update") -> float:
    return tiny.relative_error(at_truth(victim, evidence)[term], evidence.terms[term].value)


def losses(victim: Victim, evidence: Evidence) -> list[float]:
    """L(truth) of every attack, pixels and all, as the audit takes it."""
    hidden = evidence.reveal(evidence.setting, victim.truth, evidence.data)
    return [
        get(name).losses([evidence], [victim.truth["pixels"]], [victim.soft], [hidden])[0]
        for name in ATTACKS
    ]
