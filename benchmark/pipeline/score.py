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

from benchmark.data.preparation import read_public, read_training
from benchmark.federated.transcript import read
from benchmark.metrics import audit
from benchmark.metrics import baseline as floor
from benchmark.metrics import images as privacy
from benchmark.metrics.judges import EMPTY, judge_of
from benchmark.metrics.selection import Candidate, explains, select
from benchmark.metrics.stats import per_victim, rate_interval
from benchmark.pipeline.attack import readable
from benchmark.pipeline.observe import read_truth
from benchmark.results.columns import BOARD, CELLS, CONTROL
from benchmark.runtime.paths import artifact, transcripts_file
from benchmark.runtime.randomness import seed_of

if TYPE_CHECKING:
    from benchmark.attacks.base import Attack
    from benchmark.config.schema import Scenario, Scoring

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
    """Mark, per private image, the guess that an attacker would believe.

    It is one of the attacks that the board runs on everything: those that learn are of another
    threat, and those at their published settings are run on the control alone.
    """
    order = list(known.readings)
    places: dict[tuple[int, int], list[dict[str, Any]]] = {}
    for row in victims:
        row["selected"] = 0
        if row["threat"] != "auxiliary" and row["settings"] == BOARD:
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
    """What larger budgets found of the first victims, after what the standard one did of them.

    All budgets are judged alike, on the same victims, and an evaluation count is a mean over these.
    """
    rows: Rows = []
    for record in sheet.saturation:
        if record["status"] not in ("ok", "timeout"):
            continue
        tensors = load_file(sheet.guesses / record["file"])
        count, name = len(tensors["images"]), _named(record)
        about = {**sheet.key, "attack": name["attack"], "evidence": name["evidence"]}
        if not rows:  # all budgets attack the same reading
            same = [v for v in victims if name.items() <= v.items() and v["victim"] < count]
            first = next(c for c in sheet.cells if name.items() <= c.items())
            standard = load_file(sheet.guesses / first["file"])
            rows.append({**about, "budget": 1, **_curve(same, standard["evaluations"][:count])})
        judged = _judged(sheet, record, known, tensors, _matches(tensors["images"].numpy(), known))
        budget = record["budget"]
        rows.append({**about, "budget": budget, **_curve(judged, tensors["evaluations"])})
    return rows


def _curve(images: Rows, evaluations: Tensor) -> dict[str, Any]:
    """One budget's columns of saturation.csv; a measure of another kind of data stays empty."""

    def column(name: str) -> list[float]:
        return [image[name] for image in images if image[name] is not None]

    psnr, words = column("psnr"), column("exact_tokens")
    return {
        "n": len(images),
        "success_rate": float(np.mean(column("success"))),
        "psnr_median": float(np.median(psnr)) if psnr else None,
        "exact_tokens": float(np.mean(words)) if words else None,
        "loss_median": float(np.median(column("loss_guess"))),
        "evaluations": float(evaluations.double().mean()),
    }


class _Known:
    """What all cells of a sheet share: the truth, its readings, and the guesses without attack."""

    def __init__(self, sheet: Sheet) -> None:
        self.readings = readable(read(sheet.transcripts))
        self.truth = read_truth(sheet.truth)
        setting = next(iter(self.readings.values()))[0].setting
        self.undefended = setting.defense.name == CONTROL
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


def _score_cell(sheet: Sheet, record: Mapping[str, Any], known: _Known) -> Rows:
    """One row per private image, without the key."""
    tensors = load_file(sheet.guesses / record["file"])
    guesses, judge = tensors["images"].numpy(), known.judge
    matches = _matches(guesses, known)
    seed = seed_of("candidates", sheet.key["scenario"], sheet.key["seed"]) % 2**32
    identified = judge.identify(
        _beside(guesses, matches),
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
    return [
        row
        | {
            "identified": int(same),
            judge.floor: float(guessed),
            "floor_success": int(guessed > sheet.tau),
        }
        for row, same, guessed in zip(
            _judged(sheet, record, known, tensors, matches), identified, best_floor, strict=True
        )
    ]


def _matches(guesses: np.ndarray, known: _Known) -> list[np.ndarray]:
    """Per victim, which of its guesses stands beside each true image; the first victims will do."""
    pairs = zip(guesses, known.truth[: len(guesses)], strict=True)
    return [known.judge.match(g, victim["pixels"].numpy()) for g, victim in pairs]


def _beside(values: np.ndarray, matches: Sequence[np.ndarray]) -> np.ndarray:
    """What belongs to each guess [V, N, ...], as [V * N, ...] in the order of the true images."""
    return np.concatenate([own[m] for own, m in zip(values, matches, strict=True)])


def _judged(
    sheet: Sheet,
    record: Mapping[str, Any],
    known: _Known,
    tensors: Mapping[str, Tensor],
    matches: Sequence[np.ndarray],
) -> Rows:
    """Measures, success and audit of each private image of the first victims."""
    from benchmark.attacks.base import get

    attack = get(record["attack"])
    if record["settings"] == BOARD:  # published settings are those that the attack declares
        attack = attack.configured(**sheet.attacks[attack.name])
    guesses = tensors["images"].numpy()
    matched = _beside(guesses, matches)
    scores = known.judge.score(matched, known.pixels[: len(matched)])
    losses = _losses(attack, record, known, tensors, matches)
    met = tensors["applicable"].numpy() if "applicable" in tensors else np.ones(guesses.shape[:2])
    applicable = _beside(met, matches)
    each = guesses.shape[1]
    noisy = known.readings[record["evidence"]][0].noisy
    rows = []
    for index in range(len(matched)):
        victim, image = divmod(index, each)
        loss_guess, loss_truth = losses[victim]
        success = bool(scores[known.judge.measures[0]][index] > sheet.tau)
        verdict = audit.verdict(
            success,
            loss_guess,
            loss_truth,
            known.undefended,
            closed_form=attack.closed_form,
            applicable=bool(applicable[index]),
        )
        rows.append(
            {
                "victim": victim,
                "image": image,
                **EMPTY,
                **{name: float(values[index]) for name, values in scores.items()},
                "success": int(success),
                "verdict": verdict,
                "loss_guess": loss_guess,
                "loss_truth": loss_truth,
                "accurate": int(noisy or loss_truth < audit.ACCURATE_LOSS),
            }
        )
    return rows


def _losses(
    attack: Attack,
    record: Mapping[str, Any],
    known: _Known,
    tensors: Mapping[str, Tensor],
    matches: Sequence[np.ndarray],
) -> list[tuple[float, float]]:
    """The attack's objective at its guess and at the truth, per victim.

    Where an attack gives no labels, every guess has the label of the true image that it stands
    beside: the order of a batch is nothing that a message tells.
    """
    count = len(matches)
    evidences = known.readings[record["evidence"]][:count]
    truth, true_soft = known.truth[:count], known.soft[:count]
    hidden = [
        {n.removeprefix("hidden."): t[i] for n, t in tensors.items() if n.startswith("hidden.")}
        for i in range(count)
    ]
    if "soft" in tensors:
        soft = list(tensors["soft"])
    elif "labels" in tensors:
        soft = list(F.one_hot(tensors["labels"], true_soft[0].shape[-1]).float())
    else:  # the inverse of a permutation sorts it
        soft = [own[np.argsort(m)] for own, m in zip(true_soft, matches, strict=True)]
    at_guess = attack.losses(evidences, list(tensors["images"]), soft, hidden)
    true_hidden = [e.reveal(e.setting, v, e.data) for e, v in zip(evidences, truth, strict=True)]
    at_truth = attack.losses(evidences, [v["pixels"] for v in truth], true_soft, true_hidden)
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
        "success_rate_lo": success.lo,
        "success_rate_hi": success.hi,
        "floor_success_rate": float(column("floor_success").mean()),
        "identification_rate": float(column("identified").mean()),
        "loss_guess_median": float(np.median(column("loss_guess"))),
        "loss_truth_max": float(column("loss_truth").max()),
        "share_ok": found[audit.OK],
        "share_exhausted": found[audit.EXHAUSTED],
        "share_failed": sum(found[v] for v in found if v not in (audit.OK, audit.EXHAUSTED)),
    }


def _named(record: Mapping[str, Any]) -> dict[str, Any]:
    names = ("attack", "evidence", "settings", "knowledge", "threat")
    return {name: record[name] for name in names}


def _reported(record: Mapping[str, Any]) -> dict[str, Any]:
    """The columns that the attack stage fills, and blanks for those that scoring may fill."""
    row: dict[str, Any] = dict.fromkeys(CELLS)
    for name in CELLS:
        if name in record:
            row[name] = record[name]
    row["dirty"] = None if record.get("dirty") is None else int(record["dirty"])
    row["n"] = 0
    return row
