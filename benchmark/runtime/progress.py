"""How far long work is, and how long it will take: tqdm's bar on a terminal, else a line at times.

On stderr, so that what a command prints stays clean.
"""

from __future__ import annotations

import sys
from typing import Any

from tqdm import tqdm

EVERY = 10.0
"""Seconds between two lines where no terminal shows a bar."""


class _Lines(tqdm):
    """The same figures, one line each, for logs."""

    def display(self, msg: str | None = None, pos: int | None = None) -> None:
        print(str(self), file=sys.stderr, flush=True)

    def close(self) -> None:
        self.disable = True  # tqdm would end its bar with a carriage return


def progress(total: int, describe: str) -> Any:
    """A tqdm bar to ``update``, also by 0 to show that time passes; silent without a name."""
    if sys.stderr.isatty():
        return tqdm(total=total, desc=describe, smoothing=0.1, miniters=0, disable=not describe)
    form = "{desc}: {n_fmt}/{total_fmt}, {elapsed} gone, {remaining} left"
    return _Lines(
        total=total, desc=describe, bar_format=form, smoothing=0, miniters=0,
        mininterval=EVERY, delay=EVERY, disable=not describe,
    )  # fmt: skip


def clock(seconds: float) -> str:
    """Hours, minutes and seconds."""
    return str(tqdm.format_interval(round(seconds)))
