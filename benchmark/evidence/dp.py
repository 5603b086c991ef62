"""Clipped and noised updates: the noise's size is public, and so is the clipping norm.

Matching by the noise's variance is the likelihood. A victim's message is one round's: where a
client repeats its batch, averaging its messages comes before any of this.
"""

from __future__ import annotations

import torch

from benchmark.defenses.dp import LocalGaussian
from benchmark.evidence import first_linear as linear
from benchmark.evidence.base import Evidence, Term, evidence_of
from benchmark.evidence.generic import adaptive, predict_protected
from benchmark.federated.transcript import Transcript

evidence_of("dp", module=__name__)(linear.first_linear_layer_noisy)


@evidence_of("dp")
def bpda_eot(transcript: Transcript) -> Evidence:
    """Clip the guess's update as well, and weigh every entry by the noise's known variance."""
    defense = transcript.setting.defense
    assert isinstance(defense, LocalGaussian)
    term = gaussian(transcript, (defense.noise * defense.clip) ** 2)
    return adaptive(transcript, predict=predict_protected, terms={"update": term}, noisy=True)


def gaussian(transcript: Transcript, variance: float) -> Term:
    """The whole message under noise of one ``variance``."""
    value = dict(transcript.message)
    return Term(value=value, variance=dict.fromkeys(value, torch.tensor(variance)), kind="value")
