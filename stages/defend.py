"""Replay one round per victim of a board: what the server sees, and the sealed truth."""

from __future__ import annotations

import json

from benchmark.config.schema import load_params
from benchmark.runtime import environment
from benchmark.runtime.files import fresh_folder, locked
from benchmark.runtime.paths import artifact
from benchmark.runtime.session import main
from benchmark.runtime.store import entry_path
from benchmark.runtime.tracking import tracked
from benchmark.runtime.workers import one_thread


def defend(scenario: str) -> None:
    """Write transcripts and truth of all entrants."""
    environment.check()
    board = load_params().board(scenario)
    with (
        locked(f"defend/{scenario}"),
        tracked(scenario, "defend", params={"entrants": board.entrants}),
        one_thread(),
        fresh_folder(artifact(scenario, "transcripts")) as transcripts,
        fresh_folder(artifact(scenario, "truth")) as truth,
    ):
        from benchmark.data.preparation import read_private, read_public
        from benchmark.pipeline.observe import observe
        from benchmark.pipeline.train import Run, setting_of

        public = read_public(artifact(scenario, "public"))
        private = read_private(artifact(scenario, "private"))
        models = artifact(scenario, "models")
        for each in json.loads((models / "index.json").read_text(encoding="utf-8")):
            run = Run(*(each[name] for name in ("scenario", "defense", "point", "seed")))
            fields = board.entrants[run.defense][run.point]
            setting = setting_of(scenario, board, public, run.defense, fields)
            observe(
                run, board, setting, private, board.seeds.index(run.seed),
                entry_path(models, each["entry"]),
                transcripts / run.defense, truth / run.defense,
            )  # fmt: skip


if __name__ == "__main__":
    main(defend)
