"""DP-SGD's messages: every example's clipping is public and can be differentiated.

Every example's factor follows from the guess, which says more than factors as unknowns would.
"""

from __future__ import annotations

from typing import cast

import torch
from torch import Tensor
from torch.func import functional_call, grad, vmap

from benchmark.defenses.dpsgd import DifferentiallyPrivateSGD
from benchmark.evidence import first_linear as linear
from benchmark.evidence.base import Data, Evidence, Tensors, Terms, evidence_of
from benchmark.evidence.dp import gaussian
from benchmark.evidence.generic import adaptive, steps_of
from benchmark.federated.local_steps import Step, shared_steps
from benchmark.federated.setting import Setting, stateless_model
from benchmark.federated.transcript import Transcript

evidence_of("dpsgd", module=__name__)(linear.first_linear_layer_noisy)


def predict_clipped(setting: Setting, guess: Tensors, hidden: Tensors, data: Data) -> Terms:
    """The update with every example's gradient clipped, without the noise."""
    steps = steps_of(setting, guess, {})
    return {"update": shared_steps(setting, data["shared"], {}, steps, clipped_gradient)[0]}


def clipped_gradient(
    setting: Setting, weights: Tensors, held: Tensors, step: Step
) -> dict[str, Tensor]:
    """The mean of the examples' clipped gradients."""
    model, clip = stateless_model(setting), cast(DifferentiallyPrivateSGD, setting.defense).clip
    images, labels, _ = step

    def loss(weights: Tensors, image: Tensor, label: Tensor) -> Tensor:
        return functional_call(model, dict(weights), (image[None], {}, label[None]))

    each = vmap(grad(loss), in_dims=(None, 0, 0))(dict(weights), images, labels)
    norms = sum(t.flatten(1).square().sum(1) for t in each.values()).sqrt()
    factors = clip / torch.clamp_min(norms, clip)
    return {n: torch.tensordot(factors, t, 1) / len(images) for n, t in each.items()}


@evidence_of("dpsgd")
def bpda_eot(transcript: Transcript) -> Evidence:
    """Clip every guessed example too, and weigh every entry by the noise's known variance."""
    setting, defense = transcript.setting, transcript.setting.defense
    assert isinstance(defense, DifferentiallyPrivateSGD)
    term = gaussian(transcript, (defense.noise * defense.clip / setting.batch_size) ** 2)
    return adaptive(transcript, predict=predict_clipped, terms={"update": term}, noisy=True)
