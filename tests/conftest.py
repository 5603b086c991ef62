"""How long properties are looked for, and in which order files of tests are handed to workers.

HYPOTHESIS_PROFILE=nightly takes an hour, not a minute. A worker takes a file at a time (``--dist
loadfile``), so a long one at the end leaves the other worker idle: what takes longest comes first.
The files of ``end_to_end`` share one board, computed once: they begin apart.
"""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from hypothesis import settings

settings.register_profile("normal", max_examples=200, deadline=None)
settings.register_profile("nightly", max_examples=10_000, deadline=None)
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "normal"))

ROOT = Path(__file__).parent
FIRST = (
    "end_to_end/test_changes.py", "attacks/test_contract.py", "end_to_end/test_wrong.py",
    "defenses/test_differential_privacy.py", "evidence/test_generic.py",
    "end_to_end/test_interrupted.py", "runtime/test_tracking.py", "end_to_end/test_stages.py",
    "attacks/test_peeling.py", "end_to_end/test_board.py", "end_to_end/test_tracked.py",
    "federated/test_simulation.py",
)  # fmt: skip


@pytest.hookimpl(trylast=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    def place(item: pytest.Item) -> int:
        name = item.path.relative_to(ROOT).as_posix()
        return FIRST.index(name) if name in FIRST else len(FIRST)

    items.sort(key=place)
