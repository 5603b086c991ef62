"""Whether more budget would have helped: what a few victims yield at each budget, as a curve."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import pandas as pd

_PLACE = ["defense", "point", "checkpoint", "batch_size"]
# The drawing in its own units: a frame with room for labels on its left and below it.
WIDTH, HEIGHT = 190.0, 84.0
LEFT, RIGHT, TOP, BOTTOM = 34.0, 176.0, 8.0, 64.0

Step = Mapping[str, Any]
"""What one budget found: a row of saturation.csv."""


def steps(table: pd.DataFrame, row: Mapping[str, Any]) -> tuple[Step, ...]:
    """The steps of one row of the ranking by budget; none where it was not tried.

    Args:
        table: saturation.csv.
        row: anything with the row's defense, point, checkpoint and batch size.
    """
    here = table[(table[_PLACE] == [row[name] for name in _PLACE]).all(axis=1)]
    return tuple(here.sort_values("budget", kind="stable").to_dict("records"))


def dots(found: Sequence[Step]) -> list[tuple[float, float, Step]]:
    """Where each step stands: budgets on a logarithmic axis, success from 0 (below) to 1."""
    if not found:
        return []
    least, most = (math.log(found[k]["budget"]) for k in (0, -1))
    scale = (RIGHT - LEFT) / ((most - least) or 1.0)
    return [
        (round(LEFT + scale * (math.log(step["budget"]) - least), 2),
         height(step["success_rate"]), step)
        for step in found
    ]  # fmt: skip


def height(success: float) -> float:
    """The ordinate of a success rate in [0, 1]; 1 is on top."""
    return round(BOTTOM - (BOTTOM - TOP) * success, 2)
