"""Jobs come back wherever they run, failures are values, and no worker outlives its parent."""

from __future__ import annotations

import importlib
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from benchmark.config.errors import ParamsError
from benchmark.runtime import parallel as execution
from benchmark.runtime.files import is_alive
from benchmark.runtime.parallel import ExecutionError, Failure, choose, run
from benchmark.runtime.workers import visible_gpus
from tests import jobs

ROOT = Path(__file__).parents[2]


@pytest.fixture(autouse=True)
def _plain_settings(monkeypatch, tmp_path):
    for name in ("LEAKBOARD_EXECUTOR", "LEAKBOARD_WORKERS", "CUDA_VISIBLE_DEVICES"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(execution, "SETTINGS", tmp_path / "execution.json")


def _until(condition: Callable[[], bool], seconds: float = 20.0) -> bool:
    end = time.monotonic() + seconds
    while not condition() and time.monotonic() < end:
        time.sleep(0.05)
    return condition()


def test_serial_and_loky_give_the_same_bits(monkeypatch):
    serial = dict(run(jobs.summed, range(4), workers=1))
    parallel = dict(run(jobs.summed, range(4), workers=2))
    assert serial == parallel


def test_a_worker_has_one_thread_and_is_not_this_process():
    found = [result for _, result in run(jobs.surroundings, range(4), workers=2)]
    assert {place["threads"] for place in found} == {1}
    assert os.getpid() not in {place["pid"] for place in found}
    assert {place["gpu"] for place in found} == {None}


def test_workers_take_turns_over_several_gpus(monkeypatch):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "4,MIG-7")
    found = [result for _, result in run(jobs.surroundings, range(8), workers=2)]
    by_worker = {place["pid"]: place["gpu"] for place in found}
    assert set(by_worker.values()) <= {"4", "MIG-7"}
    assert len(set(by_worker.values())) == len(by_worker)


def test_one_gpu_is_nothing_to_share_out(monkeypatch):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "0")
    assert visible_gpus() == ()


@pytest.mark.parametrize("workers", [1, 2])
def test_failures_are_values_with_a_status_and_one_line(workers):
    found = dict(run(jobs.troubled, ["memory", "cuda", "late", "wrong", "fine"], workers=workers))
    assert found == {
        "memory": Failure("oom", "MemoryError"),
        "cuda": Failure("oom", "OutOfMemoryError: CUDA out of memory. Tried to allocate"),
        "late": Failure("timeout", "TimeoutError: after 3 s"),
        "wrong": Failure("failed", "ValueError: two lines"),
        "fine": "fine",
    }


@pytest.mark.parametrize("workers", [1, 2])
def test_wrong_parameters_end_the_run_whichever_job_finds_out(workers):
    with pytest.raises(ParamsError, match="^dgp.share: too much$"):
        list(run(jobs.troubled, ["fine", "params"], workers=workers))


def test_a_result_that_cannot_be_sent_costs_its_job_only():
    found = dict(run(jobs.troubled, ["a", "unsendable", "b"], workers=2))
    failure = found.pop("unsendable")
    assert isinstance(failure, Failure) and failure.status == "failed"
    assert found == {"a": "a", "b": "b"}


def test_a_worker_that_dies_twice_costs_its_job_only():
    todo = ["a", "b", "die", "c", "d", "e", "f", "g"]
    found = dict(run(jobs.dies_always, todo, workers=2))
    assert found.pop("die") == Failure("failed", "worker died")
    assert found == {name: name for name in todo if name != "die"}


def test_a_worker_that_dies_once_costs_nothing(tmp_path):
    todo = [(str(tmp_path), number) for number in range(6)]
    assert dict(run(jobs.dies_once, todo, workers=2)) == {job: job[1] for job in todo}


def test_nothing_to_do_is_done_at_once():
    assert list(run(jobs.square, [], workers=2)) == []


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGINT, signal.SIGTERM])
def test_no_worker_outlives_its_parent(tmp_path, number):
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    parent = subprocess.Popen(
        [sys.executable, "-m", "tests.jobs", tmp_path],
        cwd=ROOT, env=environment, stderr=subprocess.DEVNULL,
    )  # fmt: skip
    try:
        assert _until(lambda: len(list(tmp_path.iterdir())) == 2)
        workers = [int(path.name) for path in tmp_path.iterdir()]
        parent.send_signal(number)
        assert parent.wait(timeout=60) != 0
        assert _until(lambda: not any(map(is_alive, workers)), 5.0)
    finally:
        parent.kill()


def test_leaving_early_ends_the_workers(tmp_path):
    begun = run(jobs.surroundings, range(100), workers=2)
    _, place = next(begun)
    begun.close()
    assert _until(lambda: not is_alive(place["pid"]), 5.0)


def test_the_environment_comes_before_the_settings_file(monkeypatch):
    assert choose(100, 3) == execution.Plan("loky", 3)
    assert choose(2, 3).workers == 2
    assert choose(1, 3).executor == "serial"
    execution.SETTINGS.write_text(json.dumps({"executor": "dask", "workers": 7, "address": "x"}))
    assert choose(100) == execution.Plan("dask", 7, "x")
    monkeypatch.setenv("LEAKBOARD_EXECUTOR", "serial")
    monkeypatch.setenv("LEAKBOARD_WORKERS", "5")
    assert choose(100) == execution.Plan("serial", 5, "x")


@pytest.mark.parametrize(
    "text",
    [
        '{"executor": "slurm"}',
        '{"worker": 1}',
        "{",
        "[]",
        '{"workers": 0}',
        '{"workers": "two"}',
        '{"workers": 1.5}',
    ],
)
def test_wrong_settings_are_one_line(text):
    execution.SETTINGS.write_text(text)
    with pytest.raises(ExecutionError) as caught:
        choose(10)
    assert len(str(caught.value).splitlines()) == 1


@pytest.mark.parametrize(("name", "package"), [("dask", "distributed"), ("ray", "ray")])
def test_clusters_compute_the_same_or_say_what_is_missing(monkeypatch, name, package):
    monkeypatch.setenv("LEAKBOARD_EXECUTOR", name)
    if importlib.util.find_spec(package):
        found = dict(run(jobs.square, range(5), workers=2))
        assert found == {number: number * number for number in range(5)}
    else:
        with pytest.raises(ExecutionError, match=f"{package!r}, which is not installed"):
            list(run(jobs.square, range(5), workers=2))
