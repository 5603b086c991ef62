"""Data sets as plain tensors, read from where they already are: one file each, named after it.

Training and test files are one pool here: LeakBoard makes its own disjoint splits by content
(:mod:`benchmark.data.splits`). What is read is held against its official MD5 first.
"""

from __future__ import annotations

import contextlib
import hashlib
import io
import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from benchmark.config.registry import DATASETS, Kind

FOLDER_VARIABLE = "LEAKBOARD_DATA"
DEFAULT_FOLDER = Path(".leakboard/data")


class DataError(ValueError):
    """Data is absent, is not what it should be, or cannot be divided as asked; in one line."""


@dataclass(frozen=True, eq=False)
class Dataset:
    """Images or sentences with their classes.

    Attributes:
        name: registry name.
        images: float32 [n, C, H, W], pixels in [0, 1]; of texts int64 [n, length], places in the
            vocabulary.
        labels: int64 [n], in [0, classes).
        classes: how many there are, also where a subset lacks some.
        vocabulary: the words of texts, the padding first; empty for images.
    """

    name: str
    images: Tensor
    labels: Tensor
    classes: int
    vocabulary: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if (
            self.images.ndim != (2 if self.vocabulary else 4)
            or self.labels.shape != self.images.shape[:1]
        ):
            raise DataError(
                f"{self.name}: images {tuple(self.images.shape)} and labels "
                f"{tuple(self.labels.shape)} do not fit [n, C, H, W] and [n]"
            )

    def __len__(self) -> int:
        return self.labels.shape[0]

    @property
    def shape(self) -> tuple[int, ...]:
        """(C, H, W) of one image, (length,) of one sentence."""
        return tuple(self.images.shape[1:])

    def subset(self, indices: Tensor | np.ndarray) -> Dataset:
        """The images at ``indices``, in that order."""
        chosen = torch.as_tensor(indices, dtype=torch.int64)
        return replace(self, images=self.images[chosen], labels=self.labels[chosen])

    def moments(self) -> tuple[tuple[float, ...], tuple[float, ...]]:
        """Mean and standard deviation of each channel's pixels, to normalise model inputs.

        Words are not normalised: no channels.
        """
        if self.vocabulary:
            return (), ()
        pixels = self.images.double().transpose(0, 1).flatten(1)
        return tuple(pixels.mean(1).tolist()), tuple(pixels.std(1, correction=0).tolist())

    def digest(self) -> str:
        """SHA-256 of shape, content and labels, in order: what provenance records."""
        content = hashlib.sha256(repr((tuple(self.images.shape), self.classes)).encode())
        content.update("\n".join(self.vocabulary).encode())
        content.update(self.images.contiguous().numpy().astype("<f4", copy=False).tobytes())
        content.update(self.labels.contiguous().numpy().astype("<i8", copy=False).tobytes())
        return content.hexdigest()


class Source(NamedTuple):
    """How to read a data set from a folder, and what it holds."""

    read: Callable[[Path], Dataset]
    kind: Kind


Reader = Callable[[Path], Dataset]


def register(name: str, kind: Kind = "images") -> Callable[[Reader], Reader]:
    """Enter a data set: a function of the folder where its files lie or are downloaded to.

    Raises:
        PluginError: the name is taken, or is not the file's.
    """

    def enter(read: Reader) -> Reader:
        DATASETS.enter(name, Source(read, kind), read.__module__)
        return read

    return enter


def load(name: str, folder: Path | str | None = None) -> Dataset:
    """Everything that is there of the data set ``name``.

    Args:
        name: one of :func:`names`.
        folder: where its files lie or are downloaded to; else the environment variable
            LEAKBOARD_DATA, else ``.leakboard/data``. Nothing is written to a folder that
            already holds the files.

    Raises:
        ParamsError: the name is unknown.
        DataError: a file is damaged, or the files are absent and cannot be downloaded.
    """
    place = Path(folder or os.environ.get(FOLDER_VARIABLE) or DEFAULT_FOLDER)
    return DATASETS[name].read(place)


names = DATASETS.names


@contextlib.contextmanager
def downloading(name: str, folder: Path) -> Iterator[None]:
    """Quietly, and one clear line in place of whatever a download raises.

    Raises:
        DataError: it failed.
    """
    try:
        with contextlib.redirect_stdout(io.StringIO()):
            yield
    except Exception as error:  # torchvision raises a different kind for every way to fail
        reason = " ".join(str(error).split())[:200] or type(error).__name__
        raise DataError(
            f"{name} is not in {folder} and cannot be downloaded ({reason}); "
            f"put its files there or point {FOLDER_VARIABLE} to them"
        ) from None


def check_md5(path: Path, md5: str) -> None:
    """Refuse a file that is not the published one.

    Raises:
        DataError: it cannot be read, or its checksum is another.
    """
    try:
        found = hashlib.md5(path.read_bytes(), usedforsecurity=False).hexdigest()
    except OSError as error:
        raise DataError(f"{path} cannot be read: {error.strerror}") from None
    if found != md5:
        raise DataError(f"{path} is damaged: its MD5 is not the official one")
