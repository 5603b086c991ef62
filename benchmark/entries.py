"""Entries of a store inside a stage's out, so that they travel with it.

``entries/<digest>/`` holds exactly what the out is made of. What a fresh clone got by
``dvc pull`` joins the local store before anything is computed, and so is not computed again; what
the out no longer wants stays in the local store. Files are linked, not copied, where they can be.
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Iterable
from functools import partial
from pathlib import Path
from statistics import median

from benchmark.cells import Store
from benchmark.progress import clock

FOLDER = "entries"
LATEST = 200
"""Entries from which it is told how long others will take."""


def adopt(out: Path, store: Store) -> None:
    """Take over the entries of a stage's last out that the store lacks."""
    folder = out / FOLDER
    for entry in folder.iterdir() if folder.is_dir() else ():
        if store.get(entry.name) is None:
            store.put(entry.name, partial(_link, entry))


def place(folders: Iterable[Path], out: Path) -> None:
    """Fill an out that is being written with entries of the store."""
    for folder in folders:
        target = entry_path(out, folder.name)
        if not target.exists():
            target.mkdir(parents=True)
            _link(folder, target)


def entry_path(out: Path, digest: str) -> Path:
    """Where an out has an entry."""
    return out / FOLDER / digest


def measured(store: Store, file: str) -> list[float]:
    """The seconds that the store's latest entries took, as their ``file`` has it."""
    found = sorted(store.root.glob(f"*/{file}"), key=lambda path: path.stat().st_mtime)
    return [json.loads(path.read_text(encoding="utf-8"))["seconds"] for path in found[-LATEST:]]


def plan_line(what: str, total: int, missing: int, known: Iterable[float], workers: int) -> str:
    """What there is, what has to be computed, and how long that takes if it takes what is known.

    >>> plan_line("cells", 51, 0, [], 2)
    '51 cells: all there'
    >>> plan_line("runs", 51, 3, [40.0], 2)
    '51 runs: 48 there, 3 to compute, about 1:00'
    """
    if not missing:
        return f"{total} {what}: all there"
    seconds = list(known)
    last = f"about {clock(missing * median(seconds) / workers)}" if seconds else "time unknown yet"
    return f"{total} {what}: {total - missing} there, {missing} to compute, {last}"


def _link(source: Path, target: Path) -> None:
    shutil.copytree(source, target, copy_function=_link_or_copy, dirs_exist_ok=True)


def _link_or_copy(source: str, target: str) -> None:
    try:
        os.link(source, target)
    except OSError:  # another disk, or one without links
        shutil.copyfile(source, target)
