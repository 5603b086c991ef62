"""A whole small board for tests: digits, three clients, three rounds, made by the real stages'
library calls in a temporary folder."""

from __future__ import annotations

import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmark.config.schema import Scenario, Scoring, Splits, load_params
from benchmark.data.preparation import prepare, read_private, read_public
from benchmark.federated.setting import Setting
from benchmark.pipeline.attack import Task, attacked, listed
from benchmark.pipeline.observe import observe
from benchmark.pipeline.score import ScoringTask, threshold
from benchmark.pipeline.train import Run, compute, digests, setting_of
from benchmark.runtime.paths import transcripts_file
from benchmark.runtime.store import Store, entry_path, place

NAME = "small"
SEED = 0
VICTIMS = 3
PROVENANCE = {"commit": "abc", "dirty": False, "machine": "a test"}


@dataclass(frozen=True)
class Board:
    """Where everything lies; ``artifacts`` has the pipeline's own layout."""

    root: Path
    scenario: Scenario

    @property
    def artifacts(self) -> Path:
        return self.root / "artifacts"

    def setting(self, defense: str, fields: dict[str, Any]) -> Setting:
        public = read_public(self.artifacts / "public")
        return setting_of(NAME, self.scenario, public, defense, fields)

    def states(self, defense: str, fields: dict[str, Any]) -> Path:
        """Trains, unless that is done."""
        run, store = Run(NAME, defense, "default", SEED), Store(self.root / "runs")
        chosen = self.scenario.model_copy(update={"entrants": {defense: {"default": fields}}})
        (key,) = digests([run], chosen, self.artifacts).values()
        return store.get(key) or compute(run, chosen, self.artifacts, store, key)

    def defend(self, defense: str, fields: dict[str, Any] | None = None) -> None:
        """Train and observe one defense at its point ``default``."""
        fields = fields or {}
        observe(
            Run(NAME, defense, "default", SEED),
            self.scenario,
            self.setting(defense, fields),
            read_private(self.artifacts / "private"),
            0,
            self.states(defense, fields),
            self.artifacts / "transcripts" / defense,
            self.artifacts / "truth" / defense,
        )

    def file(self, kind: str, defense: str, checkpoint: str = "init", size: int = 1) -> Path:
        name = transcripts_file("default", SEED, checkpoint, size)
        return self.artifacts / kind / defense / name

    def task(
        self,
        defense: str,
        attack: str = "ig",
        checkpoint: str = "init",
        size: int = 1,
        **fields: Any,
    ) -> Task:
        return Task(
            key={**self.key(defense, checkpoint, size), "attack": attack, "settings": "board"},
            transcripts=self.file("transcripts", defense, checkpoint, size),
            public=self.artifacts / "public",
            fields=fields,
            provenance=PROVENANCE,
            store=self.root / "cells",
        )

    def key(self, defense: str, checkpoint: str = "init", size: int = 1) -> dict[str, Any]:
        return {
            "scenario": NAME, "defense": defense, "point": "default", "seed": SEED,
            "checkpoint": checkpoint, "batch_size": size,
        }  # fmt: skip

    def attacked(self, defense: str, **task: Any) -> list[dict[str, Any]]:
        """Records of one task's cells."""
        return self.kept(attacked([self.task(defense, **task)]))

    def kept(self, records: list[dict[str, Any]]) -> list[dict[str, Any]]:
        """The records, their guesses placed where ``score`` looks."""
        cells, out = [Path(r["cell"]) for r in records if "cell" in r], self.artifacts / "guesses"
        for cell in cells:  # a test may have changed it
            shutil.rmtree(entry_path(out, cell.name), ignore_errors=True)
        place(cells, out)
        return [listed(record) for record in records]

    def scoring(self, defense: str, cells: list[dict[str, Any]], **fields: Any) -> ScoringTask:
        public, train = self.artifacts / "public", self.artifacts / "train"
        return ScoringTask(
            key=self.key(defense),
            transcripts=self.file("transcripts", defense),
            truth=self.file("truth", defense),
            public=public,
            train=train,
            guesses=self.artifacts / "guesses",
            cells=cells,
            saturation=[],
            attacks={"ig": fields, "dlg": fields},
            tau=threshold(public, train, 20.0),
            scoring=Scoring(candidates=20),
        )


def scenario(**observation: Any) -> Scenario:
    """The board's own first scenario, made small."""
    chosen = load_params().scenarios["digits"]
    federation = chosen.federation.model_copy(
        update={"clients": 3, "batch_size": 8, "rounds": 3, "checkpoints": {"init": 0, "late": 3}}
    )
    watched = chosen.observation.model_copy(update={"victims": VICTIMS, **observation})
    splits = Splits(client=90, test=60, auxiliary=60, tuning=10, report=40)
    return chosen.model_copy(
        update={"federation": federation, "observation": watched, "splits": splits}
    )


def make(root: Path, chosen: Scenario | None = None) -> Board:
    """The three prepared folders."""
    board = Board(root, chosen or scenario())
    folders = (board.artifacts / part for part in ("public", "train", "private"))
    prepare(NAME, board.scenario, *folders)
    return board
