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

from benchmark.runtime.files import write_json
from benchmark.runtime.progress import clock
from benchmark.runtime.store import Store

FOLDER, LIST = "entries", "entries.json"
LATEST = 200
"""Entries from which it is told how long others will take."""


def adopt(out: Path, store: Store) -> None:
    """Take over the entries of a stage's last out that the store lacks.

    Only whole ones: a checkout that was killed leaves empty folders and half their files.
    """
    try:
        listed = json.loads((out / LIST).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return  # nothing says what is whole: it is computed again
    for digest, sizes in listed.items():
        entry = entry_path(out, digest)
        if store.get(digest) is None and _sizes(entry) == sizes:
            store.put(digest, partial(_link, entry))


def place(folders: Iterable[Path], out: Path) -> None:
    """Fill an out that is being written with entries of the store, and list their files."""
    listed: dict[str, dict[str, int]] = {}
    for folder in folders:
        target = entry_path(out, folder.name)
        if not target.exists():
            target.mkdir(parents=True)
            _link(folder, target)
        listed[folder.name] = _sizes(target)
    write_json(out / LIST, listed)


def _sizes(folder: Path) -> dict[str, int]:
    return {
        path.relative_to(folder).as_posix(): path.stat().st_size
        for path in folder.rglob("*")
        if path.is_file()
    }


def entry_path(out: Path, digest: str) -> Path:
    """Where an out has an entry."""
    return out / FOLDER / digest


def measured(store: Store, file: str) -> list[float]:
    """The seconds that the store's latest entries took, as their ``file`` has it."""
    found = sorted(store.root.glob(f"*/{file}"), key=lambda path: path.stat().st_mtime)
    records = (json.loads(path.read_text(encoding="utf-8")) for path in found[-LATEST:])
    return [record["seconds"] for record in records if "seconds" in record]


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
        os.link(os.path.realpath(source), target)  # a cache may have put a link there
    except OSError:  # another disk, or one without links
        shutil.copyfile(source, target)
