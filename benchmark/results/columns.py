"""The versioned schema of what is published: columns, vocabularies, checked reading and writing.

Files of one scenario (all UTF-8; numbers at full precision; an empty field means "not computed"):
``cells.csv`` ``victims.csv`` ``ranking.csv`` ``saturation.csv`` ``training.csv``
``checkpoints.csv``
``catalog.json`` ``provenance.json`` ``gallery/``.
A change of meaning or a removed column raises :data:`SCHEMA`; a column that is added before the
measured ones does not.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from benchmark.runtime.files import write_json as write_json
from benchmark.runtime.files import write_text

if TYPE_CHECKING:
    import pandas as pd

SCHEMA = 2

STATUSES = ("ok", "failed", "timeout", "oom", "unsupported")
KNOWLEDGE = ("oblivious", "paper", "adaptive")
SETTINGS = BOARD, PUBLISHED = ("board", "published")
"""Of an attack: what params.yaml has of it, and what its authors published."""
CONTROL = "none"
"""The undefended entrant, against which all others are held."""
VERDICTS = (
    "ok", "evidence-exhausted", "optimiser-failed", "broken-attack", "not-applicable", "missed",
    "inconclusive",
)  # fmt: skip
"""Of one image or cell, and ``inconclusive`` of a row of ranking.csv."""

CELL_KEY = (
    "scenario", "defense", "point", "checkpoint", "attack", "evidence", "settings", "seed",
    "batch_size",
)  # fmt: skip

CELLS = (
    "scenario", "defense", "point", "checkpoint", "attack", "evidence", "settings", "knowledge",
    "seed", "labels", "batch_size", "status", "reason", "verdict", "n",
    "success_rate", "success_lo", "success_hi", "psnr_mean", "psnr_median", "psnr_q90",
    "ssim_mean", "mse_mean", "label_accuracy", "floor_psnr",
    "observations", "unknowns", "evaluations",
    "psnr_q10", "psnr_max", "identification_rate", "floor_success_rate",
    "loss_guess_median", "loss_truth_max", "share_ok", "share_exhausted", "share_failed",
    "strategy", "chunk", "commit", "dirty", "machine", "threat",
    "exact_tokens", "rouge1", "rouge2", "rougeL", "floor_tokens",
    "seconds",
)  # fmt: skip

VICTIMS = (
    "scenario", "defense", "point", "checkpoint", "attack", "evidence", "settings", "knowledge",
    "seed", "batch_size", "victim", "image", "psnr", "ssim", "mse", "success", "identified",
    "floor_psnr", "floor_success", "verdict", "loss_guess", "loss_truth", "accurate", "threat",
    "selected", "exact_tokens", "rouge1", "rouge2", "rougeL", "floor_tokens",
)  # fmt: skip

RANKING = (
    "scenario", "defense", "point", "checkpoint", "batch_size", "n", "n_victims",
    "recovered", "recovered_lo", "recovered_hi",
    "recovered_or_inconclusive", "recovered_or_inconclusive_lo", "recovered_or_inconclusive_hi",
    "rank2_lo", "rank2_hi", "rank5_lo", "rank5_hi",
    "psnr_median", "exact_tokens", "strongest_attack", "strongest_evidence",
    "oblivious", "oblivious_lo", "oblivious_hi", "oblivious_psnr_median", "oblivious_tokens",
    "selected_success", "selected_lo", "selected_hi", "selected_psnr_median", "selected_tokens",
    "floor_success", "floor_psnr",
    "learned_success", "learned_lo", "learned_hi", "learned_psnr_median", "learned_tokens",
    "learned_attack", "learned_evidence",
    "share_exhausted", "share_inconclusive", "verdict", "flags", "reason",
    "accuracy_global", "accuracy_personal", "accuracy_lost", "epsilon", "uplink_bytes",
    "downlink_bytes", "bytes_to_target", "status",
    "client_seconds",
)  # fmt: skip

SATURATION = (
    "scenario", "defense", "point", "checkpoint", "batch_size", "seed", "attack", "evidence",
    "budget", "n", "success_rate", "psnr_median", "exact_tokens", "loss_median", "evaluations",
)  # fmt: skip

TRAINING = (
    "scenario", "defense", "point", "seed", "accuracy_global", "accuracy_personal", "epsilon",
    "uplink_bytes", "downlink_bytes", "bytes_to_target", "rounds",
    "delta", "privacy_unit", "adversary", "target_accuracy",
    "client_seconds",
)  # fmt: skip

CHECKPOINTS = (
    "scenario", "defense", "point", "seed", "checkpoint", "round",
    "gradient_norm", "loss", "accuracy",
)  # fmt: skip

TABLES: Mapping[str, tuple[str, ...]] = {
    "cells.csv": CELLS,
    "victims.csv": VICTIMS,
    "ranking.csv": RANKING,
    "saturation.csv": SATURATION,
    "training.csv": TRAINING,
    "checkpoints.csv": CHECKPOINTS,
}

MEASURED = frozenset({"seconds", "client_seconds"})
"""Columns that are clock readings: they come last and two equal runs may differ in them."""


class RecordError(ValueError):
    """A record does not fit the schema; the message names file, column or row."""


def write_table(path: Path, rows: Iterable[Mapping[str, Any]]) -> None:
    """Write ``rows`` as the CSV that ``path.name`` stands for, whole or not at all.

    Raises:
        RecordError: a row has a column that the schema lacks, or lacks one.
    """
    import csv
    import io

    columns = TABLES[path.name]
    text = io.StringIO()
    writer = csv.DictWriter(text, columns, lineterminator="\n")
    writer.writeheader()
    for row in rows:
        if set(row) != set(columns):
            odd = sorted(set(row) ^ set(columns))
            raise RecordError(f"{path.name}: columns {odd} do not fit the schema")
        writer.writerow({name: _field(row[name]) for name in columns})
    write_text(path, text.getvalue())


def read_table(path: Path) -> pd.DataFrame:
    """Read and check one published table; numbers come back as numbers.

    Raises:
        RecordError: a file is missing, its columns differ, or a key or vocabulary is broken.
    """
    import pandas as pd

    columns = TABLES[path.name]
    if not path.is_file():
        raise RecordError(f"{path.name}: no such file in {path.parent}")
    words = {"scenario", "defense", "point", "checkpoint", "attack", "evidence", "flags", "reason",
             "commit", "machine", "strategy", "labels", "verdict", "status", "knowledge",
             "privacy_unit", "adversary", "threat", "settings", "strongest_attack",
             "strongest_evidence", "learned_attack", "learned_evidence"}  # fmt: skip
    table = pd.read_csv(
        path, dtype={name: str for name in columns if name in words}, keep_default_na=False,
        na_values={name: [""] for name in columns if name not in words},
    )  # fmt: skip
    if tuple(table.columns) != columns:
        odd = sorted(set(table.columns) ^ set(columns)) or "their order"
        raise RecordError(f"{path.name}: columns {odd} do not fit the schema")
    for name, allowed in (
        ("status", STATUSES), ("knowledge", KNOWLEDGE), ("settings", SETTINGS),
    ):  # fmt: skip
        if name in columns and not table[name].isin(allowed).all():
            raise RecordError(f"{path.name}: {name} must be one of {', '.join(allowed)}")
    if "verdict" in columns and not table["verdict"].isin((*VERDICTS, "")).all():
        raise RecordError(f"{path.name}: verdict must be one of {', '.join(VERDICTS)}, or empty")
    if path.name == "cells.csv" and table.duplicated(list(CELL_KEY)).any():
        raise RecordError("cells.csv: two rows describe the same cell")
    return table


def _field(value: Any) -> Any:
    """One CSV field: nothing for None and NaN, ``repr`` precision for floats."""
    if hasattr(value, "item"):  # numpy's scalars print their type, or as words
        value = value.item()
    if value is None or value != value:
        return ""
    if isinstance(value, float):
        return repr(value)
    if isinstance(value, bool):
        return int(value)
    if isinstance(value, Sequence) and not isinstance(value, str):
        return ";".join(map(str, value))
    return value
