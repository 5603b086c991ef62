"""English sentences as rows of word numbers, for scenarios whose private data are texts.

A sentence is a fixed number of places: its words in lower case, a comma being a word, then
:data:`PAD`. Which words there are is a public fact, as any tokeniser's vocabulary is; sentences
with rarer words are left out, so that no word is unknown.
"""

from __future__ import annotations

import re
from collections import Counter

import numpy as np
import torch

from benchmark.data.datasets.base import Dataset

LENGTH = 10
"""Words of the longest sentence."""

SHORTEST = 5
LEAST = 2
"""Sentences that a word of the vocabulary occurs in, at least."""

LARGEST = 1500
"""Words in a vocabulary, at most."""

PAD = 0
"""The word after the last one; it has an empty name."""

PROSE = re.compile(r"[A-Za-z ,'-]+[.!?]?")
"""A sentence of words only."""
_WORD = re.compile(r"[a-z]+(?:['-][a-z]+)*|,")

Sentences = list[tuple[str, int]]
"""Sentences with their classes."""


def words_of(sentence: str) -> list[str]:
    """The words of a sentence of letters, commas, hyphens and apostrophes.

    >>> words_of("The more we study verbs, the crazier they get.")
    ['the', 'more', 'we', 'study', 'verbs', ',', 'the', 'crazier', 'they', 'get']
    """
    return _WORD.findall(sentence.lower())


def numbered(sentences: Sentences) -> tuple[np.ndarray, np.ndarray, tuple[str, ...]]:
    """Sentences of a suitable length as numbers.

    Returns:
        int64 [n, :data:`LENGTH`], the place of each word in the vocabulary, :data:`PAD` after the
        last one; int64 [n] classes; and the vocabulary in alphabetical order, "" for the padding.
    """
    known: dict[tuple[str, ...], int] = {}
    for sentence, label in sentences:
        words = tuple(words_of(sentence))
        if SHORTEST <= len(words) <= LENGTH:
            known.setdefault(words, label)
    counted = Counter(word for words in known for word in sorted(set(words)))
    common = {word for word, count in counted.most_common(LARGEST - 1) if count >= LEAST}
    kept = [words for words in known if common.issuperset(words)]
    vocabulary = ("", *sorted({word for words in kept for word in words}))
    place = {word: index for index, word in enumerate(vocabulary)}
    rows = np.full((len(kept), LENGTH), PAD, dtype=np.int64)
    for row, words in zip(rows, kept, strict=True):
        row[: len(words)] = [place[word] for word in words]
    return rows, np.array([known[words] for words in kept], dtype=np.int64), vocabulary


def sentences(name: str, found: Sentences, classes: int) -> Dataset:
    """The data set ``name`` of such sentences."""
    rows, labels, vocabulary = numbered(found)
    return Dataset(name, torch.from_numpy(rows), torch.from_numpy(labels), classes, vocabulary)
