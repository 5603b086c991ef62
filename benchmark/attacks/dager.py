"""DAGER: words that were read lie in the row space of a query layer's gradient, others do not.

A linear layer's weight gradient is a sum over places of (what came back) times (what went in), so
its rows span what went in as long as that is fewer vectors than dimensions. Every word at every
place is held against the first block's span. Where several sentences share words, their sums span
some that nobody wrote; so sentences are grown word by word, and what a prefix makes of the next
word must lie in the second block's span too. A causal model makes that exact: what enters the
second block at a place depends on the words up to it alone.

Source: Petrov et al., NeurIPS 2024, arXiv:2405.15586, the decoders' variant. Our reading: one
relative threshold for both checks; where nothing passes, the nearest goes on, so that a disturbed
gradient gives a guess too, which says that the method does not apply to it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from torch.nn.functional import one_hot

from benchmark.attacks.base import Guess, register
from benchmark.attacks.parts.direct import DirectAttack

if TYPE_CHECKING:
    from benchmark.evidence.base import Evidence
    from benchmark.models.transformer import Reader

CHECKS = ("features.query1", "features.query2")
"""The layers whose gradients are used, in the order of their blocks."""


@dataclass(frozen=True, kw_only=True)
class SpanCheck(DirectAttack):
    """Grows sentences of words that lie in the gradients' row spaces.

    rank       singular values below this share of the largest one are rounding; and there are no
               more than the private sentences have places, whatever noise adds
    distance   a vector lies in the span if no larger share of its length is outside
    width      prefixes kept per private sentence
    """

    rank: float = 1e-7
    distance: float = 0.05
    width: int = 8

    def supports(self, evidence: Evidence) -> str | None:
        """Refuses what hides the query layers, and spans that leave no room to tell words apart."""
        if not evidence.terms:
            return "the evidence has no terms to match"
        if evidence.hidden:
            return "the evidence has hidden variables, which closed forms do not estimate"
        shared = evidence.data.get("shared", {})
        if any(f"{layer}.weight" not in shared for layer in CHECKS):
            return "the weights that read the words are not public"
        for layer in CHECKS:
            if layer not in evidence.linear:
                return f"the gradient of {layer} is not in the evidence"
        places, width = _places(evidence), evidence.linear[CHECKS[0]][0].shape[1]
        if places >= width - 1:  # layer norm has taken one dimension
            return f"{places} places may span all {width} dimensions: every word would pass"
        return None

    def labels_from(self, evidence: Evidence) -> str:
        """Labels play no part."""
        return "eliminated"

    def reconstruct(
        self,
        evidences: Sequence[Evidence],
        public: Any,
        seeds: Sequence[int],
        deadline: float | None,
    ) -> list[Guess]:
        """Search each victim on its own; nothing is random."""
        searched = [self._search(e) for e in evidences]
        found = [sentences for sentences, _ in searched]
        known = [None if e.given is None else one_hot(e.given, e.setting.classes).float()
                 for e in evidences]  # fmt: skip
        losses = self.measure(evidences, found, known, [{} for _ in evidences])
        return [
            Guess(images=sentences, labels=None, soft=None, loss=loss, applicable=inside)
            for (sentences, inside), loss in zip(searched, losses, strict=True)
        ]

    def _search(self, evidence: Evidence) -> tuple[Tensor, Tensor]:
        """The sentences [N, length] that fit best, and whether each passed every check [N]."""
        setting = evidence.setting
        spans = [
            row_space(evidence.linear[layer][0], self.rank)[: _places(evidence)] for layer in CHECKS
        ]
        reader = _reader(evidence)
        (length,) = setting.shape
        with torch.no_grad():
            first = outside(words_at_places(reader, setting.vocabulary, length), spans[0])
            prefixes = torch.empty(1, 0, dtype=torch.int64)
            misfit = torch.zeros(1, dtype=torch.float64)
            inside = torch.ones(1, dtype=torch.bool)
            for place in range(length):
                words = self._passing(first[:, place], setting.images)
                grown = torch.cat(
                    [prefixes.repeat_interleave(len(words), 0),
                     words.repeat(len(prefixes))[:, None]], 1,
                )  # fmt: skip
                gap = outside(entering(reader, grown), spans[1])[:, -1]
                chosen = self._passing(gap, setting.images)
                misfit = misfit.repeat_interleave(len(words))[chosen] + gap[chosen]
                near = (first[words, place] < self.distance).repeat(len(prefixes)) & (
                    gap < self.distance
                )
                inside = (inside.repeat_interleave(len(words)) & near)[chosen]
                prefixes = grown[chosen]
        best = misfit.argsort()[: setting.images]
        best = best[torch.arange(setting.images) % len(best)]
        return prefixes[best], inside[best]

    def _passing(self, gaps: Tensor, sentences: int) -> Tensor:
        """Indices of what passes the check, nearest first; the nearest ones where nothing does."""
        order = gaps.argsort()
        passing = int((gaps < self.distance).sum())
        return order[: min(passing, self.width * sentences) or sentences]


def _places(evidence: Evidence) -> int:
    """How many words, padding included, went into one message."""
    return evidence.setting.images * evidence.setting.shape[0]


def row_space(gradient: Tensor, tolerance: float) -> Tensor:
    """An orthonormal basis [rank, inputs], float64, of the rows of a gradient [outputs, inputs],
    the strongest direction first."""
    _, sizes, directions = torch.linalg.svd(gradient.double(), full_matrices=False)
    return directions[sizes > tolerance * sizes[0]]


def outside(vectors: Tensor, basis: Tensor) -> Tensor:
    """The share [...] of each vector's length [..., inputs] that no combination of rows makes."""
    exact = vectors.double()
    rest = exact - (exact @ basis.T) @ basis
    return rest.norm(dim=-1) / exact.norm(dim=-1)


def words_at_places(reader: Reader, vocabulary: int, length: int) -> Tensor:
    """What the first block's queries are given, [vocabulary, length, width], for every word."""
    everywhere = torch.arange(vocabulary)[:, None].expand(vocabulary, length)
    return reader.layer("norm", 1)(reader.stream(everywhere))[:, 1:]


def entering(reader: Reader, sentences: Tensor) -> Tensor:
    """What the second block's queries are given, [n, places, width], for sentences [n, places]."""
    return reader.layer("norm", 2)(reader.block(1, reader.stream(sentences)))[:, 1:]


def _reader(evidence: Evidence) -> Reader:
    """The public model's layers with the weights that were broadcast."""
    from benchmark.models.base import build
    from benchmark.models.transformer import Reader

    setting = evidence.setting
    model = build(setting.model, setting.shape, setting.classes, setting.vocabulary)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if name in evidence.data["shared"]:
                parameter.copy_(evidence.data["shared"][name])
    assert isinstance(model.features, Reader)
    return model.features


DAGER = register(
    SpanCheck(
        name="dager",
        title="DAGER",
        cite="petrov2024dager",
        url="https://arxiv.org/abs/2405.15586",
        summary="Sentences whose every word lies in the row spaces of two query layers' gradients.",
        reads=("text",),
        closed_form=True,
    )
)
