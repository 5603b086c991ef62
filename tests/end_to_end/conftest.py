"""The small board is computed once; tests change copies of the result."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from dataclasses import dataclass

import pytest

from tests.end_to_end.toy import Board, commit, copied, small


@dataclass(frozen=True)
class First:
    """The first run of the small board: never changed, only copied."""

    board: Board
    ran: list[str]


@pytest.fixture(scope="session")
def first(tmp_path_factory: pytest.TempPathFactory) -> First:
    board = copied(tmp_path_factory.mktemp("board") / "first")
    board.params = small(board.params)
    commit(board)
    # Results to be published into a folder that exists and is empty.
    (board / "leaderboard/results").mkdir()
    return First(board, board.repro(LEAKBOARD_TRACKING="on"))


@pytest.fixture(scope="module")
def computed(first: First, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Board]:
    """The finished board to work on, shared by a module's tests in their order."""
    target = tmp_path_factory.mktemp("copy") / "board"
    shutil.copytree(first.board.folder, target)
    board = Board(target)
    yield board
    for process in board.processes():
        process.kill()
