"""The small board is computed once, for all workers; tests change copies of the result."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Iterator
from dataclasses import dataclass

import pytest
from filelock import FileLock

from tests.end_to_end.toy import Board, commit, copied, small


@dataclass(frozen=True)
class First:
    """The first run of the small board: never changed, only copied."""

    board: Board
    ran: list[str]


@pytest.fixture(scope="session")
def first(tmp_path_factory: pytest.TempPathFactory) -> First:
    home = tmp_path_factory.getbasetemp()
    home = home.parent if "PYTEST_XDIST_WORKER" in os.environ else home
    board, ran = Board(home / "small" / "first"), home / "ran.json"
    with FileLock(home / "first.lock"):
        if not ran.exists():
            shutil.rmtree(board.folder.parent, ignore_errors=True)  # of a worker that failed
            copied(board.folder)
            board.params = small(board.params)
            commit(board)
            # Results to be published into a folder that exists and is empty.
            (board / "leaderboard/results").mkdir()
            ran.write_text(json.dumps(board.repro(LEAKBOARD_TRACKING="on")))
    return First(board, json.loads(ran.read_text()))


@pytest.fixture(scope="module")
def computed(first: First, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Board]:
    """The finished board to work on, shared by a module's tests in their order."""
    target = tmp_path_factory.mktemp("copy") / "board"
    shutil.copytree(first.board.folder, target)
    board = Board(target)
    yield board
    for process in board.processes():
        process.kill()
