"""Train a board's victim models: every entrant, operating point and seed."""

from __future__ import annotations

import json
from collections.abc import Sequence
from itertools import product
from pathlib import Path
from typing import Any

from benchmark.config.schema import load_params
from benchmark.runtime.entries import adopt, measured, place, plan_line
from benchmark.runtime.files import write_json
from benchmark.runtime.parallel import Failure, choose, run
from benchmark.runtime.paths import artifact
from benchmark.runtime.session import Defects, fresh_folder, locked, main, say
from benchmark.runtime.store import Store
from benchmark.runtime.tracking import tracked
from stages.places import RUNS


def train(scenario: str) -> None:
    """Write the checkpoints and measurements of all runs, and an index of them."""
    from benchmark.pipeline.train import Run, digests, groups

    board, out, store = load_params().board(scenario), artifact(scenario, "models"), Store(RUNS)
    runs = [Run(scenario, *point, seed) for point, seed in product(board.points, board.seeds)]
    with (
        locked(f"train/{scenario}"),
        tracked(scenario, "train") as tracking,
        fresh_folder(out) as folder,
    ):
        adopt(out, store)
        keys = digests(runs, board, artifact(scenario))
        missing = [each for each in runs if store.get(keys[each]) is None]
        known = [_record(store.get(keys[r]))["seconds"] for r in runs if r not in missing]
        known = known or measured(store, "record.json")
        line = plan_line("runs", len(runs), len(missing), known, choose(len(missing)).workers)
        say(f"train {scenario}: {line}")
        jobs = [[(each, keys[each]) for each in group] for group in groups(missing, board)]
        failed = []
        for group, done in run(one, jobs, describe=f"train {scenario}"):
            if isinstance(done, Failure):
                first, _ = group[0]
                failed.append(f"{first.scenario}/{first.defense}/{first.point}: {done.reason}")
        if failed:
            raise Defects(failed)
        place([store.path(keys[each]) for each in runs], folder)
        write_json(folder / "index.json", [{**vars(each), "entry": keys[each]} for each in runs])
        for each in runs:
            record = _record(store.path(keys[each]))
            numbers = {k: v for k, v in record["training"].items() if isinstance(v, int | float)}
            tracking.child(
                f"{each.defense}/{each.point}/{each.seed}",
                board.entrants[each.defense][each.point], numbers, record["curves"],
                tags={"defense": each.defense, "point": each.point, "seed": str(each.seed)},
            )  # fmt: skip


def one(job: Sequence[tuple[Any, str]]) -> None:
    """Train the seeds of one operating point in a worker."""
    from benchmark.pipeline.train import compute

    for each, key in job:
        compute(each, load_params().board(each.scenario), artifact(each.scenario), Store(RUNS), key)


def _record(folder: Path | None) -> dict[str, Any]:
    assert folder is not None
    return json.loads((folder / "record.json").read_text(encoding="utf-8"))


if __name__ == "__main__":
    main(train)
