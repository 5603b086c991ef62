"""Data sets as plain tensors, read from where they already are.

==============  =======================================================  ==============
name            source                                                   content
==============  =======================================================  ==============
digits          bundled with scikit-learn (UCI optical digits)           1,797 of 1x8x8
fashion-mnist   torchvision's files, read from a folder or downloaded    70,000 of 1x28x28
cifar10         the python batches, read from a folder or downloaded     up to 60,000 of 3x32x32
docstrings      bundled with scikit-learn, its documentation's prose     sentences of 10 words
next-word       the same, for language modelling                         sentences of 9 words
cola            the tsv files, read from a folder                        sentences of 10 words
==============  =======================================================  ==============

Training and test files are one pool here: LeakBoard makes its own disjoint splits by content
(:mod:`benchmark.data.splits`). Every file is held against its official MD5 before it is read.
"""

from __future__ import annotations

import contextlib
import hashlib
import io
import math
import os
import pickle
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from benchmark.data import text

FOLDER_VARIABLE = "LEAKBOARD_DATA"
DEFAULT_FOLDER = Path(".leakboard/data")

FASHION_MD5 = {
    "train-images-idx3-ubyte": "f4a8712d7a061bf5bd6d2ca38dc4d50a",
    "train-labels-idx1-ubyte": "9018921c3c673c538a1fc5bad174d6f9",
    "t10k-images-idx3-ubyte": "8181f5470baa50b63fa0f6fddb340f0a",
    "t10k-labels-idx1-ubyte": "15d484375f8d13e6eb1aabb0c3f46965",
}
"""Of the unpacked files; torchvision knows those of the packed ones."""

CIFAR10_MD5 = {
    "data_batch_1": "c99cafc152244af753f735de768cd75f",
    "data_batch_2": "d4bba439e000b95fd0a9bffe97cbabec",
    "data_batch_3": "54ebc095f3ab1f0389bbae665268c751",
    "data_batch_4": "634d18415352ddfa80567beed471001a",
    "data_batch_5": "482c414d41f54cd18b22e5b47cb7c3cb",
    "test_batch": "40351d587109b95175f43aff81a1287e",
}


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


def load(name: str, folder: Path | str | None = None) -> Dataset:
    """Everything that is there of the data set ``name``.

    Args:
        name: one of :func:`names`.
        folder: where its files lie or are downloaded to; else the environment variable
            LEAKBOARD_DATA, else ``.leakboard/data``. Nothing is written to a folder that
            already holds the files.

    Raises:
        DataError: the name is unknown, a file is damaged, or the files are absent and cannot
            be downloaded.
    """
    if name not in _LOADERS:
        raise DataError(f"data set {name!r} is unknown; there are {', '.join(names())}")
    return _LOADERS[name](Path(folder or os.environ.get(FOLDER_VARIABLE) or DEFAULT_FOLDER))


def names() -> list[str]:
    """The data sets that :func:`load` knows."""
    return sorted(_LOADERS)


def _digits(folder: Path) -> Dataset:
    """Handwritten digits with 17 grey levels; scikit-learn ships them, nothing is downloaded."""
    from sklearn.datasets import load_digits

    bunch = load_digits()
    images = torch.from_numpy(bunch.images.astype(np.float32) / 16).unsqueeze(1)
    return Dataset("digits", images, torch.from_numpy(bunch.target.astype(np.int64)), 10)


def _fashion_mnist(folder: Path) -> Dataset:
    """Zalando's clothing images, the 60,000 training ones first."""
    raw = folder / "FashionMNIST" / "raw"
    if not all((raw / file).is_file() for file in FASHION_MD5):
        _download("FashionMNIST", "fashion-mnist", folder)
    images: list[np.ndarray] = []
    labels: list[np.ndarray] = []
    for part in ("train", "t10k"):
        for kind, into in (("images-idx3", images), ("labels-idx1", labels)):
            file = f"{part}-{kind}-ubyte"
            into.append(_idx(_checked(raw / file, FASHION_MD5[file]), file))
    return Dataset(
        "fashion-mnist",
        torch.from_numpy(np.concatenate(images)).unsqueeze(1).float().div_(255),
        torch.from_numpy(np.concatenate(labels)).long(),
        10,
    )


def _cifar10(folder: Path) -> Dataset:
    """CIFAR-10, of whichever official batches are present, training batches first."""
    place = folder / "cifar-10-batches-py"
    if not any((place / file).is_file() for file in CIFAR10_MD5):
        _download("CIFAR10", "cifar10", folder)
    images: list[np.ndarray] = []
    labels: list[np.ndarray] = []
    for file, md5 in CIFAR10_MD5.items():
        if (place / file).is_file():
            pixels, classes = read_cifar_batch(_checked(place / file, md5), file)
            images.append(pixels)
            labels.append(classes)
    return Dataset(
        "cifar10",
        torch.from_numpy(np.concatenate(images)).float().div_(255),
        torch.from_numpy(np.concatenate(labels)),
        10,
    )


def _docstrings(folder: Path) -> Dataset:
    """What scikit-learn says about itself, by what the code is for; it is there anyway."""
    return _sentences("docstrings", text.docstrings(), len(text.PURPOSES))


def _next_word(folder: Path) -> Dataset:
    """The same sentences for a language model: which word comes last?"""
    whole = _docstrings(folder)
    begun, last = text.next_words(whole.images.numpy())
    return Dataset("next-word", torch.from_numpy(begun), torch.from_numpy(last),
                   len(whole.vocabulary), whole.vocabulary)  # fmt: skip


def _cola(folder: Path) -> Dataset:
    """Acceptable and unacceptable sentences, from ``text/cola`` in the folder."""
    try:
        return _sentences("cola", text.cola(folder / "text" / "cola"), 2)
    except OSError as error:
        raise DataError(
            f"cola is not in {folder} ({error.filename}: {error.strerror}); "
            f"put its files into text/cola there or point {FOLDER_VARIABLE} to them"
        ) from None
    except ValueError as error:
        raise DataError(str(error)) from None


def _sentences(name: str, found: text.Sentences, classes: int) -> Dataset:
    rows, labels, vocabulary = text.numbered(found)
    return Dataset(name, torch.from_numpy(rows), torch.from_numpy(labels), classes, vocabulary)


_LOADERS: dict[str, Callable[[Path], Dataset]] = {
    "digits": _digits,
    "fashion-mnist": _fashion_mnist,
    "cifar10": _cifar10,
    "docstrings": _docstrings,
    "next-word": _next_word,
    "cola": _cola,
}


def _download(kind: str, name: str, folder: Path) -> None:
    """Let torchvision fetch a data set into ``folder``."""
    import benchmark.runtime.compat  # noqa: F401, I001  first: a torchvision built for CUDA needs it
    from torchvision import datasets

    try:
        with contextlib.redirect_stdout(io.StringIO()):
            getattr(datasets, kind)(folder, download=True)
    except Exception as error:  # torchvision raises a different kind for every way to fail
        reason = " ".join(str(error).split())[:200] or type(error).__name__
        raise DataError(
            f"{name} is not in {folder} and cannot be downloaded ({reason}); "
            f"put its files there or point {FOLDER_VARIABLE} to them"
        ) from None


def _checked(path: Path, md5: str) -> bytes:
    """The content of a file whose checksum is right."""
    try:
        content = path.read_bytes()
    except OSError as error:
        raise DataError(f"{path} cannot be read: {error.strerror}") from None
    if hashlib.md5(content, usedforsecurity=False).hexdigest() != md5:
        raise DataError(f"{path} is damaged: its MD5 is not the official one")
    return content


def _idx(content: bytes, file: str) -> np.ndarray:
    """An array of bytes in MNIST's idx format: 0 0 8 ndim, big-endian sides, values."""
    start = 4 + 4 * content[3] if content[:3] == b"\x00\x00\x08" and len(content) > 4 else 0
    if 4 < start <= len(content):
        shape = tuple(int(side) for side in np.frombuffer(content[4:start], ">u4"))
        if math.prod(shape) == len(content) - start:
            return np.frombuffer(content, np.uint8, offset=start).reshape(shape)
    raise DataError(f"{file} is not an idx file of bytes")


# --------------------------------------------------------------------------- CIFAR's batches


class _NumpyOnly(pickle.Unpickler):
    """An unpickler that can build numpy arrays and plain values, and call nothing else.

    CIFAR is published as pickles, and a pickle from elsewhere can run any code.
    """

    def find_class(self, module: str, name: str) -> Any:
        if (module, name) in (
            ("numpy.core.multiarray", "_reconstruct"),  # numpy 1 wrote the files,
            ("numpy._core.multiarray", "_reconstruct"),  # numpy 2 calls it this
        ):
            return _empty_array
        if (module, name) == ("numpy", "ndarray"):
            return np.ndarray
        if (module, name) == ("numpy", "dtype"):
            return _plain_dtype
        if (module, name) == ("_codecs", "encode"):  # how Python 3 writes bytes for protocol 2
            return _latin_bytes
        raise pickle.UnpicklingError(f"{module}.{name} is not allowed")


def _empty_array(kind: object, shape: object, code: object) -> np.ndarray:
    """What an array is before its state is set."""
    if kind is not np.ndarray:
        raise pickle.UnpicklingError("only plain arrays are allowed")
    return np.ndarray((0,), dtype=np.uint8)


def _plain_dtype(code: object, *rest: object) -> np.dtype:
    """Booleans and numbers; never objects."""
    dtype = np.dtype(code.decode("ascii") if isinstance(code, bytes) else str(code))
    if dtype.kind not in "biuf":
        raise pickle.UnpicklingError(f"arrays of {dtype} are not allowed")
    return dtype


def _latin_bytes(text: str, encoding: str) -> bytes:
    return text.encode("latin1")


def read_cifar_batch(content: bytes, file: str) -> tuple[np.ndarray, np.ndarray]:
    """Images (uint8 [n, 3, 32, 32]) and labels (int64 [n]) of one CIFAR-10 python batch.

    Raises:
        DataError: the bytes are no such batch, or would build anything but arrays and plain
            values.
    """
    try:
        batch = _NumpyOnly(io.BytesIO(content), encoding="bytes").load()
        pixels, labels = batch[b"data"], np.asarray(batch[b"labels"])
        pixels = np.asarray(pixels).reshape(-1, 3, 32, 32)
        if pixels.dtype != np.uint8 or labels.shape != pixels.shape[:1]:
            raise ValueError("images and labels do not fit")
        if labels.dtype.kind not in "iu" or labels.min() < 0 or labels.max() > 9:
            raise ValueError("labels are not 0 to 9")
    except Exception as error:  # a damaged pickle raises almost anything
        raise DataError(f"{file} is not a CIFAR-10 batch: {error}") from None
    return np.ascontiguousarray(pixels), labels.astype(np.int64)
