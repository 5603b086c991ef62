"""Peeling: a batch, exactly and with labels, from a network that begins with a linear layer.

Source: Shariati and Alambardar Meybodi, 2026 (their code: SaeedShariati/
Gradient-Inversion-via-LT-Codes), of which this is the passive attack. A row of the first layer's
weight gradient over its entry of the bias gradient is a mixture of the images that the unit reacts
to; where it reacts to one alone, it is that image. This is checked, not hoped for: the public
model says what gradient the candidate would cause at the layer's output under every label, and the
candidate is taken if one of these was observed at its units. What is taken is subtracted, as LT
codes are decoded, which leaves other units to one image alone; and so on until nothing new
appears.

Our readings: the gradient at the layer's output is that of whatever network lies behind, where the
paper has one linear layer. A candidate counts as confirmed where chance would hardly do it
(:data:`CHANCE`): among many candidates the single number that one unit shows is met by a wrong
image, so that one unit has to agree more closely than several. How near is equal follows from the
message's precision. An image that no unit shows is left grey, and is said to be out of reach.
"""

from __future__ import annotations

import math
import time
from collections import OrderedDict
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from torch.func import functional_call
from torch.nn import functional as F
from torch.nn.modules.batchnorm import _BatchNorm

from benchmark.attacks.base import Guess, register
from benchmark.attacks.parts.direct import DirectAttack
from benchmark.evidence.first_linear import first_linear_name, in_front
from benchmark.federated.setting import stateless_model
from benchmark.models.base import VictimModel

if TYPE_CHECKING:
    from benchmark.evidence.base import Evidence

Slopes = Callable[[Tensor], Tensor]
"""Inputs [K, features] to the loss's gradients [K, classes, units] at the layer's output, one for
every label that the input may have, as shares of a batch's mean loss."""

CHANCE = 1e-3
"""How many wrong images a round may take on average, if they agree with the message at random."""
NEAR = 1e-5
"""Root mean square distance of equal images, in widths of the pixels' range; the root of the
message's precision where that is coarser."""
SILENT = 100
"""So many roundings of the largest entry are what is left of a unit whose images were all taken."""
_TOGETHER = 256  # candidates whose gradients are computed together


@dataclass(frozen=True, kw_only=True)
class Peeling(DirectAttack):
    """Takes one image after the other off the first layer's gradient, in float64.

    tolerance   relative error at a candidate's units up to which a label explains it
    """

    tolerance: float = 1e-4

    def supports(self, evidence: Evidence) -> str | None:
        """Needs the whole gradient of a linear layer that reads the images, and all weights."""
        if not evidence.terms:
            return "the evidence has no terms to match"
        setting = evidence.setting
        if setting.local_steps > 1:
            return "several local steps: the message is no gradient at known weights"
        if evidence.hidden or evidence.data.get("private") or "shared" not in evidence.data:
            return "not everything behind the first layer is known"
        if evidence.noisy or any(t.mask is not None for t in evidence.terms.values()):
            return "every entry of the layer's gradient is needed, without noise"
        model = stateless_model(setting)
        if type(model) is not VictimModel:
            return "the defense has changed the model's layers"
        if any(isinstance(module, _BatchNorm) for module in model.modules()):
            return "batch normalisation mixes the images behind the first layer"
        layer = first_linear_name(setting)
        if layer is None or not all(isinstance(m, nn.Flatten) for m in in_front(setting, layer)):
            return "the first layer is not a linear one"
        if layer not in evidence.linear or f"{layer}.bias" not in evidence.data["shared"]:
            return "the first layer's gradient is not in the evidence"
        return None

    def reconstruct(
        self,
        evidences: Sequence[Evidence],
        public: Any,
        seeds: Sequence[int],
        deadline: float | None,
    ) -> list[Guess]:
        """One victim after the other; nothing is random."""
        return self.valued(evidences, [self._one(e, deadline) for e in evidences])

    def _one(self, evidence: Evidence, deadline: float | None) -> Guess:
        setting = evidence.setting
        layer = first_linear_name(setting)
        assert layer is not None
        rate = setting.local_lr if setting.algorithm == "fedavg" else 1.0
        weight, bias = evidence.linear[layer]
        ends = torch.stack([torch.zeros(setting.shape), torch.ones(setting.shape)])
        low, high = setting.normalise(ends.double()).flatten(1)
        found = peel(
            weight / rate,
            bias / rate,
            slopes_behind(evidence, layer),
            (low, high),
            setting.images,
            torch.arange(setting.classes) if evidence.given is None else evidence.given.unique(),
            tolerance=self.tolerance,
            deadline=deadline,
        )
        images = setting.denormalise(found.inputs.float().reshape(-1, *setting.shape))
        missing = setting.images - len(images)
        grey = torch.full((missing, *setting.shape), 0.5)
        soft = F.one_hot(found.labels, setting.classes).float()
        soft = torch.cat([soft, _left_over(evidence, found.labels, missing)])
        known = evidence.labels != "eliminated"
        return Guess(
            images=torch.cat([images, grey]),
            labels=soft.argmax(1) if known else None,
            soft=soft if known else None,
            # every label of every candidate is one image's gradient
            evaluations=math.ceil(found.candidates * setting.classes / setting.images),
            stopped="timeout" if found.late else "",
            applicable=torch.arange(setting.images) < len(images),
        )


@dataclass(frozen=True)
class Peeled:
    """What came off a gradient.

    inputs      [found, features] of the layer, float64
    labels      [found] int64
    candidates  how many were tried
    late        whether time ran out
    """

    inputs: Tensor
    labels: Tensor
    candidates: int
    late: bool = False


def peel(
    weight: Tensor,
    bias: Tensor,
    slopes: Slopes,
    bounds: tuple[Tensor, Tensor],
    images: int,
    labels: Tensor,
    *,
    tolerance: float = 1e-4,
    deadline: float | None = None,
) -> Peeled:
    """Decode the gradient of a linear layer.

    Args:
        weight, bias: [units, features] and [units], as observed; their type is their precision.
        slopes: what an input causes at the layer's output, by label.
        bounds: the least and the largest valid inputs, broadcastable to [features].
        images: how many there are at most.
        labels: those that may occur.
        tolerance: relative error at a candidate's units up to which a label explains it.
        deadline: an instant of `time.monotonic` after which no round begins.
    """
    precision = torch.finfo(bias.dtype).eps
    weight, bias = weight.double(), bias.double()
    low, width = bounds[0], bounds[1] - bounds[0]
    near = max(NEAR, precision**0.5)
    silent = SILENT * precision * bias.abs().max()
    found, known = weight.new_zeros(0, weight.shape[1]), torch.zeros(0, dtype=torch.int64)
    left, arriving, tried = weight, bias, 0
    while len(found) < images:
        if deadline is not None and time.monotonic() >= deadline:
            return Peeled(found, known, tried, late=True)
        units = _candidates(left, arriving, silent, (low, width), near)
        several = units.sum(1) > 1  # hardly any mixture is seen twice: these are tried first
        for group in (units[several], units[~several]):
            tried += len(group)
            inputs, label = _confirmed(slopes, left, arriving, group, labels, tolerance)
            pool = torch.cat([found, inputs])
            new = _first_of_equals(pool / width, 10 * near)[:images]
            if len(new) > len(found):
                break
        else:
            break
        found, known = pool[new], torch.cat([known, label])[new]
        caused = slopes(found)[torch.arange(len(found)), known]
        left, arriving = weight - caused.T @ found, bias - caused.sum(0)
    return Peeled(found, known, tried)


def slopes_behind(evidence: Evidence, layer: str) -> Slopes:
    """What an input of the first linear layer causes at its output, through the public model."""
    setting = evidence.setting
    model = stateless_model(setting)
    weights = {name: w.detach().double() for name, w in evidence.data["shared"].items()}
    named: list[tuple[str, nn.Module]] = [*model.features.named_children(), ("head", model.head)]
    place = [name for name, _ in named].index(layer.removeprefix("features."))
    behind = named[place + 1 :]
    network = nn.Sequential(OrderedDict(behind))
    own = {
        name: weights[name if name.startswith("head.") else f"features.{name}"]
        for name, _ in network.named_parameters()
    }

    def slopes(inputs: Tensor) -> Tensor:
        outputs = F.linear(inputs, weights[f"{layer}.weight"], weights[f"{layer}.bias"])
        outputs.requires_grad_()
        with torch.enable_grad():
            logits = functional_call(network, own, (outputs,)) if behind else outputs * 1.0
            each = torch.stack(  # [K, classes, units]
                [
                    torch.autograd.grad(logits[:, k].sum(), outputs, retain_graph=True)[0]
                    for k in range(setting.classes)
                ],
                dim=1,
            )
        mean = torch.einsum("kc,kcu->ku", logits.detach().softmax(1), each)
        return (mean[:, None] - each) / setting.images

    return slopes


def _candidates(
    weight: Tensor, bias: Tensor, silent: Tensor, span: tuple[Tensor, Tensor], near: float
) -> Tensor:
    """The units [candidates, units] that show the same valid image, bool."""
    alive = (bias.abs() > silent).nonzero().flatten()
    ratios = (weight[alive] / bias[alive, None] - span[0]) / span[1]
    valid = ((ratios > -near) & (ratios < 1 + near)).all(1)
    alive, ratios = alive[valid], ratios[valid]
    best = bias[alive].abs().argsort(descending=True)  # the most precise ratio leads the others
    alive, ratios = alive[best], ratios[best]
    if not len(alive):
        return torch.zeros(0, len(bias), dtype=torch.bool)
    leader = (torch.cdist(ratios, ratios) < near * ratios.shape[1] ** 0.5).int().argmax(1)
    leaders, member = leader.unique(return_inverse=True)
    units = torch.zeros(len(leaders), len(bias), dtype=torch.bool)
    units[member, alive] = True
    return units


def _confirmed(
    slopes: Slopes,
    weight: Tensor,
    bias: Tensor,
    units: Tensor,
    labels: Tensor,
    tolerance: float,
) -> tuple[Tensor, Tensor]:
    """Those inputs [found, features] at ``units`` that a label explains, and that label."""
    shares = units * bias
    # the mean over a candidate's units, by the precision of their ratios
    inputs = (shares @ weight) / (shares @ bias)[:, None]
    errors = torch.cat(
        [
            ((slopes(x)[:, labels] - bias) * mine[:, None]).norm(dim=2)
            / (bias * mine).norm(dim=1, keepdim=True)
            for x, mine in zip(inputs.split(_TOGETHER), units.split(_TOGETHER), strict=True)
        ]
    )
    error, label = errors.min(1)
    chance = math.log(max(1, errors.numel())) + units.sum(1) * (2 * error).log()
    sure = (error < tolerance) & (chance < math.log(CHANCE))
    return inputs[sure], labels[label[sure]]


def _first_of_equals(points: Tensor, near: float) -> Tensor:
    """Which of the points [K, features] have no equal before them, by number."""
    if not len(points):
        return torch.zeros(0, dtype=torch.int64)
    close = torch.cdist(points, points) < near * points.shape[1] ** 0.5
    return (close.int().argmax(1) == torch.arange(len(points))).nonzero().flatten()


def _left_over(evidence: Evidence, labels: Tensor, missing: int) -> Tensor:
    """Probabilities [missing, classes] of the images that were not found."""
    classes = evidence.setting.classes
    if evidence.given is None:
        return torch.full((missing, classes), 1 / classes)
    counts = evidence.given.bincount(minlength=classes) - labels.bincount(minlength=classes)
    rest = torch.arange(classes).repeat_interleave(counts.clamp_min(0))[:missing]
    return F.one_hot(rest, classes).float()


PEELING = register(
    Peeling(
        name="peeling",
        title="LT-code peeling",
        cite="shariati2026lt",
        url="https://github.com/SaeedShariati/Gradient-Inversion-via-LT-Codes",
        summary="A batch in closed form: images that a unit of the first linear layer sees alone "
        "are checked, subtracted, and make way for others.",
        closed_form=True,
    )
)
