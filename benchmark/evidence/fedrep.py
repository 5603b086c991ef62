"""Reading messages whose last layers stayed with the client: head and labels can be eliminated."""

from __future__ import annotations

import torch

from benchmark.evidence.base import Evidence, evidence_of
from benchmark.evidence.shared_layers import ObservedRound, shared_layers_evidence
from benchmark.federated.transcript import Transcript


@evidence_of("fedrep")
def shared_layers(transcript: Transcript) -> Evidence:
    """Match the shared layers for any head and label: the gradient behind them is eliminated."""
    steps = transcript.setting.local_steps
    received = {n.removeprefix("features."): t for n, t in transcript.broadcast.items()}
    sent = {n.removeprefix("features."): t for n, t in transcript.message.items()}
    seen = ObservedRound(
        base={n: t.expand(steps, *t.shape) for n, t in received.items()},
        update={n: t.unsqueeze(0) for n, t in sent.items()},
        gain=torch.ones(steps, steps),
        mix=torch.ones(steps, 1),
    )
    return shared_layers_evidence(transcript, seen, "shared-layers")
