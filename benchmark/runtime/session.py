"""What every stage needs around its work: one run at a time, whole folders or none, clear ends.

A stage that is interrupted, killed or orphaned leaves no half-written folder and no process.
"""

from __future__ import annotations

import contextlib
import fcntl
import inspect
import os
import re
import shutil
import signal
import sys
import time
import traceback
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from types import FrameType
from typing import Any, NoReturn

from benchmark.runtime.workers import watch

LOCKS = Path(".leakboard/locks")
_SHELLS = ("sh", "dash", "bash", "zsh", "ksh", "fish")


class BusyError(ValueError):
    """Somebody else holds the lock; the message is one line."""


class StageError(ValueError):
    """A stage cannot go on; the message is one line that says why."""


class Defects(RuntimeError):
    """Work failed by a fault of ours after all other work was done: one line per failure."""

    def __init__(self, lines: Sequence[str]) -> None:
        super().__init__(f"{len(lines)} failed")
        self.lines = [" ".join(line.split()) for line in lines]


@contextlib.contextmanager
def locked(name: str, wait: bool = True, folder: Path = LOCKS) -> Iterator[None]:
    """Hold the lock ``name`` (``/`` allowed) against other processes; the system frees it at exit.

    Says on stderr whom it waits for.

    Raises:
        BusyError: it is held and ``wait`` is False.
    """
    folder.mkdir(parents=True, exist_ok=True)
    with open(folder / f"{name.replace('/', '--')}.lock", "a+", encoding="utf-8") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            file.seek(0)
            holder = f"{name}: another run (process {file.read().strip() or '?'}) is at work"
            if not wait:
                raise BusyError(holder) from None
            print(f"{holder}; waiting for it to end", file=sys.stderr, flush=True)
            fcntl.flock(file, fcntl.LOCK_EX)
        file.truncate(0)
        file.write(f"{os.getpid()}\n")
        file.flush()
        yield


@contextlib.contextmanager
def fresh_folder(path: Path | str) -> Iterator[Path]:
    """An empty folder to write to, which becomes ``path`` when the block ends without an error.

    What was at ``path`` stays until then. Leftovers of killed runs are removed first, so hold a
    lock (:func:`locked`) on whatever owns ``path``.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    draft, old = (_beside(path, kind) for kind in ("draft", "old"))
    for leftover in (draft, old):
        shutil.rmtree(leftover, ignore_errors=True)
    draft.mkdir(parents=True)
    try:
        yield draft
        with contextlib.suppress(FileNotFoundError):
            path.rename(old)
        try:
            draft.rename(path)
        except OSError:
            old.rename(path)
            raise
        shutil.rmtree(old, ignore_errors=True)
    finally:
        shutil.rmtree(draft, ignore_errors=True)


def _beside(path: Path, kind: str) -> Path:
    """Out of sight of whoever depends on the folder that ``path`` lies in, on the same disk."""
    home = Path(".leakboard/drafts")
    home.mkdir(parents=True, exist_ok=True)
    if home.stat().st_dev != path.parent.stat().st_dev:
        return path.with_name(f".{path.name}.{kind}")
    return home / f"{str(path.absolute()).strip('/').replace('/', '--')[-200:]}.{kind}"


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
    callers = [(pid, start) for pid in _callers() if (start := _born(pid)) is not None]

    def end() -> None:
        print(f"{_program()}: the caller is gone, ending", file=sys.stderr, flush=True)
        os.kill(os.getpid(), signal.SIGTERM)
        time.sleep(5.0)  # for drafts to be removed and workers to be ended
        os._exit(143)

    if callers:
        watch(lambda: all(_born(pid) == start for pid, start in callers), end)


def _callers() -> Iterator[int]:
    import psutil

    with contextlib.suppress(psutil.Error):
        for parent in psutil.Process().parents():
            command = parent.cmdline()
            shell = bool(command) and Path(command[0].lstrip("-")).name in _SHELLS
            runs_a_command = any(re.fullmatch("-[a-z]*c", word) for word in command)
            if parent.pid == 1 or (shell and not runs_a_command):
                return
            yield parent.pid
            if not shell:
                return


def _born(pid: int) -> float | None:
    """When a process started (numbers are used again), or None if it is no more."""
    import psutil

    try:
        process = psutil.Process(pid)
        return None if process.status() == psutil.STATUS_ZOMBIE else process.create_time()
    except psutil.Error:
        return None


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
