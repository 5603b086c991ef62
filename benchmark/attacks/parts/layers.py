"""The victim model as a chain of layers, beside what the evidence shows of each one's gradient.

For closed forms, which solve for one layer's input after the other. They need the plain model's
weights and a gradient named after them; evidence of anything else is refused with a reason.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from benchmark.evidence.base import Tensors
from benchmark.federated.setting import stateless_model
from benchmark.models.base import VictimModel

if TYPE_CHECKING:
    from benchmark.evidence.base import Evidence

_SWEEPS = 50


@dataclass(frozen=True)
class Layer:
    """One module of the model with its weights and their observed gradients.

    Attributes:
        name: as in the model; its parameters are ``<name>.weight`` and ``<name>.bias``.
        module: for its kind and geometry; its own weights mean nothing.
        weights, gradients: by "weight" and "bias"; empty for modules without parameters.
    """

    name: str
    module: nn.Module
    weights: Tensors
    gradients: Tensors


def unreadable(evidence: Evidence) -> str | None:
    """Why the evidence does not show the gradient of a plain model with known weights, or None."""
    setting = evidence.setting
    if setting.local_steps > 1:
        return "several local steps: the message is no gradient at known weights"
    if evidence.hidden:
        return "the evidence has hidden variables, which closed forms do not estimate"
    if evidence.labels == "eliminated":
        return "labels play no part in the evidence, which is no gradient of the whole loss"
    if "update" not in evidence.terms or "shared" not in evidence.data:
        return "the evidence shows no update of known weights"
    if type(stateless_model(setting)) is not VictimModel:
        return "the defense has changed the model's layers"
    return None


def chain(evidence: Evidence) -> list[Layer]:
    """The layers of the evidence's model from the image to the logits, the head last."""
    model = stateless_model(evidence.setting)
    named: list[tuple[str, nn.Module]] = [
        (f"features.{n}", module) for n, module in model.features.named_children()
    ]
    named.append(("head", model.head))
    weights = {**evidence.data.get("private", {}), **evidence.data["shared"]}
    setting = evidence.setting
    rate = setting.local_lr if setting.algorithm == "fedavg" else 1.0
    gradients = {name: t / rate for name, t in evidence.terms["update"].value.items()}
    return [
        Layer(name, module, _owned(name, module, weights), _owned(name, module, gradients))
        for name, module in named
    ]


def layer_input(
    weight: Tensor, bias: Tensor, precision: tuple[Tensor, Tensor] | None = None
) -> tuple[Tensor, Tensor]:
    """A linear layer's input from its gradients for one image.

    Args:
        weight: [out, in] gradient of the weights.
        bias: [out] gradient of the bias.
        precision: of the entries of both, shaped like them: 1 / noise variance up to a factor,
            0 for an entry that was not sent. None: all count the same.

    Returns:
        The input [in], in the gradients' type, and a mask [in]: 1 where anything is known of it.
        Without any bias entry the input's size is unknown, and is taken as that of normalised
        images (a root mean square of one); its sign then too is arbitrary.
    """
    whole = torch.cat([weight, bias[:, None]], 1).double()
    size = whole.abs().max()
    whole = whole / torch.where(size > 0, size, 1.0)  # squares of small gradients would vanish
    counts = torch.ones_like(whole)
    if precision is not None:
        counts = torch.cat([precision[0], precision[1][:, None]], 1).double()
    counted = counts * whole
    # Alternating least squares on counts * (whole - left right^T)^2; one sweep if rank is one.
    left = counted[:, -1] if bool(counted[:, -1].any()) else counted.square().sum(1).sqrt()
    right = torch.zeros_like(whole[0])
    for _ in range(_SWEEPS):
        right = _over(counted.T @ left, counts.T @ left.square())
        right = right / right.norm().clamp_min(1e-300)
        left = _over(counted @ right, counts @ right.square())
    known = (counts > 0).any(0)
    scale = right[-1]
    if not bool(known[-1]) or float(scale.abs()) == 0:
        scale = right[:-1].square().mean().sqrt()
    found = _over(right[:-1], scale.expand(len(right) - 1))
    return found.to(weight.dtype), (known[:-1] & bool(size > 0)).to(weight.dtype)


def rank_one_misfit(
    weight: Tensor, bias: Tensor, found: Tensor, precision: tuple[Tensor, Tensor] | None = None
) -> float:
    """The share of a linear layer's gradient that no single input ``found`` [in] explains.

    Arguments as of :func:`layer_input`; 0 where the gradient is that of one image with this input,
    1 where it has nothing to do with it.
    """
    whole = torch.cat([weight, bias[:, None]], 1).double()
    counts = torch.ones_like(whole)
    if precision is not None:
        counts = torch.cat([precision[0], precision[1][:, None]], 1).double()
    size = whole.abs().max()
    whole = whole / torch.where(size > 0, size, 1.0)
    right = torch.cat([found.double(), torch.ones(1, dtype=torch.float64)])
    left = _over((counts * whole) @ right, counts @ right.square())
    gap = (counts * (whole - left[:, None] * right).square()).sum()
    total = (counts * whole.square()).sum()
    return 1.0 if not float(total) else float((gap / total).sqrt())


def _over(numerator: Tensor, denominator: Tensor) -> Tensor:
    """A quotient that is zero where nothing was observed."""
    silent = denominator == 0
    return torch.where(silent, 0.0, numerator / torch.where(silent, 1.0, denominator))


def _owned(name: str, module: nn.Module, tensors: Tensors) -> dict[str, Tensor]:
    own = [part for part, _ in module.named_parameters()]
    return {part: tensors[f"{name}.{part}"] for part in own if f"{name}.{part}" in tensors}
