"""Reading DP-SGD's messages: every example's clipping is public and can be differentiated.

Every example's factor follows from the guess, which says more than factors as unknowns would.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor
from torch.func import functional_call, grad, vmap

from benchmark.defenses.dpsgd import DifferentiallyPrivateSGD
from benchmark.evidence import first_linear as linear
from benchmark.evidence.base import Evidence, Tensors, Term, reads
from benchmark.evidence.generic import oblivious, simulate_round
from benchmark.federated.setting import Setting, stateless_model
from benchmark.federated.transcript import Transcript


def predict_clipped(
    setting: Setting, guess: Tensors, hidden: Tensors, data: Mapping[str, Any]
) -> dict[str, Tensors]:
    """The update with every example's gradient clipped, without the noise."""
    model, defense = stateless_model(setting), setting.defense
    assert isinstance(defense, DifferentiallyPrivateSGD)
    clip = defense.clip

    def loss(weights: Tensors, image: Tensor, label: Tensor) -> Tensor:
        return functional_call(model, dict(weights), (image[None], {}, label[None]))

    def step(weights: dict[str, Tensor], images: Tensor, labels: Tensor) -> dict[str, Tensor]:
        each = vmap(grad(loss), in_dims=(None, 0, 0))(weights, images, labels)
        norms = sum(t.flatten(1).square().sum(1) for t in each.values()).sqrt()
        factors = clip / torch.clamp_min(norms, clip)
        return {n: torch.tensordot(factors, t, 1) / len(images) for n, t in each.items()}

    weights = dict(data["shared"])
    total = {name: torch.zeros_like(tensor) for name, tensor in weights.items()}
    for k in range(setting.local_steps):
        rows = slice(k * setting.batch_size, (k + 1) * setting.batch_size)
        slope = step(weights, guess["images"][rows], guess["labels"][rows])
        if setting.algorithm == "fedsgd":
            return {"update": slope}
        moved = {name: setting.local_lr * slope[name] for name in weights}
        weights = {name: weights[name] - moved[name] for name in weights}
        total = {name: total[name] + moved[name] for name in weights}
    return {"update": total}


@reads("dpsgd")
def noisy_rows(transcript: Transcript) -> Evidence | None:
    """Explain every row of the first linear layer's gradient by its inputs, however clipped."""
    return linear.noisy_rows(transcript)


@reads("dpsgd")
def resimulated(transcript: Transcript) -> Evidence:
    """Clip every guessed example too, and weigh every entry by the noise's known variance."""
    setting, defense = transcript.setting, transcript.setting.defense
    assert isinstance(defense, DifferentiallyPrivateSGD)
    variance = torch.tensor((defense.noise * defense.clip / setting.batch_size) ** 2)
    value = dict(transcript.message)
    term = Term(value=value, variance=dict.fromkeys(value, variance), kind="value")
    return replace(
        oblivious(transcript),
        name="resimulated",
        knowledge="adaptive",
        predict=predict_clipped,
        simulate=simulate_round,
        terms={"update": term},
        noisy=True,
    )
