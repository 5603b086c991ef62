"""Resolve the transitive pins of requirements.txt again, for the direct pins it has now.

To upgrade a library, edit its line in one of the two direct sections and run `make pins`; to add
one, put its name into pyproject.toml too. Everything is installed into an empty environment
first, so what is written is what a fresh clone gets. Left out: local versions (`+cpu`) and the
packages that only a CUDA build of torch pulls in, so that one file serves both kinds of machine.
"""

from __future__ import annotations

import re
import subprocess
import sys
import tempfile
import tomllib
import venv
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
REQUIREMENTS = ROOT / "requirements.txt"
CUDA_ONLY = re.compile(r"^(nvidia[-_]|cuda[-_]|triton\b)")

HEADER = """\
# Every version that LeakBoard runs with, direct and transitive, pinned here and nowhere else.
# Upgrade: edit a direct line, then `make pins` writes the transitive ones again.
# torch is a plain version: the registry in use decides between its CPU and its CUDA build.
"""


def canonical(name: str) -> str:
    """A distribution's name as PEP 503 spells it."""
    return re.sub(r"[-_.]+", "-", name).lower()


def pins(text: str) -> dict[str, str]:
    """The `name==version` lines of a requirements file or a freeze: canonical name to line."""
    lines = [line.split("#")[0].strip() for line in text.splitlines()]
    return {canonical(line.split("==")[0]): line for line in lines if line}


def freeze(wanted: list[str]) -> dict[str, str]:
    """Install `wanted` into an empty environment and say what is in it, without local versions."""
    with tempfile.TemporaryDirectory() as folder:
        venv.create(folder, with_pip=True)
        pip = [str(Path(folder) / "bin" / "python"), "-m", "pip", "--disable-pip-version-check"]
        subprocess.run([*pip, "install", *wanted], check=True)
        frozen = subprocess.run([*pip, "freeze"], check=True, capture_output=True, text=True).stdout
    plain = re.sub(r"\+[A-Za-z0-9.]+$", "", frozen, flags=re.MULTILINE)
    return {name: line for name, line in pins(plain).items() if not CUDA_ONLY.match(name)}


def main() -> None:
    """Rewrite requirements.txt in place."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    run = sorted(map(canonical, project["project"]["dependencies"]))
    dev = sorted(map(canonical, project["dependency-groups"]["dev"]))
    current = pins(REQUIREMENTS.read_text(encoding="utf-8"))
    frozen = freeze([current.get(name, name) for name in run + dev])
    rest = sorted(frozen.keys() - set(run) - set(dev))
    parts = {
        "Direct: what benchmark/, stages/ and leaderboard/ import or call.": run,
        "Direct: what the tests and `make check` need.": dev,
        "Transitive.": rest,
    }
    text = HEADER
    for title, names in parts.items():
        text += f"\n# {title}\n" + "".join(f"{frozen[name]}\n" for name in names)
    REQUIREMENTS.write_text(text, encoding="utf-8")
    print(f"{len(run) + len(dev)} direct and {len(rest)} transitive pins", file=sys.stderr)


if __name__ == "__main__":
    main()
