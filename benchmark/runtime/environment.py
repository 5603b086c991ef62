"""What the environment says of how attacks run, checked before the first of them.

A machine's facts are no cell's result: a device that is not there would fail every cell.
"""

from __future__ import annotations

import math
import os

from benchmark.runtime.parallel import ExecutionError, choose, refuse_missing

SECONDS = "LEAKBOARD_CELL_SECONDS"


def check() -> None:
    """Refuse a device, a time limit, a compilation rule or an executor that cannot be had.

    Raises:
        ExecutionError: naming the variable and what is allowed.
    """
    refuse_missing(choose(1).executor)
    cell_seconds()
    if os.environ.get("LEAKBOARD_COMPILE") or os.environ.get("LEAKBOARD_DEVICE"):
        from benchmark.attacks.engine import memory
        from benchmark.attacks.engine import trace as traces

        for of_the_environment in (memory.device, traces.compiled_after):
            try:
                of_the_environment()
            except ValueError as error:
                raise ExecutionError(str(error)) from None


def cell_seconds() -> float | None:
    """Seconds that a cell may take, or None where nothing limits it.

    Raises:
        ExecutionError: it is no positive number.
    """
    text = os.environ.get(SECONDS)
    if not text:
        return None
    try:
        limit = float(text)
    except ValueError:
        limit = math.nan
    if not 0 < limit < math.inf:
        raise ExecutionError(f"{SECONDS}: {text!r} is not allowed: a number of seconds above 0")
    return limit
