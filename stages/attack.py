"""Reconstruct every victim of a board from its transcripts and public data alone."""

from __future__ import annotations

from pathlib import Path

from benchmark.config.schema import load_params
from benchmark.pipeline.attack import attacked, listed, plan, refuse_failed, saturation
from benchmark.runtime import environment
from benchmark.runtime.files import fresh_folder, locked, write_json
from benchmark.runtime.paths import artifact
from benchmark.runtime.session import main
from benchmark.runtime.store import CELLS, Store, place
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
        records = attacked(tasks, f"attack {scenario}")
        more = saturation(board, tasks, records)
        records += attacked(more, f"larger budgets {scenario}")
        refuse_failed(records)
        place([Path(record["cell"]) for record in records if "cell" in record], folder)
        cells = sorted(map(listed, records), key=lambda cell: cell["name"])
        write_json(folder / "cells.json", cells)
        statuses = [cell["status"] for cell in cells]
        tracking.log({f"cells_{name}": statuses.count(name) for name in set(statuses)})


if __name__ == "__main__":
    main(attack)
