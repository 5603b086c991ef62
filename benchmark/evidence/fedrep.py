"""FedRep's messages: the last layers stayed with the client, and are eliminated with the labels."""

from __future__ import annotations

import torch

from benchmark.evidence.base import Evidence, evidence_of
from benchmark.evidence.layers import feature_parameters
from benchmark.evidence.shared_layers import ObservedRound, shared_layers_evidence
from benchmark.federated.transcript import Transcript


@evidence_of("fedrep")
def shared_layers(transcript: Transcript) -> Evidence:
    """Match the shared layers, for any gradient with respect to their output."""
    steps = transcript.setting.local_steps
    received, sent = map(feature_parameters, (transcript.broadcast, transcript.message))
    seen = ObservedRound(
        base={n: t.expand(steps, *t.shape) for n, t in received.items()},
        update={n: t.unsqueeze(0) for n, t in sent.items()},
        gain=torch.ones(steps, steps),
        mix=torch.ones(steps, 1),
    )
    return shared_layers_evidence(transcript, seen)
