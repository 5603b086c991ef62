"""Reading PPP's messages: the noise in front of the bottleneck does not reach the features.

Ignoring the bottleneck is what its own paper defends against. The encoder's gradients give the
features and the gradient that arrives at them, exactly where they are clean; where they are
noised too, by least squares over their rows, and the features then count for less.
"""

from __future__ import annotations

from dataclasses import replace

from benchmark.defenses.ppp import PartialPerturbation
from benchmark.evidence import generic, precode
from benchmark.evidence.base import Evidence, reads
from benchmark.federated.transcript import Transcript

NOISED_WEIGHT = 0.1
"""Weight of features that were read off a noised encoder, beside the update in front of it."""


@reads("ppp", knowledge="paper")
def ignore(transcript: Transcript) -> Evidence:
    """Match only the layers in front of the bottleneck, noise and all."""
    return replace(precode.ignore(transcript), defense="ppp", knowledge="paper")


@reads("ppp")
def joint_noise(transcript: Transcript) -> Evidence | None:
    """Optimise the bottleneck's draws with the images, under the noise that was added."""
    evidence = generic.joint_noise(transcript)
    return evidence and replace(evidence, noisy=True)


@reads("ppp")
def features(transcript: Transcript) -> Evidence | None:
    """Read the features off the encoder's gradients and match those alone."""
    evidence = precode.features(transcript)
    term = precode.encoder_features(transcript, _encoder_noise(transcript))
    if evidence is None or term is None:
        return None
    return replace(evidence, defense="ppp", terms={"features": term})


@reads("ppp")
def upstream(transcript: Transcript) -> Evidence | None:
    """Match the noised layers in front with the gradient that the encoder passed on."""
    evidence = precode.upstream(transcript)
    clean = _encoder_noise(transcript) == 0
    return evidence and replace(evidence, defense="ppp", noisy=clean)


@reads("ppp")
def joint(transcript: Transcript) -> Evidence | None:
    """Match the noised layers in front of the bottleneck and the features together."""
    update, read = upstream(transcript), features(transcript)
    if update is None or read is None:
        return None
    term = read.terms["features"]
    if _encoder_noise(transcript):
        term = replace(term, weight=NOISED_WEIGHT)
    terms = {**update.terms, "features": term}
    return replace(update, name="joint", predict=precode.predict_joint, terms=terms)


def _encoder_noise(transcript: Transcript) -> float:
    """Standard deviation of the noise on the encoder's gradients."""
    defense = transcript.setting.defense
    assert isinstance(defense, PartialPerturbation)
    return defense.noise if defense.noised_encoder else 0.0
