"""How far a prediction is from what the transcript shows, whatever the gradient's magnitude.

A term is prepared once per victim: its tensors become one vector, the mask and the known noise
become one root weight per entry, and the target is brought to unit length (in float64). So no
objective ever adds an epsilon, and a gradient of norm 1e-10 is matched as well as one of norm 1.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

import torch
from torch import Tensor
from torch.autograd import Function

if TYPE_CHECKING:
    from benchmark.evidence.base import Term

# An entry said to carry no noise at all counts at most this much more than the noisiest one.
_LEAST_VARIANCE_RATIO = 1e-8


class Objective(Protocol):
    """Compares a prediction [n] (already weighted) with a prepared target; 0 is a perfect match."""

    def __call__(self, prediction: Tensor, target: Mapping[str, Tensor]) -> Tensor: ...


@dataclass(frozen=True)
class SquaredError:
    """||r (p - v)||^2 / ||r v||^2 over the matched entries, r^2 = 1 / known noise variance.

    DLG's squared distance (Zhu et al., NeurIPS 2019), made dimensionless by the target's own
    length. A target that is zero everywhere is matched in absolute units.
    """

    def __call__(self, prediction: Tensor, target: Mapping[str, Tensor]) -> Tensor:
        return (prediction * target["inverse_norm"] - target["unit"]).square().sum()


@dataclass(frozen=True)
class Cosine:
    """1 - cos(r p, r v) over all matched entries of all tensors together.

    Source: Geiping et al., NeurIPS 2020. Computed as half the squared distance of unit vectors,
    which is the same number without the cancellation of 1 - 0.9999999. A prediction that is zero
    everywhere has loss 1 and no gradient (0 if the target is zero everywhere too).
    """

    def __call__(self, prediction: Tensor, target: Mapping[str, Tensor]) -> Tensor:
        return _HalfGap.apply(prediction, target["unit"], target["present"])[0]


class _HalfGap(Function):
    """Half the squared distance between a prediction's direction and a unit target.

    Predictions are as large as the model, and passes over them are what the objective costs:
    written out, value and gradient take fewer passes than autograd makes of it.
    """

    generate_vmap_rule = True

    @staticmethod
    def forward(prediction: Tensor, unit: Tensor, present: Tensor) -> tuple[Tensor, ...]:
        # Both ends cost a tenth of the norm that is their maximum, and norms half of square sums.
        largest = torch.maximum(prediction.amax(), -prediction.amin())
        size = torch.where(largest > 0, largest, 1.0)  # squares of small entries would vanish
        scaled = prediction / size
        length = torch.linalg.vector_norm(scaled)
        alive = length > 0
        inverse = torch.where(alive, length, 1.0).reciprocal()
        gap = torch.addcmul(unit, scaled, inverse, value=-1)
        half = 0.5 * torch.linalg.vector_norm(gap).square()
        loss = torch.where(alive, torch.where(present > 0, half, 1.0), present)
        slope = torch.where(alive & (present > 0), inverse / size, 0.0)
        return loss, gap, half, slope

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor, ...], output: tuple[Tensor, ...]) -> None:
        _, gap, half, slope = output
        ctx.mark_non_differentiable(gap, half, slope)
        ctx.save_for_backward(gap, inputs[1], half, slope)

    @staticmethod
    def backward(ctx: Any, *slopes: Tensor) -> tuple[Tensor, None, None]:
        # With u = unit prediction, t = unit target, t - u the gap: the derivative is
        # (u (u.t) - t) / |p|, and u.t = 1 - half.
        gap, unit, half, slope = ctx.saved_tensors
        size = slopes[0] * slope
        return torch.addcmul(gap * (size * (half - 1)), unit, size * half, value=-1), None, None


@dataclass(frozen=True)
class SquaredAndAbsolute:
    """The squared error plus ``absolute`` times ||r (p - v)||_1 / ||r v||_1.

    Source: Deng et al., "TAG", EMNLP 2021, arXiv:2103.06819, where the second term is weighted
    layer by layer; here by one weight, which makes both terms dimensionless.
    """

    absolute: float = 0.1

    def __call__(self, prediction: Tensor, target: Mapping[str, Tensor]) -> Tensor:
        gap = prediction * target["inverse_norm"] - target["unit"]
        size = target["unit"].abs().sum()
        size = torch.where(size > 0, size, torch.ones_like(size))
        return gap.square().sum() + self.absolute * gap.abs().sum() / size


def prepare(term: Term, name: str = "term") -> dict[str, Tensor]:
    """One victim's term as the vectors that objectives compare with.

    Returns:
        unit [n]          the weighted target at length 1 (or zero everywhere)
        root [n]          weight of an entry before squaring; absent if every entry counts 1
        inverse_norm []   1 / length of the weighted target (1 for a zero target)
        present []        1 if the weighted target is not zero everywhere
        free, lower, upper [n]   for bounded terms: 1 where the entry was not sent, and the bounds
                          in units of the target's length

    Raises:
        ValueError: if mask, variance or bounds cannot be broadcast to the values.
    """
    order = list(term.value)
    value = torch.cat([term.value[k].detach().reshape(-1) for k in order])
    double = value.double()
    mask = _flat(term.mask, term, order, name)
    variance = _flat(term.variance, term, order, name)
    root: Tensor | None = None
    if mask is not None:
        root = mask.double()
    if variance is not None:
        spread = variance.double()
        most = spread.amax()
        spread = torch.where(most > 0, spread / torch.where(most > 0, most, 1.0), 1.0)
        precision = spread.clamp_min(_LEAST_VARIANCE_RATIO).reciprocal()
        weight = (precision / precision.amax()).sqrt()
        root = weight if root is None else root * weight
    weighted = double if root is None else double * root
    norm = torch.linalg.vector_norm(weighted)
    present = norm > 0
    inverse = torch.where(present, norm, torch.ones_like(norm)).reciprocal()
    out = {
        "unit": (weighted * inverse).to(value.dtype),
        "inverse_norm": inverse.to(value.dtype),
        "present": present.to(value.dtype),
    }
    if root is not None:
        out["root"] = root.to(value.dtype)
    if term.lower is not None:
        if mask is None:
            raise ValueError(f"{name}: bounds need a mask that says which entries they bound")
        lower = _flat(term.lower, term, order, name)
        upper = _flat(term.upper, term, order, name)
        assert lower is not None
        # Bounds are relative to the plain length of what was sent, not to the noise-weighted one.
        sent = torch.linalg.vector_norm(double * mask.double())
        length = torch.where(sent > 0, sent, torch.ones_like(sent)).reciprocal()
        out["free"] = (1 - mask).to(value.dtype)
        out["lower"] = (lower.double() * length).to(value.dtype)
        if upper is not None:
            out["upper"] = (upper.double() * length).to(value.dtype)
        out["bound_scale"] = length.to(value.dtype)
    return out


def mismatch(
    objective: Objective, kind: str, prediction: Tensor, target: Mapping[str, Tensor]
) -> Tensor:
    """One term's loss: the attack's objective for directions, the relative squared error for
    values, plus what the prediction violates of the bounds on entries that were not sent."""
    weighted = prediction * target["root"] if "root" in target else prediction
    compare = objective if kind == "direction" else _VALUE
    loss = compare(weighted, target)
    if "lower" in target:
        loss = loss + _outside(prediction, target)
    return loss


_VALUE = SquaredError()


def _outside(prediction: Tensor, target: Mapping[str, Tensor]) -> Tensor:
    """Squared distance of the unsent entries to the nearest admissible magnitude."""
    size = prediction.abs() * target["bound_scale"]
    excess = torch.relu(size - target["lower"])
    if "upper" in target:
        excess = torch.minimum(excess, torch.relu(target["upper"] - size))
    return (target["free"] * excess.square()).sum()


def _flat(
    part: Mapping[str, Tensor] | None, term: Term, order: list[str], name: str
) -> Tensor | None:
    if part is None:
        return None
    try:
        pieces = [
            part[k].detach().to(term.value[k].dtype).expand(term.value[k].shape).reshape(-1)
            for k in order
        ]
    except (KeyError, RuntimeError) as error:
        raise ValueError(f"{name}: mask, variance and bounds must fit the values ({error})") from (
            error
        )
    return torch.cat(pieces)
