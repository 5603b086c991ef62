"""How the stages hang together, read from dvc.yaml, and attacks that have nothing but messages."""

from __future__ import annotations

import graphlib
import json
import shutil
from pathlib import Path
from typing import Any

import pytest
from dvc.parsing import DataResolver
from dvc.repo import Repo
from ruamel.yaml import YAML
from safetensors.torch import load_file

ROOT = Path(__file__).resolve().parents[2]
KINDS = ("check", "prepare", "train", "defend", "attack", "score", "publish", "site")
SEALED = {"truth", "private", "models", "train", "scores"}
MEASURED = {"seconds"}


def _kind(name: str) -> str:
    return name.split("@")[0]


@pytest.fixture(scope="module")
def stages() -> dict[str, dict[str, Any]]:
    """Every stage of dvc.yaml with its matrix and parameters filled in."""
    content = YAML(typ="safe").load(ROOT / "dvc.yaml")
    with Repo(str(ROOT)) as repo:
        return DataResolver(repo, str(ROOT), content).resolve()["stages"]


def _path(out: Any) -> str:
    """An out's path, whatever else is said of it."""
    return next(iter(out)) if isinstance(out, dict) else out


@pytest.fixture(scope="module")
def graph(stages) -> dict[str, set[str]]:
    """Stage -> the stages whose outs it depends on."""
    makers = {Path(_path(out)): name for name, stage in stages.items() for out in stage["outs"]}
    return {
        name: {
            maker
            for dep in map(Path, stage["deps"])
            for out, maker in makers.items()
            if out.is_relative_to(dep) or dep.is_relative_to(out)
        }
        for name, stage in stages.items()
    }


def test_the_stages_read_like_the_picture(stages, graph):
    assert {_kind(name) for name in stages} == set(KINDS)
    order = [KINDS.index(_kind(name)) for name in graphlib.TopologicalSorter(graph).static_order()]
    assert len(order) == len(stages)
    for name, before in graph.items():
        assert all(KINDS.index(_kind(b)) < KINDS.index(_kind(name)) for b in before), name
    direct = {_kind(name): {_kind(b) for b in before} for name, before in graph.items()}
    assert direct == {
        "check": set(),
        "prepare": {"check"},
        "train": {"prepare"},
        "defend": {"prepare", "train"},
        "attack": {"prepare", "defend"},
        "score": {"prepare", "train", "defend", "attack"},
        "publish": {"score"},
        "site": {"publish"},
    }


def test_there_is_a_stage_per_board_and_it_knows_of_no_other(stages, graph):
    boards = YAML(typ="safe").load(ROOT / "params.yaml")["boards"]
    for kind in KINDS[1:-2]:
        commands = [s["cmd"] for name, s in stages.items() if _kind(name) == kind]
        assert commands == [f"python -m stages.{kind} {board}" for board in boards]
    for name in (name for name in stages if "@" in name):
        assert {b.split("@")[1] for b in graph[name] if "@" in b} <= {name.split("@")[1]}


def test_the_graph_fits_on_a_screen():
    assert len((ROOT / "dvc.yaml").read_text(encoding="utf-8").splitlines()) <= 90


def test_committed_results_are_no_stages_out(stages):
    outs = [Path(_path(out)) for stage in stages.values() for out in stage["outs"]]
    results = Path("leaderboard/results")
    assert not any(results.is_relative_to(o) or o.is_relative_to(results) for o in outs)


def test_an_attack_depends_on_transcripts_and_public_data_only(stages):
    attacks = {name: stage for name, stage in stages.items() if _kind(name) == "attack"}
    assert attacks
    for stage in attacks.values():
        data = {dep for dep in stage["deps"] if dep.startswith("artifacts")}
        home = f"artifacts/{stage['cmd'].split()[-1]}"
        assert data == {f"{home}/public", f"{home}/transcripts"}
        assert not SEALED & {part for dep in data for part in Path(dep).parts}


def test_an_attack_makes_the_same_guesses_with_nothing_else_there(first, computed):
    """Every other artifact is gone, the cell store too: only messages and public data are left."""
    scenario = computed / "artifacts/digits"
    shutil.rmtree(computed / ".leakboard")
    shutil.rmtree(computed / "artifacts/digits-fedavg")
    shutil.rmtree(computed / ".dvc/cache")
    for kind in scenario.iterdir():
        if kind.name not in ("public", "transcripts"):
            shutil.rmtree(kind)
    code, said = computed.call("stages.attack", "digits")
    assert code == 0, said
    again, before = (b / "artifacts/digits/guesses" for b in (computed, first.board))
    listed = [json.loads((folder / "cells.json").read_text()) for folder in (again, before)]
    for ours, theirs in zip(*listed, strict=True):
        assert {k: v for k, v in ours.items() if k not in MEASURED} == {
            k: v for k, v in theirs.items() if k not in MEASURED
        }
        if ours["status"] != "ok":
            continue
        left, right = (load_file(folder / ours["file"]) for folder in (again, before))
        assert left.keys() == right.keys()
        assert all(left[name].equal(right[name]) for name in left)
    assert any(cell["status"] == "ok" for cell in listed[0])
    assert {path.name for path in scenario.iterdir()} == {"public", "transcripts", "guesses"}
