"""A small board in a copy of the repository, and what can be done to it."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil
from ruamel.yaml import YAML

ROOT = Path(__file__).resolve().parents[2]
LEFT_OUT = ("tests", "docs", "dvc.lock", "leaderboard/results")


TOGETHER = """
import contextlib, io, json, runpy, sys
done = []
for command in json.load(sys.stdin):
    if isinstance(command, dict):
        with open("params.yaml", "w") as file:
            json.dump(command, file)  # JSON is YAML
        continue
    stage, *arguments = command.split()
    sys.argv[1:], said = arguments, io.StringIO()
    with contextlib.redirect_stdout(said), contextlib.redirect_stderr(said):
        try:
            runpy.run_module(f"stages.{stage}", run_name="__main__", alter_sys=True)
        except SystemExit as end:
            done.append((end.code, said.getvalue()))
print(json.dumps(done))
"""


@dataclass
class Board:
    """A copy of the repository, and what can be done to it."""

    folder: Path

    def __truediv__(self, path: str) -> Path:
        return self.folder / path

    @property
    def params(self) -> dict[str, Any]:
        return YAML(typ="safe").load(self / "params.yaml")

    @params.setter
    def params(self, content: dict[str, Any]) -> None:
        with open(self / "params.yaml", "w", encoding="utf-8") as file:
            YAML(typ="safe").dump(content, file)

    def environment(self, **extra: str) -> dict[str, str]:
        """One worker (the stage itself), one thread, nothing outside the copy's surroundings."""
        kept = {k: v for k, v in os.environ.items() if not k.startswith(("LEAKBOARD_", "MLFLOW_"))}
        return kept | {
            "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
            "DVC_SITE_CACHE_DIR": str(self.folder.parent / f"{self.folder.name}.dvc"),
            "DVC_NO_ANALYTICS": "1",
            "MLFLOW_DISABLE_TELEMETRY": "true",
            "OMP_NUM_THREADS": "1",
            "LEAKBOARD_TRACKING": "off",
            "LEAKBOARD_WORKERS": "1",
            **extra,
        }

    def start(self, *command: str, **extra: str) -> subprocess.Popen[str]:
        """A Python module as a process group of its own; what it says is read by `finish`."""
        return subprocess.Popen(
            [sys.executable, "-m", *command],
            cwd=self.folder, env=self.environment(**extra), text=True, start_new_session=True,
            stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
        )  # fmt: skip

    def call(self, *command: str, **extra: str) -> tuple[int, str]:
        """Exit status and everything that was said."""
        process = self.start(*command, **extra)
        said, _ = process.communicate(timeout=400)
        return process.returncode, said

    def together(self, *commands: str | dict[str, Any], **extra: str) -> list[tuple[int, str]]:
        """Stages, one after the other, as :meth:`call` has them, but in one process: what takes
        most of a stage's time here is importing.

        Args:
            commands: ``"train digits"`` and the like, or parameters to be written before the next.
        """
        lines = json.dumps(commands)
        done = subprocess.run(
            [sys.executable, "-c", TOGETHER], cwd=self.folder, env=self.environment(**extra),
            input=lines, text=True, capture_output=True, timeout=400, check=False,
        )  # fmt: skip
        assert done.returncode == 0, done.stderr
        return [(code, said) for code, said in json.loads(done.stdout.splitlines()[-1])]

    def computed(self, scenario: str, *stages: str) -> str:
        """What these stages say, which must succeed."""
        done = self.together(*(f"{stage} {scenario}" for stage in stages), "publish")
        assert not any(code for code, _ in done), done
        return "".join(said for _, said in done)

    def repro(self, *arguments: str, **extra: str) -> list[str]:
        """`dvc repro`, which must succeed; the stages that it ran, in order."""
        code, said = self.call("dvc", "repro", *arguments, **extra)
        assert code == 0, said
        return ran(said)

    def changes(self) -> list[str]:
        """The stages that DVC would run, without what would run because of them, and without
        publishing, which looks every time."""
        code, said = self.call("dvc", "status")
        assert code == 0, said
        lines = [line for line in said.splitlines() if line.endswith(":") and line[0] != "\t"]
        named = [line[:-1] for line in lines]
        return [name for name in named if name != "publish"]

    def processes(self) -> list[psutil.Process]:
        """Whatever still works inside the copy."""
        found = []
        for process in psutil.process_iter():
            try:
                alive = process.status() != psutil.STATUS_ZOMBIE
                if alive and Path(process.cwd()).is_relative_to(self.folder):
                    found.append(process)
            except psutil.Error:
                continue
        return found

    def cells(self, kind: str = "cells") -> dict[str, tuple[int, int]]:
        """Finished cells, or ``runs``, by digest: inode and time of the last change of a file."""
        record = {"cells": "cell.json", "runs": "record.json"}[kind]
        found = {}
        for file in (self / ".leakboard" / kind).glob(f"*/{record}"):
            facts = file.stat()
            found[file.parent.name] = (facts.st_ino, facts.st_mtime_ns)
        return found

    def snapshot(self, *folders: str) -> dict[str, tuple[int, bytes]]:
        """Every file below the folders, with its time and content."""
        return {
            str(path.relative_to(self.folder)): (path.stat().st_mtime_ns, path.read_bytes())
            for folder in folders
            for path in sorted((self / folder).rglob("*"))
            if path.is_file()
        }


def ran(said: str) -> list[str]:
    """The stages that `dvc repro` says it ran."""
    start, end = "Running stage '", "':"
    lines = (line.strip() for line in said.splitlines())
    return [x[len(start) : -len(end)] for x in lines if x.startswith(start) and x.endswith(end)]


def until(condition: Callable[[], Any], seconds: float = 60.0) -> bool:
    """Whether the condition came true in time."""
    end = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > end:
            return False
        time.sleep(0.02)
    return True


ENTRANTS = {"digits": ["none", "dgp"], "digits-fedavg": ["none", "fedrep"]}


def small(params: dict[str, Any]) -> dict[str, Any]:
    """The committed parameters at a size that takes seconds: little training, few victims."""
    params["seeds"] = [0, 1]
    params["boards"] = list(ENTRANTS)
    params["defenses"]["dgp"]["points"] = {"paper": {"drop_largest": 0.05, "drop_smallest": 0.75}}
    params["defenses"]["fedrep"]["points"] = {"private-1": {"private_layers": 1}}
    for name, rounds in (("digits", 4), ("digits-fedavg", 3)):
        scenario = params["scenarios"][name]
        scenario["federation"] |= {"rounds": rounds, "checkpoints": {"init": 0, "early": 2}}
        scenario["observation"]["victims"] = 4
        scenario |= {"entrants": ENTRANTS[name], "attacks": ["ig"]}
    params["attacks"]["ig"] = {"iterations": 8, "settings": ["board"]}
    return params


def copied(target: Path, source: Path = ROOT) -> Board:
    """A fresh checkout of a repository's files as they are; of ours without results and lock."""
    left_out = LEFT_OUT if source == ROOT else ()
    target.mkdir(parents=True)
    _git(target, "init", "-q")
    # What is not ignored, by the eyes of the new repository: ours may be an unpacked archive.
    options = (f"--git-dir={target / '.git'}", f"--work-tree={source}")
    listed = _git(source, *options, "ls-files", "--others", "--exclude-standard")
    for file in map(Path, listed.splitlines()):
        if not any(file.is_relative_to(place) for place in left_out) and (source / file).is_file():
            (target / file).parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(source / file, target / file)
    return Board(target)


def commit(board: Board) -> None:
    """Put everything that is not ignored under version control."""
    name = ("-c", "user.name=tests", "-c", "user.email=tests@example.invalid")
    _git(board.folder, "add", ".")
    _git(board.folder, *name, "commit", "-q", "-m", "As it is")


def _git(folder: Path, *arguments: str) -> str:
    command = ["git", "-c", "core.quotePath=false", *arguments]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=True)
    return done.stdout
