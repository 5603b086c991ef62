"""Reconstruct every victim of one defense from its transcripts and public data alone."""

from __future__ import annotations

import os
from typing import Any

from benchmark.campaign import (
    Task,
    attack_transcripts,
    keep,
    leftover,
    plan,
    refuse_failed,
    saturation,
)
from benchmark.config import load_params
from benchmark.execution import Failure, run
from benchmark.naming import artifact
from benchmark.records import write_json
from benchmark.session import fresh_folder, locked, main
from benchmark.tracking import tracked
from stages.places import CELLS


def attack(scenario: str, defense: str) -> None:
    """Write one defense's guesses, and a list of cells with their statuses."""
    params = load_params()
    params.entered(scenario, defense)
    limit = os.environ.get("LEAKBOARD_CELL_SECONDS")
    tasks = plan(params, scenario, defense, CELLS, float(limit) if limit else None)
    with (
        locked(f"attack/{scenario}/{defense}"),
        tracked(scenario, "attack", defense) as tracking,
        fresh_folder(artifact(scenario, "guesses", defense)) as folder,
    ):
        records = _attacked(tasks, f"attack {scenario} {defense}")
        more = saturation(params, tasks, records)
        records += _attacked(more, f"larger budgets {scenario} {defense}")
        refuse_failed(records)
        cells = [keep(record, folder) for record in records]
        cells.sort(key=lambda cell: cell["file"])
        write_json(folder / "cells.json", cells)
        statuses = [cell["status"] for cell in cells]
        tracking.log({f"cells_{name}": statuses.count(name) for name in set(statuses)})


def _attacked(tasks: list[Task], describe: str) -> list[dict[str, Any]]:
    records = []
    for task, done in run(attack_transcripts, tasks, describe=describe):
        records += leftover(task, done) if isinstance(done, Failure) else done
    return records


if __name__ == "__main__":
    main(attack)
