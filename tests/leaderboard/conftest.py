"""Small synthetic results, so that the board is tested without computing one.

They are drawn by a formula, never published, and say so in their titles.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from matplotlib.image import imsave
from scipy.stats import binomtest

from benchmark.results.columns import FILES, described, names
from benchmark.results.io import write_table
from benchmark.runtime.files import write_json

Tables = dict[str, list[dict[str, Any]]]
DEFENSES: dict[str, dict[str, Any]] = {
    "none": {"title": "No defense", "points": {"default": {}}},
    "dp": {
        "title": "DP (update-level)",
        "points": {"weak": {"noise": 0.01}, "strong": {"noise": 1.0}},
    },
    "dgp": {
        "title": "Dual gradient pruning",
        "cite": "Xue et al., AAAI 2024",
        "url": "https://arxiv.org/abs/2401.16687",
        "points": {
            "paper": {"drop_largest": 0.05, "drop_smallest": 0.75},
            "harsh": {"drop_largest": 0.05, "drop_smallest": 0.9},
        },
    },
    "ppp": {
        "title": "PPP (PRECODE, partially perturbed)",
        "note": "Our reading: which layers are perturbed.",
        "points": {"clean": {"encoder": "clean"}, "noised": {"encoder": "noised"}},
    },
    "hyperfl": {
        "title": "HyperFL",
        "personalised": True,
        "points": {"h8": {"hidden": 8}, "h32": {"hidden": 32}},
    },
    "fedrep": {"title": "FedRep", "personalised": True, "points": {"default": {}}},
}
ATTACKS = {
    "ig": {
        "title": "Inverting gradients",
        "cite": "Geiping et al., NeurIPS 2020",
        "url": "https://arxiv.org/abs/2003.14053",
        "summary": "Cosine distance and total variation.",
        "parameters": {"iterations": 200},
        "settings": {
            "board": {
                "name": "ig",
                "iterations": 200,
                "optimiser": {"is": "SignedAdam", "lr": 0.2},
            },
            "published": {
                "name": "ig",
                "iterations": 4800,
                "optimiser": {"is": "SignedAdam", "lr": 0.1},
            },
        },
    },
    "dlg": {
        "title": "Deep leakage from gradients",
        "cite": "Zhu et al., NeurIPS 2019",
        "url": "",
        "summary": "L-BFGS on the squared distance.",
        "settings": {"board": {"iterations": 80}, "published": {"iterations": 80}},
    },
    "lti": {
        "title": "Learning to invert",
        "cite": "Wu et al., UAI 2023",
        "url": "",
        "summary": "A network trained on auxiliary messages.",
        "threat": "auxiliary",
    },
}
SEEDS, VICTIMS = (0, 1, 2), 8
MESSAGES = len(SEEDS) * VICTIMS
# Messages recovered of MESSAGES, and those that are inconclusive; others follow from strength.
LEAKS = {("hyperfl", "h32"): (0, 0), ("dgp", "harsh"): (10, 6), ("fedrep", "default"): (1, 3)}
NO_ADAPTIVE = ("ppp", "noised")
BUDGETS = (1, 3, 10)


def write_results(
    root: Path,
    name: str = "toy",
    kind: str = "demo",
    *,
    checkpoints: dict[str, int] | None = None,
    defenses: dict[str, dict[str, Any]] | None = None,
    title: str | None = None,
    text: bool = False,
    malicious: bool = False,
    learned: bool = False,
) -> Path:
    """Write one synthetic scenario under ``root`` with the real writers; returns its folder.

    Args:
        text: the private data are sentences: no PSNR, no pictures.
        malicious: the server sent crafted weights.
        learned: some attacks learned from auxiliary data.
    """
    folder = root / name
    checkpoints = checkpoints or {"init": 0, "early": 50}
    headline = max(checkpoints, key=lambda each: checkpoints[each])
    defenses = defenses or DEFENSES
    tables: Tables = {table: [] for table in FILES}
    for index, (defense, card) in enumerate(defenses.items()):
        for step, point in enumerate(card["points"]):
            strength = (index * 0.13 + step * 0.17) % 1.0
            private = bool(card.get("personalised"))
            training = {
                "scenario": name,
                "defense": defense,
                "point": point,
                "accuracy_global": None if private else 0.9512345 - 0.11 * strength,
                "accuracy_personal": 0.9712345 - 0.06 * strength
                if private or defense == "none"
                else None,
                "epsilon": 8.3214567 / (1 + step) if defense == "dp" else math.inf,
                "uplink_bytes": 56234.0 * (1 - 0.8 * strength) * (40 if private else 1),
                "downlink_bytes": 56234.0,
                "client_seconds": 0.0123 + 0.01 * strength,
                "bytes_to_target": None if strength > 0.6 else 4.5e8 * (1 + strength),
            }
            for seed in SEEDS:
                tables["training.csv"].append(
                    {
                        **training,
                        "seed": seed,
                        "rounds": 150,
                        "delta": 1e-5 if defense == "dp" else None,
                        "privacy_unit": "client" if defense == "dp" else "",
                        "adversary": "server" if defense == "dp" else "",
                        "target_accuracy": 0.9,
                    }
                )
            for checkpoint, at in checkpoints.items():
                recovered, inconclusive = LEAKS.get(
                    (defense, point),
                    (round(MESSAGES * max(0.0, 1 - strength * (1.1 if at else 0.9))), 0),
                )
                if at == 0 and defense == "hyperfl":
                    inconclusive = 2
                oblivious = recovered if defense in ("none", "dp") else recovered // 3
                leaks = Leaks(recovered, inconclusive, oblivious, defense, point, checkpoint)
                _cells(tables, name, leaks, at)
                _ranking(tables, training, leaks)
                if learned and defense != "dp":
                    _learned(tables, tables["ranking.csv"][-1], recovered // 2)
                if defense != "fedrep":
                    _saturation(tables, tables["ranking.csv"][-1])
    _rank([row for row in tables["ranking.csv"] if row["checkpoint"] == headline], headline)
    if text:
        _reads_words(tables)
    if malicious:
        _crafts(tables)
    for table, rows in tables.items():
        write_table(folder / table, rows)
    write_json(
        folder / "catalog.json",
        {
            "schema": 3,
            "scenario": {
                "name": name,
                "title": title or f"Synthetic {name}",
                "kind": kind,
                "description": "Drawn by a formula for the tests.",
                "data": "docstrings" if text else "digits",
                "measure": "exact_tokens" if text else "psnr",
                "server": "malicious" if malicious else "curious",
                "model": "elu",
                "clients": 10,
                "algorithm": "fedsgd",
                "rounds": 150,
                "local_steps": 1,
                "victims": VICTIMS,
                "tau": 0.9 if text else 20.0,
                "side": {"labels": True},
                "checkpoints": checkpoints,
                "headline": {"checkpoint": headline, "batch_size": 1},
                "chance": 0.107,
            },
            "defenses": {
                key: {
                    "cite": "",
                    "url": "",
                    "note": "",
                    "summary": f"What {key} does.",
                    "personalised": False,
                    **card,
                }
                for key, card in defenses.items()
            },
            "attacks": {
                key: card
                for key, card in ATTACKS.items()
                if learned or card.get("threat") != "auxiliary"
            },
            "evidence": {
                f"{key}/{evidence}": {"knowledge": knowledge, "summary": f"Takes it as {evidence}."}
                for key in defenses
                for evidence, knowledge in (("oblivious", "oblivious"), ("sent", "adaptive"))
            },
            "scoring": {"confidence": 0.95},
            "metrics": described(),
        },
    )
    write_json(
        folder / "provenance.json",
        {
            "schema": 3,
            "commit": "0123456789abcdef",
            "dirty": False,
            "created": "2026-01-01T00:00:00Z",
            "command": "dvc repro",
            "params_digest": "ab" * 32,
            "data": {"name": "digits", "sha256": "cd" * 32},
            "machine": {"cpu": "test", "cores": 2},
            "versions": {"python": "3.11"},
            "cells": {"total": 3},
        },
    )
    if text:
        _sentences(folder, checkpoints, defenses)
    else:
        _gallery(folder, checkpoints, defenses)
    return folder


@dataclass(frozen=True)
class Leaks:
    """Where, and how many messages of MESSAGES."""

    recovered: int
    inconclusive: int
    oblivious: int
    defense: str
    point: str
    checkpoint: str


def interval(count: float) -> tuple[float, float]:
    """Clopper-Pearson at 95% for ``count`` of MESSAGES, by SciPy."""
    found = binomtest(int(count), MESSAGES).proportion_ci(0.95, method="exact")
    return float(found.low), float(found.high)


def estimate(name: str, count: int | None) -> dict[str, Any]:
    """A figure of a row: its share of MESSAGES and its interval; None is no figure."""
    low, high = (None, None) if count is None else interval(count)
    whole = None if count is None else count / MESSAGES
    return {name: whole, f"{name}_lo": low, f"{name}_hi": high}


def _cells(tables: Tables, name: str, leaks: Leaks, at: int) -> None:
    defense, point, checkpoint = leaks.defense, leaks.point, leaks.checkpoint
    adaptive, oblivious = leaks.recovered / MESSAGES, leaks.oblivious / MESSAGES
    told = "oblivious" if defense == "none" else "adaptive"
    plans = [("board", "oblivious", "oblivious", oblivious), ("board", "sent", told, adaptive)]
    if defense == "none":
        plans.append(("published", "oblivious", "oblivious", 1.0))
    if (defense, point) == NO_ADAPTIVE:
        del plans[1]
    for seed in SEEDS:
        tables["checkpoints.csv"].append(
            {
                "scenario": name,
                "defense": defense,
                "point": point,
                "seed": seed,
                "checkpoint": checkpoint,
                "round": at,
                "gradient_norm": 2.0 / (1 + at / 10),
                "loss": 2.3 / (1 + at / 10),
                "accuracy": 0.1 + min(at, 50) / 60,
            }
        )
        for attack in ("ig", "dlg") if at == 0 else ("ig",):
            for settings, evidence, knowledge, success in plans:
                status, reason = "ok", ""
                if defense == "fedrep" and attack == "dlg":
                    status, reason = "unsupported", "needs a gradient of every layer"
                elif defense == "dp" and point == "strong" and attack == "dlg" and seed == 2:
                    status, reason = "timeout", "stopped after 60 s & 12 evaluations"
                scored = status == "ok"
                row = dict.fromkeys(names("cells.csv"))
                row.update(
                    {
                        "scenario": name,
                        "defense": defense,
                        "point": point,
                        "checkpoint": checkpoint,
                        "attack": attack,
                        "evidence": evidence,
                        "settings": settings,
                        "knowledge": knowledge,
                        "seed": seed,
                        "labels": "given",
                        "batch_size": 1,
                        "status": status,
                        "reason": reason,
                        "verdict": "",
                        "n": VICTIMS if scored else 0,
                        "strategy": "batched",
                        "chunk": 8,
                        "commit": "0123456789ab",
                        "dirty": 0,
                        "machine": "test",
                        "threat": "curious",
                    }
                )
                if scored:
                    row.update(
                        {
                            "verdict": "ok"
                            if success > 0.5
                            else "evidence-exhausted"
                            if seed
                            else "optimiser-failed",
                            "success_rate": success,
                            "success_rate_lo": max(0, success - 0.1),
                            "success_rate_hi": min(1, success + 0.1),
                            "psnr_mean": 10 + 40 * success,
                            "psnr_median": 11 + 43.21 * success,
                            "psnr_q90": 60 * success,
                            "ssim_mean": success,
                            "mse_mean": 0.1 * (1 - success),
                            "label_accuracy": 1.0,
                            "baseline_psnr": 12.34,
                            "observations": 14000,
                            "unknowns": 64,
                            "evaluations": 200,
                            "psnr_q10": 9.0,
                            "psnr_max": 60 * success,
                            "identification_rate": success,
                            "baseline_success_rate": 0.0,
                            "loss_guess_median": 1e-3,
                            "loss_truth_max": 2e-8,
                            "share_ok": success,
                            "share_exhausted": 1 - success,
                            "share_failed": 0.0,
                            "seconds": 1.5,
                        }
                    )
                tables["cells.csv"].append(row)


def _ranking(tables: Tables, training: dict[str, Any], leaks: Leaks) -> None:
    defense, point = leaks.defense, leaks.point
    flags = ["probe"]
    if defense == "fedrep":
        flags.append("missing-cells")
    if defense == "dp":
        flags += ["generic-only", "randomised"]
    if _rises(defense, point):
        flags.append("budget-hit")
    if leaks.inconclusive > 0.1 * MESSAGES:
        flags.append("inconclusive")
    known = (defense, point) != NO_ADAPTIVE
    if not known:
        flags.append("no-adaptive")
    recovered, inconclusive = (leaks.recovered, leaks.inconclusive) if known else (None, None)
    kind = "accuracy_personal" if training["accuracy_global"] is None else "accuracy_global"
    control = next(run for run in tables["training.csv"] if run["defense"] == "none")
    kept = {name: value for name, value in training.items() if name in names("ranking.csv")}
    shares = {"share_exhausted": None, "share_inconclusive": None, "verdict": ""}
    if recovered is not None:
        lost = MESSAGES - recovered - inconclusive
        shares = {
            "share_exhausted": lost / MESSAGES,
            "share_inconclusive": inconclusive / MESSAGES,
            "verdict": "inconclusive"
            if "inconclusive" in flags
            else "evidence-exhausted"
            if lost > 0.1 * MESSAGES
            else "ok",
        }
    both = None if recovered is None else recovered + inconclusive
    pick = leaks.recovered // 2
    tables["ranking.csv"].append(
        {
            **dict.fromkeys(names("ranking.csv")),
            **kept,
            **estimate("recovered", recovered),
            **estimate("recovered_or_inconclusive", both),
            **estimate("oblivious", leaks.oblivious),
            **estimate("own_pick", pick),
            **shares,
            "checkpoint": leaks.checkpoint,
            "batch_size": 1,
            "n": MESSAGES,
            "n_victims": MESSAGES,
            "psnr_median": None if recovered is None else 11 + 43.21 * recovered / MESSAGES,
            "oblivious_psnr_median": 11 + 43.21 * leaks.oblivious / MESSAGES,
            "own_pick_psnr_median": 10 + 43.21 * pick / MESSAGES,
            "strongest_attack": "ig" if known else "",
            "strongest_evidence": "sent" if known else "",
            "extra_data_attack": "",
            "extra_data_evidence": "",
            "baseline_success": 1 / MESSAGES,
            "baseline_psnr": 12.34,
            "flags": ";".join(flags),
            "reason": "" if known else "no attack ran on evidence that knows the defense",
            "accuracy_lost": control[kind] - training[kind],
            "status": "ok",
        }
    )


def _rises(defense: str, point: str) -> bool:
    """Whether ten times the budget finds another victim than the board's."""
    return (defense, point) == ("dgp", "harsh")


def _learned(tables: Tables, row: dict[str, Any], count: int) -> None:
    """What the attack that learned from auxiliary data reached, in cells and in the ranking."""
    success = count / MESSAGES
    row.update(
        {
            **estimate("extra_data", count),
            "extra_data_psnr_median": 9 + 40 * success,
            "extra_data_attack": "lti",
            "extra_data_evidence": "oblivious",
        }
    )
    same = ("defense", "point", "checkpoint")
    low, high = interval(count)
    tables["cells.csv"] += [
        {
            **cell,
            "attack": "lti",
            "threat": "auxiliary",
            "success_rate": success,
            "success_rate_lo": low,
            "success_rate_hi": high,
        }
        for cell in tables["cells.csv"]
        if cell["attack"] == "ig"
        and cell["evidence"] == "oblivious"
        and cell["settings"] == "board"
        and all(cell[name] == row[name] for name in same)
    ]


def _saturation(tables: Tables, row: dict[str, Any]) -> None:
    """A few victims of the first seed at every budget."""
    share = round(4 * (row["recovered"] or 0)) / 4
    for step, budget in enumerate(BUDGETS):
        gain = 0.25 * (step == 2 and "budget-hit" in row["flags"])
        success = min(1.0, share + gain)
        tables["saturation.csv"].append(
            {
                **{name: row[name] for name in ("scenario", "defense", "point", "checkpoint")},
                "batch_size": row["batch_size"],
                "seed": SEEDS[0],
                "attack": "ig",
                "evidence": "sent",
                "budget": budget,
                "n": 4,
                "success_rate": success,
                "psnr_median": 12.0 + 40 * success + step,
                "exact_tokens": None,
                "loss_median": 1e-2 * (1.01 - success) / budget,
                "evaluations": 240 * budget,
            }
        )


def _crafts(tables: Tables) -> None:
    """A malicious server's closed forms, which minimise nothing."""
    words = {"evidence-exhausted": "missed", "optimiser-failed": "not-applicable"}
    for row in tables["cells.csv"]:
        row["threat"] = "malicious"
        row["verdict"] = words.get(row["verdict"], row["verdict"])


def _reads_words(tables: Tables) -> None:
    """Shares of right words in the place of every measure of an image."""
    pictures = {"psnr_mean", "psnr_median", "psnr_q10", "psnr_q90", "psnr_max", "ssim_mean",
                "mse_mean", "baseline_psnr"}  # fmt: skip
    for rows in tables.values():
        for row in rows:
            for figure in ("oblivious", "own_pick", "extra_data"):
                if f"{figure}_psnr_median" in row:
                    row[f"{figure}_psnr_median"] = None
                    row[f"{figure}_exact_tokens"] = row[figure]
            if "recovered" in row:
                row["exact_tokens"] = row["recovered"]
            row.update({name: None for name in pictures & row.keys()})
            if row.get("success_rate") is not None and "rouge1" in row:
                row.update({"exact_tokens": row["success_rate"], "rouge1": 0.5, "rouge2": 0.25,
                            "rougeL": 0.4, "baseline_exact_tokens": 0.125})  # fmt: skip


def _rank(rows: list[dict[str, Any]], headline: str) -> None:
    """Ranks within both classes: intervals of messages that do not touch tell two rows apart."""
    for points in (2, 5):
        entries: dict[str, dict[str, Any]] = {}
        for row in rows:
            held = entries.get(row["defense"])
            fits = row["accuracy_lost"] <= points / 100 and row["recovered"] is not None
            whole = "missing-cells" not in row["flags"]
            if fits and whole and (held is None or held["accuracy_lost"] <= row["accuracy_lost"]):
                entries[row["defense"]] = row
        for row in entries.values():
            better = [other for other in entries.values()
                      if other["recovered_or_inconclusive_hi"] < row["recovered_lo"]]  # fmt: skip
            worse = [other for other in entries.values()
                     if other["recovered_lo"] > row["recovered_or_inconclusive_hi"]]  # fmt: skip
            row[f"rank{points}_lo"] = len(better) + 1
            row[f"rank{points}_hi"] = len(entries) - len(worse)
    for row in rows:
        if row["rank2_hi"] is None and row["rank5_hi"] is None and not row["reason"]:
            row["reason"] = (
                "cells are missing"
                if "missing-cells" in row["flags"]
                else "another point stands for its defense"
            )


def _gallery(
    folder: Path, checkpoints: dict[str, int], defenses: dict[str, dict[str, Any]]
) -> None:
    draw = np.random.default_rng(0)
    side, gap, count = 8, 1, 8
    entries = []
    (folder / "gallery").mkdir(parents=True)
    grid = np.linspace(-1, 1, side)
    truth = [
        np.exp(
            -(
                (grid[:, None] - draw.uniform(-0.5, 0.5)) ** 2
                + (grid - draw.uniform(-0.5, 0.5)) ** 2
            )
            * 5
        )
        for _ in range(count)
    ]
    for checkpoint in checkpoints:
        for defense, card in defenses.items():
            for point in card["points"]:
                picture = np.full((3 * side + 2 * gap, count * (side + gap) - gap), np.nan)
                for row, noise in enumerate((0.0, 0.8, 0.2)):
                    for at, tile in enumerate(truth):
                        place = picture[row * (side + gap) :, at * (side + gap) :][:side, :side]
                        place[:] = np.clip(
                            (1 - noise) * tile + noise * draw.random((side, side)), 0, 1
                        )
                file = f"{defense}--{point}--{checkpoint}.png"
                imsave(folder / "gallery" / file, picture, cmap="gray", vmin=0, vmax=1)
                entries.append(
                    {
                        "file": file,
                        "defense": defense,
                        "point": point,
                        "checkpoint": checkpoint,
                        "tile": [side, side],
                        "gap": gap,
                        "victims": list(range(count)),
                        "rows": [
                            {"label": "truth", "attack": None, "evidence": None, "psnr": []},
                            {
                                "label": "oblivious",
                                "attack": "ig",
                                "evidence": "oblivious",
                                "settings": "published" if defense == "none" else "board",
                                "psnr": [float(value) for value in draw.uniform(8, 15, count)],
                            },
                            {
                                "label": "strongest",
                                "attack": "ig",
                                "evidence": "sent",
                                "psnr": [float(value) for value in draw.uniform(12, 60, count)],
                            },
                        ],
                    }
                )
    (folder / "gallery" / "index.json").write_text(json.dumps(entries))


def _sentences(
    folder: Path, checkpoints: dict[str, int], defenses: dict[str, dict[str, Any]]
) -> None:
    truth = ["return the <sum> of a list", "raise an error & stop", "yes", "no"]
    guess = ["return the sum of list a", "stop an error & raise", "no", "no"]
    entries = [
        {
            "defense": defense,
            "point": point,
            "checkpoint": checkpoint,
            "batch_size": 1,
            "victims": [f"0/{victim}" for victim in range(len(truth))],
            "rows": [
                {"label": "truth", "attack": "", "evidence": "", "exact_tokens": [],
                 "texts": truth},
                {"label": "strongest", "attack": "ig", "evidence": "sent",
                 "exact_tokens": [0.95, 0.4, 0.0, 1.0], "texts": guess},
            ],
        }
        for checkpoint in checkpoints
        for defense, card in defenses.items()
        for point in card["points"]
    ]  # fmt: skip
    (folder / "gallery").mkdir(parents=True)
    (folder / "gallery" / "index.json").write_text(json.dumps(entries))


@pytest.fixture(scope="session")
def make_results() -> Callable[..., Path]:
    """The writer of synthetic results, for tests that need their own."""
    return write_results


@pytest.fixture(scope="session")
def board(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """A board built once from four synthetic scenarios: its results, site and tables.

    `toy` is a demo with learned attacks, `toy-ranked` is ranked, `toy-words` has sentences for
    private data and `toy-crafted` a malicious server.
    """
    from leaderboard.build import build

    root = tmp_path_factory.mktemp("board")
    few = {name: DEFENSES[name] for name in ("none", "dp", "dgp")}
    write_results(root / "results", "toy", learned=True)
    write_results(root / "results", "toy-ranked", "ranked", checkpoints={"init": 0})
    write_results(root / "results", "toy-words", checkpoints={"init": 0}, defenses=few, text=True)
    write_results(
        root / "results", "toy-crafted", checkpoints={"init": 0}, defenses=few, malicious=True
    )
    paths = {name: root / name for name in ("results", "site", "tables")}
    build(**paths)
    return paths
