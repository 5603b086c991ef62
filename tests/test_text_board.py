"""The scenario ``text`` from its data to its tables, at a size that takes seconds."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from ruamel.yaml import YAML

from benchmark.config import load_params
from benchmark.data.text import LENGTH
from benchmark.naming import artifact
from benchmark.records import read_table

ROOT = Path(__file__).resolve().parent.parent


def small(params: dict[str, Any]) -> dict[str, Any]:
    text = params["scenarios"]["text"]
    text["federation"]["rounds"] = 1
    text["observation"]["victims"] = 2
    return params | {
        "seeds": [0],
        "entrants": {"text": ["none", "pruning"]},
        "scenarios": {"text": text},
        "defenses": {"none": {}, "pruning": {"points": {"keep-10": {"keep": 0.1}}}},
        "attacks": {"dager": {"knowledge": ["oblivious"]},
                    "tag": {"iterations": 5, "batch_sizes": [1], "settings": ["board"]}},
    }  # fmt: skip


@pytest.fixture(scope="module")
def scores(tmp_path_factory: pytest.TempPathFactory) -> Any:
    from stages.attack import attack
    from stages.defend import defend
    from stages.prepare import prepare
    from stages.score import score
    from stages.train import train

    folder = tmp_path_factory.mktemp("text")
    params = small(YAML(typ="safe").load(ROOT / "params.yaml"))
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        for name, value in (("WORKERS", "1"), ("EXECUTOR", "serial"), ("TRACKING", "off")):
            patch.setenv(f"LEAKBOARD_{name}", value)
        YAML(typ="safe").dump(params, folder / "params.yaml")
        assert load_params().scenarios["text"].data == "docstrings"
        prepare("text")
        for defense in ("none", "pruning"):
            train("text", defense)
            defend("text", defense)
            attack("text", defense)
        score("text")
    return folder / artifact("text", "scores")


def test_dager_reads_every_undefended_word(scores: Path) -> None:
    cells = read_table(scores / "cells.csv")
    exact = cells[(cells["defense"] == "none") & (cells["attack"] == "dager")]
    assert sorted(exact["batch_size"]) == [1, 4]
    for column in ("success_rate", "exact_tokens", "rouge1", "rouge2", "rougeL", "share_ok"):
        assert (exact[column] == 1).all(), column
    pruned = cells[(cells["defense"] == "pruning") & (cells["attack"] == "dager")]
    assert (pruned["success_rate"] == 0).all() and (pruned["status"] == "ok").all()


def test_sentences_are_measured_in_words_only(scores: Path) -> None:
    victims = read_table(scores / "victims.csv")
    assert victims[["psnr", "ssim", "mse", "floor_psnr"]].isna().all(axis=None)
    words = victims[["exact_tokens", "rouge1", "rouge2", "rougeL", "floor_tokens"]]
    assert (
        not words.isna().any(axis=None) and words.min(axis=None) >= 0 and words.max(axis=None) <= 1
    )
    assert (victims["success"] == (victims["exact_tokens"] > 0.9)).all()
    assert victims.loc[victims["success"] == 1, "verdict"].eq("ok").all()
    undefended = victims[victims["defense"] == "none"]
    assert (undefended["loss_truth"] < 1e-6).all()
    catalog = json.loads((scores / "catalog.json").read_text(encoding="utf-8"))
    assert catalog["scenario"]["measure"] == "exact_tokens"
    assert catalog["scenario"]["tau"] >= 0.9


def test_attacks_are_kept_to_their_batch_sizes(scores: Path) -> None:
    cells = read_table(scores / "cells.csv")
    assert set(cells[cells["attack"] == "tag"]["batch_size"]) == {1}
    assert set(cells[cells["attack"] == "dager"]["evidence"]) == {"oblivious"}


def test_defenses_are_ranked_by_what_leaks(scores: Path) -> None:
    ranking = read_table(scores / "ranking.csv").set_index(["defense", "batch_size"])
    assert ranking.loc[("none", 4), "adaptive_success"] == 1
    assert ranking.loc[("none", 4), "adaptive_tokens"] == 1
    assert ranking.loc[("pruning", 4), "adaptive_success"] == 0
    assert "unproven" in ranking.loc[("pruning", 4), "flags"]
    assert ranking["adaptive_psnr_median"].isna().all()


def test_the_gallery_quotes_truth_and_guesses(scores: Path) -> None:
    index = json.loads((scores / "gallery/index.json").read_text(encoding="utf-8"))
    entry = next(e for e in index if e["defense"] == "none" and e["batch_size"] == 4)
    assert "file" not in entry and not list((scores / "gallery").glob("*.png"))
    truth, *guesses = entry["rows"]
    assert len(truth["texts"]) == len(entry["victims"]) == 8
    assert all(1 < len(text.split()) <= LENGTH for text in truth["texts"])
    assert guesses and all(row["texts"] == truth["texts"] for row in guesses)
    assert all(row["exact_tokens"] == [1.0] * 8 for row in guesses)
