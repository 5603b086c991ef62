"""Reading DGP's messages: a zero means "outside the band", not "zero"."""

from __future__ import annotations

from dataclasses import replace

from benchmark.evidence import pruning
from benchmark.evidence.base import Evidence, evidence_of
from benchmark.evidence.generic import nonzero_entries
from benchmark.evidence.pruning import smallest
from benchmark.federated.transcript import Transcript


@evidence_of("dgp")
def residual_weighted(transcript: Transcript) -> Evidence | None:
    """Trust each entry by how long it was held back, as the client's earlier messages tell."""
    return pruning.residual_weighted(transcript)


@evidence_of("dgp")
def first_linear_layer_nonzero(transcript: Transcript) -> Evidence | None:
    """Explain every row of the first linear layer's gradient by its inputs, weighed likewise."""
    return pruning.first_linear_layer_nonzero(transcript)


@evidence_of("dgp")
def pruning_thresholds(transcript: Transcript) -> Evidence | None:
    """Match what was sent, and hold the rest outside its band of sizes, tensor by tensor."""
    evidence = nonzero_entries(transcript)
    if evidence is None:
        return None
    term = evidence.terms["update"]
    lower = {n: smallest(t).expand(t.shape) for n, t in term.value.items()}
    upper = {n: t.abs().max().expand(t.shape) for n, t in term.value.items()}
    bounded = replace(term, lower=lower, upper=upper)
    return replace(evidence, name="pruning-thresholds", terms={"update": bounded})
