"""Reading PPP's messages: the noise in front of the bottleneck does not reach the features.

Ignoring the bottleneck is what its own paper defends against. A clean encoder's gradients give the
features and the gradient that arrives at them exactly. A noised encoder's do not; but the decoder
behind it is clean, and its ratio is the bottleneck's sample z = mean + std * draw. The draw of a
guess is therefore (z - mean) / std: with it the whole message is predicted, nothing is hidden but
the image, and what is left is noise of known size on known tensors. Matching by that size is the
likelihood; features read off the noised encoder would say nothing that is not in it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import torch
from torch.func import functional_call
from torch.nn import functional as F

from benchmark.defenses.ppp import PartialPerturbation
from benchmark.evidence import first_linear as linear
from benchmark.evidence import generic, precode
from benchmark.evidence.base import Evidence, Tensors, Term, reads
from benchmark.evidence.generic import client_update, reread
from benchmark.federated.setting import Setting, stateless_model
from benchmark.federated.transcript import Transcript


def predict_sampled(
    setting: Setting, guess: Tensors, hidden: Tensors, data: Mapping[str, Any]
) -> dict[str, Tensors]:
    """The update with the draw that takes the guess to the known sample, and that draw."""
    shared = data["shared"]
    inside = precode.features_of(shared)
    features = functional_call(stateless_model(setting).features, inside, (guess["images"],))
    encoded = F.linear(features, shared["encoder.weight"], shared["encoder.bias"])
    mean, spread = encoded.chunk(2, dim=-1)
    draw = (data["sample"] - mean) / F.softplus(spread)
    known = {"images": guess["images"], "labels": data["labels"]}
    update = client_update(setting, known, {"bottleneck": draw}, shared, {})
    return {"update": {**update, "draw": draw}}


@reads("ppp")
def noisy_rows(transcript: Transcript) -> Evidence | None:
    """Explain every row of the first linear layer's noised gradient by the layer's own inputs."""
    return linear.noisy_rows(transcript)


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
    """Read the features off the clean encoder's gradients and match those alone."""
    evidence = None if _noised_encoder(transcript) else precode.features(transcript)
    return evidence and replace(evidence, defense="ppp")


@reads("ppp")
def upstream(transcript: Transcript) -> Evidence | None:
    """Match the noised layers in front with the gradient that the clean encoder passed on."""
    evidence = None if _noised_encoder(transcript) else precode.upstream(transcript)
    return evidence and replace(evidence, defense="ppp", noisy=True)


@reads("ppp")
def joint(transcript: Transcript) -> Evidence | None:
    """Match the noised layers in front of the bottleneck and the features together."""
    evidence = None if _noised_encoder(transcript) else precode.joint(transcript)
    return evidence and replace(evidence, defense="ppp", noisy=True)


@reads("ppp")
def sampled(transcript: Transcript) -> Evidence | None:
    """Solve for the draws by the clean decoder, and weigh the rest by its noise's variance."""
    setting, message = transcript.setting, transcript.message
    defense = setting.defense
    assert isinstance(defense, PartialPerturbation)
    if setting.images > 1 or not defense.noised_encoder:
        return None
    sample = precode.ratio(message["decoder.weight"], message["decoder.bias"])
    label = message["head.bias"].argmin()  # softmax minus one-hot: negative for the true class
    value = {name: tensor for name, tensor in message.items() if defense.perturbed(name)}
    variance = dict.fromkeys(value, torch.tensor(defense.noise**2))
    value["draw"], variance["draw"] = torch.zeros_like(sample), torch.tensor(1.0)
    return reread(
        transcript,
        "sampled",
        predict=predict_sampled,
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


def _noised_encoder(transcript: Transcript) -> bool:
    defense = transcript.setting.defense
    assert isinstance(defense, PartialPerturbation)
    return defense.noised_encoder
