"""How far long work is, and how long it will take: a bar on a terminal, now and then a line else.

On stderr, so that what a command prints stays clean.
"""

from __future__ import annotations

import sys
import time
from types import TracebackType
from typing import Any


class Progress:
    """Counts ``total`` jobs; silent without a description."""

    def __init__(self, total: int, describe: str, every: float = 10.0) -> None:
        self._total, self._describe, self._every = total, describe, every
        self._done = 0
        self._start = self._spoken = time.monotonic()
        self._bar: Any = None

    def __enter__(self) -> Progress:
        if self._describe and self._total and sys.stderr.isatty():
            from tqdm import tqdm

            self._bar = tqdm(total=self._total, desc=self._describe, file=sys.stderr, smoothing=0.1)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self._bar is not None:
            self._bar.close()

    def advance(self) -> None:
        """One more job is done."""
        self._done += 1
        if self._bar is not None:
            self._bar.update()
        self.tick()

    def tick(self) -> None:
        """Show that time passes; call it as often as you like."""
        if self._bar is not None:
            self._bar.refresh()
        elif self._describe and time.monotonic() - self._spoken >= self._every:
            self._spoken = time.monotonic()
            print(self.line(self._spoken - self._start), file=sys.stderr, flush=True)

    def line(self, elapsed: float) -> str:
        """The state as one line, after ``elapsed`` seconds."""
        left = "?"
        if self._done:
            left = clock(elapsed / self._done * (self._total - self._done))
        return f"{self._describe}: {self._done}/{self._total}, {clock(elapsed)} gone, {left} left"


def clock(seconds: float) -> str:
    """Hours, minutes and seconds."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"
