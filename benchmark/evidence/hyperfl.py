"""Reading HyperFL's messages: the hypernetwork's output biases carry the hidden gradient in clear.

An output layer makes theta = W f + b from the hidden code f. Its bias gradient is therefore
exactly the gradient of theta, and its weight gradient that times f: one message gives f, with f
and the broadcast theta, and with both the ordinary gradient of a model with a private head. After
several local steps f has drifted, and the same estimate is an approximation.
"""

from __future__ import annotations

from dataclasses import replace

from torch import Tensor

from benchmark.defenses.hyperfl import slot
from benchmark.evidence.base import Evidence, reads
from benchmark.evidence.fedrep import split, trunk_evidence
from benchmark.federated.setting import skeleton
from benchmark.federated.transcript import Transcript


def code(transcript: Transcript) -> Tensor:
    """The hypernetwork's hidden code [hidden], by least squares over all of its outputs."""
    message = transcript.message
    outputs = [n.removesuffix(".bias") for n in message if n.endswith(".bias") and "trunk" not in n]
    products = sum(message[f"{n}.weight"].T @ message[f"{n}.bias"] for n in outputs)
    energy = sum(message[f"{n}.bias"].square().sum() for n in outputs)
    return products / energy


def generated(transcript: Transcript) -> dict[str, Tensor]:
    """The feature extractor's weights that the client worked with, by name."""
    hidden = code(transcript)
    received = transcript.broadcast
    return {
        name: (
            received[f"hyper.{slot(name)}.weight"] @ hidden + received[f"hyper.{slot(name)}.bias"]
        ).view(weight.shape)
        for name, weight in skeleton(transcript.setting).extractor.named_parameters()
    }


def generated_gradient(transcript: Transcript) -> dict[str, Tensor]:
    """The gradient of those weights: the output biases' own, by name."""
    return {
        name: transcript.message[f"hyper.{slot(name)}.bias"].view(weight.shape)
        for name, weight in skeleton(transcript.setting).extractor.named_parameters()
    }


@reads("hyperfl")
def identity(transcript: Transcript) -> Evidence:
    """Undo the hypernetwork by its bias identity, and eliminate head and labels."""
    inside = {n for n, _ in split(transcript.setting)[0].named_parameters()}
    weights = {n: t for n, t in generated(transcript).items() if n in inside}
    observed = {n: t for n, t in generated_gradient(transcript).items() if n in inside}
    return replace(trunk_evidence(transcript, weights, observed, "identity"), defense="hyperfl")
