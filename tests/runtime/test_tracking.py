"""What MLflow shows after a stage, and that nothing about tracking can hurt a stage."""

from __future__ import annotations

import http.server
import json
import os
import shutil
import signal
import socket
import sqlite3
import subprocess
import sys
import threading
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from benchmark.runtime import tracking
from benchmark.runtime.tracking import KEPT, deliver, flatten, tracked

ROOT = Path(__file__).parents[2]
PICTURE = b"\x89PNG\r\n\x1a\n" + bytes(100)


@pytest.fixture(scope="module")
def migrated(tmp_path_factory) -> Path:
    """A database as MLflow makes it, which takes it seconds: tests begin with a copy."""
    folder = tmp_path_factory.mktemp("migrated")
    tracking._client(f"sqlite:///{folder}/mlflow.db")
    with sqlite3.connect(folder / "mlflow.db") as database:
        database.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    return folder / "mlflow.db"


@pytest.fixture(autouse=True)
def _workplace(tmp_path, monkeypatch, migrated) -> None:
    """A checkout whose name has a space and an umlaut, with a database."""
    place = tmp_path / "a chäckout"
    place.mkdir()
    shutil.copyfile(migrated, place / "mlflow.db")
    _moved(place, monkeypatch)
    for name in ("MLFLOW_TRACKING_URI", "LEAKBOARD_TRACKING"):
        monkeypatch.delenv(name, raising=False)


def _moved(place: Path, monkeypatch) -> None:
    monkeypatch.chdir(place)
    # MLflow remembers stores by address, and a relative one means another file in every test.
    monkeypatch.setattr(tracking, "DEFAULT_URI", f"sqlite:///{place}/mlflow.db")


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@pytest.fixture(scope="module")
def server(tmp_path_factory, migrated) -> Iterator[str]:
    """The address of a real tracking server on loopback."""
    folder = tmp_path_factory.mktemp("server")
    shutil.copyfile(migrated, folder / "server.db")
    address = f"http://127.0.0.1:{(port := _free_port())}"
    command = [
        sys.executable, "-m", "mlflow", "server", "--host", "127.0.0.1", "--port", str(port),
        "--workers", "1", "--backend-store-uri", f"sqlite:///{folder}/server.db",
        "--artifacts-destination", str(folder / "artifacts"),
    ]  # fmt: skip
    with open(folder / "log", "w") as log:
        environment = os.environ | {"MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false"}
        environment |= {"MLFLOW_DISABLE_TELEMETRY": "true"}
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


def _stage(stage: str = "attack") -> None:
    with tracked("digits", stage, {"seeds": [0], "a": {"b": 1}}) as run:
        run.log(metrics={"cells": 2}, images={"all": PICTURE})
        for seed in (0, 1):
            run.child(
                f"seed {seed}",
                params={"seed": seed},
                metrics={"psnr": 30.0, "epsilon": float("inf"), "none": None, "odd": float("nan")},
                curves={"loss": [(step, 1 / (step + 1)) for step in range(1000)]},
                images={"strip/init": PICTURE},
                tags={"defense": "dgp"},
            )


def _sent(stage: str = "attack") -> None:
    _stage(stage)
    deliver()


def _runs(client: Any, experiment: str = "digits") -> list[Any]:
    found = client.get_experiment_by_name(experiment)
    return client.search_runs([found.experiment_id]) if found else []


def _current(client: Any) -> dict[str, Any]:
    """Runs that nothing superseded, by name; their names differ."""
    runs = [run for run in _runs(client) if "superseded" not in run.data.tags]
    named = {run.info.run_name: run for run in runs}
    assert len(named) == len(runs)
    return named


def _local() -> Any:
    return tracking._client(tracking.DEFAULT_URI)


def _check(client: Any) -> None:
    """What :func:`_stage` leaves, seen by a client."""
    runs = _current(client)
    parent, child = runs["attack"], runs["seed 0"]
    assert parent.info.status == child.info.status == "FINISHED"
    assert parent.data.params == {"seeds": "[0]", "a.b": "1"}
    assert parent.data.metrics == {"cells": 2}
    for key, value in {"stage": "attack", "scenario": "digits"}.items():
        assert parent.data.tags[key] == child.data.tags[key] == value
    assert parent.data.tags["git_commit"]
    assert child.data.tags["mlflow.parentRunId"] == parent.info.run_id
    assert child.data.tags["defense"] == "dgp"
    assert child.data.params == {"seed": "0", "epsilon": "inf"}
    assert set(child.data.metrics) == {"psnr", "loss"}
    curve = client.get_metric_history(child.info.run_id, "loss")
    assert sorted((m.step, m.value) for m in curve) == [(s, 1 / (s + 1)) for s in range(1000)]
    (picture,) = client.list_artifacts(child.info.run_id)
    assert picture.path == "strip_init.png"
    place = client.download_artifacts(child.info.run_id, picture.path, ".")
    assert Path(place).read_bytes() == PICTURE


@pytest.mark.parametrize("store", ["sqlite", "server"])
def test_every_value_arrives_and_a_rerun_supersedes_its_predecessor(store, monkeypatch, request):
    uri = tracking.DEFAULT_URI
    if store == "server":
        uri = request.getfixturevalue("server")
        monkeypatch.setenv("MLFLOW_TRACKING_URI", uri)
        monkeypatch.setenv("MLFLOW_HTTP_REQUEST_TIMEOUT", "60")  # a busy machine answers late
    client = tracking._client(uri)
    _sent()
    _sent("train")
    first = {run.info.run_id for run in _runs(client)}
    assert len(first) == 6
    _sent()
    runs = _runs(client)
    old = [run for run in runs if run.data.tags.get("superseded") == "true"]
    assert sorted(run.info.run_name for run in old) == ["attack", "seed 0", "seed 1"]
    assert {run.info.run_id for run in old} < first and len(runs) == 9
    for run in old:  # it stays, with its pictures
        assert len(client.list_artifacts(run.info.run_id)) == 1
    assert sum(run.info.run_name == "train" for run in runs) == 1
    assert not list(KEPT.iterdir())
    for run in runs:
        if run.data.tags["stage"] == "train":
            client.delete_run(run.info.run_id)
    _check(client)
    assert Path("mlartifacts").is_dir() == (store == "sqlite")


def test_stages_are_kept_until_they_are_sent_and_only_the_last_of_each():
    for stage in ("train", "train", "attack"):
        _stage(stage)
    assert len(list(KEPT.iterdir())) == 2 and not _runs(_local())
    deliver()
    names = [run.info.run_name for run in _runs(_local())]
    assert sorted(names) == sorted(["train", "attack"] + 2 * ["seed 0", "seed 1"])


@pytest.mark.parametrize("how", [shutil.copytree, shutil.move])
def test_pictures_lie_beside_the_database_wherever_the_checkout_is_taken(how, monkeypatch):
    _sent()
    old = Path.cwd()
    new = old.parent / "an öther place"
    how(old, new)
    _moved(new, monkeypatch)
    before = sorted(old.rglob("*.png"))
    _check(_local())
    _sent("train")
    assert sorted(old.rglob("*.png")) == before
    assert len(list((new / "mlartifacts").rglob("*.png"))) == 6
    for run in _runs(_local()):
        assert run.info.artifact_uri == f"mlartifacts/{run.info.run_id}/artifacts"


def test_pictures_lie_beside_a_database_elsewhere(monkeypatch, tmp_path, migrated):
    (tmp_path / "e ü").mkdir()
    shutil.copyfile(migrated, tmp_path / "e ü/runs.db")
    uri = f"sqlite:///{tmp_path}/e ü/runs.db"
    monkeypatch.setenv("MLFLOW_TRACKING_URI", uri)
    _sent()
    assert len(list((tmp_path / "e ü/mlartifacts").rglob("*.png"))) == 3
    _check(tracking._client(uri))
    assert not Path("mlartifacts").exists()


def test_a_failure_is_shown_and_does_not_supersede_the_last_success():
    _sent()
    for status, error in (("FAILED", RuntimeError), ("KILLED", KeyboardInterrupt)):
        with pytest.raises(error), tracked("digits", "attack"):
            raise error
        deliver()
        runs = [run for run in _runs(_local()) if run.info.run_name == "attack"]
        current = [run.info.status for run in runs if "superseded" not in run.data.tags]
        assert sorted(current) == sorted(["FINISHED", status])
    _sent()
    _check(_local())


def test_a_run_whose_process_died_is_closed_as_killed():
    client = _local()
    dead = subprocess.Popen(["true"])
    dead.wait()
    experiment = client.create_experiment("digits")
    tags = {"stage": "attack", "scenario": "digits", "host": tracking.platform.node()}
    named = {"tags": tags | {"pid": str(dead.pid)}, "run_name": "attack"}
    gone = client.create_run(experiment, **named).info.run_id
    named["tags"] = tags | {"pid": str(os.getppid())}
    alive = client.create_run(experiment, **named).info.run_id
    _sent()
    assert client.get_run(gone).info.status == "KILLED"
    assert client.get_run(gone).data.tags["superseded"] == "true"
    assert client.get_run(alive).info.status == "RUNNING"
    assert "superseded" not in client.get_run(alive).data.tags


# ------------------------------------------------ what goes wrong is one line, and the work goes on


def _one_line(capsys, kept: int = 1) -> str:
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("tracking: ") and line.endswith(f"{kept} runs are kept for later")
    return line


@pytest.mark.parametrize(
    "uri",
    [
        "http://127.0.0.1:PORT", "http://user:secret@127.0.0.1:PORT", "https://127.0.0.1:PORT",
        "http://127.0.0.1:5o00", "http://127.0.0.1:99999", "http://[::1", "http://",
        "./mlruns", "sqlite://", "sqlite:///no/such/folder/mlflow.db", "nonsense://x",
    ],
)  # fmt: skip
def test_an_address_that_leads_nowhere_costs_a_line_and_what_is_kept_arrives_later(
    uri, monkeypatch, capsys
):
    monkeypatch.setenv("MLFLOW_TRACKING_URI", uri.replace("PORT", str(_free_port())))
    _stage()
    start = time.monotonic()
    deliver()
    assert time.monotonic() - start < 5  # none of them waits for anything
    assert "secret" not in _one_line(capsys)
    monkeypatch.delenv("MLFLOW_TRACKING_URI")
    deliver()
    assert capsys.readouterr().err == "" and not list(KEPT.iterdir())
    assert "attack" in _current(_local())


def test_a_server_that_never_answers_is_given_up(monkeypatch, capsys):
    with socket.create_server(("127.0.0.1", 0)) as silent:
        monkeypatch.setenv("MLFLOW_TRACKING_URI", f"http://127.0.0.1:{silent.getsockname()[1]}")
        _stage()
        start = time.monotonic()
        deliver()
        assert time.monotonic() - start < 5
    _one_line(capsys)


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
        _sent()
        nonsense.shutdown()
    _one_line(capsys)


def _garbage() -> None:
    Path("mlflow.db").write_bytes(b"This was no database before the disk was full." * 100)


def _truncated() -> None:
    whole = Path("mlflow.db").read_bytes()
    Path("mlflow.db").write_bytes(whole[: len(whole) // 2])


def _other_version() -> None:
    with sqlite3.connect("mlflow.db") as database:
        database.execute("UPDATE alembic_version SET version_num = 'ffffffffffff'")


def _half_migrated() -> None:
    with sqlite3.connect("mlflow.db") as database:
        database.execute("DROP TABLE runs")
        database.execute("UPDATE alembic_version SET version_num = '451aebb31d03'")


@pytest.mark.parametrize("broken", [_garbage, _truncated, _other_version, _half_migrated])
def test_a_broken_database_costs_a_line_and_is_left_as_it_is(broken, monkeypatch, capsys, migrated):
    broken()
    _stage()
    start = time.monotonic()
    deliver()
    assert time.monotonic() - start < 5
    _one_line(capsys)
    # a new database, under an address that MLflow has not seen in this process
    shutil.copyfile(migrated, "new.db")
    monkeypatch.setattr(tracking, "DEFAULT_URI", f"sqlite:///{Path.cwd()}/new.db")
    deliver()
    assert "attack" in _current(_local())


@pytest.mark.parametrize(
    "text", ["", "{}", "[1]", "null", "\x00", '{"name": 1}', "CUT", "CHANGED"], ids=repr
)
def test_a_record_that_is_not_whole_is_set_aside_and_the_others_arrive(text, capsys):
    _stage("train")
    kept = KEPT / "digits--train.json"
    if text == "CUT":
        text = kept.read_text()[:500]
    if text == "CHANGED":
        text = json.dumps(json.loads(kept.read_text()) | {"curves": 3})
    kept.write_text(text)
    (KEPT / "notes.txt").write_text("mine")
    (KEPT / "folder.json").mkdir()
    _sent()
    lines = capsys.readouterr().err.splitlines()
    assert sorted(lines) == [
        f"tracking: {KEPT}/{name}.unreadable is no whole run and is set aside"
        for name in ("digits--train", "folder")
    ]
    assert (KEPT / "digits--train.unreadable").read_text() == text
    assert (KEPT / "notes.txt").read_text() == "mine"
    assert set(_current(_local())) == {"attack", "seed 0", "seed 1"}
    _sent()
    assert capsys.readouterr().err == ""


def test_off_is_off(monkeypatch):
    monkeypatch.setenv("LEAKBOARD_TRACKING", "off")
    before = sorted(Path().rglob("*"))
    _sent()
    assert sorted(Path().rglob("*")) == before


def test_processes_that_meet_at_a_fresh_database_all_arrive():
    Path("mlflow.db").unlink()
    code = (
        "import sys; from benchmark.runtime.tracking import deliver, tracked\n"
        "with tracked('digits', sys.argv[1]) as run: run.log({'x': 1})\n"
        "deliver()"
    )
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    racers = [
        subprocess.Popen([sys.executable, "-c", code, name], env=environment, stderr=-1, text=True)
        for name in "ab"
    ]
    errors = [racer.communicate(timeout=120)[1] for racer in racers]
    assert [racer.returncode for racer in racers] == [0, 0]
    allowed = "mlflow: another run (process "
    lines = [line for text in errors for line in text.splitlines()]
    assert all(line.startswith(allowed) for line in lines), errors
    assert sorted(_current(_local())) == ["a", "b"]


def test_keeping_a_run_imports_no_mlflow_and_neither_does_nothing_to_send():
    code = (
        "import sys; from benchmark.runtime.tracking import deliver, tracked\n"
        "deliver()\n"
        "with tracked('digits', 'train') as run: run.log({'x': 1})\n"
        "assert not {'mlflow', 'torch', 'pandas'} & set(sys.modules)"
    )
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    subprocess.run([sys.executable, "-c", code], env=environment, check=True, timeout=60)
    (kept,) = KEPT.iterdir()
    assert json.loads(kept.read_text())["metrics"] == {"x": 1.0}


def test_nested_parameters_become_dotted_text():
    nested = {"a": {"b": 1, "c": {"d": [1, 2]}}, "e": None, "f!": {}, "g": "x" * 9000}
    assert flatten(nested) == {"a.b": "1", "a.c.d": "[1, 2]", "f_": "{}", "g": "x" * 6000}
