"""The store: finished work (runs, cells) under the digest of everything that it depends on.

An entry is a folder of safetensors and JSON files. It is written beside the store's entries,
flushed and renamed, so it is there whole or not at all, and who is killed loses one entry.

Entries travel inside a stage's out, as ``entries/<digest>/``: what a fresh clone got by
``dvc pull`` joins the local store before anything is computed, and so is not computed again. What
the out no longer wants stays in the store until ``python -m benchmark.runtime.store gc``. Files are
linked, not copied, where they can be.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import platform
import re
import shutil
import sys
from collections.abc import Callable, Iterable, Mapping
from functools import partial
from importlib import metadata
from pathlib import Path
from statistics import median
from typing import Any

from benchmark.runtime.files import LOCKS, draft, locked, write_json
from benchmark.runtime.progress import clock

CELLS = Path(".leakboard/cells")
RUNS = Path(".leakboard/runs")
LIBRARIES = ("torch", "numpy", "scipy", "opacus")
"""What an entry's numbers depend on besides our own source."""
FOLDER, LIST = "entries", "entries.json"
LATEST = 200
"""Entries from which it is told how long others will take."""

_DIGEST = re.compile(r"[0-9a-f]{64}")
_SUFFIXES = (".safetensors", ".json")


def digest(*parts: Any) -> str:
    """SHA-256 of the parts, in order: JSON-able values, bytes, and files or folders as paths.

    Files count by content, folders by the relative names and contents of their files; where they
    lie does not matter. Tuples equal lists; the order of a mapping's keys does not matter.

    Raises:
        TypeError: a part, or something in it, is none of these.
    """
    total = hashlib.sha256()
    for part in parts:
        if isinstance(part, Path):
            kind, content = b"path", _path_digest(part)
        elif isinstance(part, bytes):
            kind, content = b"data", hashlib.sha256(part).digest()
        else:
            kind, content = b"json", hashlib.sha256(_canonical(part)).digest()
        total.update(kind + content)
    return total.hexdigest()


def library_versions(names: Iterable[str] = LIBRARIES) -> dict[str, str]:
    """Installed versions, nothing imported; a library that is not there has the version ``""``."""
    versions = {"python": platform.python_version()}
    for name in names:
        try:
            versions[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            versions[name] = ""
    return versions


class Store:
    """Finished entries in ``root``, which any number of processes may use at once."""

    def __init__(self, root: Path | str) -> None:
        self.root = Path(root)

    def path(self, digest: str) -> Path:
        """Where an entry is, or will be."""
        if not _DIGEST.fullmatch(digest):
            raise ValueError(f"{digest!r} is no SHA-256 digest")
        return self.root / digest

    def get(self, digest: str) -> Path | None:
        """The entry's folder, to be read only, or None if it is not there."""
        path = self.path(digest)
        return path if path.is_dir() else None

    def put(self, digest: str, writer: Callable[[Path], None]) -> Path:
        """Let ``writer`` fill an empty folder and keep it as the entry; returns its folder.

        Where another process was first, its entry stays: equal digests mean equal content.

        Raises:
            ValueError: the writer left something that is neither safetensors nor JSON.
            Exception: whatever the writer raised; nothing is kept then.
        """
        path = self.path(digest)
        with draft(self.root / "unfinished") as folder:
            writer(folder)
            _flush(folder)
            try:
                folder.rename(path)
            except OSError:
                if not path.is_dir():
                    raise
            _fsync(self.root)
        return path

    def adopt(self, out: Path) -> None:
        """Take over the entries of a stage's last out that are not here.

        Only whole ones: a checkout that was killed leaves empty folders and half their files.
        """
        try:
            listed = json.loads((out / LIST).read_text(encoding="utf-8"))
        except (OSError, ValueError):
            return  # nothing says what is whole: it is computed again
        for digest, sizes in listed.items():
            entry = entry_path(out, digest)
            if self.get(digest) is None and _sizes(entry) == sizes:
                self.put(digest, partial(_link, entry))

    def seconds(self, file: str) -> list[float]:
        """How long the latest entries took, as their ``file`` has it."""
        found = sorted(self.root.glob(f"*/{file}"), key=lambda path: path.stat().st_mtime)
        records = (json.loads(path.read_text(encoding="utf-8")) for path in found[-LATEST:])
        return [record["seconds"] for record in records if "seconds" in record]


def entry_path(out: Path, digest: str) -> Path:
    """Where an out has an entry."""
    return out / FOLDER / digest


def place(folders: Iterable[Path], out: Path) -> None:
    """Fill an out that is being written with entries of a store, and list their files."""
    listed = {}
    for folder in dict.fromkeys(folders):
        target = entry_path(out, folder.name)
        if not target.exists():
            _link(folder, target)
        listed[folder.name] = _sizes(target)
    write_json(out / LIST, listed)


def plan_line(what: str, total: int, missing: int, known: Iterable[float], workers: int) -> str:
    """What there is, what has to be computed, and how long that takes if it takes what is known.

    >>> plan_line("cells", 51, 0, [], 2)
    '51 cells: all there'
    >>> plan_line("runs", 51, 3, [40.0], 2)
    '51 runs: 48 there, 3 to compute, about 01:00'
    """
    if not missing:
        return f"{total} {what}: all there"
    seconds = list(known)
    last = f"about {clock(missing * median(seconds) / workers)}" if seconds else "time unknown yet"
    return f"{total} {what}: {total - missing} there, {missing} to compute, {last}"


def gc(artifacts: Path = Path("artifacts"), stores: Iterable[Path] = (CELLS, RUNS)) -> str:
    """Remove the entries that no out in ``artifacts`` lists; returns one line about it.

    Raises:
        BusyError: a stage that may be adding entries is at work.
        ValueError: a board does not list its entries, as after its artifacts were removed.
    """
    with contextlib.ExitStack() as stack:
        for lock in [*LOCKS.glob("train--*.lock"), *LOCKS.glob("attack--*.lock")]:
            stack.enter_context(locked(lock.stem, wait=False))
        wanted = _listed(artifacts)
        entries = [path for store in stores for path in store.glob("*") if _DIGEST.match(path.name)]
        unwanted = [path for path in entries if path.name not in wanted]
        for path in unwanted:
            with draft(path.parent / "unfinished") as folder:  # gone at once, or whole
                path.rename(folder / path.name)
    return f"{len(unwanted)} of {len(entries)} entries removed, {len(entries) - len(unwanted)} kept"


def _listed(artifacts: Path) -> set[str]:
    """The entries that outs list; every board must have its lists, or work of it could go."""
    outs = ("models", "guesses")
    boards = {path.parent for out in outs for path in artifacts.glob(f"*/{out}")}
    lists = [board / out / LIST for board in sorted(boards) for out in outs]
    missing = [path for path in lists if not path.is_file()]
    if missing or not lists:
        what = missing[0] if missing else f"{artifacts}/"
        raise ValueError(f"{what} lists no entries; run `dvc repro` or `dvc checkout` first")
    wanted: set[str] = set()
    for path in lists:
        try:
            wanted |= {*dict(json.loads(path.read_text("utf-8")))}
        except (ValueError, TypeError) as error:
            raise ValueError(f"{path} is no list of entries: {error}") from None
    return wanted


def _canonical(value: Any) -> bytes:
    _check_keys(value)
    return json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=True).encode()


def _check_keys(value: Any) -> None:
    """JSON would write the keys 1 and "1" alike; only text is allowed."""
    if isinstance(value, Mapping):
        for key, item in value.items():
            if not isinstance(key, str):
                raise TypeError(f"the key {key!r} is not text")
            _check_keys(item)
    elif isinstance(value, list | tuple):
        for item in value:
            _check_keys(item)


def _path_digest(path: Path) -> bytes:
    if not path.is_dir():
        with path.open("rb") as content:
            return hashlib.file_digest(content, "sha256").digest()
    total = hashlib.sha256()
    for file in sorted(p for p in path.rglob("*") if p.is_file()):
        name = hashlib.sha256(file.relative_to(path).as_posix().encode()).digest()
        total.update(name + _path_digest(file))
    return total.digest()


def _flush(folder: Path) -> None:
    """Force the folder's files to disk: a rename may otherwise survive a crash that they do not."""
    for path in sorted(folder.rglob("*"), reverse=True):
        if path.is_file() and path.suffix not in _SUFFIXES:
            raise ValueError(f"an entry holds {' and '.join(_SUFFIXES)} files, not {path.name}")
        _fsync(path)
    _fsync(folder)


def _fsync(path: Path) -> None:
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def _sizes(folder: Path) -> dict[str, int]:
    files = (path for path in folder.rglob("*") if path.is_file())
    return {path.relative_to(folder).as_posix(): path.stat().st_size for path in files}


def _link(source: Path, target: Path) -> None:
    shutil.copytree(source, target, copy_function=_link_or_copy, dirs_exist_ok=True)


def _link_or_copy(source: str, target: str) -> None:
    try:
        os.link(os.path.realpath(source), target)  # a cache may have put a link there
    except OSError:  # another disk, or one without links
        shutil.copyfile(source, target)


if __name__ == "__main__":
    if sys.argv[1:] != ["gc"]:
        sys.exit("usage: python -m benchmark.runtime.store gc")
    try:
        print(gc())
    except (OSError, ValueError) as error:
        sys.exit(f"python -m benchmark.runtime.store: {error}")
