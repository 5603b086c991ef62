"""Reconstruct every victim of a board from its transcripts and public data alone."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

from benchmark.config.schema import load_params
from benchmark.pipeline.attack import (
    Task,
    attack_transcripts,
    leftover,
    listed,
    plan,
    refuse_failed,
    saturation,
)
from benchmark.runtime import environment
from benchmark.runtime.files import fresh_folder, locked, write_json
from benchmark.runtime.parallel import Failure, choose, run
from benchmark.runtime.paths import artifact
from benchmark.runtime.session import main, say
from benchmark.runtime.store import CELLS, Store, place, plan_line
from benchmark.runtime.tracking import tracked


def attack(scenario: str) -> None:
    """Write a board's guesses, and a list of cells with their statuses."""
    board, out = load_params().board(scenario), artifact(scenario, "guesses")
    environment.check()
    tasks = plan(scenario, board, CELLS, environment.cell_seconds())
    with (
        locked(f"attack/{scenario}"),
        tracked(scenario, "attack") as tracking,
        fresh_folder(out) as folder,
    ):
        Store(CELLS).adopt(out)
        records = _attacked(tasks, f"attack {scenario}")
        more = saturation(board, tasks, records)
        records += _attacked(more, f"larger budgets {scenario}")
        refuse_failed(records)
        place([Path(record["cell"]) for record in records if "cell" in record], folder)
        cells = sorted(map(listed, records), key=lambda cell: cell["name"])
        write_json(folder / "cells.json", cells)
        statuses = [cell["status"] for cell in cells]
        tracking.log({f"cells_{name}": statuses.count(name) for name in set(statuses)})


def _attacked(tasks: list[Task], describe: str) -> list[dict[str, Any]]:
    """The records of all tasks' cells: those that are there first, then what is computed."""
    looks = [replace(task, look=True) for task in tasks]
    records: list[dict[str, Any]] = []
    waiting: list[Task] = []
    missing = 0
    for look, done in run(attack_transcripts, looks):
        absent = [] if isinstance(done, Failure) else [r for r in done if r["status"] == "absent"]
        if isinstance(done, Failure) or absent:
            waiting.append(replace(look, look=False))
            missing += len(absent)
        else:
            records += done
    known = [record["seconds"] for record in records if "seconds" in record]
    known = known or Store(CELLS).seconds("cell.json")
    line = plan_line("cells", len(records) + missing, missing, known, choose(len(waiting)).workers)
    say(f"{describe}: {line}")
    for task, done in run(attack_transcripts, waiting, describe=describe):
        records += leftover(task, done) if isinstance(done, Failure) else done
    return records


if __name__ == "__main__":
    main(attack)
