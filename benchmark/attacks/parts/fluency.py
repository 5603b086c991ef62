"""How likely a sentence is, judged by pairs of neighbouring words in auxiliary sentences."""

from __future__ import annotations

import torch
from torch import Tensor


class Bigrams:
    """A bigram model that backs off to single words and to all words alike.

    p(b | a) = (pairs of a and b + ``backing`` * p(b)) / (a's pairs + ``backing``), where p(b) is
    the share of b among all words after one of each was added. A row's first word follows the
    padding, which ends a sentence too. Source: interpolated n-grams with Dirichlet smoothing,
    MacKay and Peto, Natural Language Engineering 1, 1995.
    """

    def __init__(self, sentences: Tensor, vocabulary: int, backing: float = 5.0) -> None:
        """``sentences`` are int64 [n, length]."""
        flat = sentences.flatten()
        single = torch.bincount(flat, minlength=vocabulary).double() + 1
        pairs = torch.zeros(vocabulary, vocabulary, dtype=torch.float64)
        before, after = _preceding(sentences).flatten(), flat
        pairs.index_put_((before, after), torch.ones(len(flat), dtype=torch.float64), True)
        after_all = single / single.sum()
        given = (pairs + backing * after_all) / (pairs.sum(1, keepdim=True) + backing)
        self.surprise = -given.log()

    def __call__(self, sentences: Tensor) -> Tensor:
        """The logarithm of the perplexity, [...], of sentences [..., N, length] taken together."""
        return self.surprise[_preceding(sentences), sentences].mean((-1, -2))


def _preceding(sentences: Tensor) -> Tensor:
    """The word before each word, [..., length]."""
    return torch.cat([torch.zeros_like(sentences[..., :1]), sentences[..., :-1]], -1)
