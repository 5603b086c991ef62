"""Scoring: guesses against the sealed truth, all attacks on one operating point at a time.

The only code besides ``observe`` that reads the truth. Every number of cells.csv and victims.csv
is made here, from the guesses alone: nothing that an attack reports about its own success counts.
Files of one operating point are scored together, so that their measures and their attacks'
objectives are evaluated in few large batches.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from itertools import groupby, product
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from safetensors.torch import load_file
from torch import Tensor
from torch.nn import functional as F

from benchmark.data.preparation import read_public, read_training
from benchmark.federated.transcript import read
from benchmark.metrics import audit, images
from benchmark.metrics.measures import measures_of
from benchmark.metrics.selection import Candidate, explains, select
from benchmark.metrics.stats import per_victim, rate_interval
from benchmark.pipeline.attack import readable
from benchmark.pipeline.observe import read_truth
from benchmark.results.columns import BOARD, CONTROL, columns, names
from benchmark.runtime.paths import artifact, transcripts_file
from benchmark.runtime.randomness import seed_of

if TYPE_CHECKING:
    from benchmark.config.schema import Scenario, Scoring
    from benchmark.evidence.base import Evidence

PLACE = ("scenario", "defense", "point", "seed", "checkpoint", "batch_size")
"""What a file of transcripts is of."""
SCORED = ("ok", "timeout")
"""Statuses of cells that have guesses."""

Rows = list[dict[str, Any]]


@dataclass(frozen=True)
class ScoringTask:
    """What to score: all attacks' cells on one file of transcripts.

    ``cells`` are the records that the attack stage listed for it, ``saturation`` those of larger
    budgets, ``key`` the columns that they share (scenario, defense, point, checkpoint, seed,
    batch_size).
    """

    key: Mapping[str, Any] = field(hash=False)
    transcripts: Path
    truth: Path
    public: Path
    train: Path
    guesses: Path
    cells: Sequence[Mapping[str, Any]] = field(hash=False)
    saturation: Sequence[Mapping[str, Any]] = field(hash=False)
    attacks: Mapping[str, Mapping[str, Any]] = field(hash=False)
    tau: float
    scoring: Scoring


def plan(
    scenario: str, board: Scenario, scoring: Scoring, tau: float
) -> list[tuple[ScoringTask, ...]]:
    """The tasks of every operating point, one per file of transcripts, in params.yaml's order."""
    guesses, tasks = artifact(scenario, "guesses"), []
    cells = json.loads((guesses / "cells.json").read_text(encoding="utf-8"))
    by_place: dict[tuple[Any, ...], list[Mapping[str, Any]]] = {}
    for cell in cells:
        by_place.setdefault(tuple(cell[name] for name in PLACE), []).append(cell)
    for (defense, point), seed, checkpoint, size in product(
        board.points, board.seeds, board.federation.checkpoints, board.observation.batch_sizes
    ):
        name = transcripts_file(point, seed, checkpoint, size)
        values = (scenario, defense, point, seed, checkpoint, size)
        own = by_place.get(values, [])
        tasks.append(
            ScoringTask(
                key=dict(zip(PLACE, values, strict=True)),
                transcripts=artifact(scenario, "transcripts", defense) / name,
                truth=artifact(scenario, "truth", defense) / name,
                guesses=guesses,
                public=artifact(scenario, "public"),
                train=artifact(scenario, "train"),
                cells=[c for c in own if "budget" not in c],
                saturation=[c for c in own if "budget" in c],
                attacks={name: attack.fields for name, attack in board.attacks.items()},
                tau=tau,
                scoring=scoring,
            )
        )
    points = groupby(tasks, key=lambda task: (task.key["defense"], task.key["point"]))
    return [tuple(own) for _, own in points]


def threshold(public: Path, train: Path, minimum: float) -> float:
    """tau (dB; of texts a share of words), from test examples in the victims' place."""
    known, data = read_public(public), read_training(train)
    return measures_of(known.facts).tau(
        data.test_images.numpy(), data.test_labels.numpy(),
        known.images.numpy(), known.labels.numpy(), minimum,
    )  # fmt: skip


def score_point(tasks: Sequence[ScoringTask]) -> list[tuple[Rows, Rows, Rows]]:
    """Per task the rows of cells.csv and of victims.csv, in the order of its cells, and those of
    saturation.csv."""
    files = [_File(task) for task in tasks if _scored(task.cells)]
    every = [guessed for file in files for guessed in file.guessed]
    _measure(every)
    _audit(every)
    for file in files:
        _compare(file)
    scored = {id(file.task): file for file in files}
    return [_rows(task, scored.get(id(task))) for task in tasks]


def _scored(records: Sequence[Mapping[str, Any]]) -> list[Mapping[str, Any]]:
    return [record for record in records if record["status"] in SCORED]


def _rows(task: ScoringTask, file: _File | None) -> tuple[Rows, Rows, Rows]:
    cells, victims = [], []
    found = iter(file.guessed if file else ())
    for record in task.cells:
        row = {**_reported(record), **task.key}
        if record["status"] in SCORED:
            guessed = next(found)
            row |= _aggregate(guessed.rows, task.scoring.confidence)
            row["label_accuracy"] = _label_accuracy(guessed)
            row["evaluations"] = float(guessed.tensors["evaluations"].double().mean())
            victims += guessed.rows
        cells.append(row)
    if file is None:
        return cells, victims, []
    _pick(victims, file)
    return cells, victims, _saturation(file, list(found))


class _File:
    """What all cells on a file of transcripts share: the truth, its evidences, what can be guessed
    without an attack; and the guesses of its cells, those of larger budgets last."""

    def __init__(self, task: ScoringTask) -> None:
        self.task = task
        self.evidences = readable(read(task.transcripts))
        self.truth = read_truth(task.truth)
        setting = next(iter(self.evidences.values()))[0].setting
        self.undefended = setting.defense.name == CONTROL
        for victim in self.truth:
            victim["images"] = setting.normalise(victim["pixels"])
        self.soft = [F.one_hot(v["labels"], setting.classes).float() for v in self.truth]
        self.pixels = torch.stack([v["pixels"] for v in self.truth]).numpy()
        self.labels = torch.stack([v["labels"] for v in self.truth]).numpy()
        self.measures = measures_of(read_public(task.public).facts)
        records = [*_scored(task.cells), *_scored(task.saturation)]
        self.guessed = [_Guessed(self, record) for record in records]


class _Guessed:
    """A cell's guesses [V, N, ...] of the first victims of its file, and their rows."""

    def __init__(self, file: _File, record: Mapping[str, Any]) -> None:
        from benchmark.attacks.base import get

        self.file, self.record = file, record
        self.tensors = load_file(file.task.guesses / record["file"])
        self.guesses = self.tensors["images"].numpy()
        self.matches = [
            file.measures.match(own, truth)
            for own, truth in zip(self.guesses, file.pixels, strict=False)
        ]
        attack = get(record["attack"])
        if record["settings"] == BOARD:  # published settings are those that the attack declares
            attack = attack.configured(**file.task.attacks[attack.name])
        self.attack = attack
        self.evidences = file.evidences[record["evidence"]][: len(self.guesses)]
        self.rows: Rows = []

    def beside(self, values: np.ndarray) -> np.ndarray:
        """What belongs to each guess [V, N, ...], as [V * N, ...] in the order of the truths."""
        return np.concatenate([own[m] for own, m in zip(values, self.matches, strict=True)])

    @property
    def name(self) -> dict[str, Any]:
        """What a row of victims.csv says of its cell."""
        kept = ("attack", "evidence", "settings", "knowledge", "threat")
        return {name: self.record[name] for name in kept}


def _measure(every: Sequence[_Guessed]) -> None:
    """Give each cell a row per private example, with its measures and whether it is recovered."""
    if not every:
        return
    first = every[0].file
    truths = [np.concatenate(each.file.pixels[: len(each.guesses)]) for each in every]
    found = first.measures.score(
        np.concatenate([each.beside(each.guesses) for each in every]), np.concatenate(truths)
    )
    blank = {column.name: None for column in columns("victims.csv") if column.data}
    at = 0
    for each in every:
        for index in range(each.guesses.shape[0] * each.guesses.shape[1]):
            scores = {name: float(values[at]) for name, values in found.items()}
            victim, image = divmod(index, each.guesses.shape[1])
            success = int(scores[first.measures.first] > first.task.tau)
            each.rows.append({**each.file.task.key, **each.name, "victim": victim, "image": image,
                              **blank, **scores, "success": success})  # fmt: skip
            at += 1


def _audit(every: Sequence[_Guessed]) -> None:
    """Evaluate each attack's objective at its guesses and at the truth, and judge every example.

    Cells whose evidence has one structure are evaluated together.
    """
    together: dict[Any, list[_Guessed]] = {}
    for each in every:
        key = (each.record["attack"], each.record["settings"], _structure(each.evidences[0]))
        together.setdefault(key, []).append(each)
    for cells in together.values():
        points = [point for each in cells for point in (*_at_guesses(each), *_at_truths(each))]
        losses = iter(cells[0].attack.losses(*map(list, zip(*points, strict=True))))
        for each in cells:
            at_guess = [next(losses) for _ in each.guesses]
            _judge(each, at_guess, [next(losses) for _ in each.guesses])


Point = tuple["Evidence", Tensor, Tensor, Mapping[str, Tensor]]
"""Evidence, images, soft labels and hidden variables of one victim."""


def _at_guesses(each: _Guessed) -> Iterable[Point]:
    """Where an attack gives no labels, every guess has the label of the true image that it stands
    beside: the order of a batch is nothing that a message tells."""
    tensors, true_soft = each.tensors, each.file.soft
    for index, (evidence, match) in enumerate(zip(each.evidences, each.matches, strict=True)):
        if "soft" in tensors:
            soft = tensors["soft"][index]
        elif "labels" in tensors:
            soft = F.one_hot(tensors["labels"][index], true_soft[0].shape[-1]).float()
        else:  # the inverse of a permutation sorts it
            soft = true_soft[index][np.argsort(match)]
        hidden = {
            name.removeprefix("hidden."): tensor[index]
            for name, tensor in tensors.items()
            if name.startswith("hidden.")
        }
        yield evidence, tensors["images"][index], soft, hidden


def _at_truths(each: _Guessed) -> Iterable[Point]:
    for evidence, truth, soft in zip(each.evidences, each.file.truth, each.file.soft, strict=False):
        yield (
            evidence,
            truth["pixels"],
            soft,
            evidence.reveal(evidence.setting, truth, evidence.data),
        )


def _structure(evidence: Evidence) -> Any:
    """What evidences that are evaluated together have in common."""

    def shapes(tree: Any) -> Any:
        if isinstance(tree, Mapping):
            return tuple((name, shapes(tree[name])) for name in sorted(tree))
        return tuple(tree.shape) if isinstance(tree, Tensor) else tree

    terms = {
        name: {
            part: getattr(term, part) for part in ("value", "mask", "variance", "lower", "upper")
        }
        | {"about": (term.weight, term.kind)}
        for name, term in evidence.terms.items()
    }
    parts = (evidence.data, terms, dict(evidence.hidden))
    return evidence.name, evidence.setting, evidence.predict, *map(shapes, parts)


def _judge(each: _Guessed, at_guess: Sequence[float], at_truth: Sequence[float]) -> None:
    met = each.tensors.get("applicable", torch.ones(each.guesses.shape[:2], dtype=torch.bool))
    evidence = each.evidences[0]
    for row, applicable in zip(each.rows, each.beside(met.numpy()), strict=True):
        loss_guess, loss_truth = at_guess[row["victim"]], at_truth[row["victim"]]
        row["verdict"] = audit.verdict(
            bool(row["success"]),
            loss_guess,
            loss_truth,
            each.file.undefended,
            closed_form=each.attack.closed_form,
            applicable=bool(applicable),
        )
        row |= {"loss_guess": loss_guess, "loss_truth": loss_truth}
        row["accurate"] = int(audit.describes(evidence.noisy, evidence.exact, loss_truth))


def _compare(file: _File) -> None:
    """What the cells of a file, larger budgets apart, are held against: others of the same class,
    and what is recovered without the message."""
    cells = file.guessed[: len(_scored(file.task.cells))]
    public = read_public(file.task.public)
    truths, labels = np.concatenate(file.pixels), np.concatenate(file.labels)
    identified = file.measures.identify(
        np.stack([each.beside(each.guesses) for each in cells]),
        truths, labels, *candidates(file.task.public, file.task.train),
        count=file.task.scoring.candidates,
        seed=seed_of("candidates", file.task.key["scenario"], file.task.key["seed"]) % 2**32,
    )  # fmt: skip
    without = file.measures.without_attack(
        truths, labels, public.images.numpy(), public.labels.numpy()
    )
    swapped = file.measures.swapped(
        np.stack([each.guesses for each in cells]), file.pixels, file.labels
    )
    best = np.fmax(without, swapped.reshape(len(cells), -1))
    for each, same, guessed in zip(cells, identified, best, strict=True):
        for row, found, baseline in zip(each.rows, same, guessed, strict=True):
            row |= {"identified": int(found), file.measures.baseline: float(baseline),
                    "baseline_success": int(baseline > file.task.tau)}  # fmt: skip


@lru_cache(maxsize=2)
def candidates(public: Path, train: Path) -> tuple[np.ndarray, np.ndarray]:
    """Images that are nobody's victim, to tell a victim apart from: auxiliary, clients', test."""
    known, data = read_public(public), read_training(train)
    pool = torch.cat([known.images, data.images, data.test_images])
    labels = torch.cat([known.labels, data.labels, data.test_labels])
    return pool.numpy(), labels.numpy()


def _pick(victims: Rows, file: _File) -> None:
    """Mark, per private example, the guess that an attacker would believe.

    It is one of the attacks that the board runs on everything: those that learn are of another
    threat, and those at their published settings are run on the control alone.
    """
    order, attacks = list(file.evidences), list(file.task.attacks)
    places: dict[tuple[int, int], Rows] = {}
    for row in victims:
        row["picked"] = 0
        if row["threat"] != "auxiliary" and row["settings"] == BOARD:
            places.setdefault((row["victim"], row["image"]), []).append(row)
    for rows in places.values():
        guesses = [
            Candidate(
                order.index(row["evidence"]),
                attacks.index(row["attack"]),
                explains(row["loss_guess"], file.evidences[row["evidence"]][0].noisy),
            )
            for row in rows
        ]
        rows[select(guesses)]["picked"] = 1


def _saturation(file: _File, larger: Sequence[_Guessed]) -> Rows:
    """What larger budgets found of the first victims, after what the standard one did of them.

    All budgets are judged alike, on the same victims, and an evaluation count is a mean over these.
    """
    rows: Rows = []
    for each in larger:
        count = len(each.guesses)
        if not rows:  # all budgets attack the same evidence
            standard = next(one for one in file.guessed if one.name == each.name)
            same = [row for row in standard.rows if row["victim"] < count]
            rows.append(_step(standard, 1, same, standard.tensors["evaluations"][:count]))
        spent = each.tensors["evaluations"]
        rows.append(_step(each, each.record["budget"], each.rows, spent))
    return rows


def _step(each: _Guessed, budget: int, rows: Rows, evaluations: Tensor) -> dict[str, Any]:
    about = {"attack": each.record["attack"], "evidence": each.record["evidence"]}
    return {**each.file.task.key, **about, "budget": budget, **curve(rows, evaluations)}


def curve(rows: Rows, evaluations: Tensor) -> dict[str, Any]:
    """One budget's columns of saturation.csv; a measure of another kind of data stays empty."""

    def column(name: str) -> list[float]:
        return [row[name] for row in rows if row[name] is not None]

    psnr, words = column("psnr"), column("exact_tokens")
    return {
        "n": len(rows),
        "success_rate": float(np.mean(column("success"))),
        "psnr_median": float(np.median(psnr)) if psnr else None,
        "exact_tokens": float(np.mean(words)) if words else None,
        "loss_median": float(np.median(column("loss_guess"))),
        "evaluations": float(evaluations.double().mean()),
    }


def _label_accuracy(guessed: _Guessed) -> float | None:
    """Mean over victims; None where labels were given or play no part."""
    labels = guessed.tensors.get("labels")
    if guessed.record["labels"] in ("given", "eliminated") or labels is None:
        return None
    pairs = zip(labels.numpy(), guessed.file.labels, strict=True)
    return float(np.mean([images.label_accuracy(own, truth) for own, truth in pairs]))


_SUMMARIES: dict[str, Callable[[np.ndarray], Any]] = {
    "mean": np.mean, "median": np.median, "max": np.max,
    "q10": lambda values: np.quantile(values, 0.1), "q90": lambda values: np.quantile(values, 0.9),
}  # fmt: skip


def _aggregate(rows: Rows, confidence: float) -> dict[str, Any]:
    """What a row of cells.csv says of its rows of victims.csv, as the table of columns asks."""
    victims = [row["victim"] for row in rows]
    verdicts = [row["verdict"] for row in rows]
    success = rate_interval(per_victim([row["success"] for row in rows], victims), level=confidence)
    found: dict[str, Any] = {
        "verdict": audit.summary(verdicts),
        "n": len(rows),
        "success_rate_lo": success.lo,
        "success_rate_hi": success.hi,
    }
    for column in columns("cells.csv"):
        how, _, of = (column.of or (column.metric and f"mean {column.name}")).partition(" ")
        if how == "share":
            found[column.name] = verdicts.count(of) / len(verdicts)
        elif how:
            values = [row[of] for row in rows]
            empty = values[0] is None
            found[column.name] = None if empty else float(_SUMMARIES[how](np.array(values, float)))
    return found | {"success_rate": success.mean}


def _reported(record: Mapping[str, Any]) -> dict[str, Any]:
    """The columns that the attack stage fills, and blanks for those that scoring may fill."""
    row: dict[str, Any] = {name: record.get(name) for name in names("cells.csv")}
    row["dirty"] = None if record.get("dirty") is None else int(record["dirty"])
    return row | {"n": 0, "evaluations": None}
