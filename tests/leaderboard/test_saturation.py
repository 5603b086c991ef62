"""The budget's curve: where its points stand, and that only a row's own steps are drawn."""

from __future__ import annotations

import math

import pandas as pd
import pytest

from benchmark.results.columns import names
from leaderboard.saturation import BOTTOM, LEFT, RIGHT, TOP, dots, steps

ROW = {"defense": "dgp", "point": "paper", "checkpoint": "init", "batch_size": 1}


def table(*rows: tuple[int, float], **place: object) -> pd.DataFrame:
    """saturation.csv with one row per (budget, success rate)."""
    blank = dict.fromkeys(names("saturation.csv"))
    return pd.DataFrame(
        [{**blank, **ROW, **place, "budget": b, "success_rate": rate} for b, rate in rows]
    )


def test_equal_factors_of_budget_are_equally_far_apart() -> None:
    at = [x for x, _, _ in dots(steps(table((1, 0.0), (4, 0.0), (16, 0.0)), ROW))]
    assert at == pytest.approx([LEFT, (LEFT + RIGHT) / 2, RIGHT])
    three = dots(steps(table((1, 0.0), (3, 0.0), (10, 0.0)), ROW))[1][0]
    assert three == pytest.approx(LEFT + (RIGHT - LEFT) * math.log10(3), abs=0.01)


def test_nothing_stands_on_the_ground_and_everything_on_top() -> None:
    found = dots(steps(table((10, 1.0), (1, 0.0), (3, 0.5)), ROW))
    assert [y for _, y, _ in found] == pytest.approx([BOTTOM, (BOTTOM + TOP) / 2, TOP])
    assert [step["budget"] for _, _, step in found] == [
        1,
        3,
        10,
    ]  # in any order


def test_one_budget_is_a_point_and_none_is_nothing() -> None:
    ((x, _, step),) = dots(steps(table((1, 0.25)), ROW))
    assert (x, step["success_rate"]) == (LEFT, 0.25)
    assert dots(()) == []


@pytest.mark.parametrize("column", ROW)
def test_another_rows_steps_are_left_out(column: str) -> None:
    other = {column: 2 if column == "batch_size" else "other"}
    assert steps(table((1, 0.5), **other), ROW) == ()
    assert len(steps(table((1, 0.5)), ROW)) == 1
