"""Reading clipped and noised updates: the noise's size is public, and so is the clipping norm."""

from __future__ import annotations

from dataclasses import replace

import torch

from benchmark.evidence.base import Evidence, Term, reads
from benchmark.evidence.generic import resimulated
from benchmark.federated.transcript import Transcript


@reads("dp")
def likelihood(transcript: Transcript) -> Evidence | None:
    """Clip the guess's update as well, and weigh every entry by the noise's known variance."""
    evidence = resimulated(transcript)
    defense = transcript.setting.defense
    variance = torch.tensor((defense.noise * defense.clip) ** 2)
    value = dict(transcript.message)
    term = Term(value=value, variance=dict.fromkeys(value, variance), kind="value")
    return evidence and replace(evidence, name="likelihood", terms={"update": term})
