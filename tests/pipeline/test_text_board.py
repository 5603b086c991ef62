"""The scenario ``text`` from its data to its tables, at a size that takes seconds."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from ruamel.yaml import YAML

from benchmark.config.schema import load_params
from benchmark.data.text import LENGTH
from benchmark.pipeline.rank import Facts, rank
from benchmark.results.io import read_table, write_table
from benchmark.runtime.paths import artifact

ROOT = Path(__file__).resolve().parents[2]


def small(params: dict[str, Any]) -> dict[str, Any]:
    text = params["scenarios"]["text"]
    text["federation"]["rounds"] = 1
    text["observation"]["victims"] = 2
    text["entrants"] = ["none", "pruning"]
    return params | {
        "boards": ["text"],
        "seeds": [0],
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
        for stage in (prepare, train, defend, attack, score):
            stage("text")
    return folder / artifact("text", "scores")


def test_dager_reads_every_undefended_word(scores: Path) -> None:
    cells = read_table(scores / "cells.csv")
    exact = cells[(cells["defense"] == "none") & (cells["attack"] == "dager")]
    assert sorted(exact["batch_size"]) == [1, 4]
    for column in ("success_rate", "exact_tokens", "rouge1", "rouge2", "rougeL", "share_ok"):
        assert (exact[column] == 1).all(), column
    pruned = cells[(cells["defense"] == "pruning") & (cells["attack"] == "dager")]
    assert (pruned["success_rate"] == 0).all() and (pruned["status"] == "ok").all()
    assert (pruned["verdict"] == "not-applicable").all() and (pruned["share_exhausted"] == 0).all()


def test_batches_that_were_recovered_whole_explain_their_messages(scores: Path) -> None:
    """DAGER gives no labels, and its sentences in an order of its own."""
    victims = read_table(scores / "victims.csv")
    whole = victims[(victims["defense"] == "none") & (victims["attack"] == "dager")]
    assert sorted(whole["batch_size"].unique()) == [1, 4] and (whole["success"] == 1).all()
    assert whole["loss_guess"].max() < 1e-6


def test_sentences_are_measured_in_words_only(scores: Path) -> None:
    victims = read_table(scores / "victims.csv")
    assert victims[["psnr", "ssim", "mse", "baseline_psnr"]].isna().all(axis=None)
    words = victims[["exact_tokens", "rouge1", "rouge2", "rougeL", "baseline_exact_tokens"]]
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


def test_what_ignores_the_defense_alone_is_no_adaptive_figure(scores: Path) -> None:
    ranking = read_table(scores / "ranking.csv").set_index(["defense", "batch_size"])
    control, pruned = ranking.loc[("none", 4)], ranking.loc[("pruning", 4)]
    assert control["recovered"] == control["exact_tokens"] == control["oblivious"] == 1
    assert pruned["oblivious"] == 0 and "no-adaptive" in pruned["flags"] and pruned["reason"]
    assert pd.isna(pruned["recovered"]) and pd.isna(pruned["recovered_or_inconclusive"])
    assert ranking[["psnr_median", "oblivious_psnr_median"]].isna().all(axis=None)


def test_ranks_follow_from_the_published_files_alone(scores: Path, tmp_path: Path) -> None:
    catalog = json.loads((scores / "catalog.json").read_text(encoding="utf-8"))
    names = ("cells.csv", "victims.csv", "training.csv", "saturation.csv")
    again = rank(*(read_table(scores / name) for name in names), Facts.of(catalog))
    write_table(tmp_path / "ranking.csv", again)
    assert (tmp_path / "ranking.csv").read_bytes() == (scores / "ranking.csv").read_bytes()


def test_the_gallery_quotes_truth_and_guesses(scores: Path) -> None:
    index = json.loads((scores / "gallery/index.json").read_text(encoding="utf-8"))
    entry = next(e for e in index if e["defense"] == "none" and e["batch_size"] == 4)
    assert "file" not in entry and not list((scores / "gallery").glob("*.png"))
    truth, *guesses = entry["rows"]
    assert len(truth["texts"]) == len(entry["victims"]) == 8
    assert all(1 < len(text.split()) <= LENGTH for text in truth["texts"])
    assert guesses and all(row["texts"] == truth["texts"] for row in guesses)
    assert all(row["exact_tokens"] == [1.0] * 8 for row in guesses)
