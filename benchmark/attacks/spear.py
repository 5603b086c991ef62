"""SPEAR: a whole batch, exactly, from the gradient of a first linear layer that ReLU follows.

Source: Dimitrov, Baader, Mueller and Vechev, NeurIPS 2024, arXiv:2403.03945; the abstract's claim
is exact recovery of batches up to about 25. The layer's weight gradient is D^T X, with one row of
D per image: the loss's gradient in front of the ReLU, zero where that image leaves a unit
inactive. Its rank is the batch size, so with the singular vectors L of the gradient D^T is L Q for
a small unknown Q. A column of Q is orthogonal to the rows of L of any units that are inactive for
its image: null vectors of rows drawn at random are candidates, and those that make many further
units vanish are right. The bias gradient gives their scales.

Drawing ends when the assembled images agree with their candidates on which units are inactive.
Ours: the most inactive candidates are taken first, since a mixture of several images leaves fewer
units inactive than any of them; and labels are assigned afterwards, by which class would have
caused each image's row of D.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from scipy.optimize import linear_sum_assignment
from torch import Tensor, nn
from torch.func import functional_call, grad, vmap
from torch.nn import functional as F

from benchmark.attacks.base import Guess, register
from benchmark.attacks.parts.direct import DirectAttack
from benchmark.attacks.parts.layers import Layer, chain, unreadable
from benchmark.config.errors import ParamsError
from benchmark.runtime.randomness import generator

if TYPE_CHECKING:
    from benchmark.evidence.base import Evidence

_ROUND = 4096  # null vectors computed together
_RANK = 2e-6  # singular values below this share of the largest are rounding
_INACTIVE = 1e-4  # entries below this share of a row's largest are zeros
_DETERMINED = 1e-3  # rows with a smaller relative pivot have more than one null vector
_NEW = 1e-2  # distance of a candidate from the span of others above which it is another
_AGREEMENT = 0.98  # share of units on which an image and its candidate have to agree


@dataclass(frozen=True, kw_only=True)
class Spear(DirectAttack):
    """Finds every image's direction among null vectors of randomly drawn rows.

    draws      null vectors tried at most; about 2^(B-1) are needed per image of a batch of B
    inactive   share of the layer's units that a candidate must leave inactive
    """

    draws: int = 400_000
    inactive: float = 0.15

    def __post_init__(self) -> None:
        self.at_least_one("draws")
        if not 0 < self.inactive < 1:
            raise ParamsError(
                f"attacks.{self.name}.inactive must be between 0 and 1, not {self.inactive}"
            )

    def supports(self, evidence: Evidence) -> str | None:
        """Needs a first linear layer, ReLU behind it, and a gradient of the batch's rank."""
        if not evidence.terms:
            return "the evidence has no terms to match"
        reason = unreadable(evidence)
        if reason is not None:
            return reason
        if evidence.terms["update"].mask is not None:
            return "every entry of the layer's gradient is needed"
        layers = chain(evidence)
        first = _first(layers)
        if first is None:
            return "the first layer is not a linear one followed by ReLU"
        if set(layers[first].gradients) != {"weight", "bias"}:
            return "the first layer's gradient is not in the evidence"
        weight, batch = layers[first].gradients["weight"].double(), evidence.setting.images
        if batch > min(weight.shape):
            return f"a layer of {tuple(weight.shape)} weights hides a batch of {batch} images"
        if 2 ** (batch - 1) > self.draws:
            return f"{batch} images need some 2^{batch - 1} draws, more than {self.draws}"
        gram = weight @ weight.T if len(weight) <= weight.shape[1] else weight.T @ weight
        spectrum = torch.linalg.eigvalsh(gram).clamp_min(0).sqrt()
        rank = int((spectrum > _RANK * spectrum[-1]).sum())
        if rank > batch:
            return f"the layer's gradient has rank {rank}, not that of a batch of {batch}"
        return None

    def reconstruct(
        self,
        evidences: Sequence[Evidence],
        public: Any,
        seeds: Sequence[int],
        deadline: float | None,
    ) -> list[Guess]:
        """One victim after the other; images whose direction was not found stay at the mean."""
        guesses = [self._one(e, s, deadline) for e, s in zip(evidences, seeds, strict=True)]
        return self.valued(evidences, guesses)

    def _one(self, evidence: Evidence, seed: int, deadline: float | None) -> Guess:
        setting = evidence.setting
        layers = chain(evidence)
        first = _first(layers)
        assert first is not None
        factors = _Factors.of(layers[first])
        directions, stopped = self._directions(factors, seed, deadline)
        found, caused = factors.solved(directions)
        missing = setting.images - len(found)
        found, caused = F.pad(found, (0, 0, 0, missing)), F.pad(caused, (0, 0, 0, missing))
        labels = _labels(evidence, layers[first:], found, caused)
        return Guess(
            images=setting.denormalise(found.float().reshape(-1, *setting.shape)),
            labels=labels,
            soft=F.one_hot(labels, setting.classes).float(),
            stopped=stopped,
            applicable=torch.full((setting.images,), factors.left.shape[1] == setting.images),
        )

    def _directions(
        self, factors: _Factors, seed: int, deadline: float | None
    ) -> tuple[Tensor, str]:
        """Independent columns [rank, found] of Q up to scale, the most inactive ones first."""
        left = factors.left
        rank = left.shape[1]
        if rank <= 1:
            return torch.eye(rank, dtype=left.dtype), "converged"
        rng = generator("spear", seed)
        size = left.norm(dim=1)
        alive = left[size > _INACTIVE * size.max()]  # a unit that no image activates says nothing
        chosen = left.new_zeros(0, rank)
        for _ in range(-(-self.draws // _ROUND)):
            drawn = torch.rand(_ROUND, len(alive), generator=rng).topk(rank - 1, dim=1).indices
            basis, triangle = torch.linalg.qr(alive[drawn].transpose(1, 2), mode="complete")
            pivots = triangle.diagonal(dim1=1, dim2=2).abs()
            candidates = basis[pivots.amin(1) > _DETERMINED * pivots.amax(1), :, -1]
            candidates = candidates[_quiet(left, candidates) >= self.inactive]
            chosen = _independent(left, torch.cat([chosen, candidates]))
            if len(chosen) == rank and factors.agree(chosen.T):
                return chosen.T, "converged"
            if deadline is not None and time.monotonic() >= deadline:
                return chosen.T, "timeout"
        return chosen.T, "budget"


@dataclass(frozen=True)
class _Factors:
    """The gradient of a layer as L R, in float64, and what goes with it.

    left [units, rank] has orthonormal columns, right is [rank, features].
    """

    left: Tensor
    right: Tensor
    bias_gradient: Tensor
    weight: Tensor
    bias: Tensor

    @classmethod
    def of(cls, layer: Layer) -> _Factors:
        gradient = layer.gradients["weight"].double()
        left, values, right = torch.linalg.svd(gradient, full_matrices=False)
        rank = int((values > _RANK * values[0]).sum())
        return cls(
            left[:, :rank],
            values[:rank, None] * right[:rank],
            layer.gradients["bias"].double(),
            layer.weights["weight"].double(),
            layer.weights["bias"].double(),
        )

    def solved(self, directions: Tensor) -> tuple[Tensor, Tensor]:
        """Inputs [found, features] and rows of D [found, units] for columns of Q up to scale."""
        rows = (self.left @ directions).T
        scales = torch.linalg.lstsq(rows.T, self.bias_gradient[:, None]).solution
        inputs = torch.linalg.lstsq(directions * scales.T, self.right).solution
        return inputs.nan_to_num(0.0, 0.0, 0.0), scales * rows

    def agree(self, directions: Tensor) -> bool:
        """Whether the units that a direction leaves inactive are those that its image does."""
        inputs, rows = self.solved(directions)
        active = inputs @ self.weight.T + self.bias > 0
        caused = rows.abs() > _INACTIVE * rows.abs().amax(1, keepdim=True)
        return bool(((active == caused).double().mean(1) >= _AGREEMENT).all())


def _quiet(left: Tensor, candidates: Tensor) -> Tensor:
    """The share of units that each candidate [n, rank] leaves inactive."""
    rows = (candidates @ left.T).abs()
    return (rows <= _INACTIVE * rows.amax(1, keepdim=True)).double().mean(1)


def _independent(left: Tensor, pool: Tensor) -> Tensor:
    """The most inactive candidates [n, rank], each linearly independent of the ones before it."""
    chosen: list[Tensor] = []
    rest = pool[_quiet(left, pool).argsort(descending=True, stable=True)]
    while len(rest):
        chosen.append(rest[0])
        space = torch.linalg.qr(torch.stack(chosen, 1)).Q
        outside = rest - (rest @ space) @ space.T
        rest = rest[outside.norm(dim=1) > _NEW]
    return torch.stack(chosen) if chosen else pool


def _first(layers: Sequence[Layer]) -> int | None:
    """Where the linear layer is that reads the image and is followed by ReLU."""
    index = next((k for k, layer in enumerate(layers) if layer.weights), 0)
    flat = all(isinstance(layer.module, nn.Flatten) for layer in layers[:index])
    if not flat or not isinstance(layers[index].module, nn.Linear) or index + 1 == len(layers):
        return None
    return index if isinstance(layers[index + 1].module, nn.ReLU) else None


def _labels(evidence: Evidence, layers: Sequence[Layer], inputs: Tensor, caused: Tensor) -> Tensor:
    """The label [N] of each image: the one that causes its gradient at the first layer's output.

    Args:
        layers: from the first linear one to the head.
        inputs: [N, features] of the first linear layer.
        caused: [N, units] the loss's gradient at that layer's output.
    """
    setting = evidence.setting
    first, *behind = layers
    outputs = inputs @ first.weights["weight"].double().T + first.weights["bias"].double()

    def loss(output: Tensor, label: Tensor) -> Tensor:
        at = output[None]
        for layer in behind:
            weights = {name: w.double() for name, w in layer.weights.items()}
            at = functional_call(layer.module, weights, (at,))
        return F.cross_entropy(at, label[None]) / setting.images

    classes = torch.eye(setting.classes, dtype=outputs.dtype)
    slopes = vmap(vmap(grad(loss), in_dims=(None, 0)), in_dims=(0, None))(outputs, classes)
    distance = (slopes - caused[:, None]).norm(dim=2)
    if evidence.given is None:
        return distance.argmin(1)
    _, order = linear_sum_assignment(distance[:, evidence.given].numpy())
    return evidence.given[torch.as_tensor(order)]


SPEAR = register(
    Spear(
        name="spear",
        title="SPEAR",
        cite="dimitrov2024spear",
        url="https://arxiv.org/abs/2403.03945",
        summary="A batch in closed form from the rank and the ReLU zeros of the first linear "
        "layer's gradient.",
        closed_form=True,
    )
)
