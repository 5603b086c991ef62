"""The cell store: finished work under the digest of everything it depends on.

A cell is a folder of safetensors and JSON files. It is written beside the store's cells, flushed
and renamed, so a cell is there whole or not at all, and whoever is killed loses one cell.
"""

from __future__ import annotations

import hashlib
import json
import os
import platform
import re
import shutil
import tempfile
import time
from collections.abc import Callable, Iterable, Mapping
from importlib import metadata
from pathlib import Path
from typing import Any

ROOT = Path(".leakboard/cells")
LIBRARIES = ("torch", "numpy", "scipy", "opacus")
"""What a cell's numbers depend on besides our own source."""

_DIGEST = re.compile(r"[0-9a-f]{64}")
_SUFFIXES = (".safetensors", ".json")
_DAY = 24 * 3600.0


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
    """Finished cells in ``root``, which any number of processes may use at once."""

    def __init__(self, root: Path | str = ROOT) -> None:
        self.root = Path(root)
        self._unfinished = self.root / "unfinished"
        self._sweep()

    def get(self, digest: str) -> Path | None:
        """The cell's folder, to be read only, or None if it is not there."""
        path = self.path(digest)
        return path if path.is_dir() else None

    def put(self, digest: str, writer: Callable[[Path], None]) -> Path:
        """Let ``writer`` fill an empty folder and keep it as the cell; returns the cell's folder.

        Where somebody else was first, theirs stays and ours is dropped: equal digests mean equal
        content.

        Raises:
            ValueError: the writer left something that is neither safetensors nor JSON.
            Exception: whatever the writer raised; nothing is kept then.
        """
        path = self.path(digest)
        self._unfinished.mkdir(parents=True, exist_ok=True)
        folder = Path(tempfile.mkdtemp(prefix=_signature(), dir=self._unfinished))
        try:
            writer(folder)
            _flush(folder)
            try:
                folder.rename(path)
            except OSError:
                if not path.is_dir():
                    raise
            else:
                _fsync(self.root)
            return path
        finally:
            shutil.rmtree(folder, ignore_errors=True)

    def path(self, digest: str) -> Path:
        """Where a cell is, or will be."""
        if not _DIGEST.fullmatch(digest):
            raise ValueError(f"{digest!r} is no SHA-256 digest")
        return self.root / digest

    def _sweep(self) -> None:
        """Remove what killed writers left: of dead processes here, or older than a day."""
        for folder in self._unfinished.glob("*~*~*"):
            host, pid, _ = folder.name.rsplit("~", 2)
            try:
                old = time.time() - folder.stat().st_mtime > _DAY
            except FileNotFoundError:
                continue
            if old or (host == platform.node() and not is_alive(int(pid))):
                shutil.rmtree(folder, ignore_errors=True)


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


def _signature() -> str:
    return f"{platform.node()}~{os.getpid()}~"


def is_alive(pid: int) -> bool:
    """Whether a process of this machine has that number."""
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        pass
    return True


def _flush(folder: Path) -> None:
    """Force the folder's files to disk: a rename may otherwise survive a crash that they do not."""
    for path in sorted(folder.rglob("*"), reverse=True):
        if path.is_file() and path.suffix not in _SUFFIXES:
            raise ValueError(f"a cell holds {' and '.join(_SUFFIXES)} files, not {path.name}")
        _fsync(path)
    _fsync(folder)
    folder.chmod(0o755)


def _fsync(path: Path) -> None:
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
