"""Reading DGP's messages: a zero means "outside the band", not "zero"."""

from __future__ import annotations

from dataclasses import replace

from benchmark.evidence import pruning
from benchmark.evidence.base import Evidence, reads
from benchmark.evidence.generic import sent
from benchmark.evidence.pruning import smallest
from benchmark.federated.transcript import Transcript


@reads("dgp")
def window(transcript: Transcript) -> Evidence | None:
    """Trust each entry by how long it was held back, as the client's earlier messages tell."""
    return pruning.window(transcript)


@reads("dgp")
def sent_rows(transcript: Transcript) -> Evidence | None:
    """Explain every row of the first linear layer's gradient by its inputs, weighed likewise."""
    return pruning.sent_rows(transcript)


@reads("dgp")
def band(transcript: Transcript) -> Evidence | None:
    """Match what was sent, and hold the rest outside its band of sizes, tensor by tensor."""
    evidence = sent(transcript)
    if evidence is None:
        return None
    term = evidence.terms["update"]
    lower = {n: smallest(t).expand(t.shape) for n, t in term.value.items()}
    upper = {n: t.abs().max().expand(t.shape) for n, t in term.value.items()}
    bounded = replace(term, lower=lower, upper=upper)
    return replace(evidence, name="band", terms={"update": bounded})
