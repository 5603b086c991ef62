"""One run at a time, whole folders or none, and a clear end whatever happens to whom."""

from __future__ import annotations

import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from benchmark.runtime.files import BusyError, is_alive, locked

ROOT = Path(__file__).parents[2]

STAGE = """
import os, sys, time
from pathlib import Path
from benchmark.config.errors import ParamsError
from benchmark.runtime.files import fresh_folder, locked
from benchmark.runtime.session import Defects, main

def stage(kind: str, defense: str = "none") -> None:
    if kind == "params":
        raise ParamsError("a.b: 3 is not allowed: must be\\nless")
    if kind == "file":
        open("no/such/file")
    if kind == "defect":
        raise ValueError("ours")
    if kind == "failures":
        raise Defects(["a/b failed: it\\nbroke", "c failed: no"])
    with locked("stage"), fresh_folder("out/folder") as folder:
        (folder / "half.json").write_text(defense)
        if kind == "long":
            print(os.getpid(), flush=True)
            time.sleep(60)
        (folder / "whole.json").write_text(defense)

if __name__ == "__main__":
    main(stage)
"""


@pytest.fixture
def folder(tmp_path, monkeypatch):
    (tmp_path / "stage.py").write_text(STAGE)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    monkeypatch.delenv("LEAKBOARD_DEBUG", raising=False)
    return tmp_path


def _stage(*arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "stage", *arguments]
    return subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)


def _start(*command: str) -> tuple[subprocess.Popen[str], int]:
    """A process and the number that its stage prints when its folder is half written."""
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    assert process.stdout is not None
    return process, int(process.stdout.readline())


def _end(process: subprocess.Popen[str]) -> str:
    _, errors = process.communicate(timeout=20)
    return errors


def _until(condition: Callable[[], bool], seconds: float = 15.0) -> bool:
    end = time.monotonic() + seconds
    while not condition() and time.monotonic() < end:
        time.sleep(0.05)
    return condition()


def test_a_stage_that_ends_well_leaves_its_folder_and_exits_with_0(folder):
    assert _stage("short", "dgp").returncode == 0
    assert sorted(p.name for p in (folder / "out/folder").iterdir()) == ["half.json", "whole.json"]
    assert list((folder / ".leakboard/drafts").iterdir()) == []


@pytest.mark.parametrize(
    ("arguments", "code", "says"),
    [
        (["params"], 2, "python -m stage: a.b: 3 is not allowed: must be less\n"),
        (["file"], 2, "python -m stage: No such file or directory: no/such/file\n"),
        ([], 2, "usage: python -m stage kind [defense]\n"),
        (["short", "a", "b"], 2, "usage: python -m stage kind [defense]\n"),
    ],
)
def test_what_a_user_can_mend_is_one_line(folder, arguments, code, says):
    done = _stage(*arguments)
    assert (done.returncode, done.stderr) == (code, says)


def test_a_defect_shows_its_traceback(folder):
    done = _stage("defect")
    assert done.returncode == 1
    assert "Traceback" in done.stderr and "ValueError: ours" in done.stderr


def test_every_failure_is_a_line_and_the_exit_status_is_1(folder):
    done = _stage("failures")
    says = "python -m stage: a/b failed: it broke\npython -m stage: c failed: no\n"
    assert (done.returncode, done.stderr) == (1, says)


def test_debugging_shows_every_traceback(folder, monkeypatch):
    monkeypatch.setenv("LEAKBOARD_DEBUG", "1")
    done = _stage("params")
    assert done.returncode == 2
    assert "Traceback" in done.stderr


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_an_interrupted_stage_leaves_nothing_half_written(folder, number, code):
    process, _ = _start(sys.executable, "-m", "stage", "long")
    process.send_signal(number)
    assert "Traceback" not in _end(process)
    assert process.returncode == code
    assert not (folder / "out/folder").exists()
    assert list((folder / ".leakboard/drafts").iterdir()) == []


def test_ctrl_c_is_heard_by_a_stage_that_inherited_deafness(folder):
    process, _ = _start("sh", "-c", f"trap '' INT; exec {sys.executable} -m stage long")
    process.send_signal(signal.SIGINT)
    _end(process)
    assert process.returncode == 130


def test_a_killed_stage_leaves_a_draft_that_the_next_run_clears(folder):
    process, _ = _start(sys.executable, "-m", "stage", "long")
    process.kill()
    _end(process)
    assert not (folder / "out/folder").exists()
    assert _stage("short").returncode == 0  # the lock is free
    assert list((folder / ".leakboard/drafts").iterdir()) == []


@pytest.mark.parametrize("shells", [0, 1, 2])
def test_a_stage_ends_when_whoever_called_it_is_killed(folder, shells):
    """As DVC calls: through a shell, which itself survives."""
    command = f"{sys.executable} -m stage long"
    for _ in range(shells):
        command = f"sh -c '{command}; :'" if "'" not in command else f'sh -c "{command}; :"'
    caller = f"import subprocess, shlex; subprocess.run(shlex.split({command!r}))"
    process, stage = _start(sys.executable, "-c", caller)
    process.kill()
    assert _until(lambda: not is_alive(stage))
    assert "Traceback" not in _end(process)
    assert _until(lambda: list((folder / ".leakboard/drafts").iterdir()) == [])
    assert not (folder / "out/folder").exists()


def test_a_stage_ends_when_dvc_is_killed_and_the_next_repro_does_its_work(folder):
    dvc = (sys.executable, "-m", "dvc")
    pipeline = (
        f"stages:\n  s:\n    cmd: {sys.executable} -m stage ${{kind}}\n    outs: [out/folder]\n"
    )
    (folder / "dvc.yaml").write_text(pipeline)
    (folder / "params.yaml").write_text("kind: long\n")
    subprocess.run([*dvc, "init", "-q", "--no-scm"], check=True, timeout=60)
    with open("log", "w") as log:
        process = subprocess.Popen([*dvc, "repro"], stdout=log, stderr=log)
    drafts = folder / ".leakboard/drafts"
    assert _until(lambda: any(drafts.glob("*/half.json")), 30.0), Path("log").read_text()
    holder = int((folder / ".leakboard/locks/stage.lock").read_text())
    process.kill()
    process.wait()
    assert _until(lambda: not is_alive(holder))
    assert list(drafts.iterdir()) == []
    (folder / "params.yaml").write_text("kind: short\n")
    subprocess.run([*dvc, "repro", "-q"], check=True, timeout=60)
    assert (folder / "out/folder/whole.json").exists()


def test_a_second_run_waits_and_says_so(folder):
    first, pid = _start(sys.executable, "-m", "stage", "long")
    command = [sys.executable, "-m", "stage", "short"]
    second = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
    assert second.stderr is not None
    assert f"another run (process {pid}) is at work; waiting" in second.stderr.readline()
    first.send_signal(signal.SIGTERM)
    _end(first)
    _end(second)
    assert second.returncode == 0
    assert (folder / "out/folder/whole.json").exists()


def test_who_will_not_wait_is_told_who_holds_the_lock(folder):
    process, pid = _start(sys.executable, "-m", "stage", "long")
    with pytest.raises(BusyError, match=str(pid)), locked("stage", wait=False):
        pass
    process.kill()
    _end(process)
    with locked("stage", wait=False):
        pass


def test_different_locks_do_not_meet(folder):
    with locked("train/a"), locked("train/b", wait=False):
        pass
