"""Replaying one more round from a checkpoint's real client states, for the victims' images.

``<point>/<seed>--<checkpoint>--b<B>.safetensors`` in ``transcripts`` is what the server holds;
the file of the same name in ``truth`` holds images, labels and the clients' randomness, sealed:
``images`` [V, N, C, H, W] in [0, 1], ``labels`` [V, N], ``revealed.<name>`` [V, ...].
"""

from __future__ import annotations

import errno
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from benchmark.data.preparation import Private
from benchmark.federated import transcript
from benchmark.federated.client import rounds
from benchmark.federated.setting import Setting, schema
from benchmark.federated.update import Update
from benchmark.federated.wire import decode, encode, encode_all
from benchmark.pipeline.train import Run, load_state, load_window, read_record
from benchmark.runtime.files import write_json
from benchmark.runtime.paths import diverged_file, transcripts_file
from benchmark.runtime.randomness import generator

if TYPE_CHECKING:
    from benchmark.config.schema import Scenario


def observe(
    run: Run,
    scenario: Scenario,
    setting: Setting,
    private: Private,
    place: int,
    states: Path,
    transcripts: Path,
    truth: Path,
) -> None:
    """Write transcripts and truth of one run, whose checkpoints are in ``states``.

    Where training diverged before a checkpoint nothing was sent; ``{"round": n}`` in the place of
    its transcripts says so. ``place`` is the seed's among all seeds, see :meth:`Private.victims`.
    """
    for checkpoint in scenario.federation.checkpoints:
        state = states / f"{checkpoint}.safetensors"
        for size in scenario.observation.batch_sizes:
            name = transcripts_file(run.point, run.seed, checkpoint, size)
            if not state.exists():
                number = read_record(states)["diverged"]
                if number is None:
                    raise FileNotFoundError(errno.ENOENT, "a checkpoint is missing", str(state))
                write_json(diverged_file(transcripts / name), {"round": number})
                continue
            _observe(
                run, scenario, setting.with_batch_size(size), private, place, checkpoint, state,
                transcripts / name, truth / name,
            )  # fmt: skip


def _observe(
    run: Run,
    scenario: Scenario,
    setting: Setting,
    private: Private,
    place: int,
    checkpoint: str,
    state: Path,
    transcripts: Path,
    truth: Path,
) -> None:
    count = scenario.observation.victims
    images, labels = private.victims(place, count, setting.images)
    weights, clients = load_state(state, setting, scenario.federation.clients)
    down = encode(weights)
    broadcast = Update(decode(down, schema(setting)))
    senders = [victim % len(clients) for victim in range(count)]
    victims = [clients[sender].copy() for sender in senders]
    batches = [
        list(zip(inputs.split(setting.batch_size), own.split(setting.batch_size), strict=True))
        for inputs, own in zip(setting.normalise(images), labels, strict=True)
    ]
    keys = (private.secret, run, checkpoint, setting.batch_size)
    sent = rounds(victims, broadcast, batches, [generator(*keys, k) for k in range(count)])
    messages = encode_all([setting.defense.message([update])[0] for update in sent])
    revealed = [client.revealed for client in victims]
    facts = {"defense": run.defense, "point": run.point, "seed": run.seed, "checkpoint": checkpoint}
    granted = labels if scenario.observation.side.order else labels.sort(dim=1).values
    told = granted if setting.labels_given else None
    windows = {sender: load_window(state, sender) for sender in set(senders)}
    transcript.write(transcripts, setting, down, messages, senders, told, facts, windows)
    sealed = {"images": images.contiguous(), "labels": labels.contiguous()}
    for name in revealed[0]:
        sealed[f"revealed.{name}"] = torch.stack([each[name] for each in revealed])
    truth.parent.mkdir(parents=True, exist_ok=True)
    save_file(sealed, truth)


def read_truth(path: Path) -> list[dict[str, Tensor]]:
    """What was sealed, per victim: ``pixels`` [N, C, H, W], ``labels`` [N], and what its client
    drew, ``noise.<name>`` and ``private.<name>``."""
    tensors = load_file(path)
    return [
        {
            "pixels": tensors["images"][victim],
            "labels": tensors["labels"][victim],
            **{
                name.removeprefix("revealed."): tensor[victim]
                for name, tensor in tensors.items()
                if name.startswith("revealed.")
            },
        }
        for victim in range(len(tensors["labels"]))
    ]
