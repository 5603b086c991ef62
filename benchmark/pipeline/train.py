"""Training one operating point from one seed, and keeping what the server and clients held.

A run's folder holds ``record.json``, what it measured (rows of training.csv and checkpoints.csv,
curves; why clients took turns, where they did), and per checkpoint ``<checkpoint>.safetensors``
with the shared weights (``weights.<name>``), every client's own state
(``client.<index>.private.<name>``, ``client.<index>.memory.<name>``) and, of clients with a memory,
the last messages as bytes (``client.<index>.sent.<number>``, oldest first).
"""

from __future__ import annotations

import json
import time
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from benchmark.config.registry import file_of
from benchmark.data.preparation import (
    Public,
    Training,
    read_private,
    read_public,
    read_training,
)
from benchmark.defenses.base import build
from benchmark.federated.client import Client, one_by_one
from benchmark.federated.setting import Setting, schema
from benchmark.federated.simulation import (
    Diverged,
    Examples,
    Observation,
    Protocol,
    simulate,
)
from benchmark.federated.transcript import as_bytes, as_tensor
from benchmark.federated.update import Update
from benchmark.models.parts.imprint import brightness_cuts
from benchmark.runtime.files import write_json
from benchmark.runtime.sources import source_digest
from benchmark.runtime.store import Store, digest, library_versions

if TYPE_CHECKING:
    from benchmark.config.schema import Scenario


@dataclass(frozen=True)
class Run:
    """One training run: a scenario, one defense at one operating point, one seed."""

    scenario: str
    defense: str
    point: str
    seed: int


def setting_of(
    name: str, scenario: Scenario, public: Public, defense: str, fields: dict
) -> Setting:
    """The public setting of a scenario under a defense, at the training batch size."""
    federation, built = scenario.federation, build(defense, fields)
    local_lr = federation.local_learning_rate
    setting = Setting(
        scenario=name,
        model=federation.model,
        shape=tuple(public.facts["shape"]),
        classes=public.facts["classes"],
        mean=tuple(public.facts["mean"]),
        std=tuple(public.facts["std"]),
        algorithm=federation.algorithm,
        local_steps=federation.local_steps,
        local_lr=federation.learning_rate if local_lr is None else built.shared_rate(local_lr),
        private_lr=federation.private_learning_rate,
        batch_size=federation.batch_size,
        labels_given=scenario.observation.side.labels,
        defense=built,
        vocabulary=len(public.facts.get("vocabulary", ())),
    )
    return crafted(setting, public) if federation.server == "malicious" else setting


def crafted(setting: Setting, public: Public) -> Setting:
    """The setting of a malicious server, which cuts brightness by its auxiliary images."""
    images = setting.normalise(public.images)
    darkest = setting.normalise(torch.zeros_like(public.images[:1]))
    return replace(setting, cuts=brightness_cuts(images, float(darkest.mean())))


def train(
    run: Run, scenario: Scenario, setting: Setting, data: Training, secret: str, folder: Path
) -> None:
    """Train and write everything that later stages need under ``folder``."""
    federation = scenario.federation
    protocol = Protocol(
        federation.rounds, federation.learning_rate, federation.momentum,
        sampling_rate=sampling_rate(scenario),
    )  # fmt: skip
    clients = range(federation.clients)
    parts = [
        Examples(setting.normalise(data.images[data.owner == i]), data.labels[data.owner == i])
        for i in clients
    ]
    test = Examples(setting.normalise(data.test_images), data.test_labels)
    # what a client draws must differ from point to point as it does from run to run
    private = f"{secret}/{run.scenario}/{run.defense}/{run.point}"
    seen: list[Observation] = []
    window: deque[Sequence[bytes]] = deque(maxlen=scenario.observation.window)
    checkpoints: list[dict[str, Any]] = []
    began, diverged = time.monotonic(), None
    try:
        for observation in simulate(setting, protocol, parts, test, run.seed, private):
            seen.append(replace(observation, weights=Update({}), clients=(), messages=()))
            if observation.round:
                window.append(observation.messages)
            for checkpoint, number in federation.checkpoints.items():
                if number == observation.round:
                    save_state(folder / f"{checkpoint}.safetensors", observation, window)
                    norm = gradient_norm(setting, observation, parts)
                    checkpoints.append(_looked(checkpoint, seen, norm))
    except Diverged as error:
        diverged = error.round
    record = summary(run, scenario, setting, seen)
    if diverged is not None:  # the model that was reached is not a number
        record |= {"accuracy_global": None, "accuracy_personal": None}
    write_json(
        folder / "record.json",
        {
            "training": record,
            "checkpoints": checkpoints,
            "curves": curves(seen),
            "diverged": diverged,
            "one_by_one": one_by_one(setting),
            "seconds": time.monotonic() - began,
        },
    )


def sampling_rate(scenario: Scenario) -> float:
    """The probability with which an example joins a Poisson draw, the same for every client.

    The batch size over the mean number of examples of a client: both are declared in params.yaml,
    so that the rate says nothing of what any client holds.
    """
    federation = scenario.federation
    mean = scenario.splits.client / federation.clients
    return min(1.0, federation.batch_size / mean)


def _looked(checkpoint: str, seen: list[Observation], gradient_norm: float) -> dict[str, Any]:
    """A checkpoint's columns of checkpoints.csv; accuracy and loss as last measured."""
    return {
        "checkpoint": checkpoint,
        "round": seen[-1].round,
        "gradient_norm": gradient_norm,
        "loss": next(s.loss for s in reversed(seen) if s.loss is not None),
        "accuracy": next(s.accuracy for s in reversed(seen) if s.accuracy is not None),
    }


def digests(runs: Sequence[Run], scenario: Scenario, prepared: Path) -> dict[Run, str]:
    """What the store calls each of a scenario's runs: a digest of everything that it depends on.

    Args:
        prepared: where ``prepare`` wrote ``public``, ``train`` and ``private``.
    """
    public = read_public(prepared / "public")
    data = digest(prepared / "train", prepared / "private")
    found = {}
    for run in runs:
        setting = _setting(run, scenario, public)
        found[run] = digest(
            vars(run),
            setting.to_json(),
            scenario.federation.model_dump(mode="json", exclude={"target_accuracy"}),
            scenario.observation.window,
            data,
            source_digest(roots(setting)),
            library_versions(),
        )
    return found


def groups(runs: Sequence[Run], scenario: Scenario) -> list[list[Run]]:
    """What one worker trains: the seeds of an operating point. The points with the most to train
    come first, so that no worker is left alone with one of them at the end."""
    kinds: dict[tuple[str, str], list[Run]] = {}
    for run in runs:
        kinds.setdefault((run.defense, run.point), []).append(run)

    def work(group: list[Run]) -> tuple[bool, int]:
        defense = build(group[0].defense, scenario.entrants[group[0].defense][group[0].point])
        return type(defense).personalised(), len(group)

    return sorted(kinds.values(), key=work, reverse=True)


def compute(run: Run, scenario: Scenario, prepared: Path, store: Store, key: str) -> Path:
    """Train a run and keep it in the store under its digest; returns its folder there."""
    setting = _setting(run, scenario, read_public(prepared / "public"))

    def write(folder: Path) -> None:
        data, private = read_training(prepared / "train"), read_private(prepared / "private")
        train(run, scenario, setting, data, private.secret, folder)

    return store.put(key, write)


def _setting(run: Run, scenario: Scenario, public: Public) -> Setting:
    fields = scenario.entrants[run.defense][run.point]
    return setting_of(run.scenario, scenario, public, run.defense, fields)


def roots(setting: Setting) -> list[str]:
    """The modules that train a run: this one, and the plug-ins that the setting names."""
    plugins = (f"defenses.{setting.defense.name}", f"models.{setting.model}")
    return ["pipeline.train", *map(file_of, plugins)]


def gradient_norm(setting: Setting, observation: Observation, parts: list[Examples]) -> float:
    """Mean over clients of the norm of the undefended gradient on all their examples."""
    norms = []
    for client, part in zip(observation.clients, parts, strict=True):
        slope = client.gradient(observation.weights, part.images, part.labels)
        norms.append(float(Update(slope).norm()))
    return sum(norms) / len(norms)


def summary(
    run: Run, scenario: Scenario, setting: Setting, seen: list[Observation]
) -> dict[str, Any]:
    """The run's row of training.csv, without what the target accuracy makes of it."""
    federation = scenario.federation
    rounds = [s for s in seen if s.round] or seen
    personal = type(setting.defense).personalised()
    guarantee = setting.defense.guarantee(
        rounds=federation.rounds * federation.local_steps
        if setting.defense.sampling == "poisson"
        else federation.rounds,
        rate=sampling_rate(scenario),
    )
    return {
        "scenario": run.scenario,
        "defense": run.defense,
        "point": run.point,
        "seed": run.seed,
        "accuracy_global": None if personal else seen[-1].accuracy,
        "accuracy_personal": seen[-1].personal,
        "epsilon": guarantee.epsilon if guarantee else None,
        "uplink_bytes": sum(s.uplink for s in rounds) / len(rounds),
        "downlink_bytes": sum(s.downlink for s in rounds) / len(rounds),
        "rounds": federation.rounds,
        "delta": guarantee.delta if guarantee else None,
        "privacy_unit": guarantee.unit if guarantee else "",
        "adversary": guarantee.adversary if guarantee else "",
        "client_seconds": sum(s.seconds for s in rounds) / len(rounds),
    }


def curves(seen: list[Observation]) -> dict[str, list[tuple[int, float]]]:
    """What changed over the rounds, as (round, value); bytes are per client."""
    return {
        "accuracy": [(s.round, s.accuracy) for s in seen if s.accuracy is not None],
        "loss": [(s.round, s.loss) for s in seen if s.loss is not None],
        "uplink_bytes": [(s.round, s.uplink) for s in seen if s.round],
        "downlink_bytes": [(s.round, s.downlink) for s in seen if s.round],
    }


def save_state(
    path: Path, observation: Observation, window: Sequence[Sequence[bytes]] = ()
) -> None:
    """Write the shared weights and every client's own state.

    ``window`` holds the messages of the last rounds, oldest first; they are kept of clients that
    remember something, whose next message depends on them.
    """
    tensors = {f"weights.{name}": tensor for name, tensor in observation.weights.items()}
    for index, client in enumerate(observation.clients):
        for name, tensor in client.private.items():
            tensors[f"client.{index}.private.{name}"] = tensor
        for name, tensor in client.memory.items():
            if tensor.any():  # a memory that is zero says nothing
                tensors[f"client.{index}.memory.{name}"] = tensor
        if any(tensor.any() for tensor in client.memory.values()):
            for number, messages in enumerate(window):
                tensors[f"client.{index}.sent.{number:04d}"] = as_tensor(messages[index])
    path.parent.mkdir(parents=True, exist_ok=True)
    whole = {n: t.detach().clone(memory_format=torch.contiguous_format) for n, t in tensors.items()}
    save_file(whole, path)


def load_state(path: Path, setting: Setting, clients: int) -> tuple[Update, list[Client]]:
    """The inverse of :func:`save_state`."""
    tensors = load_file(path)

    def under(prefix: str) -> dict[str, torch.Tensor]:
        return {k.removeprefix(prefix): t for k, t in tensors.items() if k.startswith(prefix)}

    weights = Update({name: tensors[f"weights.{name}"] for name in schema(setting)})
    blank = weights.map(torch.zeros_like)
    states = [
        Client(
            setting,
            under(f"client.{index}.private."),
            Update({**blank, **under(f"client.{index}.memory.")}),
        )
        for index in range(clients)
    ]
    return weights, states


def load_window(path: Path, client: int) -> list[bytes]:
    """A client's last messages that :func:`save_state` kept, oldest first."""
    prefix = f"client.{client}.sent."
    with safe_open(path, "pt") as file:
        # the open file is no mapping: it cannot be walked without keys()
        names = sorted(name for name in file.keys() if name.startswith(prefix))  # noqa: SIM118
        return [as_bytes(file.get_tensor(name)) for name in names]


def read_record(folder: Path) -> dict[str, Any]:
    """What the run in ``folder`` measured."""
    return json.loads((folder / "record.json").read_text(encoding="utf-8"))
