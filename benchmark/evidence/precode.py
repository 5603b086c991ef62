"""Reading PRECODE's messages: its noise leaves the layers before it readable, and its encoder.

Every row of the encoder's weight gradient is its bias gradient times the features, whatever noise
was drawn behind it: for one image the ratio gives the features exactly (Phong et al., 2017,
arXiv:1706.04970, Proposition 3). And the bias gradient, passed back through the encoder's known
weights, is the loss's gradient at the features: with it the layers in front are predicted without
noise, head or label. Leaving the noisy layers out is the attack of Scheliga et al.,
arXiv:2208.04767.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor
from torch.func import functional_call, grad

from benchmark.evidence.base import Evidence, Tensors, Term, reads
from benchmark.evidence.generic import oblivious
from benchmark.federated.setting import Setting, stateless_model
from benchmark.federated.transcript import Transcript


def predict_features(
    setting: Setting, guess: Tensors, hidden: Tensors, data: Mapping[str, Any]
) -> dict[str, Tensors]:
    """The features of the guess, which no noise has touched."""
    model = stateless_model(setting).features
    features = functional_call(model, features_of(data["shared"]), (guess["images"],))
    return {"features": {"features": features}}


def predict_upstream(
    setting: Setting, guess: Tensors, hidden: Tensors, data: Mapping[str, Any]
) -> dict[str, Tensors]:
    """The update in front of the bottleneck, for the gradient known to arrive at the features."""
    model = stateless_model(setting).features

    def product(weights: dict[str, Tensor]) -> Tensor:
        return (functional_call(model, weights, (guess["images"],)) * data["upstream"]).sum()

    update = grad(product)(features_of(data["shared"]))
    return {"update": {f"features.{name}": tensor for name, tensor in update.items()}}


def predict_joint(
    setting: Setting, guess: Tensors, hidden: Tensors, data: Mapping[str, Any]
) -> dict[str, Tensors]:
    """The update in front of the bottleneck, and the features."""
    return {
        **predict_upstream(setting, guess, hidden, data),
        **predict_features(setting, guess, hidden, data),
    }


def features_of(weights: Tensors) -> dict[str, Tensor]:
    """The weights in front of the bottleneck, named as the feature extractor names them."""
    return {
        name.removeprefix("features."): tensor
        for name, tensor in weights.items()
        if name.startswith("features.")
    }


def ratio(weight: Tensor, bias: Tensor, noise: float = 0.0) -> Tensor:
    """A linear layer's input [1, in], from its gradients for one image.

    Least squares over all rows, so that independent noise on the rows averages out; noise of the
    known standard deviation ``noise`` on the bias gradient would shrink the estimate, and what it
    adds to the gradient's energy is taken off. Gradients of any size will do; where they are zero
    nothing is known of the input, and it is given as 0.
    """
    size = bias.abs().max()
    size = torch.where(size > 0, size, 1.0)
    rows = bias / size  # squares of small gradients would vanish
    energy = rows.square().sum().clamp_min(1.0)
    signal = torch.maximum(energy - len(bias) * (noise / size) ** 2, 0.1 * energy)
    return ((weight / size).T @ rows / signal).unsqueeze(0)


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
def upstream(transcript: Transcript) -> Evidence | None:
    """Match the layers in front of the bottleneck with the gradient that its encoder passed on."""
    arriving = passed_on(transcript)
    if arriving is None:
        return None
    evidence = _reading(transcript, "upstream", update=in_front(transcript))
    data = {"shared": evidence.data["shared"], "upstream": arriving}
    return replace(evidence, predict=predict_upstream, data=data, labels="eliminated", given=None)


@reads("precode")
def joint(transcript: Transcript) -> Evidence | None:
    """Match the layers in front of the bottleneck and the features that the encoder gives away."""
    evidence, term = upstream(transcript), encoder_features(transcript)
    if evidence is None or term is None:
        return None
    terms = {**evidence.terms, "features": term}
    return replace(evidence, name="joint", predict=predict_joint, terms=terms)


def passed_on(transcript: Transcript) -> Tensor | None:
    """The loss's gradient [1, D] at the features, from the encoder's bias gradient.

    Known for one image and one step, whatever noise and labels were behind the encoder.
    """
    if transcript.setting.images > 1:
        return None
    weight, bias = transcript.broadcast["encoder.weight"], transcript.message["encoder.bias"]
    return (weight.T @ bias).unsqueeze(0)


def _reading(transcript: Transcript, name: str, **terms: Term) -> Evidence:
    return replace(
        oblivious(transcript), name=name, knowledge="adaptive", simulate=None, terms=terms
    )
