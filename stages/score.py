"""Score one scenario: guesses against the sealed truth, and everything that follows from it."""

from __future__ import annotations

import json
from itertools import product

from benchmark.boards import Sources, assemble
from benchmark.config import Params, load_params
from benchmark.execution import Failure, run
from benchmark.federated.training import read_record
from benchmark.naming import transcripts_file
from benchmark.scoring import Sheet, score_sheet, threshold
from benchmark.session import StageError, fresh_folder, locked, main
from benchmark.tracking import tracked
from stages.places import artifact


def score(scenario: str) -> None:
    """Write the scenario's tables, catalog, provenance and gallery."""
    params = load_params()
    with (
        locked(f"score/{scenario}"),
        tracked(scenario, "score", deliver=True) as tracking,
        fresh_folder(artifact(scenario, "scores")) as folder,
    ):
        public, train = artifact(scenario, "public"), artifact(scenario, "train")
        tau = threshold(public, train, params.scoring.psnr_tau_min)
        sheets = plan(params, scenario, tau)
        scored = {}
        for sheet, done in run(score_sheet, sheets, describe=f"score {scenario}"):
            if isinstance(done, Failure):
                raise StageError(f"{sheet.transcripts}: {done.reason}")
            scored[sheet.transcripts] = done
        records = [
            read_record(artifact(scenario, "models", defense) / point / str(seed))
            for defense in params.entrants[scenario]
            for point, seed in product(params.defenses[defense].points, params.seeds)
        ]
        tables = [scored[sheet.transcripts] for sheet in sheets]
        sources = Sources(public, [(sheet, tables[i][0]) for i, sheet in enumerate(sheets)])
        assemble(scenario, params, tau, records, tables, sources, folder, tracking)


def plan(params: Params, scenario: str, tau: float) -> list[Sheet]:
    """One sheet per file of transcripts, in the order of params.yaml."""
    chosen, sheets = params.scenarios[scenario], []
    for defense in params.entrants[scenario]:
        guesses = artifact(scenario, "guesses", defense)
        cells = json.loads((guesses / "cells.json").read_text(encoding="utf-8"))
        for point, seed, checkpoint, size in product(
            params.defenses[defense].points, params.seeds,
            chosen.federation.checkpoints, chosen.observation.batch_sizes,
        ):  # fmt: skip
            key = {
                "scenario": scenario, "defense": defense, "point": point, "seed": seed,
                "checkpoint": checkpoint, "batch_size": size,
            }  # fmt: skip
            name = transcripts_file(point, seed, checkpoint, size)
            sheets.append(
                Sheet(
                    key=key,
                    transcripts=artifact(scenario, "transcripts", defense) / name,
                    truth=artifact(scenario, "truth", defense) / name,
                    guesses=guesses,
                    public=artifact(scenario, "public"),
                    train=artifact(scenario, "train"),
                    cells=[c for c in cells if all(c[k] == v for k, v in key.items())],
                    attacks={name: params.attacks[name].fields for name in chosen.attacks},
                    tau=tau,
                    scoring=params.scoring,
                )
            )
    return sheets


if __name__ == "__main__":
    main(score)
