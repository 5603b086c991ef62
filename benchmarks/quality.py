"""How often the published attacks recover an image from a gradient of DLG's own network.

    python -m benchmarks.quality [--data cifar10] [--victims 50] [--evaluations 3000]
                                 [--attacks dlg idlg cpl ig]

The sigmoid LeNet of DLG with untrained weights, uniform between -0.5 and 0.5 and drawn afresh for
every victim; one image behind each gradient, labels not granted, pixels in [0, 1] as model inputs.
The victims are the first of the data set's last 10,000 images, which are its test images. One
restart each. An image counts as recovered at a mean squared error below 1e-3; the interval is
Clopper and Pearson's, at 95%. README.md beside this file has measured tables.
"""

from __future__ import annotations

import argparse
import statistics
import time

import torch
from scipy.stats import binomtest
from torch import Tensor

from benchmark.attacks.base import Attack, get, names
from benchmark.data.datasets import base as datasets
from benchmark.defenses.base import build
from benchmark.evidence.base import Evidence
from benchmark.evidence.generic import client_update, oblivious
from benchmark.federated.setting import Setting, stateless_model
from benchmark.federated.transcript import Transcript
from benchmark.federated.update import Update
from benchmark.runtime.randomness import generator

RECOVERED = 1e-3
TEST_IMAGES = 10_000


def victims(data: str, count: int) -> tuple[list[Evidence], Tensor, Tensor]:
    """Evidence about single images, the images [count, C, H, W] and their labels [count]."""
    known = datasets.load(data)
    channels = known.shape[0]
    setting = Setting(
        scenario="quality",
        model="lenet",
        shape=known.shape,
        classes=known.classes,
        mean=(0.0,) * channels,
        std=(1.0,) * channels,
        algorithm="fedsgd",
        local_steps=1,
        local_lr=0.1,
        private_lr=0.1,
        batch_size=1,
        labels_given=False,
        defense=build("none", {}),
    )
    images, labels = known.images[-TEST_IMAGES:][:count], known.labels[-TEST_IMAGES:][:count]
    evidences = []
    for k in range(count):
        model = stateless_model(setting)
        model.initialise(generator("quality", "weights", k))
        weights = {name: p.detach().clone() for name, p in model.named_parameters()}
        soft = torch.nn.functional.one_hot(labels[k : k + 1], known.classes).float()
        guess = {"images": setting.normalise(images[k : k + 1]), "labels": soft}
        message = Update(client_update(setting, guess, {}, weights, {}))
        evidences.append(oblivious(Transcript(setting, k, 0, Update(weights), message, None)))
    return evidences, images, labels


def row(attack: Attack, evidences: list[Evidence], images: Tensor, labels: Tensor) -> str:
    """One line of the table; an attack that does not apply says why."""
    reason = attack.refusal(evidences[0])
    if reason is not None:
        return f"| {attack.name} | {reason} | | | | |"
    began = time.process_time()
    guesses = attack.run(evidences)
    seconds = time.process_time() - began
    found = torch.cat([g.images for g in guesses])
    errors = (found - images).square().flatten(1).mean(1)
    count, good = len(evidences), int((errors < RECOVERED).sum())
    interval = binomtest(good, count).proportion_ci(0.95, method="exact")
    right = sum(
        int(g.labels is not None and int(g.labels) == int(label))
        for g, label in zip(guesses, labels, strict=True)
    )
    spent = statistics.mean(g.evaluations for g in guesses)
    return (
        f"| {attack.name} | {good}/{count} = {good / count:.0%} "
        f"({interval.low:.0%} to {interval.high:.0%}) | {float(errors.median()):.1e} "
        f"| {right}/{count} | {spent:.0f} | {seconds / count:.1f} |"
    )


def budgeted(name: str, evaluations: int) -> Attack:
    """An attack with this many gradient evaluations and one restart; closed forms as they are."""
    attack = get(name)
    budget = {"iterations": evaluations, "restarts": 1}
    return attack.configured(**{k: v for k, v in budget.items() if hasattr(attack, k)})


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--data", default="cifar10", choices=datasets.names())
    parser.add_argument("--victims", type=int, default=50)
    parser.add_argument("--evaluations", type=int, default=3000)
    parser.add_argument(
        "--attacks", nargs="+", default=["dlg", "idlg", "cpl", "ig"], choices=names()
    )
    options = parser.parse_args()
    torch.set_num_threads(1)
    evidences, images, labels = victims(options.data, options.victims)
    print("| attack | recovered | median MSE | labels | evaluations | CPU s per victim |")
    print("| --- | --- | --- | --- | --- | --- |", flush=True)
    for name in options.attacks:
        print(row(budgeted(name, options.evaluations), evidences, images, labels), flush=True)


if __name__ == "__main__":
    main()
