"""Small federated rounds for tests: every defense at every point, on 6x6 images."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from benchmark.config.schema import load_params
from benchmark.defenses.base import Defense, build, names
from benchmark.federated.client import Client
from benchmark.federated.setting import Setting, schema
from benchmark.federated.simulation import Examples, Protocol, simulate, start
from benchmark.federated.transcript import Transcript
from benchmark.federated.update import Batch, Update
from benchmark.federated.wire import decode, encode

SECRET = "kept by the tests"


def one_thread() -> Iterator[None]:
    """Body of an autouse fixture: two threads on a busy machine are slower than one."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@lru_cache(maxsize=1)
def points() -> tuple[Defense, ...]:
    """Every registered defense at its defaults and at every operating point of params.yaml."""
    found = [build(name, {}) for name in names()]
    for name, defense in load_params().defenses.items():
        found += [build(name, fields) for fields in defense.points.values()]
    return tuple(dict.fromkeys(found))


def rng(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def setting_of(defense: Defense | str, **facts: Any) -> Setting:
    """FedSGD on one 6x6 image, unless ``facts`` say otherwise."""
    base = Setting(
        scenario="tiny",
        model="elu",
        shape=(1, 6, 6),
        classes=10,
        mean=(0.4,),
        std=(0.3,),
        algorithm="fedsgd",
        local_steps=1,
        local_lr=0.1,
        private_lr=0.1,
        batch_size=1,
        labels_given=True,
        defense=build(defense, {}) if isinstance(defense, str) else defense,
    )
    return replace(base, **facts)


def fedavg(defense: Defense | str, local_steps: int = 3, batch_size: int = 2) -> Setting:
    return setting_of(
        defense, algorithm="fedavg", local_steps=local_steps, batch_size=batch_size, local_lr=0.01
    )


def images_of(setting: Setting, seed: int) -> tuple[Tensor, Tensor]:
    """Pixels [N, C, H, W], or words [N, length], and labels [N] of one victim."""
    source = rng(1000 + seed)
    if setting.vocabulary:
        wanted = (setting.images, *setting.shape)
        pixels = torch.randint(1, setting.vocabulary, wanted, generator=source)
    else:
        pixels = torch.rand(setting.images, *setting.shape, generator=source)
    return pixels, torch.randint(setting.classes, (setting.images,), generator=source)


def batches_of(setting: Setting, pixels: Tensor, labels: Tensor) -> list[Batch]:
    inputs = setting.normalise(pixels).split(setting.batch_size)
    return list(zip(inputs, labels.split(setting.batch_size), strict=True))


@dataclass(frozen=True)
class Victim:
    """One observed round: what the server holds, what was sealed, and the client that sent it."""

    transcript: Transcript
    truth: dict[str, Tensor]
    client: Client

    @property
    def soft(self) -> Tensor:
        return F.one_hot(self.truth["labels"], self.transcript.setting.classes).float()

    @property
    def guess(self) -> dict[str, Tensor]:
        """The perfect one."""
        return {"images": self.truth["images"], "labels": self.soft}


def observe(
    setting: Setting,
    count: int = 1,
    *,
    start_from: tuple[Update, list[Client]] | None = None,
    seed: int = 0,
) -> list[Victim]:
    """Rounds of ``count`` victims, messages and broadcast through the wire."""
    weights, clients = start_from or start(setting, count, seed, SECRET)
    broadcast = Update(decode(encode(weights), schema(setting)))
    found = []
    for index in range(count):
        client = clients[index].copy()
        pixels, labels = images_of(setting, 10 * seed + index)
        sent = client.round(broadcast, batches_of(setting, pixels, labels), rng(77 + index))
        message = Update(decode(encode(sent), schema(setting)))
        truth = {
            "pixels": pixels,
            "images": setting.normalise(pixels),
            "labels": labels,
            **client.revealed,
        }
        granted = labels if setting.labels_given else None
        transcript = Transcript(setting, index, index, broadcast, message, granted)
        found.append(Victim(transcript, truth, client))
    return found


def remembered(setting: Setting, rounds: int = 6) -> tuple[Victim, Update]:
    """A victim whose client has sent ``rounds`` messages before, and what that client then held."""
    weights, (client,) = start(setting, 1, 0, SECRET)
    window = []
    for number in range(rounds):
        batches = batches_of(setting, *images_of(setting, 500 + number))
        sent = client.round(weights, batches, rng(200 + number))
        window.append(Update(decode(encode(sent), schema(setting))))
    (victim,) = observe(setting, start_from=(weights, [client]))
    seen = replace(victim.transcript, window=tuple(window))
    return replace(victim, transcript=seen), client.memory


def clusters(count: int, seed: int, classes: int = 10) -> Examples:
    """An easy problem: images near one of ``classes`` fixed patterns."""
    source = rng(seed)
    centres = torch.randn(classes, 1, 6, 6, generator=rng(5))
    labels = torch.randint(classes, (count,), generator=source)
    images = centres[labels] + 0.3 * torch.randn(count, 1, 6, 6, generator=source)
    return Examples(images, labels)


@lru_cache(maxsize=8)
def trained(setting: Setting, rounds: int = 40) -> tuple[Update, list[Client]]:
    """Shared weights and three clients' states after some rounds on :func:`clusters`."""
    parts = [clusters(60, seed) for seed in range(3)]
    training = setting.with_batch_size(16)
    *_, last = simulate(
        training, Protocol(rounds, 0.1, 0.9, rounds), parts, clusters(40, 9), 0, SECRET
    )
    return last.weights, [replace(client, setting=setting) for client in last.clients]


def relative_error(predicted: Any, observed: Any) -> float:
    """Norm of the difference over the norm of what was observed, all tensors together."""
    gap = torch.cat([(predicted[name] - observed[name]).flatten() for name in observed])
    size = torch.cat([observed[name].flatten() for name in observed])
    return float(gap.norm() / size.norm())
