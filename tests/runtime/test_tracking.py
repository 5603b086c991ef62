"""What MLflow shows after a stage, and that nothing about tracking can hurt a stage."""

from __future__ import annotations

import http.server
import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
import urllib.request
from pathlib import Path
from typing import Any

import pytest

from benchmark.runtime import delivery
from benchmark.runtime.tracking import ROOT as KEPT
from benchmark.runtime.tracking import flatten, tracked

ROOT = Path(__file__).parents[2]
PICTURE = b"\x89PNG\r\n\x1a\n" + bytes(100)


@pytest.fixture(autouse=True)
def _workplace(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    # MLflow remembers stores by address, and a relative one means another file in every test.
    monkeypatch.setattr(delivery, "DEFAULT_URI", f"sqlite:///{tmp_path}/mlflow.db")
    for name in ("MLFLOW_TRACKING_URI", "LEAKBOARD_TRACKING"):
        monkeypatch.delenv(name, raising=False)


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    """The address of a real tracking server on loopback."""
    folder = tmp_path_factory.mktemp("server")
    address = f"http://127.0.0.1:{(port := _free_port())}"
    command = [
        sys.executable, "-m", "mlflow", "server", "--host", "127.0.0.1", "--port", str(port),
        "--workers", "1", "--backend-store-uri", f"sqlite:///{folder}/server.db",
        "--artifacts-destination", str(folder / "artifacts"),
    ]  # fmt: skip
    with open(folder / "log", "w") as log:
        environment = os.environ | {"MLFLOW_DISABLE_TELEMETRY": "true"}
        process = subprocess.Popen(
            command, cwd=folder, stdout=log, stderr=log, env=environment, start_new_session=True
        )
    end = time.monotonic() + 120
    while True:
        assert process.poll() is None and time.monotonic() < end, (folder / "log").read_text()
        try:
            with urllib.request.urlopen(f"{address}/health", timeout=2):
                break
        except OSError:
            time.sleep(0.2)
    yield address
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()


def _stage(defense: str = "dgp", deliver: bool = True) -> None:
    with tracked("digits", "attack", defense, {"seeds": [0], "a": {"b": 1}}, deliver) as run:
        run.log(metrics={"cells": 2}, images={"all": PICTURE})
        for seed in (0, 1):
            run.child(
                f"seed {seed}",
                params={"seed": seed},
                metrics={"psnr": 30.0, "epsilon": float("inf"), "none": None, "odd": float("nan")},
                curves={"loss": [(step, 1 / (step + 1)) for step in range(1000)]},
                images={"strip/init": PICTURE},
                tags={"point": "paper"},
            )


def _runs(uri: str, experiment: str = "digits") -> dict[str, Any]:
    client = delivery._client(uri)
    found = client.get_experiment_by_name(experiment)
    runs = client.search_runs([found.experiment_id]) if found else []
    names = [run.info.run_name for run in runs]
    assert len(set(names)) == len(names), names
    return dict(zip(names, runs, strict=True))


def _check(uri: str) -> dict[str, Any]:
    """What :func:`_stage` leaves, seen by a client; returns the runs."""
    runs = _runs(uri)
    client = delivery._client(uri)
    parent, child = runs["attack/dgp"], runs["seed 0"]
    assert parent.info.status == child.info.status == "FINISHED"
    assert parent.data.params == {"seeds": "[0]", "a.b": "1"}
    assert parent.data.metrics == {"cells": 2}
    for key, value in {"stage": "attack", "scenario": "digits", "defense": "dgp"}.items():
        assert parent.data.tags[key] == child.data.tags[key] == value
    assert parent.data.tags["git_commit"]
    assert child.data.tags["mlflow.parentRunId"] == parent.info.run_id
    assert child.data.tags["point"] == "paper"
    assert child.data.params == {"seed": "0", "epsilon": "inf"}
    assert set(child.data.metrics) == {"psnr", "loss"}
    curve = client.get_metric_history(child.info.run_id, "loss")
    assert sorted((m.step, m.value) for m in curve) == [(s, 1 / (s + 1)) for s in range(1000)]
    (picture,) = client.list_artifacts(child.info.run_id)
    assert picture.path == "strip_init.png"
    place = client.download_artifacts(child.info.run_id, picture.path, ".")
    assert Path(place).read_bytes() == PICTURE
    return runs


@pytest.mark.parametrize("store", ["sqlite", "server"])
def test_a_stage_is_seen_with_curves_and_pictures_and_a_rerun_replaces_it(
    store, monkeypatch, request
):
    uri = delivery.DEFAULT_URI
    if store == "server":
        uri = request.getfixturevalue("server")
        monkeypatch.setenv("MLFLOW_TRACKING_URI", uri)
        monkeypatch.setenv("MLFLOW_HTTP_REQUEST_TIMEOUT", "60")  # a busy machine answers late
    _stage()
    _stage("other")
    names = _runs_named(uri)
    assert names.count("attack/dgp") == names.count("attack/other") == 1
    _stage()
    assert sorted(_runs_named(uri)) == sorted(names)
    assert list((KEPT / "pending").iterdir()) == list((KEPT / "sending").iterdir()) == []
    if store == "server":
        assert not Path("mlflow.db").exists()
    else:
        assert len(list(Path("mlartifacts").iterdir())) == 6  # none of the deleted


def _runs_named(uri: str) -> list[str]:
    client = delivery._client(uri)
    experiment = client.get_experiment_by_name("digits")
    return [run.info.run_name for run in client.search_runs([experiment.experiment_id])]


@pytest.mark.parametrize("store", ["sqlite", "server"])
def test_every_value_arrives(store, monkeypatch, request, tmp_path):
    uri = delivery.DEFAULT_URI
    if store == "server":
        uri = request.getfixturevalue("server")
        monkeypatch.setenv("MLFLOW_TRACKING_URI", uri)
        client = delivery._client(uri)  # what another test left
        for run in client.search_runs([e.experiment_id for e in client.search_experiments()]):
            client.delete_run(run.info.run_id)
    _stage()
    _check(uri)


def test_short_stages_are_kept_and_sent_with_the_next_delivery():
    _stage("a", deliver=False)
    _stage("a", deliver=False)
    _stage("b", deliver=False)
    assert len(list((KEPT / "pending").iterdir())) == 2
    assert not Path("mlflow.db").exists()
    delivery.deliver()
    assert sorted(_runs_named(delivery.DEFAULT_URI)) == sorted(
        ["attack/a", "attack/b"] + 2 * ["seed 0", "seed 1"]
    )


def test_a_failure_is_shown_and_does_not_push_out_the_last_success():
    _stage()
    for status, error in (("FAILED", RuntimeError), ("KILLED", KeyboardInterrupt)):
        with pytest.raises(error), tracked("digits", "attack", "dgp"):
            raise error
        delivery.deliver()
        client = delivery._client(delivery.DEFAULT_URI)
        found = client.search_runs(["1"], "attributes.run_name = 'attack/dgp'")
        assert sorted(run.info.status for run in found) == sorted(["FINISHED", status])
    _stage()
    _check(delivery.DEFAULT_URI)


def test_a_run_whose_process_died_is_closed_as_killed():
    client = delivery._client(delivery.DEFAULT_URI)
    dead = subprocess.Popen(["true"])
    dead.wait()
    experiment = client.create_experiment("digits")
    tags = {"stage": "attack", "scenario": "digits", "defense": "dgp"}
    tags |= {"host": delivery.platform.node()}
    gone = client.create_run(experiment, tags=tags | {"pid": str(dead.pid)}).info.run_id
    alive = client.create_run(experiment, tags=tags | {"pid": str(os.getppid())}).info.run_id
    _stage()
    assert client.get_run(gone).info.status == "KILLED"
    assert client.get_run(alive).info.status == "RUNNING"
    assert client.get_run(alive).info.lifecycle_stage == "active"


def test_a_server_that_is_gone_costs_a_line_and_what_is_kept_arrives_later(monkeypatch, capsys):
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"http://user:secret@127.0.0.1:{_free_port()}")
    start = time.monotonic()
    _stage()
    assert time.monotonic() - start < 40
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("tracking: http://127.0.0.1:") and line.endswith("kept for later")
    assert "secret" not in line
    monkeypatch.delenv("MLFLOW_TRACKING_URI")
    delivery.deliver()
    _check(delivery.DEFAULT_URI)


def test_a_server_that_never_answers_is_given_up(monkeypatch, capsys):
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_TIMEOUT", "1")
    with socket.create_server(("127.0.0.1", 0)) as silent:
        monkeypatch.setenv("MLFLOW_TRACKING_URI", f"http://127.0.0.1:{silent.getsockname()[1]}")
        start = time.monotonic()
        _stage()
        assert time.monotonic() - start < 15
    assert "1 records are kept" in capsys.readouterr().err


def test_a_server_that_answers_nonsense_costs_a_line(monkeypatch, capsys):
    class Nonsense(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(200)
            self.end_headers()
            self.wfile.write(b"<html>")

        do_POST = do_GET

        def log_message(self, *arguments: Any) -> None:
            pass

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Nonsense) as nonsense:
        threading.Thread(target=nonsense.serve_forever, daemon=True).start()
        monkeypatch.setenv("MLFLOW_TRACKING_URI", f"http://127.0.0.1:{nonsense.server_port}")
        _stage()
        nonsense.shutdown()
    assert len(capsys.readouterr().err.splitlines()) == 1


def test_a_store_that_mlflow_refuses_costs_a_line(monkeypatch, capsys):
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "./mlruns")
    _stage()
    assert "kept for later" in capsys.readouterr().err


def test_off_is_off(monkeypatch):
    monkeypatch.setenv("LEAKBOARD_TRACKING", "off")
    _stage()
    assert list(Path().iterdir()) == []


def test_processes_that_meet_at_a_fresh_database_all_arrive(tmp_path):
    code = (
        "import sys; from benchmark.runtime.tracking import tracked\n"
        "with tracked('digits', 'train', sys.argv[1], deliver=True) as run: run.log({'x': 1})"
    )
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    racers = [
        subprocess.Popen([sys.executable, "-c", code, name], env=environment, stderr=-1, text=True)
        for name in "abc"
    ]
    errors = [racer.communicate(timeout=120)[1] for racer in racers]
    assert [racer.returncode for racer in racers] == [0, 0, 0]
    assert not any("Traceback" in text or "tracking:" in text for text in errors), errors
    assert sorted(_runs(delivery.DEFAULT_URI)) == ["train/a", "train/b", "train/c"]


def test_keeping_a_record_imports_no_mlflow():
    code = (
        "import sys; from benchmark.runtime.tracking import tracked\n"
        "with tracked('digits', 'train', 'a') as run: run.log({'x': 1})\n"
        "assert not {'mlflow', 'torch', 'pandas'} & set(sys.modules)"
    )
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    subprocess.run([sys.executable, "-c", code], env=environment, check=True, timeout=60)
    (record,) = (KEPT / "pending").iterdir()
    assert json.loads((record / "record.json").read_text())["metrics"] == {"x": 1.0}


def test_nested_parameters_become_dotted_text():
    nested = {"a": {"b": 1, "c": {"d": [1, 2]}}, "e": None, "f!": {}, "g": "x" * 9000}
    assert flatten(nested) == {"a.b": "1", "a.c.d": "[1, 2]", "f_": "{}", "g": "x" * 6000}
