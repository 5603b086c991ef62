"""Where artifacts lie, and what transcripts, truth and guesses are called."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any


def transcripts_file(point: str, seed: int, checkpoint: str, batch_size: int) -> Path:
    """The transcripts of one operating point, seed, checkpoint and attacked batch size."""
    return Path(point) / f"{seed}--{checkpoint}--b{batch_size}.safetensors"


def diverged_file(transcripts: Path) -> Path:
    """What lies in the place of transcripts where training diverged before their checkpoint."""
    return transcripts.with_suffix(".diverged.json")


def guesses_file(cell: Mapping[str, Any]) -> Path:
    """The guesses of one cell on such a file."""
    transcripts = transcripts_file(
        cell["point"], cell["seed"], cell["checkpoint"], cell["batch_size"]
    )
    budget = f"--x{cell['budget']}" if cell.get("budget", 1) != 1 else ""
    return transcripts.with_name(
        f"{transcripts.stem}--{cell['attack']}--{cell['evidence']}--{cell['settings']}{budget}"
        ".safetensors"
    )


def artifact(scenario: str, kind: str = "", defense: str = "") -> Path:
    """The folder of one kind of artifact: public, train, private, models, transcripts, truth,
    guesses or scores; transcripts and truth have one folder per defense. All scores lie together,
    apart from what they were made of."""
    if kind == "scores":
        return Path("artifacts") / kind / scenario
    return Path("artifacts") / scenario / kind / defense
