"""From parameters to a page: the small board, complete and checked, and nothing done twice."""

from __future__ import annotations

import itertools
import json
import math
import re
import time

import pandas as pd
import pytest

from benchmark.results.columns import FILES, SCHEMA, key, names
from benchmark.results.io import read_table
from benchmark.results.words import STATUSES, VERDICTS
from tests.end_to_end.toy import ran

SCENARIOS = ("digits", "digits-fedavg")


@pytest.fixture(scope="module")
def results(first):
    return first.board / "leaderboard/results"


def _cells(results, scenario):
    return read_table(results / scenario / "cells.csv")


def test_every_stage_ran_once_in_the_order_of_the_picture(first):
    stages = ("prepare", "train", "defend", "attack", "score")
    expected = {f"{stage}@{name}" for stage, name in itertools.product(stages, SCENARIOS)}
    assert sorted(first.ran) == sorted(["check", *expected, "publish", "site"])
    assert (first.ran[0], *first.ran[-2:]) == ("check", "publish", "site")
    for name in SCENARIOS:
        places = [first.ran.index(f"{stage}@{name}") for stage in stages]
        assert places == sorted(places)


@pytest.mark.parametrize("scenario", SCENARIOS)
def test_cells_are_complete_for_the_plan(first, results, scenario):
    params = first.board.params
    chosen = params["scenarios"][scenario]
    cells = _cells(results, scenario)
    oblivious = cells[cells["evidence"] == "oblivious"]
    planned = {
        (scenario, defense, point, checkpoint, attack, "oblivious", "board", seed, size)
        for defense in chosen["entrants"]
        for point, checkpoint, attack, seed, size in itertools.product(
            params["defenses"][defense].get("points", {"default": {}}),
            chosen["federation"]["checkpoints"],
            chosen["attacks"],
            params["seeds"],
            chosen["observation"]["batch_sizes"],
        )
    }
    assert set(oblivious[key("cells.csv")].itertuples(index=False, name=None)) == planned
    assert not cells.duplicated(key("cells.csv")).any()
    # a reading that applies is attacked at every seed, or says why it was not
    for _, rows in cells.groupby(["defense", "point", "checkpoint", "attack", "evidence"]):
        assert len(rows) == len(params["seeds"])


@pytest.mark.parametrize("scenario", SCENARIOS)
def test_cells_hold_words_of_the_vocabulary_and_numbers(first, results, scenario):
    cells = _cells(results, scenario)
    assert tuple(cells.columns) == names("cells.csv") and cells.columns[-1] == "seconds"
    assert set(cells["status"]) <= set(STATUSES)
    assert set(cells["verdict"]) <= {*VERDICTS, ""}
    computed = cells[cells["status"] == "ok"]
    assert len(computed) and (computed["verdict"] != "").all()
    assert (cells[cells["status"] != "ok"]["reason"] != "").all()
    numbers = ["n", "success_rate", "success_rate_lo", "success_rate_hi", "psnr_mean",
               "psnr_median", "psnr_q90", "ssim_mean", "mse_mean", "baseline_psnr",
               "observations", "unknowns",
               "evaluations", "loss_truth_max", "chunk", "seconds"]  # fmt: skip
    for name in numbers:
        assert pd.api.types.is_numeric_dtype(computed[name]), name
        assert computed[name].map(math.isfinite).all(), name
    victims = first.board.params["scenarios"][scenario]["observation"]["victims"]
    images = first.board.params["scenarios"][scenario]["federation"].get("local_steps", 1)
    assert set(computed["n"]) <= {victims, victims * images}
    assert (computed["success_rate_lo"] <= computed["success_rate"]).all()
    assert (computed["success_rate"] <= computed["success_rate_hi"]).all()
    assert computed["psnr_median"].between(0, 60).all()
    undefended = computed[(computed["defense"] == "none") & (computed["evidence"] == "oblivious")]
    assert (undefended["loss_truth_max"] < 1e-6).all()


@pytest.mark.parametrize("scenario", SCENARIOS)
def test_the_other_tables_and_the_catalog_agree_with_the_plan(first, results, scenario):
    params, folder = first.board.params, results / scenario
    runs = read_table(folder / "training.csv")
    assert tuple(runs.columns) == names("training.csv")
    assert list(runs["defense"]) == [
        name for name in params["scenarios"][scenario]["entrants"] for _ in params["seeds"]
    ]
    assert (
        runs[["epsilon", "uplink_bytes", "downlink_bytes", "client_seconds"]].notna().all(axis=None)
    )
    personal = runs["defense"] == "fedrep"
    assert runs.loc[personal, "accuracy_global"].isna().all()
    assert runs.loc[personal, "accuracy_personal"].notna().all()
    assert runs.loc[~personal, "accuracy_global"].notna().all()
    control = runs["defense"] == "none"
    assert runs.loc[control, "accuracy_personal"].notna().all()
    assert runs.loc[~personal & ~control, "accuracy_personal"].isna().all()
    ranking = read_table(folder / "ranking.csv")
    assert set(ranking["defense"]) == set(params["scenarios"][scenario]["entrants"])
    assert set(ranking["checkpoint"]) == {"init", "early"}
    catalog = json.loads((folder / "catalog.json").read_text())
    origin = json.loads((folder / "provenance.json").read_text())
    assert catalog["schema"] == origin["schema"] == SCHEMA == 3
    assert set(catalog["defenses"]) == set(params["scenarios"][scenario]["entrants"])
    assert re.fullmatch("[0-9a-f]{40}", origin["commit"]) and origin["dirty"] is False
    assert origin["cells"]["total"] == len(read_table(folder / "cells.csv"))
    assert {path.name for path in folder.iterdir()} == {
        *FILES, "catalog.json", "provenance.json", "gallery",
    }  # fmt: skip
    for strip in json.loads((folder / "gallery/index.json").read_text()):
        assert (folder / "gallery" / strip["file"]).stat().st_size > 0


def test_results_are_what_was_scored_and_the_page_and_tables_are_there(first, results):
    board = first.board
    for scenario in SCENARIOS:
        scored = {
            path.relative_to(board / f"artifacts/scores/{scenario}"): path.read_bytes()
            for path in (board / f"artifacts/scores/{scenario}").rglob("*")
            if path.is_file()
        }
        published = {
            path.relative_to(results / scenario): path.read_bytes()
            for path in (results / scenario).rglob("*")
            if path.is_file()
        }
        assert published == scored
    page = (board / "leaderboard/site/index.html").read_text(encoding="utf-8")
    for text in ("Handwritten digits, FedSGD", "Handwritten digits, FedAvg", "DGP", "FedRep"):
        assert text in page
    suffixes = {path.suffix for path in (board / "leaderboard/tables").iterdir()}
    assert {".tex", ".md", ".csv"} <= suffixes


def test_a_second_run_does_nothing_in_seconds(first):
    start = time.monotonic()
    code, said = first.board.call("dvc", "repro")
    seconds = time.monotonic() - start
    assert code == 0 and ran(said) == ["publish"], said
    assert first.board.changes() == []
    assert seconds < 30  # five when nothing else runs
