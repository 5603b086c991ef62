"""Reconstruct every victim of one defense from its transcripts and public data alone."""

from __future__ import annotations

import os
from itertools import product

from benchmark import provenance
from benchmark.campaign import Task, attack_transcripts, keep, leftover
from benchmark.config import Params, load_params
from benchmark.execution import Failure, run
from benchmark.naming import transcripts_file
from benchmark.records import write_json
from benchmark.session import fresh_folder, locked, main
from benchmark.tracking import tracked
from stages.places import CELLS, artifact


def attack(scenario: str, defense: str) -> None:
    """Write one defense's guesses, and a list of cells with their statuses."""
    params = load_params()
    tasks = plan(params, scenario, defense)
    with (
        locked(f"attack/{scenario}/{defense}"),
        tracked(scenario, "attack", defense) as tracking,
        fresh_folder(artifact(scenario, "guesses", defense)) as folder,
    ):
        cells = []
        for task, done in run(attack_transcripts, tasks, describe=f"attack {scenario} {defense}"):
            records = leftover(task, done) if isinstance(done, Failure) else done
            cells += [keep(record, folder) for record in records]
        cells.sort(key=lambda cell: cell["file"])
        write_json(folder / "cells.json", cells)
        statuses = [cell["status"] for cell in cells]
        tracking.log({f"cells_{name}": statuses.count(name) for name in set(statuses)})


def plan(params: Params, scenario: str, defense: str) -> list[Task]:
    """One task per attack and file of transcripts."""
    chosen, limit = params.scenarios[scenario], os.environ.get("LEAKBOARD_CELL_SECONDS")
    places = product(
        chosen.attacks, params.defenses[defense].points, params.seeds,
        chosen.federation.checkpoints, chosen.observation.batch_sizes,
    )  # fmt: skip
    return [
        Task(
            key={
                "scenario": scenario, "defense": defense, "point": point, "seed": seed,
                "checkpoint": checkpoint, "batch_size": size, "attack": name,
            },
            transcripts=artifact(scenario, "transcripts", defense)
            / transcripts_file(point, seed, checkpoint, size),
            public=artifact(scenario, "public"),
            fields=params.attacks[name].fields,
            provenance=provenance.summary(),
            store=CELLS,
            limit=float(limit) if limit else None,
        )
        for name, point, seed, checkpoint, size in places
        if checkpoint in (params.attacks[name].checkpoints or (checkpoint,))
    ]  # fmt: skip


if __name__ == "__main__":
    main(attack)
