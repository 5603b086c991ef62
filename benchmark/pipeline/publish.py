"""Everything that is published of one scenario, from scored rows to files that fit the schema."""

from __future__ import annotations

import datetime
import json
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pandas as pd

from benchmark.metrics.bandwidth import bytes_to_target
from benchmark.metrics.measures import measures_of
from benchmark.pipeline.gallery import SOURCE, write_gallery
from benchmark.pipeline.rank import Facts, rank
from benchmark.pipeline.score import SCORED
from benchmark.results import provenance
from benchmark.results.catalog import Catalog, catalog
from benchmark.results.columns import SCHEMA, names
from benchmark.results.io import read_model, read_table, write_table
from benchmark.runtime.files import write_json
from benchmark.runtime.store import digest, library_versions

if TYPE_CHECKING:
    from benchmark.config.schema import Federation, Params
    from benchmark.pipeline.score import ScoringTask
    from benchmark.runtime.tracking import Run

LIBRARIES = ("torch", "torchvision", "torchmetrics", "numpy", "scipy", "opacus", "scikit-learn")
PLACE = ("defense", "point", "checkpoint", "batch_size")

Rows = list[dict[str, Any]]


def assemble(
    name: str,
    params: Params,
    records: Sequence[Mapping[str, Any]],
    tasks: Sequence[ScoringTask],
    scored: Mapping[Path, tuple[Rows, Rows, Rows]],
    folder: Path,
    tracking: Run,
) -> None:
    """Write all files of one scenario to ``folder``, read them back, and tell the tracker.

    Args:
        records: what each training run measured.
        scored: what was scored of each task, by its transcripts: rows of cells.csv, of victims.csv
            and of saturation.csv.

    Raises:
        RecordError: a row does not fit the schema.
    """
    from benchmark.data.preparation import read_public, read_training

    board, first = params.board(name), tasks[0]
    rows: dict[str, Rows] = {
        file: [row for task in tasks for row in scored[task.transcripts][place]]
        for place, file in enumerate(("cells.csv", "victims.csv", "saturation.csv"))
    }
    rows["training.csv"] = [_training(record, board.federation) for record in records]
    rows["checkpoints.csv"] = [row for record in records for row in _checkpoints(record)]
    for file, own in rows.items():
        write_table(folder / file, own)
    tables = {file: read_table(folder / file) for file in rows}
    data, facts = read_training(first.train), read_public(first.public).facts
    clients = [data.labels[data.owner == i].tolist() for i in range(board.federation.clients)]
    about = catalog(name, params, first.tau, data.test_labels.tolist(), clients)
    write_json(folder / "catalog.json", about)
    read_model(folder / "catalog.json", Catalog)
    ranking = rank(
        tables["cells.csv"], tables["victims.csv"], tables["training.csv"],
        tables["saturation.csv"], Facts.of(about),
    )  # fmt: skip
    write_table(folder / "ranking.csv", ranking)
    read_table(folder / "ranking.csv")
    index = write_gallery(
        ranking, tables["victims.csv"], board.seeds[0], _pictures(tasks), folder / "gallery",
        measures_of(facts),
    )  # fmt: skip
    write_json(folder / "gallery" / "index.json", index)
    found = origin(params, facts, rows["cells.csv"])
    write_json(folder / "provenance.json", found | {"files": provenance.file_digests(folder)})
    _track(ranking, rows["cells.csv"], index, folder / "gallery", tracking)


def _pictures(tasks: Sequence[ScoringTask]) -> dict[tuple[Any, ...], dict[str, Path]]:
    """(defense, point, checkpoint, batch size) of the first seed -> files of truth, guesses."""
    found: dict[tuple[Any, ...], dict[str, Path]] = {}
    for task in tasks:
        place = tuple(task.key[name] for name in PLACE)
        if place not in found and task.truth.exists():
            files = {
                "/".join(cell[name] for name in SOURCE): task.guesses / cell["file"]
                for cell in task.cells
                if cell["status"] in SCORED
            }
            found[place] = {"truth": task.truth, **files}
    return found


def _track(
    ranking: Rows, cells: Rows, index: Sequence[Mapping[str, Any]], gallery: Path, tracking: Run
) -> None:
    """One child run per operating point and checkpoint, with its strip of reconstructions."""
    strips = {tuple(entry[name] for name in PLACE): entry for entry in index}
    own: dict[tuple[Any, ...], Rows] = {}
    for cell in cells:
        own.setdefault(tuple(cell[name] for name in PLACE), []).append(cell)
    for row in ranking:
        place = tuple(row[name] for name in PLACE)
        file = strips.get(place, {}).get("file")
        numbers = {k: v for k, v in row.items() if isinstance(v, int | float)}
        for cell in own.get(place, ()):
            key = f"{cell['attack']}.{cell['evidence']}.{cell['seed']}"
            numbers[f"psnr_median.{key}"] = cell["psnr_median"]
            numbers[f"exact_tokens.{key}"] = cell["exact_tokens"]
        tracking.child(
            "/".join(map(str, place)),
            {k: v for k, v in row.items() if isinstance(v, str)},
            numbers,
            images={"reconstructions": gallery / file} if file else None,
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
    row = {name: made[name] for name in names("training.csv")}
    return row | {"epsilon": float("inf") if row["epsilon"] is None else row["epsilon"]}
