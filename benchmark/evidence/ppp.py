"""Reading PPP's messages: the noise in front of the bottleneck does not reach the features.

Ignoring the bottleneck is what its own paper defends against; the encoder's gradients give the
features whether they are clean (exactly) or noised (by least squares over their rows).
"""

from __future__ import annotations

from dataclasses import replace

from benchmark.evidence import precode
from benchmark.evidence.base import Evidence, reads
from benchmark.federated.transcript import Transcript


@reads("ppp", knowledge="paper")
def ignore(transcript: Transcript) -> Evidence:
    """Match only the layers in front of the bottleneck, noise and all."""
    return replace(precode.ignore(transcript), defense="ppp", knowledge="paper")


@reads("ppp")
def features(transcript: Transcript) -> Evidence | None:
    """Read the features off the encoder's gradients and match those alone."""
    return _as_ppp(precode.features(transcript))


@reads("ppp")
def joint(transcript: Transcript) -> Evidence | None:
    """Match the noised layers in front of the bottleneck and the features together."""
    return _as_ppp(precode.joint(transcript))


def _as_ppp(evidence: Evidence | None) -> Evidence | None:
    return evidence and replace(evidence, defense="ppp")
