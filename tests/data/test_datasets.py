"""Data sets: what is read is what was published, and nothing read can run code."""

from __future__ import annotations

import hashlib
import os
import pickle
import struct
from pathlib import Path

import numpy as np
import pytest
import torch
from sklearn.datasets import load_digits

import benchmark.runtime.compat  # noqa: F401  before torchvision, which the tests import late
from benchmark.config.errors import ParamsError
from benchmark.config.registry import DATASETS
from benchmark.data.datasets import fashion_mnist
from benchmark.data.datasets.base import DataError, Dataset, Source, load, names


def test_digits_are_scikit_learns() -> None:
    digits = load("digits")
    bunch = load_digits()
    assert (digits.name, digits.classes, digits.shape) == ("digits", 10, (1, 8, 8))
    assert digits.images.dtype == torch.float32 and digits.labels.dtype == torch.int64
    assert np.array_equal(digits.images[:, 0].numpy() * 16, bunch.images)
    assert digits.labels.tolist() == bunch.target.tolist()
    assert (float(digits.images.min()), float(digits.images.max())) == (0.0, 1.0)


def test_digest_follows_content_and_order() -> None:
    digits = load("digits")
    assert digits.digest() == load("digits").digest()
    other = digits.images.clone()
    other[0, 0, 0, 0] += 1 / 16
    assert Dataset("digits", other, digits.labels, 10).digest() != digits.digest()
    labels = digits.labels.roll(1)
    assert Dataset("digits", digits.images, labels, 10).digest() != digits.digest()
    assert digits.subset(torch.arange(len(digits)).flip(0)).digest() != digits.digest()


def test_moments_normalise_to_zero_mean_and_unit_deviation() -> None:
    images = torch.rand(50, 3, 4, 4) * torch.tensor([1.0, 0.5, 0.1]).reshape(3, 1, 1)
    mean, std = Dataset("x", images, torch.zeros(50, dtype=torch.int64), 10).moments()
    column = torch.tensor([mean, std]).reshape(2, 3, 1, 1)
    normalised = (images - column[0]) / column[1]
    assert torch.allclose(normalised.mean((0, 2, 3)), torch.zeros(3), atol=1e-5)
    assert torch.allclose(normalised.std((0, 2, 3), correction=0), torch.ones(3), atol=1e-5)


def test_subset_keeps_name_classes_and_order() -> None:
    part = load("digits").subset(np.array([5, 3]))
    assert (len(part), part.classes, part.labels.tolist()) == (2, 10, [5, 3])


def test_images_and_labels_must_fit() -> None:
    with pytest.raises(DataError, match="do not fit"):
        Dataset("x", torch.zeros(3, 1, 2, 2), torch.zeros(4, dtype=torch.int64), 10)


def test_an_unknown_name_lists_what_there_is() -> None:
    with pytest.raises(ParamsError, match="data sets: 'mnist' is unknown.*cifar10, .*fashion"):
        load("mnist")


@pytest.mark.parametrize("name", ["fashion-mnist", "cifar10"])
def test_absent_files_without_a_network_are_one_clear_line(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from torchvision.datasets import utils

    def offline(*args: object, **kwargs: object) -> None:
        raise OSError("Network is unreachable\nand a second line")

    for place in (utils, __import__("torchvision.datasets.mnist", fromlist=["x"]),
                  __import__("torchvision.datasets.cifar", fromlist=["x"])):  # fmt: skip
        monkeypatch.setattr(place, "download_and_extract_archive", offline)
    with pytest.raises(DataError) as caught:
        load(name, tmp_path)
    assert f"{name} is not in {tmp_path} and cannot be downloaded" in str(caught.value)
    assert "LEAKBOARD_DATA" in str(caught.value) and "\n" not in str(caught.value)


def test_the_environment_says_where_data_lies_and_an_argument_overrules_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(DATASETS, "where", Source(lambda folder: folder, "images"))
    monkeypatch.setenv("LEAKBOARD_DATA", str(tmp_path / "a"))
    assert load("where") == tmp_path / "a"
    assert load("where", tmp_path / "b") == tmp_path / "b"
    monkeypatch.delenv("LEAKBOARD_DATA")
    assert load("where") == Path(".leakboard/data")


# ------------------------------------------------------------------------- small stand-in files


def cifar_batch(count: int, seed: int) -> bytes:
    """A batch as torchvision reads CIFAR-10's."""
    rng = np.random.default_rng(seed)
    return pickle.dumps(
        {
            "batch_label": "testing batch 1 of 1",
            "labels": rng.integers(10, size=count).tolist(),
            "data": rng.integers(256, size=(count, 3072), dtype=np.uint8),
            "filenames": ["a.png"] * count,
        },
        protocol=2,
    )


def md5(content: bytes) -> str:
    return hashlib.md5(content, usedforsecurity=False).hexdigest()


def test_cifar_reads_the_batches_that_are_there(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from torchvision.datasets import CIFAR10

    names = [name for name, _ in CIFAR10.train_list + CIFAR10.test_list]
    batches = {name: cifar_batch(4, seed) for seed, name in enumerate(names)}
    known = [[name, md5(batch)] for name, batch in batches.items()]
    monkeypatch.setattr(CIFAR10, "train_list", known[:-1])
    monkeypatch.setattr(CIFAR10, "test_list", known[-1:])
    folder = tmp_path / "cifar-10-batches-py"
    folder.mkdir()
    (folder / "test_batch").write_bytes(batches["test_batch"])
    assert load("cifar10", tmp_path).images.shape == (4, 3, 32, 32)
    (folder / "data_batch_2").write_bytes(batches["data_batch_2"])
    both = load("cifar10", tmp_path)
    assert both.images.shape == (8, 3, 32, 32)
    first = pickle.loads(batches["data_batch_2"])
    expected = first["data"].reshape(-1, 3, 32, 32)
    assert np.array_equal((both.images[:4] * 255).round().numpy(), expected)
    assert both.labels[:4].tolist() == first["labels"]


class Hostile:
    """Pickles to a call of os.mkdir."""

    def __init__(self, target: str) -> None:
        self.target = target

    def __reduce__(self):
        return os.mkdir, (self.target,)


def test_a_damaged_file_is_refused_and_never_unpickled(tmp_path: Path) -> None:
    folder, target = tmp_path / "cifar-10-batches-py", tmp_path / "owned"
    folder.mkdir()
    hostile = {b"labels": [1], b"data": Hostile(str(target))}
    (folder / "test_batch").write_bytes(pickle.dumps(hostile, protocol=2))
    with pytest.raises(DataError, match="test_batch is damaged: its MD5"):
        load("cifar10", tmp_path)
    assert not target.exists()


def idx(array: np.ndarray) -> bytes:
    """``array`` in MNIST's format."""
    sides = struct.pack(f">{array.ndim}I", *array.shape)
    return bytes([0, 0, 8, array.ndim]) + sides + array.tobytes()


def fashion_folder(root: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, np.ndarray]:
    """Six training and two test images where torchvision puts its own."""
    rng = np.random.default_rng(0)
    arrays = {}
    for part, count in (("train", 6), ("t10k", 2)):
        arrays[f"{part}-images-idx3-ubyte"] = rng.integers(256, size=(count, 28, 28)).astype("u1")
        arrays[f"{part}-labels-idx1-ubyte"] = rng.integers(10, size=count).astype("u1")
    folder = root / "FashionMNIST" / "raw"
    folder.mkdir(parents=True)
    for name, array in arrays.items():
        (folder / name).write_bytes(idx(array))
    monkeypatch.setattr(fashion_mnist, "MD5", {n: md5(idx(a)) for n, a in arrays.items()})
    return arrays


def test_fashion_mnist_is_read_training_images_first(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    arrays = fashion_folder(tmp_path, monkeypatch)
    loaded = load("fashion-mnist", tmp_path)
    assert loaded.images.shape == (8, 1, 28, 28) and loaded.classes == 10
    pixels = (loaded.images[:, 0] * 255).round().numpy()
    assert np.array_equal(pixels[:6], arrays["train-images-idx3-ubyte"])
    assert np.array_equal(loaded.labels[6:], arrays["t10k-labels-idx1-ubyte"])


def test_a_truncated_file_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fashion_folder(tmp_path, monkeypatch)
    file = tmp_path / "FashionMNIST/raw/t10k-images-idx3-ubyte"
    file.write_bytes(file.read_bytes()[:-1])
    with pytest.raises(DataError, match="t10k-images-idx3-ubyte is damaged: its MD5"):
        load("fashion-mnist", tmp_path)


def local_data() -> Path | None:
    """A folder with the real files, where the environment names one."""
    return Path(os.environ["LEAKBOARD_DATA"]) if os.environ.get("LEAKBOARD_DATA") else None


@pytest.mark.skipif(local_data() is None, reason="LEAKBOARD_DATA is not set")
@pytest.mark.parametrize(
    ("name", "path"),
    [("fashion-mnist", "FashionMNIST/raw"), ("cifar10", "cifar-10-batches-py/test_batch")],
)
def test_the_published_files_are_read(name: str, path: str) -> None:
    folder = local_data()
    if folder is None or not (folder / path).exists():
        pytest.skip(f"{path} is not there")
    whole = load(name)
    assert len(whole) % 10_000 == 0
    assert len(set(torch.bincount(whole.labels).tolist())) == 1  # both sets are balanced
    assert 0 <= float(whole.images.min()) < float(whole.images.max()) == 1


def test_names_are_sorted() -> None:
    assert names() == ["cifar10", "cola", "digits", "docstrings", "fashion-mnist", "next-word"]
