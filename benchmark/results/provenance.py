"""Where a number comes from: which code, whether it was committed, on which kind of machine."""

from __future__ import annotations

import hashlib
import os
import platform
import subprocess
from functools import lru_cache
from pathlib import Path

WATCHED = ("benchmark", "stages", "params.yaml", "dvc.yaml", "requirements.txt")
"""What changes numbers: uncommitted changes elsewhere do not make a result dirty."""


@lru_cache(maxsize=1)
def commit() -> str:
    """The checked-out commit's hash, or ``unknown`` outside a git checkout."""
    return _git("rev-parse", "HEAD") or "unknown"


@lru_cache(maxsize=1)
def dirty() -> bool:
    """Whether code or parameters differ from the commit; True where that cannot be told."""
    changed = _git("status", "--porcelain", "--", *WATCHED)
    return changed is None or bool(changed)


@lru_cache(maxsize=1)
def machine() -> str:
    """The kind of machine, without its name: system, processor, cores, accelerator."""
    cores = os.cpu_count() or 1
    return f"{platform.system()} {platform.machine()}, {processor()}, {cores} cores"


def summary() -> dict[str, str | bool]:
    """The columns that a cell carries."""
    return {"commit": commit(), "dirty": dirty(), "machine": machine()}


def file_digests(folder: Path) -> dict[str, str]:
    """SHA-256 of every file of published results but provenance.json, by its path in the folder."""
    return {
        path.relative_to(folder).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(folder.rglob("*"))
        if path.is_file()
        and path != folder / "provenance.json"
        and not path.name.startswith(".")  # what editors and desktops leave
    }


def processor() -> str:
    """The processor's model, as far as the system tells."""
    try:
        for line in Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines():
            if line.startswith("model name"):
                return " ".join(line.split(":", 1)[1].split())
    except OSError:
        pass
    return platform.processor() or "unknown processor"


def _git(*arguments: str) -> str | None:
    try:
        done = subprocess.run(
            ["git", *arguments], capture_output=True, text=True, timeout=20, check=True
        )
    except (OSError, subprocess.SubprocessError):
        return None
    return done.stdout.strip()
