"""Killed in the attack stage: no orphan, nothing half-written, and no finished cell twice.

The tests work on one board, one after the other, towards the same attack with more iterations.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
from pathlib import Path

import psutil
import pytest

from tests.end_to_end.toy import until

STAGE = "attack@digits"
OUT = "artifacts/digits/guesses"


@pytest.fixture(scope="module")
def board(computed):
    params = computed.params
    params["attacks"]["ig"]["iterations"] = 80
    computed.params = params
    LAST[computed.folder] = (computed / OUT / "cells.json").read_bytes()
    return computed


LAST: dict[Path, bytes] = {}
"""The list of cells before the first run that is killed, by board."""


@pytest.fixture(autouse=True)
def _published_results_stay(board):
    before = board.snapshot("leaderboard")
    yield
    assert board.snapshot("leaderboard") == before


def _repro(board) -> tuple[subprocess.Popen[str], dict[str, tuple[int, int]]]:
    """DVC in its attack stage, with at least one new cell; and the cells that were there before."""
    before = board.cells()
    process = board.start("dvc", "repro", STAGE, LEAKBOARD_WORKERS="2")
    arrived = until(lambda: len(board.cells()) > len(before) or process.poll() is not None, 90)
    assert arrived and process.poll() is None, process.communicate()[0]
    return process, before


def _stage(board) -> psutil.Process:
    """The stage's own process: not the shell that DVC starts it with, not a worker."""
    return next(p for p in board.processes() if p.cmdline()[1:3] == ["-m", "stages.attack"])


def _workers(board) -> list[psutil.Process]:
    return [p for p in board.processes() if any("LokyProcess" in word for word in p.cmdline())]


def _all_ended_and_whole(board, before) -> None:
    finished = board.cells()
    assert until(lambda: not board.processes(), 15), board.processes()
    assert before.items() <= board.cells().items() and len(board.cells()) > len(before)
    assert finished.items() <= board.cells().items()
    # the last whole out stays, and DVC knows that it is not what is wanted now
    assert (board / OUT / "cells.json").read_bytes() == LAST[board.folder]
    for digest in board.cells():
        cell = board / f".leakboard/cells/{digest}"
        assert {p.name for p in cell.iterdir()} == {"cell.json", "guesses.safetensors"}


def _said(process: subprocess.Popen[str]) -> str:
    return process.communicate(timeout=300)[0]


def test_dvc_is_killed(board):
    process, before = _repro(board)
    process.kill()
    _all_ended_and_whole(board, before)
    assert not list((board / ".leakboard/drafts").iterdir())
    _said(process)


def test_ctrl_c(board):
    process, before = _repro(board)
    os.killpg(process.pid, signal.SIGINT)
    said = _said(process)
    assert process.returncode != 0
    _all_ended_and_whole(board, before)
    assert not list((board / ".leakboard/drafts").iterdir())
    assert "python -m stages.attack: interrupted" in said


def test_a_stage_is_killed(board):
    process, before = _repro(board)
    _stage(board).kill()
    assert "failed to reproduce" in _said(process)
    assert process.returncode != 0
    _all_ended_and_whole(board, before)


def test_a_second_run_is_told_so_and_the_first_survives_the_end_of_a_worker(board):
    process, before = _repro(board)
    code, said = board.call("dvc", "repro", STAGE)
    assert code != 0 and "lock" in said.lower(), said
    assert process.poll() is None
    victim = _workers(board)[0]
    finished = board.cells()
    victim.kill()
    said = _said(process)
    assert process.returncode == 0, said
    assert until(lambda: not board.processes(), 15)
    assert before.items() <= finished.items() <= board.cells().items()
    listed = json.loads((board / OUT / "cells.json").read_text())
    assert {cell["status"] for cell in listed} == {"ok"}
    assert {str(p.relative_to(board / OUT)) for p in (board / OUT).rglob("*.safetensors")} == {
        cell["file"] for cell in listed
    }
    for folder in ("drafts", "cells/unfinished"):
        assert not list((board / ".leakboard" / folder).iterdir()), folder


def test_each_cell_was_computed_once(first, board):
    """As many as the stage lists, and nothing is left to do."""
    listed = json.loads((board / OUT / "cells.json").read_text())
    assert len(board.cells()) - len(first.board.cells()) == len(listed)
    assert board.repro(STAGE) == []
    assert Path(board / OUT).is_dir()
