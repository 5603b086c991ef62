"""PPP's messages: the noise in front of the bottleneck does not reach the features.

Leaving the bottleneck out is what its own paper defends against. A clean encoder's gradients give
the features and the gradient with respect to them exactly. A noised encoder's do not; but the
decoder behind it is clean, and its gradients give the bottleneck's sample z = mean + std * draw.
The draw of a guess is therefore (z - mean) / std: with it the whole message is predicted, nothing
is hidden but the image, and what is left is noise of known size on known tensors. Matching by that
size is the likelihood; features estimated from the noised encoder say nothing that is not in it.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import wraps

import torch
from torch.func import functional_call
from torch.nn import functional as F

from benchmark.defenses.ppp import PartialPerturbation
from benchmark.evidence import first_linear as linear
from benchmark.evidence import generic, precode
from benchmark.evidence.base import Data, Evidence, Tensors, Term, Terms, evidence_of
from benchmark.evidence.generic import adaptive, client_update
from benchmark.evidence.layers import feature_parameters, linear_input
from benchmark.federated.setting import Setting, stateless_model
from benchmark.federated.transcript import Transcript


def with_clean_encoder(
    build: Callable[[Transcript], Evidence | None], noisy: bool
) -> Callable[[Transcript], Evidence | None]:
    """PRECODE's evidence where the encoder is not noised; ``noisy`` if what it matches is."""

    @wraps(build)
    def evidence_if_clean(transcript: Transcript) -> Evidence | None:
        evidence = None if _defense(transcript).noised_encoder else build(transcript)
        return evidence and replace(evidence, noisy=noisy)

    return evidence_if_clean


evidence_of("ppp", module=__name__)(linear.first_linear_layer_noisy)
evidence_of("ppp", knowledge="paper", module=__name__)(precode.before_bottleneck)
for _build, _noisy in (
    (precode.bottleneck_features, False),
    (precode.known_feature_gradient, True),
    (precode.features_and_gradient, True),
):
    evidence_of("ppp", module=__name__)(with_clean_encoder(_build, _noisy))


@evidence_of("ppp")
def joint_noise(transcript: Transcript) -> Evidence | None:
    """Optimise the bottleneck's draws with the images, under the noise that was added."""
    evidence = generic.joint_noise(transcript)
    return evidence and replace(evidence, noisy=True)


def predict_solved(setting: Setting, guess: Tensors, hidden: Tensors, data: Data) -> Terms:
    """The update with the draw that takes the guess to the known sample, and that draw."""
    shared = data["shared"]
    inside = feature_parameters(shared)
    features = functional_call(stateless_model(setting).features, inside, (guess["images"],))
    encoded = F.linear(features, shared["encoder.weight"], shared["encoder.bias"])
    mean, spread = encoded.chunk(2, dim=-1)
    draw = (data["sample"] - mean) / F.softplus(spread)
    known = {"images": guess["images"], "labels": data["labels"]}
    update = client_update(setting, known, {"bottleneck": draw}, shared, {})
    return {"update": {**update, "draw": draw}}


@evidence_of("ppp")
def solved_bottleneck_noise(transcript: Transcript) -> Evidence | None:
    """Solve for the draws by the clean decoder, and weigh the rest by its noise's variance."""
    setting, message, defense = transcript.setting, transcript.message, _defense(transcript)
    if setting.images > 1 or not defense.noised_encoder:
        return None
    sample = linear_input(message["decoder.weight"], message["decoder.bias"])
    label = message["head.bias"].argmin()  # softmax minus one-hot: negative for the true class
    value = {name: tensor for name, tensor in message.items() if defense.perturbed(name)}
    variance = dict.fromkeys(value, torch.tensor(defense.noise**2))
    value["draw"], variance["draw"] = torch.zeros_like(sample), torch.tensor(1.0)
    return adaptive(
        transcript,
        predict=predict_solved,
        simulate=None,
        data={
            "shared": dict(transcript.broadcast),
            "sample": sample,
            "labels": F.one_hot(label, setting.classes).to(sample.dtype).unsqueeze(0),
        },
        terms={"update": Term(value=value, variance=variance, kind="value")},
        noisy=True,
        labels="eliminated",
        given=None,
    )


def _defense(transcript: Transcript) -> PartialPerturbation:
    assert isinstance(transcript.setting.defense, PartialPerturbation)
    return transcript.setting.defense
