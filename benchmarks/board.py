"""How long a board takes: from nothing, again, and with one defense more.

``python -m benchmarks.board`` clones the committed tree into a temporary folder, runs ``dvc repro``
there with this environment, and prints seconds, processor seconds and peak memory for every stage,
for a second run in which nothing changed, and for a run to which a new defense was added.
"""

from __future__ import annotations

import argparse
import os
import re
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import psutil
from ruamel.yaml import YAML

ROOT = Path(__file__).resolve().parents[1]
STAGE = re.compile(r"Running stage '([^']+)'")
DEFENSE = '''"""Rounding: every entry is sent as the nearest multiple of a step."""

from dataclasses import dataclass

from torch import Generator

from benchmark.defenses.base import Defense, register
from benchmark.federated.update import Update


@register
@dataclass(frozen=True, kw_only=True)
class Rounding(Defense):
    """Rounds to multiples of ``step``."""

    name = "rounding"
    title = "Rounding"
    cite = "none"
    url = "https://example.org"
    summary = "Every entry is sent as the nearest multiple of a step."
    step: float = 0.01

    def protect(self, update: Update, memory: Update, rng: Generator) -> tuple[Update, Update]:
        """Round; nothing is remembered."""
        return update.map(lambda x: (x / self.step).round() * self.step), memory
'''


@dataclass
class Used:
    """What a run used, by stage and in all."""

    seconds: float = 0.0
    processor: float = 0.0
    memory: int = 0
    stages: list[tuple[str, float]] = field(default_factory=list)


def repro(folder: Path) -> Used:
    """Run ``dvc repro``; its own and its children's time, and the most memory they had together.

    Raises:
        subprocess.CalledProcessError: it failed.
    """
    used, ended = Used(), threading.Event()
    environment = os.environ | {
        "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
        "OMP_NUM_THREADS": "1", "DVC_NO_ANALYTICS": "1", "MLFLOW_DISABLE_TELEMETRY": "true",
    }  # fmt: skip
    began, before = time.monotonic(), os.times()
    process = subprocess.Popen(
        [sys.executable, "-m", "dvc", "repro"], cwd=folder, env=environment, text=True,
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
    )  # fmt: skip
    watch = threading.Thread(target=_watch, args=(process.pid, used, ended.is_set))
    watch.start()
    assert process.stdout is not None
    for line in process.stdout:
        now = time.monotonic() - began
        print(f"{now:7.1f} {line}", end="", file=sys.stderr)
        if found := STAGE.search(line):
            used.stages.append((found[1], now))
    code = process.wait()
    ended.set()
    watch.join()
    used.seconds, after = time.monotonic() - began, os.times()
    used.processor = sum(
        getattr(after, part) - getattr(before, part)
        for part in ("children_user", "children_system")
    )
    if code:
        raise subprocess.CalledProcessError(code, process.args)
    return used


def _watch(pid: int, used: Used, ended: Callable[[], bool]) -> None:
    while not ended():
        total = 0
        try:
            tree = psutil.Process(pid)
            for process in [tree, *tree.children(recursive=True)]:
                total += process.memory_info().rss
        except psutil.Error:
            pass
        used.memory = max(used.memory, total)
        time.sleep(0.5)


def main() -> None:
    """Measure the three runs and print them as a table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--boards", nargs="*", help="only these boards of params.yaml")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place) / "repository"
        subprocess.run(["git", "clone", "--quiet", ROOT, folder], check=True)
        yaml = YAML()
        params = yaml.load(folder / "params.yaml")
        if options.boards:
            params["boards"] = options.boards
            yaml.dump(params, folder / "params.yaml")
        cold = repro(folder)
        again = repro(folder)
        (folder / "benchmark/defenses/rounding.py").write_text(DEFENSE, encoding="utf-8")
        params["defenses"]["rounding"] = {}
        params["scenarios"][params["boards"][0]]["entrants"].append("rounding")
        yaml.dump(params, folder / "params.yaml")
        added = repro(folder)
    print("| run | wall s | processor s | peak memory GB |\n| --- | --- | --- | --- |")
    for name, used in (("cold", cold), ("nothing changed", again), ("a defense added", added)):
        gigabytes = used.memory / 1e9
        print(f"| {name} | {used.seconds:.1f} | {used.processor:.1f} | {gigabytes:.2f} |")
    ends = [start for _, start in cold.stages[1:]] + [cold.seconds]
    print("\n| stage | wall s |\n| --- | --- |")
    for (stage, start), end in zip(cold.stages, ends, strict=True):
        print(f"| {stage} | {end - start:.1f} |")


if __name__ == "__main__":
    main()
