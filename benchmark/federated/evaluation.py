"""What a model is worth on the test set: to everybody, or to each client on its own mix of labels.

A personalised accuracy is of the client's own model on the client's own task, which is easier than
the common one. So it is compared with the shared model's on the same mixes, never with the shared
model's on the test set as it is.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING

import torch
from torch import Tensor
from torch.func import functional_call, vmap
from torch.nn import functional as F

from benchmark.federated.client import Client, stack_size
from benchmark.federated.setting import Setting, stateless_model
from benchmark.federated.update import Update, stacked
from benchmark.results.columns import CONTROL
from benchmark.runtime.randomness import generator

if TYPE_CHECKING:
    from benchmark.federated.simulation import Examples


@dataclass(frozen=True)
class Measured:
    """Accuracy and loss of the model that is used, the clients' own where they have one.

    ``personal`` is the mean over clients of the accuracy on their own mixes of labels; None where
    the defense is not personalised and is not the control.
    """

    accuracy: float | None = None
    loss: float | None = None
    personal: float | None = None


def right(logits: Tensor, labels: Tensor) -> Tensor:
    """1.0 where the largest of a row's ``logits`` [n, classes] is the label's, 0.0 elsewhere.

    A row with NaN is wrong: a model that diverged has not learnt class 0.
    """
    return ((logits.argmax(-1) == labels) & ~logits.isnan().any(-1)).double()


def own_mix(labels: Tensor, own: Tensor, classes: int) -> Tensor:
    """Weights of test images [n] under which their classes are as frequent as among ``own`` labels.

    An image of class c weighs the share of c in ``own`` over the number of test images of class c.
    A class that the test set lacks cannot be measured: the other ones keep their proportions. The
    weights' sum is 1, or 0 where the test set has none of the client's classes.
    """
    there = torch.bincount(labels, minlength=classes).double()
    share = torch.bincount(own, minlength=classes).double() * (there > 0)
    weights = (share / there.clamp_min(1))[labels]
    return weights / share.sum().clamp_min(1)


class Evaluation:
    """Measures weights and clients on one test set, with the same noise every time."""

    def __init__(self, setting: Setting, test: Examples, owned: Sequence[Tensor]) -> None:
        self.setting, self.test = setting, test
        self.personalised = type(setting.defense).personalised()
        # the control's shared model is measured both ways: either kind of accuracy has its control
        self.mixed = self.personalised or setting.defense.name == CONTROL
        self.mixes = [own_mix(test.labels, labels, setting.classes) for labels in owned]
        shapes = stateless_model(setting).noise_shapes(len(test))
        rng = generator(setting.scenario, "evaluation")
        self.noise = {name: torch.randn(shape, generator=rng) for name, shape in shapes.items()}

    def __call__(self, weights: Update, clients: Sequence[Client]) -> Measured:
        """Accuracy and loss of the shared ``weights``, or of the clients' models with them."""
        if not self.personalised:
            hits, losses = self._outcomes(weights, {})
            common = [(hits, losses)] * len(self.mixes)
            personal = self._mean(common)[0] if self.mixed else None
            return Measured(float(hits.mean()), float(losses.mean()), personal)
        outcomes, private = partial(self._outcomes, weights), [c.private for c in clients]
        size = stack_size(self.setting)
        if size > 1:
            own = list(zip(*vmap(outcomes, chunk_size=size)(stacked(private)), strict=True))
        else:
            own = [outcomes(each) for each in private]
        accuracy, loss = self._mean(own)
        return Measured(accuracy, loss, accuracy)

    @torch.no_grad()
    def _outcomes(self, weights: Update, private: Mapping[str, Tensor]) -> tuple[Tensor, Tensor]:
        """What is right, and the loss, of every test image."""
        model, parameters = stateless_model(self.setting), {**weights, **private}
        logits = functional_call(model, parameters, (self.test.images, self.noise))
        losses = F.cross_entropy(logits, self.test.labels, reduction="none")
        return right(logits, self.test.labels), losses.double()

    def _mean(self, outcomes: Sequence[tuple[Tensor, Tensor]]) -> tuple[float, float]:
        """Accuracy and loss on the clients' own mixes, over those clients that can be measured."""
        scores = [
            (float((mix * hits).sum()), float((mix * losses).sum()))
            for mix, (hits, losses) in zip(self.mixes, outcomes, strict=True)
            if mix.any()
        ]
        if not scores:
            raise ValueError("the test set has none of the clients' classes")
        accuracy, loss = zip(*scores, strict=True)
        return sum(accuracy) / len(scores), sum(loss) / len(scores)
