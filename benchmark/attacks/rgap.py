"""R-GAP: the input of one layer after the other in closed form, from the logits to the image.

Source: Zhu and Blaschko, ICLR 2021, arXiv:2010.07733, algorithm 1. Going backwards, a layer's
output is known, because its activation is inverted, and so is the loss's gradient there. Both are
linear in the layer's input: what the weights make of it (weight constraints), and the weight
gradient that it caused (gradient constraints). The paper's rank analysis counts these equations;
a layer that has fewer than inputs is the reason for which a model is not supported.

The paper's networks have no biases and a logistic loss, whose value it infers. Here (our reading)
the loss is cross-entropy and layers have biases: the head's bias gradient is the gradient at the
logits, and a linear layer's input is its rank-one ratio, its gradient constraints alone. The
count is necessary, not sufficient: where the equations repeat each other, the least input that
satisfies them goes on.

`python -m benchmarks.quality --victims 3 --attacks rgap` measures it on DLG's network.
"""

from __future__ import annotations

import math
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from torch.func import functional_call, vjp
from torch.nn import functional as F

from benchmark.attacks.base import Guess, register
from benchmark.attacks.parts.direct import DirectAttack
from benchmark.attacks.parts.labels import Given, Inferred, Labels
from benchmark.attacks.parts.layers import Layer, chain, layer_input, rank_one_misfit, unreadable

if TYPE_CHECKING:
    from benchmark.evidence.base import Evidence

_LABELS: Labels = Given() | Inferred()
_EDGE = 1e-12  # how near to an activation's limits an output is still inverted
_CONSISTENT = 1e-3  # a larger share of a layer's equations left unsolved is not rounding


@dataclass(frozen=True, kw_only=True)
class RecursiveGradientAttack(DirectAttack):
    """Solves for every layer's input in float64; one image."""

    def supports(self, evidence: Evidence) -> str | None:
        """Needs one image, all gradients, invertible layers, and enough equations in each."""
        if not evidence.terms:
            return "the evidence has no terms to match"
        if evidence.setting.images != 1:
            return "the recursion is for a single image"
        reason = unreadable(evidence) or _LABELS.reason(evidence)
        if reason is not None:
            return reason
        if evidence.terms["update"].mask is not None:
            return "the recursion needs every entry of the gradient"
        layers = chain(evidence)
        for layer, shape in zip(layers, _input_shapes(evidence, layers), strict=True):
            reason = _insoluble(layer, shape)
            if reason is not None:
                return f"{layer.name}: {reason}"
        return None

    def reconstruct(
        self,
        evidences: Sequence[Evidence],
        public: Any,
        seeds: Sequence[int],
        deadline: float | None,
    ) -> list[Guess]:
        """One victim after the other; past the deadline a victim's guess is the mean image."""
        guesses: list[Guess] = []
        for evidence in evidences:
            setting = evidence.setting
            late = bool(guesses) and deadline is not None and time.monotonic() >= deadline
            found, solved = (torch.zeros(1, *setting.shape), True) if late else _recursion(evidence)
            soft = _LABELS.soft(evidence)
            assert soft is not None
            guesses.append(
                Guess(
                    images=setting.denormalise(found),
                    labels=soft.argmax(-1),
                    soft=soft,
                    stopped="timeout" if late else "",
                    applicable=torch.tensor([solved]),
                )
            )
        return self.valued(evidences, guesses)


def _recursion(evidence: Evidence) -> tuple[Tensor, bool]:
    """The image [1, C, H, W] as a model input, and whether every layer's equations have exactly
    one solution."""
    layers = chain(evidence)
    head = layers[-1]
    arriving = head.gradients["bias"].double()[None]
    found = torch.zeros_like(arriving)  # the logits: never needed, the head is linear
    shapes, solved = _input_shapes(evidence, layers), True
    for layer, shape in zip(reversed(layers), reversed(shapes), strict=True):
        weights = {name: w.double() for name, w in layer.weights.items()}
        found, sound = _input(layer, weights, found, arriving, shape)
        found, solved = found.reshape(1, *shape), solved and sound
        back = vjp(lambda x, m=layer.module, w=weights: functional_call(m, w, (x,)), found)[1]
        (arriving,) = back(arriving)
    return found.nan_to_num(0.0, 0.0, 0.0).float(), solved


def _input(
    layer: Layer, weights: Mapping[str, Tensor], output: Tensor, arriving: Tensor, shape: torch.Size
) -> tuple[Tensor, bool]:
    """A layer's input from its output and the loss's gradient there, both with one image; and
    whether its equations determine it and agree with each other."""
    module = layer.module
    if isinstance(module, nn.Linear):
        gradients = layer.gradients["weight"].double(), layer.gradients["bias"].double()
        known, seen = layer_input(*gradients)
        return known, bool(seen.all()) and rank_one_misfit(*gradients, known) <= _CONSISTENT
    if isinstance(module, nn.Conv2d):
        return _deconvolved(layer, weights, output[0], arriving[0], shape)
    return _inverse(module, output), True


def _deconvolved(
    layer: Layer, weights: Mapping[str, Tensor], output: Tensor, arriving: Tensor, shape: torch.Size
) -> tuple[Tensor, bool]:
    """The input [C * H * W] of a convolution by least squares over both kinds of constraints, and
    whether these have exactly one solution.

    Args:
        output, arriving: [O, H', W'].
        shape: (C, H, W).
    """
    module = layer.module
    assert isinstance(module, nn.Conv2d) and not isinstance(module.padding, str)
    channels, pixels = shape[0], shape[1] * shape[2]
    # taps[h, k, p] is 1 where kernel entry k meets input pixel h for output pixel p.
    one = torch.eye(pixels, dtype=output.dtype).reshape(pixels, 1, *shape[1:])
    taps = F.unfold(one, module.kernel_size, module.dilation, module.padding, module.stride)
    kernel = weights["weight"].flatten(2)
    forward = torch.einsum("ock,hkp->opch", kernel, taps).reshape(-1, channels * pixels)
    seen = output if "bias" not in weights else output - weights["bias"][:, None, None]
    per_channel = torch.einsum("op,hkp->okh", arriving.flatten(1), taps).flatten(0, 1)
    caused = layer.gradients["weight"].double().flatten(2).transpose(0, 1).flatten(1)
    size = per_channel.square().mean().sqrt()  # both kinds of equations at one scale
    scale = forward.square().mean().sqrt() / torch.where(size > 0, size, 1.0)
    # All channels share one block of gradient constraints: its triangle says the same in less.
    basis, triangle = torch.linalg.qr(scale * per_channel)
    rows = torch.block_diag(*[triangle] * channels)
    matrix = torch.cat([forward, rows])
    target = torch.cat([seen.flatten(), (scale * caused @ basis).flatten()])
    solved = torch.linalg.lstsq(matrix, target[:, None], driver="gelsy")
    found = solved.solution[:, 0]
    left = (matrix @ found - target).norm() / target.norm().clamp_min(1e-300)
    return found, int(solved.rank) == len(found) and bool(left <= _CONSISTENT)


def _inverse(module: nn.Module, output: Tensor) -> Tensor:
    """What an activation was applied to; outputs beyond its range count as lying at its edge."""
    if isinstance(module, nn.ELU):
        low = (output / module.alpha).clamp_min(_EDGE - 1)
        return torch.where(output > 0, output, torch.log1p(low.clamp_max(0)))
    if isinstance(module, nn.LeakyReLU):
        return torch.where(output > 0, output, output / module.negative_slope)
    if isinstance(module, nn.Sigmoid):
        return torch.logit(output, _EDGE)
    if isinstance(module, nn.Tanh):
        return torch.atanh(output.clamp(_EDGE - 1, 1 - _EDGE))
    return output  # Flatten


_INVERTIBLE = (nn.ELU, nn.LeakyReLU, nn.Sigmoid, nn.Tanh, nn.Flatten)


def _insoluble(layer: Layer, shape: torch.Size) -> str | None:
    """Why a layer's input [C, H, W] or [features] is not determined, or None."""
    module = layer.module
    if isinstance(module, nn.Linear | nn.Conv2d):
        if set(layer.gradients) != {"weight", "bias"}:
            return "its gradient is not in the evidence"
        if isinstance(module, nn.Linear):
            return None
        if module.groups != 1 or isinstance(module.padding, str):
            return "only plain convolutions are solved"
        blank = torch.zeros(1, *shape)
        outputs = functional_call(module, dict(layer.weights), (blank,)).numel()
        taps = module.out_channels * math.prod(module.kernel_size)
        equations = outputs + shape[0] * min(taps, shape[1] * shape[2])
        unknown = shape.numel()
        if equations < unknown:
            return f"{equations} equations for {unknown} inputs"
        return None
    if not isinstance(module, _INVERTIBLE):
        return f"{type(module).__name__} cannot be inverted"
    return None


def _input_shapes(evidence: Evidence, layers: Sequence[Layer]) -> list[torch.Size]:
    """Each layer's input, without the image dimension."""
    at = torch.zeros(1, *evidence.setting.shape)
    shapes = []
    for layer in layers:
        shapes.append(at.shape[1:])
        at = functional_call(layer.module, dict(layer.weights), (at,))
    return shapes


R_GAP = register(
    RecursiveGradientAttack(
        name="rgap",
        title="R-GAP",
        cite="zhu2021rgap",
        url="https://arxiv.org/abs/2010.07733",
        summary="Every layer's input in closed form, from the last layer to the image.",
        closed_form=True,
    )
)
