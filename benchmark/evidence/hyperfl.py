"""Reading HyperFL's messages: the hypernetwork's output biases carry the hidden gradient in clear.

An output layer makes theta = W f + b from the hidden code f. Its bias gradient is therefore
exactly the gradient of theta, and its weight gradient that times f: one message gives f, with f
and the broadcast theta, and with both the ordinary gradient of a model with a private head. After
several local steps f has drifted, and the same estimate is an approximation.
"""

from __future__ import annotations

import torch
from torch import Tensor

from benchmark.defenses.hyperfl import slot
from benchmark.evidence.base import Evidence, reads
from benchmark.evidence.fedrep import split, trunk_evidence
from benchmark.evidence.precode import ratio
from benchmark.federated.transcript import Transcript


def code(transcript: Transcript) -> Tensor:
    """The hypernetwork's hidden code [hidden], by least squares over all of its outputs."""
    message = transcript.message
    outputs = [n.removesuffix(".bias") for n in message if n.endswith(".bias") and "trunk" not in n]
    weight = torch.cat([message[f"{name}.weight"] for name in outputs])
    bias = torch.cat([message[f"{name}.bias"] for name in outputs])
    return ratio(weight, bias).squeeze(0)


def generated(transcript: Transcript) -> dict[str, Tensor]:
    """The feature extractor's weights that the client worked with, by name."""
    hidden = code(transcript)
    received = transcript.broadcast
    return {
        name: (
            received[f"hyper.{slot(name)}.weight"] @ hidden + received[f"hyper.{slot(name)}.bias"]
        ).view(weight.shape)
        for name, weight in split(transcript.setting)[0].named_parameters()
    }


def generated_gradient(transcript: Transcript) -> dict[str, Tensor]:
    """The gradient of those weights: the output biases' own, by name."""
    return {
        name: transcript.message[f"hyper.{slot(name)}.bias"].view(weight.shape)
        for name, weight in split(transcript.setting)[0].named_parameters()
    }


@reads("hyperfl")
def identity(transcript: Transcript) -> Evidence:
    """Undo the hypernetwork by its bias identity, and eliminate head and labels."""
    weights, observed = generated(transcript), generated_gradient(transcript)
    # a step on W and b moves theta = W f + b by 1 + |f|^2 times its gradient
    gain = 1 + code(transcript).square().sum()
    return trunk_evidence(transcript, weights, observed, "identity", gain)
