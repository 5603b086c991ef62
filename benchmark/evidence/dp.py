"""Reading clipped and noised updates: the noise's size is public, and so is the clipping norm.

Matching by the noise's variance is the likelihood. Features read off a linear layer by its noisy
ratio are a function of what is matched already, and add nothing beside it. A victim's message is
one round's: where a client repeats its batch, averaging its messages comes before any of this.
"""

from __future__ import annotations

import torch

from benchmark.defenses.dp import LocalGaussian
from benchmark.evidence import first_linear as linear
from benchmark.evidence.base import Evidence, Term, evidence_of
from benchmark.evidence.generic import adaptive, predict_protected
from benchmark.federated.transcript import Transcript


@evidence_of("dp")
def first_linear_layer_noisy(transcript: Transcript) -> Evidence | None:
    """Explain every row of the first linear layer's gradient by its inputs, however clipped."""
    return linear.first_linear_layer_noisy(transcript)


@evidence_of("dp")
def bpda_eot(transcript: Transcript) -> Evidence:
    """Clip the guess's update as well, and weigh every entry by the noise's known variance."""
    defense = transcript.setting.defense
    assert isinstance(defense, LocalGaussian)
    variance = torch.tensor((defense.noise * defense.clip) ** 2)
    value = dict(transcript.message)
    term = Term(value=value, variance=dict.fromkeys(value, variance), kind="value")
    return adaptive(
        transcript, "bpda-eot", predict=predict_protected, terms={"update": term}, noisy=True
    )
