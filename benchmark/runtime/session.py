"""How every stage runs from the command line: its arguments, its exit status, and its end.

A stage that is interrupted, killed or orphaned leaves no half-written folder and no process.
"""

from __future__ import annotations

import contextlib
import inspect
import os
import re
import signal
import sys
import time
import traceback
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from types import FrameType
from typing import Any, NoReturn

from benchmark.runtime.workers import watch

_SHELLS = ("sh", "dash", "bash", "zsh", "ksh", "fish")


class StageError(ValueError):
    """A stage cannot go on; the message is one line that says why."""


class Defects(RuntimeError):
    """Work failed by a fault of ours after all other work was done: one line per failure."""

    def __init__(self, lines: Sequence[str]) -> None:
        super().__init__(f"{len(lines)} failed")
        self.lines = [" ".join(line.split()) for line in lines]


def main(function: Callable[..., None]) -> NoReturn:
    """Run a stage from the command line: its positional arguments are the function's parameters.

    Exits with 0, with 2 after one line on stderr for what a user can mend (errors of our own and
    those of the file system), with 1 after a line per failure where some of the work failed
    (:class:`Defects`), with 130 after Ctrl-C, with 143 when told to end; anything else is a defect
    and shows its traceback. LEAKBOARD_DEBUG=1 shows all tracebacks.
    """
    arguments = sys.argv[1:]
    try:
        inspect.signature(function).bind(*arguments)
    except TypeError:
        names = [
            f"[{p.name}]" if p.default is not p.empty else p.name
            for p in inspect.signature(function).parameters.values()
        ]
        print(" ".join([f"usage: {_program()}", *names]), file=sys.stderr)
        sys.exit(2)
    # DVC and shells may hand Ctrl-C down as ignored; a stage always listens.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    signal.signal(signal.SIGTERM, _terminated)
    end_with_caller()
    try:
        function(*arguments)
    except KeyboardInterrupt:
        print(f"{_program()}: interrupted", file=sys.stderr)
        sys.exit(130)
    except Defects as defects:
        for line in defects.lines:
            print(f"{_program()}: {line}", file=sys.stderr)
        sys.exit(1)
    except Exception as error:
        message = _for_the_user(error)
        if message is None or os.environ.get("LEAKBOARD_DEBUG"):
            traceback.print_exc()
        if message is None:
            sys.exit(1)
        print(f"{_program()}: {message}", file=sys.stderr)
        sys.exit(2)
    sys.exit(0)


def say(line: str) -> None:
    """One line about long work, beside what tools print."""
    print(line, file=sys.stderr, flush=True)


def end_with_caller() -> None:
    """End this process soon after the program that called it: DVC, killed, leaves stages running.

    The caller is the parent; where that is a shell that only runs our command, the shell's parent
    too. An interactive shell or a background job's init is no caller.
    """
    import psutil

    def runs(caller: psutil.Process) -> bool:
        with contextlib.suppress(psutil.Error):
            return caller.is_running() and caller.status() != psutil.STATUS_ZOMBIE
        return False

    def end() -> None:
        say(f"{_program()}: the caller is gone, ending")
        os.kill(os.getpid(), signal.SIGTERM)
        time.sleep(5.0)  # for drafts to be removed and workers to be ended
        os._exit(143)

    callers = [caller for caller in _callers() if runs(caller)]
    if callers:
        watch(lambda: all(map(runs, callers)), end)


def _callers() -> Iterator[Any]:
    import psutil

    with contextlib.suppress(psutil.Error):
        for parent in psutil.Process().parents():
            command = parent.cmdline()
            shell = bool(command) and Path(command[0].lstrip("-")).name in _SHELLS
            runs_a_command = any(re.fullmatch("-[a-z]*c", word) for word in command)
            if parent.pid == 1 or (shell and not runs_a_command):
                return
            yield parent
            if not shell:
                return


def _terminated(number: int, frame: FrameType | None) -> NoReturn:
    signal.signal(number, signal.SIG_IGN)  # once is enough: let drafts and workers be cleared away
    sys.exit(128 + number)


def _program() -> str:
    spec = getattr(sys.modules.get("__main__"), "__spec__", None)
    return f"python -m {spec.name}" if spec else Path(sys.argv[0]).name


def _for_the_user(error: Exception) -> str | None:
    """The one line that a user gets, or None for a defect of ours."""
    text: Any = None
    if isinstance(error, OSError):
        text = f"{error.strerror or error}: {error.filename}" if error.filename else error
    elif isinstance(error, ValueError) and type(error).__module__.startswith("benchmark."):
        text = error
    return None if text is None else " ".join(str(text).split())
