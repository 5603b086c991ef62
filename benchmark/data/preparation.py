"""What a scenario's rounds start from: public, training and private data, in folders apart.

``public/``  auxiliary examples and the facts that everybody knows; all that attacks may read
``train/``   the clients' examples and the test set
``private/`` the victims' images, and the secret that keys the clients' randomness
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from benchmark.config.registry import PARTITIONS
from benchmark.data.datasets.base import DataError, Dataset, load
from benchmark.data.splits import split
from benchmark.runtime.files import write_json
from benchmark.runtime.randomness import generator, seed_of

if TYPE_CHECKING:
    from benchmark.config.schema import Scenario


@dataclass(frozen=True)
class Public:
    """What server and attackers know of the data.

    Attributes:
        facts: name, digest, shape, classes, mean and std of the data set; of texts also the
            vocabulary.
        images, labels: the auxiliary split, pixels [n, C, H, W] in [0, 1] and int64 [n]; texts
            are int64 [n, length], here and below.
    """

    facts: dict[str, Any]
    images: Tensor
    labels: Tensor


@dataclass(frozen=True)
class Training:
    """Pixels [n, C, H, W] in [0, 1] and labels int64 [n] of the clients and of the test set."""

    images: Tensor
    labels: Tensor
    owner: Tensor
    test_images: Tensor
    test_labels: Tensor


@dataclass(frozen=True)
class Private:
    """The images behind the observed messages, and the secret of the clients' randomness."""

    images: Tensor
    labels: Tensor
    secret: str

    def victims(self, place: int, count: int, each: int) -> tuple[Tensor, Tensor]:
        """``count`` victims of ``each`` images: pixels [V, N, C, H, W] and labels [V, N].

        Neighbours have the same labels, so that each can stand in for the other. The ``place`` of
        a seed among all seeds decides which images it gets; no two places share one.

        Raises:
            DataError: there are not enough images for that many seeds.
        """
        block = count * each
        rows = torch.arange(place * block, (place + 1) * block)
        if len(self.labels) < (place + 1) * block:
            raise DataError(
                f"victims: {len(self.labels)} images, but those of {place + 1} seeds "
                f"need {(place + 1) * block}"
            )
        if count % 2 == 0:  # of each pair of images, one goes to one neighbour, one to the other
            rows = rows.view(count // 2, each, 2).transpose(1, 2).reshape(-1)
        return (
            self.images[rows].unflatten(0, (count, each)),
            self.labels[rows].unflatten(0, (count, each)),
        )


def prepare(name: str, scenario: Scenario, public: Path, train: Path, private: Path) -> None:
    """Write the three folders of the scenario ``name``.

    Raises:
        DataError: the data is not there, or too small for the scenario.
    """
    dataset = load(scenario.data)
    parts = split(dataset, scenario.splits.model_dump(), seed_of(scenario.data, "split") % 2**32)
    federation = scenario.federation
    victims = paired(parts[scenario.observation.split], scenario.data)
    auxiliary, clients, test = parts["auxiliary"], parts["client"], parts["test"]
    mean, std = auxiliary.moments()
    facts = {
        "name": dataset.name,
        "digest": dataset.digest(),
        "shape": list(dataset.shape),
        "classes": dataset.classes,
        "mean": list(mean),
        "std": list(std),
        **({"vocabulary": list(dataset.vocabulary)} if dataset.vocabulary else {}),
    }
    write_json(public / "data.json", facts)
    _save(public / "auxiliary.safetensors", images=auxiliary.images, labels=auxiliary.labels)
    options = {} if federation.alpha is None else {"alpha": federation.alpha}
    owners = torch.empty(len(clients), dtype=torch.long)
    dealt = PARTITIONS[federation.partition](
        clients.labels.numpy(), federation.clients, seed_of(name, "partition") % 2**32,
        minimum=federation.batch_size, **options,
    )  # fmt: skip
    for index, rows in enumerate(dealt):
        owners[torch.as_tensor(rows)] = index
    _save(train / "clients.safetensors", images=clients.images, labels=clients.labels, owner=owners)
    _save(train / "test.safetensors", images=test.images, labels=test.labels)
    _save(private / "victims.safetensors", images=victims.images, labels=victims.labels)
    content = victims.images.numpy().tobytes() + clients.images.numpy().tobytes()
    write_json(private / "secret.json", {"secret": hashlib.sha256(content).hexdigest()})


def paired(victims: Dataset, name: str) -> Dataset:
    """A split in pairs of one class, so that every victim has another of its label."""
    rng = generator(name, "victims")
    order = torch.randperm(len(victims), generator=rng)
    pairs: list[list[int]] = []
    waiting: dict[int, int] = {}
    for row in order.tolist():
        label = int(victims.labels[row])
        if label in waiting:
            pairs.append([waiting.pop(label), row])
        else:
            waiting[label] = row
    mixed = torch.randperm(len(pairs), generator=rng).tolist()
    chosen = [row for index in mixed for row in pairs[index]] + list(waiting.values())
    return victims.subset(torch.tensor(chosen))


def read_public(folder: Path) -> Public:
    """What :func:`prepare` wrote for everybody."""
    tensors = load_file(folder / "auxiliary.safetensors")
    facts = json.loads((folder / "data.json").read_text(encoding="utf-8"))
    return Public(facts, tensors["images"], tensors["labels"])


def read_training(folder: Path) -> Training:
    """What :func:`prepare` wrote for the clients."""
    clients, test = (
        load_file(folder / "clients.safetensors"),
        load_file(folder / "test.safetensors"),
    )
    return Training(
        clients["images"], clients["labels"], clients["owner"], test["images"], test["labels"]
    )


def read_private(folder: Path) -> Private:
    """What :func:`prepare` sealed."""
    tensors = load_file(folder / "victims.safetensors")
    secret = json.loads((folder / "secret.json").read_text(encoding="utf-8"))["secret"]
    return Private(tensors["images"], tensors["labels"], secret)


def _save(path: Path, **tensors: Tensor) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    save_file({name: tensor.contiguous() for name, tensor in tensors.items()}, path)
