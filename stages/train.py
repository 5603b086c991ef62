"""Train a board's victim models: every entrant, operating point and seed."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import product
from typing import Any

from benchmark.config.schema import load_params
from benchmark.runtime import environment
from benchmark.runtime.files import fresh_folder, locked, write_json
from benchmark.runtime.parallel import Failure, choose, run
from benchmark.runtime.paths import artifact
from benchmark.runtime.session import Defects, main, say
from benchmark.runtime.store import RUNS, Store, place, plan_line
from benchmark.runtime.tracking import tracked


def train(scenario: str) -> None:
    """Write the checkpoints and measurements of all runs, and an index of them."""
    from benchmark.pipeline.train import Run, digests, groups, read_record

    environment.check()
    board, out, store = load_params().board(scenario), artifact(scenario, "models"), Store(RUNS)
    runs = [Run(scenario, *point, seed) for point, seed in product(board.points, board.seeds)]
    with (
        locked(f"train/{scenario}"),
        tracked(scenario, "train") as tracking,
        fresh_folder(out) as folder,
    ):
        store.adopt(out)
        keys = digests(runs, board, artifact(scenario))
        missing = [each for each in runs if store.get(keys[each]) is None]
        there = [store.path(keys[each]) for each in runs if each not in missing]
        known = [read_record(path)["seconds"] for path in there]
        known = known or store.seconds("record.json")
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
            record = read_record(store.path(keys[each]))
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


if __name__ == "__main__":
    main(train)
