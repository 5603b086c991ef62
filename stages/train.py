"""Train one defense's victims: every operating point, every seed."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

from benchmark.config import load_params
from benchmark.execution import Failure, run
from benchmark.naming import artifact
from benchmark.session import Defects, fresh_folder, locked, main
from benchmark.tracking import tracked
from stages.places import RUNS

Job = tuple[str, str, str, int]


def train(scenario: str, defense: str) -> None:
    """Write the checkpoints and measurements of one defense."""
    params = load_params()
    params.entered(scenario, defense)
    points = params.defenses[defense].points
    failed: list[str] = []
    jobs = [(scenario, defense, point, seed) for point in points for seed in params.seeds]
    with (
        locked(f"train/{scenario}/{defense}"),
        tracked(scenario, "train", defense, {"points": points}) as tracking,
        fresh_folder(artifact(scenario, "models", defense)) as folder,
    ):
        for (_, _, point, seed), done in run(one, jobs, describe=f"train {scenario} {defense}"):
            if isinstance(done, Failure):
                failed.append(f"{scenario}/{defense}/{point}/{seed} failed: {done.reason}")
                continue
            shutil.copytree(done, folder / point / str(seed))
            record = json.loads((Path(done) / "record.json").read_text(encoding="utf-8"))
            numbers = {k: v for k, v in record["training"].items() if isinstance(v, int | float)}
            tags = {"point": point, "seed": str(seed)}
            tracking.child(f"{point}/{seed}", points[point], numbers, record["curves"], tags=tags)
        if failed:
            raise Defects(failed)


def one(job: Job) -> str:
    """Train one run in a worker, unless the store has it; returns its folder."""
    from benchmark.federated.training import Run, stored

    params, identity = load_params(), Run(*job)
    fields = params.defenses[identity.defense].points[identity.point]
    scenario = params.scenarios[identity.scenario]
    return str(stored(identity, scenario, fields, artifact(identity.scenario), RUNS))


if __name__ == "__main__":
    main(train)
