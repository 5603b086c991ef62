"""Searching for sentences among vectors: what a continuous search sees of texts, and says of them.

Words are numbers, which no gradient moves; the vectors that a model gives them are not. So a
search moves free vectors, and every place is read as the word whose vector is nearest. What the
message shows of the words' own vectors is left out of the search, since free vectors have no part
in it, and used for reading instead: a word whose vector has no gradient was not there (Melis et
al., S&P 2019, arXiv:1805.04049).

Images are left as they are, so that attacks need not ask which kind they face.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

import torch
from torch import Tensor

if TYPE_CHECKING:
    from benchmark.evidence.base import Evidence, Tensors, Term

WORDS = "features.words.weight"
"""The parameter [vocabulary, width] with the vectors of a text model's words."""


def reason(evidence: Evidence) -> str | None:
    """Why no search among vectors is possible, or None."""
    if evidence.setting.vocabulary and WORDS not in evidence.data.get("shared", {}):
        return "the words' vectors are not public"
    return None


def searched_shape(evidence: Evidence) -> tuple[int, ...]:
    """The shape of one example as it is searched for: (C, H, W), or (length, width) of a text."""
    setting = evidence.setting
    if not setting.vocabulary:
        return setting.shape
    return (*setting.shape, evidence.data["shared"][WORDS].shape[1])


def searched(evidence: Evidence) -> Evidence:
    """The evidence that a search among vectors is able to explain."""
    if not evidence.setting.vocabulary:
        return evidence
    return replace(evidence, terms={n: _without_words(t) for n, t in evidence.terms.items()})


def centres(evidences: Sequence[Evidence]) -> list[Tensor] | None:
    """Per victim the mean vector [width] of the words that were there; None for images.

    A search of sentences begins near it: that is nearer to each of the words than a random start.
    """
    if not evidences[0].setting.vocabulary:
        return None
    return [e.data["shared"][WORDS][words_present(e)].mean(0) for e in evidences]


def inputs(evidence: Evidence, content: Tensor) -> Tensor:
    """Model inputs for pixels [N, C, H, W] in [0, 1]; the vectors of words [N, length]."""
    if not evidence.setting.vocabulary:
        return evidence.setting.normalise(content.float())
    return evidence.data["shared"][WORDS][content]


def content(evidence: Evidence, inputs: Tensor) -> Tensor:
    """Pixels in [0, 1] for model inputs [N, C, H, W]; for vectors [N, length, width] the numbers
    [N, length] of the nearest words among those that the message does not rule out."""
    if not evidence.setting.vocabulary:
        return evidence.setting.denormalise(inputs)
    present = words_present(evidence)
    vectors = evidence.data["shared"][WORDS][present]
    distances = torch.cdist(inputs.flatten(0, 1), vectors)
    return present[distances.argmin(1)].view(inputs.shape[:2])


def words_present(evidence: Evidence) -> Tensor:
    """int64 [n], the words whose vectors have a gradient; all of them where none is shown."""
    seen = [term.value[WORDS] for term in evidence.terms.values() if WORDS in term.value]
    if not seen or not bool(seen[0].any()):
        return torch.arange(evidence.setting.vocabulary)
    return torch.nonzero(seen[0].any(1)).flatten()


def _without_words(term: Term) -> Term:
    def rest(tensors: Tensors | None) -> Mapping[str, Tensor] | None:
        return None if tensors is None else {n: t for n, t in tensors.items() if n != WORDS}

    return replace(
        term,
        value=rest(term.value) or {},
        mask=rest(term.mask),
        variance=rest(term.variance),
        lower=rest(term.lower),
        upper=rest(term.upper),
    )
