"""Closed-form inversion of the first linear layer, and of the layers before it where there are any.

Source: Phong et al., IEEE TIFS 2018 (first 2017), Proposition 3. For one image every row of a
linear layer's weight gradient is the layer's input times the same row of its bias gradient, so
that weight and bias gradients side by side have rank one. The input is read off the rank-one
matrix nearest to what was observed, every entry counting by the precision of its noise and an
unsent one not at all: exact without noise, the maximum-likelihood estimate under Gaussian noise,
a completion of what pruning left out.

Where the layer's input is the image that is all. Where convolutions come first the input is a
feature map, and the image is the one with these features, found by L-BFGS: our extension, which
needs neither labels nor the gradients of the other layers.

A layer with fewer inputs than there are pixels, as the head of DLG's LeNet, leaves the image open.
"""

from __future__ import annotations

import math
from collections import OrderedDict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from torch.func import functional_call

from benchmark.attacks.base import Guess, register
from benchmark.attacks.engine.lbfgs import LBFGS
from benchmark.attacks.parts.direct import DirectAttack
from benchmark.attacks.parts.labels import Given, Inferred, Labels
from benchmark.attacks.parts.layers import layer_input, rank_one_misfit
from benchmark.attacks.parts.objectives import SquaredError
from benchmark.attacks.parts.optimisation import OptimisationAttack
from benchmark.attacks.parts.priors import TotalVariation
from benchmark.evidence.base import Tensors, Term
from benchmark.federated.setting import Setting, stateless_model
from benchmark.models.base import VictimModel

if TYPE_CHECKING:
    from benchmark.evidence.base import Evidence

_LABELS: Labels = Given() | Inferred()
_RANK_ONE = 1e-3  # larger shares of a gradient that is no rank-one matrix are not rounding


@dataclass(frozen=True, kw_only=True)
class Analytic(DirectAttack):
    """Reads the first linear layer's input off its gradient and inverts what lies before it.

    iterations   gradient evaluations to find the image of a feature map; none without one
    smoothness   weight of the total variation prior in that search
    """

    iterations: int = 200
    smoothness: float = 1e-6

    def __post_init__(self) -> None:
        self.at_least_one("iterations")

    def supports(self, evidence: Evidence) -> str | None:
        """Needs one image and a linear layer whose way from the image is known."""
        if not evidence.terms:
            return "the evidence has no terms to match"
        if evidence.setting.images != 1:
            return "the gradient of a linear layer mixes the inputs of several images"
        if evidence.hidden:
            return "the evidence has hidden variables, which closed forms do not estimate"
        layer = _first_linear(evidence)
        if layer is None or "shared" not in evidence.data:
            return "no linear layer's gradient with known layers before it is in the evidence"
        if evidence.labels == "eliminated":
            return None
        return _LABELS.reason(evidence)

    def reconstruct(
        self,
        evidences: Sequence[Evidence],
        public: Any,
        seeds: Sequence[int],
        deadline: float | None,
    ) -> list[Guess]:
        """Layer inputs in closed form; images from them directly, or by matching features."""
        layer = _first_linear(evidences[0])
        assert layer is not None
        inputs = [_input_of(layer, e) for e in evidences]
        model = stateless_model(evidences[0].setting)
        if not list(_before(model, layer).parameters()):
            guesses = [
                Guess(
                    images=e.setting.denormalise(x.reshape(1, *e.setting.shape)),
                    labels=None,
                    soft=None,
                )
                for e, (x, _) in zip(evidences, inputs, strict=True)
            ]
        else:
            readings = [
                _features_evidence(e, layer, x, seen)
                for e, (x, seen) in zip(evidences, inputs, strict=True)
            ]
            guesses = self._matching().reconstruct(readings, public, seeds, deadline)
        labels = [None if e.labels == "eliminated" else _LABELS.soft(e) for e in evidences]
        guesses = [
            replace(
                g,
                labels=None if s is None else s.argmax(-1),
                soft=s,
                applicable=torch.tensor([_determined(layer, e, *found)]),
            )
            for g, s, e, found in zip(guesses, labels, evidences, inputs, strict=True)
        ]
        return self.valued(evidences, guesses)

    def _matching(self) -> OptimisationAttack:
        return OptimisationAttack(
            name=self.name,
            objective=SquaredError(),
            optimiser=LBFGS(history=50, tolerance=1e-12),
            priors=(TotalVariation(self.smoothness),),
            labels=_LABELS,
            iterations=self.iterations,
        )


@dataclass(frozen=True)
class Front:
    """Predicts the input of one layer; equal for equal layers, as predictions have to be."""

    layer: str

    def __call__(
        self, setting: Setting, guess: Tensors, hidden: Tensors, data: Mapping[str, Any]
    ) -> dict[str, Tensors]:
        front = _before(stateless_model(setting), self.layer)
        features = functional_call(front, dict(data["front"]), (guess["images"],))
        return {"features": {"input": features}}


def _first_linear(evidence: Evidence) -> str | None:
    """The linear layer nearest to the image whose gradient was sent."""
    model = stateless_model(evidence.setting)
    layers = [
        f"features.{name}"
        for name, module in getattr(model, "features", nn.Sequential()).named_children()
        if isinstance(module, nn.Linear)
    ]
    if type(model) is VictimModel:  # otherwise a defense may stand between features and head
        layers.append("head")
    return next((name for name in layers if name in evidence.linear), None)


def _before(model: VictimModel, layer: str) -> nn.Sequential:
    """The layers in front of a linear one."""
    if layer == "head":
        return model.features
    named = list(model.features.named_children())
    names = [name for name, _ in named]
    return nn.Sequential(OrderedDict(named[: names.index(layer.removeprefix("features."))]))


def _input_of(layer: str, evidence: Evidence) -> tuple[Tensor, Tensor]:
    term = _term_of(layer, evidence)
    return layer_input(*evidence.linear[layer], None if term is None else _weighed(layer, term))


def _determined(layer: str, evidence: Evidence, found: Tensor, seen: Tensor) -> bool:
    """Whether the layer's gradient is that of one input, but for rounding and noise that is known,
    and as many numbers of that input are seen as there are pixels."""
    term = _term_of(layer, evidence)
    if int(seen.sum()) < math.prod(evidence.setting.shape):
        return False
    if term is not None and term.variance is not None and _any(term.variance.values()):
        return True
    counts = None if term is None else _weighed(layer, term)
    return rank_one_misfit(*evidence.linear[layer], found, counts) <= _RANK_ONE


def _term_of(layer: str, evidence: Evidence) -> Term | None:
    """The term that shows a layer's gradient."""
    for term in evidence.terms.values():
        if f"{layer}.weight" in term.value and f"{layer}.bias" in term.value:
            return term
    return None


def _weighed(layer: str, term: Term) -> tuple[Tensor, Tensor]:
    """How much each entry of a layer's gradient counts."""
    return _precision(term, f"{layer}.weight"), _precision(term, f"{layer}.bias")


def _any(tensors: Iterable[Tensor]) -> bool:
    return any(bool(tensor.any()) for tensor in tensors)


def _precision(term: Term, name: str) -> Tensor:
    """How much each entry of a tensor counts, relative to the term's noise."""
    value = term.value[name]
    counts = torch.ones_like(value) if term.mask is None else term.mask[name].expand_as(value)
    if term.variance is None or not _any(term.variance.values()):
        return counts
    most = max(float(v.max()) for v in term.variance.values())
    return counts / (term.variance[name] / most).clamp_min(1e-8)


def _features_evidence(evidence: Evidence, layer: str, features: Tensor, seen: Tensor) -> Evidence:
    """The evidence that a feature map is, in place of the whole message."""
    model = stateless_model(evidence.setting)
    weights = {**evidence.data.get("private", {}), **evidence.data["shared"]}
    front = {
        name: weights[f"features.{name}"] for name, _ in _before(model, layer).named_parameters()
    }
    term = Term(value={"input": features[None]}, mask={"input": seen[None]}, kind="value")
    return replace(
        evidence,
        predict=Front(layer),
        data={"front": front},
        terms={"features": term},
        labels="eliminated",
        given=None,
    )


ANALYTIC = register(
    Analytic(
        name="analytic",
        title="Analytic inversion",
        cite="phong2018privacy",
        url="https://doi.org/10.1109/TIFS.2017.2787987",
        summary="The first linear layer's input in closed form from its gradient; the layers in "
        "front of it are inverted by matching features.",
        closed_form=True,
    )
)
