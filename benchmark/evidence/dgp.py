"""Messages of dual gradient pruning: a zero lies outside two thresholds, or was held back."""

from __future__ import annotations

from dataclasses import replace

from benchmark.evidence import pruning
from benchmark.evidence.base import Evidence, evidence_of
from benchmark.federated.transcript import Transcript

for _build in (pruning.residual_weighted, pruning.first_linear_layer_nonzero):
    evidence_of("dgp", module=__name__)(_build)


@evidence_of("dgp")
def pruning_thresholds(transcript: Transcript) -> Evidence | None:
    """Match what was sent, and hold the rest outside its range of sizes, tensor by tensor."""
    evidence = pruning.pruning_thresholds(transcript)
    if evidence is None:
        return None
    term = evidence.terms["update"]
    upper = {n: t.abs().max().expand(t.shape) for n, t in term.value.items()}
    return replace(evidence, terms={"update": replace(term, upper=upper)})
