"""A transcript: everything that an honest-but-curious server holds of one victim, and no more.

Stored as one safetensors file per defense point, seed, checkpoint and attacked batch size: the
broadcast and every message as the bytes that crossed the wire, the public setting in the header.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor

from benchmark.federated.setting import Setting, schema
from benchmark.federated.update import Update
from benchmark.federated.wire import decode


@dataclass(frozen=True)
class Transcript:
    """One victim's round.

    Attributes:
        setting: the public facts.
        victim: which message of the file this is.
        client: which client sent it.
        broadcast: what the client received, the same object for all victims of a file.
        message: what the server decoded of the client's bytes.
        labels: int64 [N], where the server is granted them; None otherwise.
    """

    setting: Setting
    victim: int
    client: int
    broadcast: Update
    message: Update
    labels: Tensor | None


def write(
    path: Path,
    setting: Setting,
    broadcast: bytes,
    messages: Sequence[bytes],
    clients: Sequence[int],
    labels: Tensor | None,
    facts: dict[str, Any],
) -> None:
    """Store the transcripts of one checkpoint's victims.

    Args:
        labels: int64 [V, N] or None.
        facts: what else the server knows (point, seed, checkpoint), as JSON.
    """
    tensors = {"broadcast": _as_tensor(broadcast)}
    for index, message in enumerate(messages):
        tensors[f"message.{index:04d}"] = _as_tensor(message)
    if labels is not None:
        tensors["labels"] = labels.contiguous()
    header = {"setting": setting.to_json(), "clients": list(clients), **facts}
    path.parent.mkdir(parents=True, exist_ok=True)
    save_file(tensors, path, {"leakboard": json.dumps(header, sort_keys=True)})


def read_header(path: Path) -> dict[str, Any]:
    """The public facts of a file of transcripts."""
    with safe_open(path, "pt") as file:
        return json.loads(file.metadata()["leakboard"])


def read(path: Path) -> list[Transcript]:
    """All transcripts of a file, decoded.

    Raises:
        WireError: a message is broken.
    """
    with safe_open(path, "pt") as file:
        header = json.loads(file.metadata()["leakboard"])
        tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    setting = Setting.from_json(header["setting"])
    names = schema(setting)
    broadcast = Update(decode(_as_bytes(tensors["broadcast"]), names))
    labels = tensors.get("labels")
    return [
        Transcript(
            setting,
            index,
            client,
            broadcast,
            Update(decode(_as_bytes(tensors[f"message.{index:04d}"]), names)),
            None if labels is None else labels[index],
        )
        for index, client in enumerate(header["clients"])
    ]


def digest(path: Path) -> str:
    """SHA-256 of a file of transcripts."""
    return hashlib.sha256(path.read_bytes()).hexdigest()


def _as_tensor(message: bytes) -> Tensor:
    return torch.frombuffer(bytearray(message), dtype=torch.uint8)


def _as_bytes(tensor: Tensor) -> bytes:
    return tensor.numpy().tobytes()
