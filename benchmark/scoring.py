"""Scoring: guesses against the sealed truth, one file of transcripts at a time.

The only code besides ``observe`` that reads the truth. Every number of cells.csv and victims.csv
is made here, from the guesses alone: nothing that an attack reports about its own success counts.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from itertools import product
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from safetensors.torch import load_file
from torch import Tensor
from torch.nn import functional as F

from benchmark.campaign import readable
from benchmark.data.preparation import read_public, read_training
from benchmark.federated.observation import read_truth
from benchmark.federated.transcript import read
from benchmark.metrics import audit, floor, privacy
from benchmark.metrics.judges import EMPTY, Judge, judge_of
from benchmark.metrics.selection import Candidate, explains, select
from benchmark.metrics.stats import per_victim, rate_interval
from benchmark.naming import artifact, transcripts_file
from benchmark.randomness import seed_of

if TYPE_CHECKING:
    from benchmark.config import Scenario, Scoring


PLACE = ("scenario", "defense", "point", "seed", "checkpoint", "batch_size")
"""What a file of transcripts is of."""


@dataclass(frozen=True)
class Sheet:
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


def plan(scenario: str, board: Scenario, scoring: Scoring, tau: float) -> list[Sheet]:
    """One sheet per file of transcripts, in the order of params.yaml."""
    guesses, sheets = artifact(scenario, "guesses"), []
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
        sheets.append(
            Sheet(
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
    return sheets


def threshold(public: Path, train: Path, minimum: float) -> float:
    """tau (dB; of texts a share of words), from test examples in the victims' place."""
    known, data = read_public(public), read_training(train)
    return judge_of(known.facts).tau(
        data.test_images.numpy(), data.test_labels.numpy(),
        known.images.numpy(), known.labels.numpy(), minimum,
    )  # fmt: skip


Rows = list[dict[str, Any]]


def score_sheet(sheet: Sheet) -> tuple[Rows, Rows, Rows]:
    """Rows of cells.csv and of victims.csv, in the order of ``sheet.cells``, and of
    saturation.csv."""
    known = None
    cells, victims = [], []
    for record in sheet.cells:
        row = {**_reported(record), **sheet.key}
        if record["status"] in ("ok", "timeout"):
            known = known or _Known(sheet)
            images = _score_cell(sheet, record, known)
            row |= _aggregate(sheet, images) | known.judge.summary(images)
            row["label_accuracy"] = _label_accuracy(record, known, sheet)
            victims += [{**sheet.key, **_named(record), **image} for image in images]
        cells.append(row)
    if known is None:
        return cells, victims, []
    _select(victims, known, list(sheet.attacks))
    return cells, victims, _saturation(sheet, victims, known)


def _select(victims: Rows, known: _Known, attacks: Sequence[str]) -> None:
    """Mark, per private image, the guess that an attacker would believe."""
    order = list(known.readings)
    places: dict[tuple[int, int], list[dict[str, Any]]] = {}
    for row in victims:
        row["selected"] = 0
        if row["threat"] != "auxiliary":
            places.setdefault((row["victim"], row["image"]), []).append(row)
    for rows in places.values():
        candidates = [
            Candidate(
                order.index(row["evidence"]),
                attacks.index(row["attack"]),
                explains(row["loss_guess"], known.readings[row["evidence"]][0].noisy),
            )
            for row in rows
        ]
        rows[select(candidates)]["selected"] = 1


def _saturation(sheet: Sheet, victims: Rows, known: _Known) -> Rows:
    """What larger budgets found of the first victims, after what the standard one did."""
    rows: Rows = []
    for record in sheet.saturation:
        if record["status"] not in ("ok", "timeout"):
            continue
        tensors = load_file(sheet.guesses / record["file"])
        count, name = len(tensors["images"]), (record["attack"], record["evidence"])
        matched = _matched(tensors["images"].numpy(), known.truth[:count], known.judge)
        psnr = known.judge.score(matched, known.pixels[: len(matched)])["psnr"].tolist()
        loss = tensors["loss"].tolist()
        about = {**sheet.key, "attack": name[0], "evidence": name[1], "n": len(psnr)}
        if not rows:  # all budgets attack the same reading
            same = [
                v for v in victims if (v["attack"], v["evidence"]) == name and v["victim"] < count
            ]
            first = next(c for c in sheet.cells if (c["attack"], c["evidence"]) == name)
            rows.append(
                about
                | _curve([v["psnr"] for v in same], [v["loss_guess"] for v in same], sheet.tau)
                | {"budget": 1, "evaluations": first["evaluations"]}
            )
        rows.append(
            about
            | _curve(psnr, loss, sheet.tau)
            | {"budget": record["budget"], "evaluations": record["evaluations"]}
        )
    return rows


def _curve(psnr: Sequence[float], loss: Sequence[float], tau: float) -> dict[str, Any]:
    return {
        "success_rate": float(np.mean(np.asarray(psnr) > tau)),
        "psnr_median": float(np.median(psnr)),
        "loss_median": float(np.median(loss)),
    }


class _Known:
    """What all cells of a sheet share: the truth, its readings, and the guesses without attack."""

    def __init__(self, sheet: Sheet) -> None:
        self.readings = readable(read(sheet.transcripts))
        self.truth = read_truth(sheet.truth)
        setting = next(iter(self.readings.values()))[0].setting
        self.undefended = setting.defense.name == "none"
        for victim in self.truth:
            victim["images"] = setting.normalise(victim["pixels"])
        self.soft = [F.one_hot(v["labels"], setting.classes).float() for v in self.truth]
        self.pixels = torch.cat([v["pixels"] for v in self.truth]).numpy()
        self.labels = torch.cat([v["labels"] for v in self.truth]).numpy()
        public = read_public(sheet.public)
        self.judge = judge_of(public.facts)
        self.without = self.judge.without_attack(
            self.pixels, self.labels, public.images.numpy(), public.labels.numpy()
        )
        self.candidates = candidates(sheet.public, sheet.train)


@lru_cache(maxsize=2)
def candidates(public: Path, train: Path) -> tuple[np.ndarray, np.ndarray]:
    """Images that are nobody's victim, to tell a victim apart from: auxiliary, clients', test."""
    known, data = read_public(public), read_training(train)
    images = torch.cat([known.images, data.images, data.test_images])
    labels = torch.cat([known.labels, data.labels, data.test_labels])
    return images.numpy(), labels.numpy()


def _matched(
    guesses: np.ndarray, truths: Sequence[Mapping[str, Tensor]], judge: Judge
) -> np.ndarray:
    """The guesses about as many victims, image by image beside the true ones."""
    pairs = zip(guesses, truths, strict=True)
    return np.concatenate([g[judge.match(g, v["pixels"].numpy())] for g, v in pairs])


def _score_cell(sheet: Sheet, record: Mapping[str, Any], known: _Known) -> list[dict[str, Any]]:
    """One row per private image, without the key."""
    tensors = load_file(sheet.guesses / record["file"])
    guesses = tensors["images"].numpy()
    judge = known.judge
    matched = _matched(guesses, known.truth, judge)
    scores = judge.score(matched, known.pixels)
    seed = seed_of("candidates", sheet.key["scenario"], sheet.key["seed"]) % 2**32
    identified = judge.identify(
        matched,
        known.pixels,
        known.labels,
        *known.candidates,
        count=sheet.scoring.candidates,
        seed=seed,
    )
    truths = [v["pixels"].numpy() for v in known.truth]
    swapped = np.concatenate(
        floor.swapped(
            list(guesses), truths, [v["labels"].numpy() for v in known.truth], judge.partner
        )
    )
    best_floor = np.fmax(known.without, swapped)
    losses = _losses(sheet, record, known, tensors)
    each = guesses.shape[1]
    noisy = known.readings[record["evidence"]][0].noisy
    rows = []
    for index in range(len(matched)):
        victim, image = divmod(index, each)
        loss_guess, loss_truth = losses[victim]
        success = bool(scores[judge.measures[0]][index] > sheet.tau)
        rows.append(
            {
                "victim": victim,
                "image": image,
                **EMPTY,
                **{name: float(values[index]) for name, values in scores.items()},
                "success": int(success),
                "identified": int(identified[index]),
                judge.floor: float(best_floor[index]),
                "floor_success": int(best_floor[index] > sheet.tau),
                "verdict": audit.verdict(success, loss_guess, loss_truth, known.undefended),
                "loss_guess": loss_guess,
                "loss_truth": loss_truth,
                "accurate": int(noisy or loss_truth < audit.ACCURATE_LOSS),
            }
        )
    return rows


def _losses(
    sheet: Sheet, record: Mapping[str, Any], known: _Known, tensors: Mapping[str, Tensor]
) -> list[tuple[float, float]]:
    """The attack's objective at its guess and at the truth, per victim."""
    from benchmark.attacks.base import get

    attack = get(record["attack"]).configured(**sheet.attacks[record["attack"]])
    evidences = known.readings[record["evidence"]]
    count = len(evidences)
    hidden = [
        {n.removeprefix("hidden."): t[i] for n, t in tensors.items() if n.startswith("hidden.")}
        for i in range(count)
    ]
    if "soft" in tensors:
        soft = list(tensors["soft"])
    elif "labels" in tensors:
        soft = list(F.one_hot(tensors["labels"], known.soft[0].shape[-1]).float())
    else:
        soft = known.soft  # labels play no part
    at_guess = attack.losses(evidences, list(tensors["images"]), soft, hidden)
    true_hidden = [
        e.reveal(e.setting, v, e.data) for e, v in zip(evidences, known.truth, strict=True)
    ]
    at_truth = attack.losses(evidences, [v["pixels"] for v in known.truth], known.soft, true_hidden)
    return list(zip(at_guess, at_truth, strict=True))


def _label_accuracy(record: Mapping[str, Any], known: _Known, sheet: Sheet) -> float | None:
    """Mean over victims; None where labels were given or play no part."""
    if record["labels"] in ("given", "eliminated"):
        return None
    tensors = load_file(sheet.guesses / record["file"])
    if "labels" not in tensors:
        return None
    pairs = zip(tensors["labels"].numpy(), known.truth, strict=True)
    return float(np.mean([privacy.label_accuracy(g, v["labels"].numpy()) for g, v in pairs]))


def _aggregate(sheet: Sheet, images: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """What a row of cells.csv says of its images."""

    def column(name: str) -> np.ndarray:
        return np.array([image[name] for image in images], float)

    victims = [image["victim"] for image in images]
    success = rate_interval(per_victim(column("success"), victims), level=sheet.scoring.confidence)
    verdicts = [image["verdict"] for image in images]
    found = audit.shares(verdicts)
    return {
        "verdict": audit.summary(verdicts),
        "n": len(images),
        "success_rate": success.mean,
        "success_lo": success.lo,
        "success_hi": success.hi,
        "floor_success_rate": float(column("floor_success").mean()),
        "identification_rate": float(column("identified").mean()),
        "loss_guess_median": float(np.median(column("loss_guess"))),
        "loss_truth_max": float(column("loss_truth").max()),
        "share_ok": found[audit.OK],
        "share_exhausted": found[audit.EXHAUSTED],
        "share_failed": found[audit.FAILED] + found[audit.BROKEN],
    }


def _named(record: Mapping[str, Any]) -> dict[str, Any]:
    return {name: record[name] for name in ("attack", "evidence", "knowledge", "threat")}


def _reported(record: Mapping[str, Any]) -> dict[str, Any]:
    """The columns that the attack stage fills, and blanks for those that scoring may fill."""
    from benchmark.records import CELLS

    row: dict[str, Any] = dict.fromkeys(CELLS)
    for name in CELLS:
        if name in record:
            row[name] = record[name]
    row["dirty"] = None if record.get("dirty") is None else int(record["dirty"])
    row["n"] = 0
    return row
