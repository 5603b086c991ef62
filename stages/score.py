"""Score one scenario: guesses against the sealed truth, and everything that follows from it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from benchmark.config.schema import load_params
from benchmark.pipeline.attack import refuse_failed
from benchmark.pipeline.publish import assemble
from benchmark.pipeline.score import plan, score_point, threshold
from benchmark.pipeline.train import read_record
from benchmark.runtime import environment
from benchmark.runtime.files import fresh_folder, locked
from benchmark.runtime.parallel import Failure, run
from benchmark.runtime.paths import artifact
from benchmark.runtime.session import Defects, main
from benchmark.runtime.store import entry_path
from benchmark.runtime.tracking import tracked


def score(scenario: str) -> None:
    """Write the scenario's tables, catalog, provenance and gallery."""
    params = load_params()
    board = params.board(scenario)
    environment.check()
    with (
        locked(f"score/{scenario}"),
        tracked(scenario, "score") as tracking,
        fresh_folder(artifact(scenario, "scores")) as folder,
    ):
        public, train = artifact(scenario, "public"), artifact(scenario, "train")
        tau = threshold(public, train, params.scoring.psnr_tau_min)
        points = plan(scenario, board, params.scoring, tau)
        tasks = [task for point in points for task in point]
        refuse_failed([cell for task in tasks for cell in (*task.cells, *task.saturation)])
        scored: dict[Path, Any] = {}
        failed = []
        for point, done in run(score_point, points, describe=f"score {scenario}"):
            if isinstance(done, Failure):
                failed.append(f"{point[0].transcripts.parent}: {done.reason}")
            else:
                scored |= dict(zip((task.transcripts for task in point), done, strict=True))
        if failed:
            raise Defects(failed)
        models = artifact(scenario, "models")
        index = json.loads((models / "index.json").read_text(encoding="utf-8"))
        records = [read_record(entry_path(models, each["entry"])) for each in index]
        assemble(scenario, params, records, tasks, scored, folder, tracking)


if __name__ == "__main__":
    main(score)
