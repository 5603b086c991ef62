"""Files and folders that are there whole or not at all, and locks between processes."""

from __future__ import annotations

import contextlib
import json
import os
import platform
import shutil
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

LOCKS = Path(".leakboard/locks")
DRAFTS = Path(".leakboard/drafts")
_DAY = 24 * 3600.0


class BusyError(ValueError):
    """Another process holds the lock; the message is one line."""


@contextlib.contextmanager
def locked(name: str, wait: bool = True, folder: Path = LOCKS) -> Iterator[None]:
    """Hold the lock ``name`` (``/`` allowed) against other processes; the system frees it at exit.

    Says on stderr which process it waits for.

    Raises:
        BusyError: it is held and ``wait`` is False.
    """
    from filelock import FileLock, Timeout

    path = folder / f"{name.replace('/', '--')}.lock"
    folder.mkdir(parents=True, exist_ok=True)
    lock = FileLock(path)
    try:
        lock.acquire(blocking=False)
    except Timeout:
        pid = path.read_text(encoding="utf-8").strip() or "?"
        holder = f"{name}: another run (process {pid}) is at work"
        if not wait:
            raise BusyError(holder) from None
        print(f"{holder}; waiting for it to end", file=sys.stderr, flush=True)
        lock.acquire(poll_interval=0.2)
    try:
        path.write_text(f"{os.getpid()}\n", encoding="utf-8")
        yield
    finally:
        lock.release()


@contextlib.contextmanager
def draft(home: Path) -> Iterator[Path]:
    """An empty folder of this process's own in ``home``, removed when the block ends.

    First removes those that killed processes left: of this machine by their number, of others
    those that are older than a day.
    """
    home.mkdir(parents=True, exist_ok=True)
    for folder in home.glob("*~*~*"):
        host, pid, _ = folder.name.rsplit("~", 2)
        with contextlib.suppress(FileNotFoundError):
            old = time.time() - folder.stat().st_mtime > _DAY
            if not is_alive(int(pid)) if host == platform.node() else old:
                shutil.rmtree(folder, ignore_errors=True)
    made = Path(tempfile.mkdtemp(prefix=f"{platform.node()}~{os.getpid()}~", dir=home))
    made.chmod(0o755)
    try:
        yield made
    finally:
        shutil.rmtree(made, ignore_errors=True)


@contextlib.contextmanager
def fresh_folder(path: Path | str) -> Iterator[Path]:
    """An empty folder to write to, which becomes ``path`` when the block ends without an error.

    What was at ``path`` stays until then. Links on the way, ``path`` itself included, are followed.
    The draft lies out of sight of whatever depends on the folder around ``path``, on the same disk.
    """
    path = Path(os.path.realpath(path))
    path.parent.mkdir(parents=True, exist_ok=True)
    DRAFTS.mkdir(parents=True, exist_ok=True)
    near = DRAFTS.stat().st_dev == path.parent.stat().st_dev
    home = DRAFTS if near else path.parent / ".drafts"
    try:
        with draft(home) as folder:
            yield folder
            swap(folder, path, folder.with_name(f"{folder.name}.old"))
    finally:
        if not near:
            with contextlib.suppress(OSError):
                home.rmdir()


def swap(folder: Path, path: Path, aside: Path) -> None:
    """Put ``folder`` in the place of ``path``, whose content waits at ``aside`` and goes back on an
    error or an interrupt; all three are on one disk."""
    try:
        with contextlib.suppress(FileNotFoundError):
            path.rename(aside)
        folder.rename(path)
    except BaseException:
        if aside.exists() and not path.exists():
            aside.rename(path)
        raise
    shutil.rmtree(aside, ignore_errors=True)


def write_json(path: Path, content: Any) -> None:
    """Write ``content`` as readable JSON, whole or not at all."""
    write_text(path, json.dumps(content, indent=2, sort_keys=True, allow_nan=False) + "\n")


def write_text(path: Path, text: str) -> None:
    """Write ``text`` to a temporary neighbour and rename it into place."""
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    try:
        with os.fdopen(handle, "w", encoding="utf-8", newline="") as file:
            file.write(text)
        os.chmod(name, 0o644)
        os.replace(name, path)
    except BaseException:
        Path(name).unlink(missing_ok=True)
        raise


def is_alive(pid: int) -> bool:
    """Whether a process of this machine has that number."""
    import psutil

    return bool(psutil.pid_exists(pid))
