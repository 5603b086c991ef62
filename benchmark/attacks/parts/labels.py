"""Where an attack's labels come from: granted, read off the gradient, or optimised with the image.

Strategies are alternatives: `Given() | Inferred() | Joint()` takes the first one that applies.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor

if TYPE_CHECKING:
    from benchmark.evidence.base import Evidence


class Labels:
    """A way to come by labels. Frozen values, combined with `|`."""

    def reason(self, evidence: Evidence) -> str | None:
        """None if this strategy applies to the evidence, otherwise why not."""
        raise NotImplementedError

    def soft(self, evidence: Evidence) -> Tensor | None:
        """[N, classes] fixed probabilities, or None if labels are a variable to optimise."""
        raise NotImplementedError

    def __or__(self, other: Labels) -> Labels:
        mine = self.choices if isinstance(self, FirstOf) else (self,)
        theirs = other.choices if isinstance(other, FirstOf) else (other,)
        return FirstOf(mine + theirs)


@dataclass(frozen=True)
class Given(Labels):
    """The server is granted the labels."""

    def reason(self, evidence: Evidence) -> str | None:
        if evidence.labels != "given" or evidence.given is None:
            return "labels are not granted"
        return None

    def soft(self, evidence: Evidence) -> Tensor | None:
        assert evidence.given is not None
        return torch.nn.functional.one_hot(evidence.given, evidence.setting.classes).float()


@dataclass(frozen=True)
class Inferred(Labels):
    """One label from the gradient of the last linear layer.

    Source: Zhao et al., "iDLG", arXiv:2001.02610. For one image and cross-entropy, the bias
    gradient of the last layer is softmax - onehot: only the true class is negative.
    """

    def reason(self, evidence: Evidence) -> str | None:
        if evidence.setting.images != 1:
            return "a label can be read off the gradient for a single image only"
        if classifier(evidence) is None:
            return "the gradient of the last linear layer is not in the evidence"
        return None

    def soft(self, evidence: Evidence) -> Tensor | None:
        layer = classifier(evidence)
        assert layer is not None
        return torch.nn.functional.one_hot(infer_label(*layer), evidence.setting.classes).float()


@dataclass(frozen=True)
class Distinct(Labels):
    """The labels of a batch in which no label repeats.

    Source: Yin et al., "See through Gradients", CVPR 2021, section 3.1. Where the last layer's
    inputs are not negative, the classes that are present have the least entries in their rows of
    its weight gradient.
    """

    def reason(self, evidence: Evidence) -> str | None:
        if evidence.setting.images > evidence.setting.classes:
            return "there are more images than classes, so that labels repeat"
        return _unclassified(evidence)

    def soft(self, evidence: Evidence) -> Tensor | None:
        layer = classifier(evidence)
        assert layer is not None
        labels = distinct_labels(layer[0], evidence.setting.images)
        return torch.nn.functional.one_hot(labels, evidence.setting.classes).float()


@dataclass(frozen=True)
class Joint(Labels):
    """Labels are variables: softmax of logits that start from N(0, 1), as in DLG."""

    def reason(self, evidence: Evidence) -> str | None:
        return None

    def soft(self, evidence: Evidence) -> Tensor | None:
        return None


@dataclass(frozen=True)
class FirstOf(Labels):
    """The first of several strategies that applies."""

    choices: tuple[Labels, ...]

    def reason(self, evidence: Evidence) -> str | None:
        reasons = [c.reason(evidence) for c in self.choices]
        if any(r is None for r in reasons):
            return None
        return "; ".join(r for r in reasons if r is not None)

    def soft(self, evidence: Evidence) -> Tensor | None:
        for choice in self.choices:
            if choice.reason(evidence) is None:
                return choice.soft(evidence)
        raise ValueError(self.reason(evidence))


def infer_label(weight_gradient: Tensor, bias_gradient: Tensor | None) -> Tensor:
    """The label [1] int64 of a single image from the last layer's gradients.

    Args:
        weight_gradient: [classes, features].
        bias_gradient: [classes], or None for a layer without bias: then iDLG's rule on the row
            sums, which needs features that are not negative on the whole.
    """
    scores = weight_gradient.sum(1) if bias_gradient is None else bias_gradient
    return scores.argmin().reshape(1)


def distinct_labels(weight_gradient: Tensor, images: int) -> Tensor:
    """The ``images`` different labels int64, ascending, by Yin et al.'s minimum rule.

    Args:
        weight_gradient: [classes, features] of the last layer.
    """
    return weight_gradient.amin(1).topk(images, largest=False).indices.sort().values


def counted_labels(bias_gradient: Tensor, images: int) -> Tensor:
    """``images`` labels int64, ascending, with repetitions.

    A class's bias gradient is its mean probability less its share of the batch. So a class with a
    negative entry is there at least once, and with the mean probability taken to be 1/C the
    shares follow; they are rounded to counts one by one, to where most is missing.

    Args:
        bias_gradient: [classes] of the last layer.
    """
    expected = images * (1 / len(bias_gradient) - bias_gradient.double())
    counts = (bias_gradient < 0).long()
    if int(counts.sum()) > images:  # noise: the lowest ones
        counts = torch.zeros_like(counts)
        counts[bias_gradient.topk(images, largest=False).indices] = 1
    while int(counts.sum()) < images:
        counts[(expected - counts).argmax()] += 1
    return torch.repeat_interleave(torch.arange(len(counts)), counts)


def _unclassified(evidence: Evidence) -> str | None:
    """Why a batch's labels cannot be read off the last layer's gradient."""
    if evidence.setting.local_steps > 1:
        return "the labels of several local steps are not told apart"
    if classifier(evidence) is None:
        return "the gradient of the last linear layer is not in the evidence"
    return None


def classifier(evidence: Evidence) -> tuple[Tensor, Tensor] | None:
    """The last linear layer whose outputs are the classes."""
    for weight, bias in reversed(list(evidence.linear.values())):
        if weight.shape[0] == evidence.setting.classes:
            return weight, bias
    return None
