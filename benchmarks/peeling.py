"""How much of a batch peeling recovers, beside the figures that its authors publish.

    python -m benchmarks.peeling [--seeds 20] [--batches 64 128] [--digits 1 4 8 16 32 64]

First the authors' setting: Fashion-MNIST, pixels in [0, 1], two linear layers with 1,000 ReLU units
between them, first weights from N(0, 0.25), second ones Xavier-uniform, no biases but their
gradients, all in float64; one untrained network and one batch per seed. Then the board's: `mlp`
with PyTorch's weights, on digits, messages in float32, labels not granted. An image counts as
recovered if one that was taken lies within 1e-3 of it, as root mean square of pixels; one that was
taken and lies near none is false. README.md beside this file has a measured table.
"""

from __future__ import annotations

import argparse
import math
import time
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from benchmark.attacks.base import get
from benchmark.attacks.peeling import Peeled, peel
from benchmark.data.datasets import base as datasets
from benchmark.data.datasets.base import Dataset
from benchmark.defenses.base import build
from benchmark.evidence.generic import client_update, oblivious
from benchmark.federated.setting import Setting, initial
from benchmark.federated.transcript import Transcript
from benchmark.federated.update import Update
from benchmark.runtime.randomness import generator

NEAR = 1e-3
UNITS = 1000


@dataclass(frozen=True)
class Outcome:
    """Of one batch: the share recovered, images taken that are none, labels that are wrong."""

    share: float
    false: int
    mislabelled: int

    @classmethod
    def of(cls, found: Tensor, named: Tensor, images: Tensor, labels: Tensor) -> Outcome:
        """What was taken [K, pixels] with its labels [K], against the batch."""
        if not len(found):
            return cls(0.0, 0, 0)
        distance, nearest = torch.cdist(found, images).div(images.shape[1] ** 0.5).min(1)
        true = distance < NEAR
        recovered = nearest[true].unique()
        wrong = (labels[nearest[true]] != named[true]).sum()
        return cls(len(recovered) / len(images), int((~true).sum()), int(wrong))


def as_published(known: Dataset, batch: int, seed: int) -> Outcome:
    """One batch of the authors' setting."""
    rng = torch.Generator().manual_seed(seed)
    first = 0.5 * torch.randn(UNITS, known.images[0].numel(), generator=rng, dtype=torch.float64)
    bound = math.sqrt(6 / (UNITS + known.classes))
    second = bound * (2 * torch.rand(known.classes, UNITS, generator=rng, dtype=torch.float64) - 1)
    rows = torch.randperm(len(known), generator=rng)[:batch]
    images, labels = known.images[rows].flatten(1).double(), known.labels[rows]

    def slopes(inputs: Tensor) -> Tensor:
        outputs = inputs @ first.T
        mean = (outputs.relu() @ second.T).softmax(1) @ second
        return (mean[:, None] - second) * (outputs > 0)[:, None] / batch

    arriving = slopes(images)[torch.arange(batch), labels]
    ends = torch.zeros(1, dtype=torch.float64), torch.ones(1, dtype=torch.float64)
    classes = torch.arange(known.classes)
    peeled: Peeled = peel(arriving.T @ images, arriving.sum(0), slopes, ends, batch, classes)
    return Outcome.of(peeled.inputs, peeled.labels, images, labels)


def on_the_board(known: Dataset, batch: int, seed: int) -> Outcome:
    """One batch of the board's model `mlp`."""
    setting = Setting(
        scenario="peeling",
        model="mlp",
        shape=known.shape,
        classes=known.classes,
        mean=(0.0,) * known.shape[0],
        std=(1.0,) * known.shape[0],
        algorithm="fedsgd",
        local_steps=1,
        local_lr=0.1,
        private_lr=0.1,
        batch_size=batch,
        labels_given=False,
        defense=build("none", {}),
    )
    rng = generator("peeling", seed)
    weights = initial(setting, rng)
    rows = torch.randperm(len(known), generator=rng)[:batch]
    images, labels = known.images[rows], known.labels[rows]
    batch_of = {"images": images, "labels": F.one_hot(labels, known.classes).float()}
    message = Update(client_update(setting, batch_of, {}, weights, {}))
    evidence = oblivious(Transcript(setting, 0, 0, Update(weights), message, None))
    (guess,) = get("peeling").run([evidence])
    assert guess.applicable is not None and guess.labels is not None
    taken = guess.applicable
    return Outcome.of(
        guess.images[taken].flatten(1), guess.labels[taken], images.flatten(1), labels
    )


def row(setting: str, outcomes: list[Outcome], seconds: float) -> str:
    """One line of the table."""
    shares = torch.tensor([o.share for o in outcomes], dtype=torch.float64)
    false, wrong = sum(o.false for o in outcomes), sum(o.mislabelled for o in outcomes)
    return (
        f"| {setting} | {float(shares.mean()):.3f} | {float(shares.std()):.2f} | {false} | {wrong} "
        f"| {seconds / len(outcomes):.2f} |"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--seeds", type=int, default=20)
    parser.add_argument("--batches", type=int, nargs="*", default=[64, 128])
    parser.add_argument("--digits", type=int, nargs="*", default=[1, 4, 8, 16, 32, 64])
    options = parser.parse_args()
    torch.set_num_threads(1)
    print("| setting | recovered | sd | false | wrong labels | CPU s per batch |")
    print("| --- | --- | --- | --- | --- | --- |", flush=True)
    settings = [("fashion-mnist", "as published", as_published, b) for b in options.batches]
    settings += [("digits", "`mlp`", on_the_board, b) for b in options.digits]
    for data, title, measured, batch in settings:
        known = datasets.load(data)
        began = time.process_time()
        outcomes = [measured(known, batch, seed) for seed in range(options.seeds)]
        spent = time.process_time() - began
        print(row(f"{data}, {title}, B={batch}", outcomes, spent), flush=True)


if __name__ == "__main__":
    main()
