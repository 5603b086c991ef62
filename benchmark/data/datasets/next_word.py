"""Language modelling's question to the sentences of :mod:`docstrings`: which word comes last?"""

from __future__ import annotations

from pathlib import Path

import torch

from benchmark.data.datasets.base import Dataset, register
from benchmark.data.datasets.docstrings import docstrings
from benchmark.data.text import PAD


@register("next-word", kind="text")
def next_word(folder: Path) -> Dataset:
    """Sentences without their last word, of up to 9 words, and that word as class."""
    whole = docstrings(folder)
    begun = whole.images.clone()
    last = (torch.arange(len(begun)), (begun != PAD).sum(1) - 1)
    begun[last] = PAD
    words = len(whole.vocabulary)
    return Dataset("next-word", begun, whole.images[last], words, whole.vocabulary)
