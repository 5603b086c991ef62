"""Reading pruned messages: a zero means "not among the largest", not "zero"."""

from __future__ import annotations

from dataclasses import replace

import torch

from benchmark.evidence.base import Evidence, reads
from benchmark.evidence.generic import sent
from benchmark.federated.transcript import Transcript


@reads("pruning")
def threshold(transcript: Transcript) -> Evidence | None:
    """Match what was sent, and hold the rest below the smallest of it, tensor by tensor."""
    evidence = sent(transcript)
    if evidence is None:
        return None
    term = evidence.terms["update"]
    lower = {n: smallest(t).expand(t.shape) for n, t in term.value.items()}
    return replace(evidence, name="threshold", terms={"update": replace(term, lower=lower)})


def smallest(tensor: torch.Tensor) -> torch.Tensor:
    """Size of the smallest entry that was sent (a scalar)."""
    size = tensor.abs()
    return torch.where(size > 0, size, torch.inf).min()
