"""How much of the private sentences a reconstruction shows.

Sentences are numbers of words [n, length], :data:`PAD` after the last one. Every measure is per
sentence; guesses are paired with truths once (:func:`match`), and every measure uses that pairing.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache, lru_cache
from typing import Any

import numpy as np

from benchmark.data.text import PAD
from benchmark.metrics.images import rivals

SUCCESS = 0.9
"""A sentence counts as recovered when a larger share of its words is right, in their places. Of
ten words or fewer that is every word."""


def exact_tokens(guesses: Any, truths: Any, vocabulary: Sequence[str]) -> np.ndarray:
    """:func:`exact` of sentences that are already paired, as a column of the results."""
    return exact(guesses, truths)


def rouge1(guesses: Any, truths: Any, vocabulary: Sequence[str]) -> np.ndarray:
    """F-measure [n] of common words; guesses [n, length] are already paired with truths."""
    return _rouge(0, guesses, truths, vocabulary)


def rouge2(guesses: Any, truths: Any, vocabulary: Sequence[str]) -> np.ndarray:
    """F-measure [n] of common pairs of neighbours."""
    return _rouge(1, guesses, truths, vocabulary)


def rougeL(guesses: Any, truths: Any, vocabulary: Sequence[str]) -> np.ndarray:  # noqa: N802
    """F-measure [n] of the longest common subsequence."""
    return _rouge(2, guesses, truths, vocabulary)


def _rouge(which: int, guesses: Any, truths: Any, vocabulary: Sequence[str]) -> np.ndarray:
    pairs = zip(guesses, truths, strict=True)
    return np.array([rouges(said(g, vocabulary), said(t, vocabulary))[which] for g, t in pairs])


def exact(guesses: Any, truths: Any) -> np.ndarray:
    """Share of places [...] with the right word, of those where either sentence has one.

    >>> exact([[5, 3, 7, 0]], [[5, 4, 0, 0]]).round(2)
    array([0.33])
    """
    ours, theirs = np.asarray(guesses), np.asarray(truths)
    spoken = (ours != PAD) | (theirs != PAD)
    right = ((ours == theirs) & spoken).sum(-1)
    return right / np.maximum(spoken.sum(-1), 1)


@lru_cache(maxsize=100_000)
def rouges(guess: str, truth: str) -> tuple[float, float, float]:
    """ROUGE-1, ROUGE-2 and ROUGE-L of two sentences, F-measures, by rouge-score.

    Source: Lin, "ROUGE", ACL workshop 2004. Words are told apart as they are, without stemming.
    """
    found = _scorer().score(truth, guess)
    return found["rouge1"].fmeasure, found["rouge2"].fmeasure, found["rougeL"].fmeasure


def said(sentence: Any, vocabulary: Sequence[str]) -> str:
    """A sentence [length] as text."""
    return " ".join(vocabulary[int(word)] for word in sentence if int(word) != PAD)


def match(guesses: Any, truths: Any) -> np.ndarray:
    """The one-to-one pairing with most words right in their places.

    Args:
        guesses, truths: sentences [n, length] of one batch.

    Returns:
        int64 [n]: ``guesses[match(guesses, truths)]`` stand beside ``truths``.
    """
    from scipy.optimize import linear_sum_assignment

    ours, theirs = np.asarray(guesses), np.asarray(truths)
    gained = exact(ours[None, :], theirs[:, None])
    return linear_sum_assignment(gained, maximize=True)[1].astype(np.int64)


def identify(
    guesses: Any, truths: Any, labels: Any, candidates: Any, candidate_labels: Any, *,
    count: int = 100, seed: int = 0,
) -> np.ndarray:  # fmt: skip
    """bool [n] or [k, n]: whether a guess has more words in common with its truth than with others.

    Arguments as of :func:`benchmark.metrics.images.identify`.
    """
    ours, theirs, pool = (np.asarray(each) for each in (guesses, truths, candidates))
    found = np.zeros(ours.shape[:-1], dtype=bool)
    for index, others in enumerate(rivals(labels, candidate_labels, count, seed)):
        if len(others):
            own = ours[..., index, :]
            rival = exact(own[..., None, :], pool[others]).max(-1)
            found[..., index] = exact(own, theirs[index]) > rival
    return found


def without_attack(truths: Any, labels: Any, auxiliary: Any, auxiliary_labels: Any) -> np.ndarray:
    """Exact share [n] of the better of two guesses made without a message.

    The most frequent word at every place among auxiliary sentences of the right class; and the
    auxiliary sentence, of whatever class, that has most words right.
    """
    theirs, own = np.asarray(truths), np.asarray(labels)
    pool, classes = np.asarray(auxiliary), np.asarray(auxiliary_labels)
    nearest = np.array([exact(pool, truth).max() for truth in theirs])
    frequent = {
        label: _frequent(pool[classes == label] if (classes == label).any() else pool)
        for label in np.unique(own)
    }
    usual = exact(np.stack([frequent[label] for label in own]), theirs)
    return np.maximum(nearest, usual)


def _frequent(sentences: np.ndarray) -> np.ndarray:
    """The most frequent word at every place."""
    return np.array([np.bincount(column).argmax() for column in sentences.T])


@cache
def _scorer() -> Any:
    from rouge_score.rouge_scorer import RougeScorer

    return RougeScorer(["rouge1", "rouge2", "rougeL"])
