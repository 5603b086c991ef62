"""Reading PRECODE's messages: its noise leaves the layers before it readable, and its encoder.

Every row of the encoder's weight gradient is its bias gradient times the features, whatever noise
was drawn behind it: for one image the ratio gives the features exactly (Phong et al., 2017,
arXiv:1706.04970, Proposition 3). Leaving the noisy layers out is the attack of Scheliga et al.,
arXiv:2208.04767.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor
from torch.func import functional_call

from benchmark.evidence.base import Evidence, Tensors, Term, reads
from benchmark.evidence.generic import oblivious, predict_update
from benchmark.federated.setting import Setting, skeleton
from benchmark.federated.transcript import Transcript


def predict_features(
    setting: Setting, guess: Tensors, hidden: Tensors, data: Mapping[str, Any]
) -> dict[str, Tensors]:
    """The features of the guess, which no noise has touched."""
    weights = {
        name.removeprefix("features."): tensor
        for name, tensor in data["shared"].items()
        if name.startswith("features.")
    }
    features = functional_call(skeleton(setting).features, weights, (guess["images"],))
    return {"features": {"features": features}}


def predict_both(
    setting: Setting, guess: Tensors, hidden: Tensors, data: Mapping[str, Any]
) -> dict[str, Tensors]:
    """The update in front of the bottleneck, and the features."""
    return {
        **predict_update(setting, guess, hidden, data),
        **predict_features(setting, guess, hidden, data),
    }


def ratio(weight: Tensor, bias: Tensor) -> Tensor:
    """A linear layer's input [1, in], from its gradients for one image.

    Least squares over all rows, so that independent noise on the rows averages out. Gradients
    of any size will do; where they are zero nothing is known of the input, and it is given as 0.
    """
    size = bias.abs().max()
    size = torch.where(size > 0, size, 1.0)
    rows = bias / size  # squares of small gradients would vanish
    return ((weight / size).T @ rows / rows.square().sum().clamp_min(1.0)).unsqueeze(0)


def in_front(transcript: Transcript) -> Term:
    """The gradients of the layers before the bottleneck."""
    message = transcript.message
    return Term(value={n: t for n, t in message.items() if n.startswith("features.")})


def encoder_features(transcript: Transcript) -> Term | None:
    """The features by the encoder's ratio; None where several images share the message."""
    if transcript.setting.images > 1:
        return None
    message = transcript.message
    features = ratio(message["encoder.weight"], message["encoder.bias"])
    return Term(value={"features": features}, kind="value")


@reads("precode")
def ignore(transcript: Transcript) -> Evidence:
    """Match only the layers in front of the bottleneck, whose noise is redrawn."""
    return _reading(transcript, "ignore", update=in_front(transcript))


@reads("precode")
def features(transcript: Transcript) -> Evidence | None:
    """Read the features off the encoder's gradients and match those alone."""
    term = encoder_features(transcript)
    if term is None:
        return None
    evidence = _reading(transcript, "features", features=term)
    return replace(evidence, predict=predict_features, labels="eliminated", given=None)


@reads("precode")
def joint(transcript: Transcript) -> Evidence | None:
    """Match the layers in front of the bottleneck and the features that the encoder gives away."""
    term = encoder_features(transcript)
    if term is None:
        return None
    evidence = _reading(transcript, "joint", update=in_front(transcript), features=term)
    return replace(evidence, predict=predict_both)


def _reading(transcript: Transcript, name: str, **terms: Term) -> Evidence:
    return replace(oblivious(transcript), name=name, knowledge="adaptive", terms=terms)
