"""Data leakage in federated averaging: a client's local steps are simulated and differentiated.

Source: Dimitrov, Balunović, Konstantinov and Vechev, TMLR 2022, arXiv:2206.12395, and its public
code: the update is unrolled through all local steps; every tensor's cosine counts, with weights
that fall by e from layer to layer; total variation of 1e-3; Adam at 0.4, by a factor of .995 less
every 10 of 400 iterations (FEMNIST);
numbers of labels from the last layer, with the model's probabilities taken as the mean of those
before and after the round. Their figure: more than 45% of the images of FEMNIST clients with 10
epochs of 10 batches of 5, less than 10% if the steps are not unrolled.

Not applicable here: their images are free in every epoch and held together by a prior that does
not ask for their order, but our clients see each image once a round (one epoch), so there is
nothing to hold together. Our reading: images stay in the box instead of being pulled towards it.
Unrolling is the evidence's part, whatever the attack.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from torch.func import functional_call

from benchmark.attacks.base import Guess, register
from benchmark.attacks.engine.adam import SignedAdam
from benchmark.attacks.parts.labels import Given, Labels, classifier, counted_labels
from benchmark.attacks.parts.objectives import Cosine
from benchmark.attacks.parts.optimisation import OptimisationAttack
from benchmark.attacks.parts.priors import TotalVariation
from benchmark.evidence.base import Predict, Tensors, Term
from benchmark.federated.setting import stateless_model
from benchmark.runtime.randomness import generator

if TYPE_CHECKING:
    from benchmark.evidence.base import Evidence
    from benchmark.federated.setting import Setting

PROBES = 16
"""Random batches whose probabilities stand for those of the client's images."""


@dataclass(frozen=True)
class StepCounts(Labels):
    """How often each label is among the images of all local steps, in ascending order.

    A step's gradient of the last bias is the mean probability less the label's share. Summed over
    the steps it needs the mean probability on the way, for which the mean of those at its ends
    stands; they are measured on random images. Which step a label belongs to stays open.
    """

    def reason(self, evidence: Evidence) -> str | None:
        update = evidence.terms.get("update")
        if classifier(evidence) is None or update is None or "shared" not in evidence.data:
            return "the update of the last linear layer is not in the evidence"
        if set(update.value) != set(evidence.data["shared"]):
            return "part of the update is not in the evidence, so the weights after it are unknown"
        return None

    def soft(self, evidence: Evidence) -> Tensor | None:
        setting, layer = evidence.setting, classifier(evidence)
        assert layer is not None
        before = evidence.data["shared"]
        after = {n: before[n] - t for n, t in evidence.terms["update"].value.items()}
        mean = (_probabilities(evidence, before) + _probabilities(evidence, after)) / 2
        pushed = layer[1] / (setting.local_lr * setting.local_steps)
        labels = counted_labels(pushed - mean + 1 / setting.classes, setting.images)
        return torch.nn.functional.one_hot(labels, setting.classes).float()


def _probabilities(evidence: Evidence, weights: Tensors) -> Tensor:
    """[classes] mean over random images."""
    setting, data, total = evidence.setting, evidence.data, torch.zeros(evidence.setting.classes)
    rng = generator("attacker", "probes", setting.scenario)
    for _ in range(PROBES):
        images = torch.randn(setting.images, *setting.shape, generator=rng)
        parameters = {**weights, **data["private"]}
        logits = functional_call(stateless_model(setting), parameters, (images, data["noise"]))
        total += logits.softmax(-1).mean(0)
    return total / PROBES


@dataclass(frozen=True)
class ByTensor:
    """A prediction with one term per tensor."""

    predict: Predict

    def __call__(
        self, setting: Setting, guess: Tensors, hidden: Tensors, data: Mapping[str, Any]
    ) -> dict[str, Tensors]:
        shown = self.predict(setting, guess, hidden, data)
        return {
            f"{term}/{n}": {n: t} for term, tensors in shown.items() for n, t in tensors.items()
        }


def layered(evidence: Evidence) -> Evidence:
    """The evidence with one term per tensor, whose weights fall by e from layer to layer.

    The weights of a term's tensors add up to the term's own.
    """
    terms = {}
    for label, term in evidence.terms.items():
        layers = list(dict.fromkeys(name.rpartition(".")[0] for name in term.value))
        shares = {n: math.exp(-layers.index(n.rpartition(".")[0])) for n in term.value}
        for name in term.value:
            weight = term.weight * shares[name] / sum(shares.values())
            terms[f"{label}/{name}"] = replace(_only(term, name), weight=weight)
    return replace(evidence, predict=ByTensor(evidence.predict), terms=terms)


def _only(term: Term, name: str) -> Term:
    """The term without its other tensors."""
    shown: dict[str, Any] = {}
    for part in ("value", "mask", "variance", "lower", "upper"):
        whole = getattr(term, part)
        shown[part] = None if whole is None else {name: whole[name]}
    return replace(term, **shown)


@dataclass(frozen=True, kw_only=True)
class FedAvgLeakage(OptimisationAttack):
    """An optimisation attack on several local steps, whose tensors are matched one by one."""

    def supports(self, evidence: Evidence) -> str | None:
        """Refuses single gradients, which have no steps to unroll."""
        if evidence.setting.algorithm != "fedavg" or evidence.setting.local_steps < 2:
            return "the message is of one step: there is nothing to unroll"
        return super().supports(evidence)

    def reconstruct(
        self,
        evidences: Sequence[Evidence],
        public: Any,
        seeds: Sequence[int],
        deadline: float | None,
    ) -> list[Guess]:
        """The search of its kind, over one term per tensor."""
        found = self.search([layered(e) for e in evidences], seeds, deadline)
        return [self.guess(e, f) for e, f in zip(evidences, found, strict=True)]

    def measure(
        self,
        evidences: Sequence[Evidence],
        images: Sequence[Tensor],
        soft: Sequence[Tensor | None],
        hidden: Sequence[Mapping[str, Tensor]],
    ) -> list[float]:
        """The weighted mean of the tensors' cosine distances."""
        return super().measure([layered(e) for e in evidences], images, soft, hidden)


DATA_LEAKAGE = register(
    FedAvgLeakage(
        name="dimitrov",
        title="Data Leakage in Federated Averaging",
        cite="dimitrov2022data",
        url="https://arxiv.org/abs/2206.12395",
        summary="Local steps unrolled, every tensor's direction matched, early layers most.",
        objective=Cosine(),
        priors=(TotalVariation(1e-3),),
        optimiser=SignedAdam(
            lr=0.4, milestones=tuple(k / 40 for k in range(1, 40)), decay=0.995, signed=()
        ),
        labels=Given() | StepCounts(),
        box=True,
        iterations=400,
    )
)
