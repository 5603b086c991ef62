"""Replay one round per victim under one defense: what the server sees, and the sealed truth."""

from __future__ import annotations

from benchmark.config import load_params
from benchmark.naming import artifact
from benchmark.session import fresh_folder, locked, main
from benchmark.tracking import tracked
from benchmark.workers import one_thread


def defend(scenario: str, defense: str) -> None:
    """Write transcripts and truth of one defense."""
    params = load_params()
    chosen = params.entered(scenario, defense)
    with (
        locked(f"defend/{scenario}/{defense}"),
        tracked(scenario, "defend", defense, {"points": params.defenses[defense].points}),
        one_thread(),
        fresh_folder(artifact(scenario, "transcripts", defense)) as transcripts,
        fresh_folder(artifact(scenario, "truth", defense)) as truth,
    ):
        from benchmark.data.preparation import read_private, read_public
        from benchmark.federated.observation import observe
        from benchmark.federated.training import Run, setting_of

        public = read_public(artifact(scenario, "public"))
        private = read_private(artifact(scenario, "private"))
        models = artifact(scenario, "models", defense)
        for point, fields in params.defenses[defense].points.items():
            setting = setting_of(scenario, chosen, public, defense, fields)
            for place, seed in enumerate(params.seeds):
                states = models / point / str(seed)
                run = Run(scenario, defense, point, seed)
                observe(run, chosen, setting, private, place, states, transcripts, truth)


if __name__ == "__main__":
    main(defend)
