"""A small causal transformer that classifies sentences.

Two pre-norm blocks of the GPT-2 kind (Radford et al. 2019), with learned words and places, whose
outputs are averaged: so the queries of both blocks see every word, as in deeper models that read
the last place alone. A learned first place, which no word stands on, gives the first word something
to attend to; without it, that word's query would have no gradient.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from benchmark.models.base import VictimModel, register

WIDTH = 48
HEADS = 2
BLOCKS = 2


class Reader(nn.Sequential):
    """Sentences to vectors [N, WIDTH]; flat, so that parameters are ``features.<layer>.<kind>``.

    Sentences are numbers of words, int64 [N, length], or the words' vectors, [N, length, WIDTH].
    """

    def __init__(self, length: int, vocabulary: int) -> None:
        super().__init__()
        self.words = nn.Embedding(vocabulary, WIDTH)
        self.places = nn.Embedding(length + 1, WIDTH)
        for block in range(1, BLOCKS + 1):
            self.add_module(f"norm{block}", nn.LayerNorm(WIDTH))
            for part in ("query", "key", "value", "merge"):
                self.add_module(f"{part}{block}", nn.Linear(WIDTH, WIDTH))
            self.add_module(f"inner{block}", nn.LayerNorm(WIDTH))
            self.add_module(f"widen{block}", nn.Linear(WIDTH, 2 * WIDTH))
            self.add_module(f"narrow{block}", nn.Linear(2 * WIDTH, WIDTH))
        self.last = nn.LayerNorm(WIDTH)

    def forward(self, sentences: Tensor) -> Tensor:
        """The mean over places of the last block's normalised output."""
        stream = self.stream(sentences)
        for block in range(1, BLOCKS + 1):
            stream = self.block(block, stream)
        return self.last(stream)[:, 1:].mean(1)

    def stream(self, sentences: Tensor) -> Tensor:
        """What enters the first block, [N, 1 + length, WIDTH], for sentences of any length."""
        vectors = sentences if sentences.is_floating_point() else self.words(sentences)
        start = torch.zeros_like(vectors[:, :1])
        padded = torch.cat([start, vectors], 1) if vectors.shape[1] else start
        return padded + self.places.weight[: padded.shape[1]]

    def block(self, number: int, stream: Tensor) -> Tensor:
        """One block's output, [N, places, WIDTH] like its input."""
        attended = stream + self._attend(number, self.layer("norm", number)(stream))
        inner = self.layer("widen", number)(self.layer("inner", number)(attended))
        return attended + self.layer("narrow", number)(F.gelu(inner))

    def layer(self, part: str, number: int) -> nn.Module:
        """The layer ``part`` of a block."""
        return self.get_submodule(f"{part}{number}")

    def _attend(self, number: int, inputs: Tensor) -> Tensor:
        query, key, value = (
            self.layer(part, number)(inputs).unflatten(-1, (HEADS, -1)).transpose(1, 2)
            for part in ("query", "key", "value")
        )
        scores = query @ key.transpose(-1, -2) / query.shape[-1] ** 0.5
        later = torch.ones(scores.shape[-2:], dtype=torch.bool, device=scores.device).triu(1)
        weights = scores.masked_fill(later, -torch.inf).softmax(-1)
        return self.layer("merge", number)((weights @ value).transpose(1, 2).flatten(2))


@register("transformer", reads="text")
def transformer(shape: tuple[int], classes: int, vocabulary: int) -> VictimModel:
    """Two blocks of width 48 with two heads; 38,016 parameters beside words, places and head."""
    return VictimModel(Reader(shape[0], vocabulary), nn.Linear(WIDTH, classes))
