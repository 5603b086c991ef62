"""Everything that is published of one scenario, from scored sheets to files that fit the schema."""

from __future__ import annotations

import datetime
import json
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pandas as pd

from benchmark.metrics.bandwidth import bytes_to_target
from benchmark.metrics.judges import judge_of
from benchmark.pipeline.gallery import SOURCE, hang
from benchmark.pipeline.rank import Facts, rank
from benchmark.results import provenance
from benchmark.results.catalog import catalog
from benchmark.results.columns import SCHEMA, TRAINING, read_table, write_json, write_table
from benchmark.runtime.store import digest, library_versions

if TYPE_CHECKING:
    from benchmark.config.schema import Federation, Params
    from benchmark.pipeline.score import Sheet
    from benchmark.runtime.tracking import Run

LIBRARIES = ("torch", "torchvision", "torchmetrics", "numpy", "scipy", "opacus", "scikit-learn")


Rows = list[dict[str, Any]]


@dataclass(frozen=True)
class Sources:
    """The public and the training folder, and every scored sheet with its rows of cells.csv."""

    public: Path
    train: Path
    sheets: Sequence[tuple[Sheet, Rows]]

    def pictures(self) -> dict[tuple[Any, ...], dict[str, Path]]:
        """(defense, point, checkpoint, batch size) of the first seed -> files of truth, guesses."""
        found = {}
        for sheet, _ in self.sheets:
            place = tuple(sheet.key[k] for k in ("defense", "point", "checkpoint", "batch_size"))
            if place in found:
                continue
            files = {
                "/".join(cell[name] for name in SOURCE): sheet.guesses / cell["file"]
                for cell in sheet.cells
                if cell["status"] in ("ok", "timeout")
            }
            if sheet.truth.exists():
                found[place] = {"truth": sheet.truth, **files}
        return found


def assemble(
    name: str,
    params: Params,
    tau: float,
    records: Sequence[Mapping[str, Any]],
    tables: Sequence[tuple[Rows, Rows, Rows]],
    sources: Sources,
    folder: Path,
    tracking: Run,
) -> None:
    """Write all files of one scenario to ``folder`` and tell the tracker.

    Args:
        records: what each training run measured.
        tables: rows of cells.csv, of victims.csv and of saturation.csv, sheet by sheet.
    """
    from benchmark.data.preparation import read_public, read_training

    board = params.board(name)
    cells = [row for own, _, _ in tables for row in own]
    write_table(folder / "cells.csv", cells)
    write_table(folder / "victims.csv", [row for _, own, _ in tables for row in own])
    write_table(folder / "saturation.csv", [row for _, _, own in tables for row in own])
    write_table(folder / "training.csv", [_training(r, board.federation) for r in records])
    write_table(folder / "checkpoints.csv", [row for r in records for row in _checkpoints(r)])
    scored = read_table(folder / "victims.csv")
    data = read_training(sources.train)
    clients = [data.labels[data.owner == i].tolist() for i in range(board.federation.clients)]
    about = catalog(name, params, tau, data.test_labels.tolist(), clients)
    write_json(folder / "catalog.json", about)
    ranking = rank(
        read_table(folder / "cells.csv"), scored, read_table(folder / "training.csv"),
        read_table(folder / "saturation.csv"), Facts.of(about),
    )  # fmt: skip
    write_table(folder / "ranking.csv", ranking)
    facts = read_public(sources.public).facts
    write_json(folder / "provenance.json", origin(params, facts, cells))
    index = hang(
        ranking, scored, board.seeds[0], sources.pictures(), folder / "gallery", judge_of(facts)
    )
    write_json(folder / "gallery" / "index.json", index)
    _track(ranking, cells, index, folder / "gallery", tracking)


def _track(
    ranking: Rows, cells: Rows, index: Sequence[Mapping[str, Any]], gallery: Path, tracking: Run
) -> None:
    """One child run per operating point and checkpoint, with its strip of reconstructions."""
    strips = {(e["defense"], e["point"], e["checkpoint"], e["batch_size"]): e for e in index}
    for row in ranking:
        place = (row["defense"], row["point"], row["checkpoint"], row["batch_size"])
        strip = strips.get(place)
        picture = None if strip is None or "file" not in strip else gallery / strip["file"]
        numbers = {k: v for k, v in row.items() if isinstance(v, int | float)}
        for cell in cells:
            if place == tuple(cell[k] for k in ("defense", "point", "checkpoint", "batch_size")):
                key = f"{cell['attack']}.{cell['evidence']}.{cell['seed']}"
                numbers[f"psnr_median.{key}"] = cell["psnr_median"]
                numbers[f"exact_tokens.{key}"] = cell["exact_tokens"]
        tracking.child(
            "/".join(map(str, place)),
            {k: v for k, v in row.items() if isinstance(v, str)},
            numbers,
            images=None if picture is None else {"reconstructions": picture},
            tags={"defense": row["defense"], "point": row["point"]},
        )


def _checkpoints(record: Mapping[str, Any]) -> Rows:
    run = {k: record["training"][k] for k in ("scenario", "defense", "point", "seed")}
    return [{**run, **each} for each in record["checkpoints"]]


def origin(
    params: Params, facts: Mapping[str, Any], cells: Sequence[Mapping[str, Any]]
) -> dict[str, Any]:
    """provenance.json: which code, parameters, data and machine."""
    counts = pd.Series([cell["status"] for cell in cells]).value_counts().to_dict()
    machines = sorted({str(cell["machine"]) for cell in cells if cell["machine"]})
    commits = sorted({str(cell["commit"]) for cell in cells if cell["commit"]})
    versions = library_versions(LIBRARIES)
    return {
        "schema": SCHEMA,
        "commit": provenance.commit(),
        "dirty": provenance.dirty(),
        "created": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "command": "dvc repro",
        "params_digest": digest(json.loads(params.model_dump_json())),
        "data": {"name": facts["name"], "sha256": facts["digest"]},
        "machine": {"score": provenance.machine(), "cells": machines},
        "versions": versions | {"python": sys.version.split()[0]},
        "commits": commits,
        "cells": {"total": len(cells), **{str(k): int(v) for k, v in counts.items()}},
    }


def _training(record: Mapping[str, Any], federation: Federation) -> dict[str, Any]:
    """A row of training.csv, with what follows from a run's curves and the target accuracy.

    Epsilon is infinite where a defense states none.
    """
    target = federation.target_accuracy
    made = {
        **record["training"],
        "target_accuracy": target,
        "bytes_to_target": bytes_to_target(record["curves"], target, federation.clients),
    }
    row = {name: made[name] for name in TRAINING}
    return row | {"epsilon": float("inf") if row["epsilon"] is None else row["epsilon"]}
