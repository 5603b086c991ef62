"""PRECODE's messages: its noise leaves the encoder and the layers before it exact.

For one image the encoder's gradients give its input, the features, whatever noise was drawn behind
it (:func:`benchmark.evidence.layers.linear_input`). And its bias gradient, passed back through its
known weights, is the loss's gradient with respect to the features: with it the layers in front are
predicted without noise, head or label. Leaving the noisy layers out is the attack of Scheliga et
al., arXiv:2208.04767.
"""

from __future__ import annotations

from dataclasses import replace

from torch.func import functional_call

from benchmark.evidence.base import Data, Evidence, Tensors, Term, Terms, evidence_of
from benchmark.evidence.generic import adaptive
from benchmark.evidence.layers import feature_parameters, gradient_given_output, linear_input
from benchmark.federated.setting import Setting, stateless_model
from benchmark.federated.transcript import Transcript


def predict_features(setting: Setting, guess: Tensors, hidden: Tensors, data: Data) -> Terms:
    """The features of the guess, which no noise has touched."""
    model, weights = stateless_model(setting).features, feature_parameters(data["shared"])
    return {"features": {"features": functional_call(model, weights, (guess["images"],))}}


def predict_given_feature_gradient(
    setting: Setting, guess: Tensors, hidden: Tensors, data: Data
) -> Terms:
    """The update in front of the bottleneck, for the known gradient of the features."""
    model, weights = stateless_model(setting).features, feature_parameters(data["shared"])
    update = gradient_given_output(model, weights, guess["images"], data["feature_gradient"])
    return {"update": {f"features.{name}": tensor for name, tensor in update.items()}}


def predict_features_and_gradient(
    setting: Setting, guess: Tensors, hidden: Tensors, data: Data
) -> Terms:
    """The update in front of the bottleneck, and the features."""
    return {
        **predict_given_feature_gradient(setting, guess, hidden, data),
        **predict_features(setting, guess, hidden, data),
    }


def encoder_features(transcript: Transcript) -> Term:
    """The features [1, D] that the encoder's gradients give for one image."""
    message = transcript.message
    features = linear_input(message["encoder.weight"], message["encoder.bias"])
    return Term(value={"features": features}, kind="value")


@evidence_of("precode")
def before_bottleneck(transcript: Transcript) -> Evidence:
    """Match only the layers in front of the bottleneck, whose noise is redrawn."""
    value = {n: t for n, t in transcript.message.items() if n.startswith("features.")}
    return adaptive(transcript, simulate=None, terms={"update": Term(value=value)})


@evidence_of("precode")
def bottleneck_features(transcript: Transcript) -> Evidence | None:
    """Match the features alone, which follow from the encoder's gradients."""
    if transcript.setting.images > 1:
        return None
    return adaptive(
        transcript,
        predict=predict_features,
        simulate=None,
        terms={"features": encoder_features(transcript)},
        labels="eliminated",
        given=None,
    )


@evidence_of("precode")
def known_feature_gradient(transcript: Transcript) -> Evidence | None:
    """Match the layers in front of the bottleneck, given the gradient that its encoder shows."""
    if transcript.setting.images > 1:
        return None
    weight, bias = transcript.broadcast["encoder.weight"], transcript.message["encoder.bias"]
    return replace(
        before_bottleneck(transcript),
        predict=predict_given_feature_gradient,
        data={
            "shared": dict(transcript.broadcast),
            "feature_gradient": (weight.T @ bias).unsqueeze(0),
        },
        labels="eliminated",
        given=None,
    )


@evidence_of("precode")
def features_and_gradient(transcript: Transcript) -> Evidence | None:
    """Match the layers in front of the bottleneck and the features that the encoder gives away."""
    evidence = known_feature_gradient(transcript)
    return evidence and replace(
        evidence,
        predict=predict_features_and_gradient,
        terms={**evidence.terms, "features": encoder_features(transcript)},
    )
