"""What MLflow shows of a board: a run per stage, child runs, curves, metrics, pictures.

Importing MLflow takes 3 s and making its database another 5, more than most stages; and a tracking
server may be away. So a stage keeps its run as a file in ``.leakboard/tracking/``, and the
pipeline's last stage sends all that is kept (:func:`deliver`): to ``sqlite:///mlflow.db``, with
pictures in ``mlartifacts/`` beside it, unless MLFLOW_TRACKING_URI says otherwise. One experiment
per scenario. A re-run supersedes its predecessor, which stays, tagged ``superseded``.

Tracking never fails the work: what cannot be sent costs one line on stderr and is kept for the next
time. LEAKBOARD_TRACKING=off keeps and sends nothing. Workers never track.
"""

from __future__ import annotations

import contextlib
import logging
import math
import os
import platform
import re
import socket
import sqlite3
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from pydantic import BaseModel, ConfigDict, Field

from benchmark.results.provenance import commit
from benchmark.runtime.files import is_alive, locked, write_text
from benchmark.runtime.session import say

KEPT = Path(".leakboard/tracking")
DEFAULT_URI = "sqlite:///mlflow.db"
PICTURES = "mlartifacts"
PATIENCE = 3.0
"""Seconds in which a server has to answer at all."""

_ENVIRONMENT = {
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "DO_NOT_TRACK": "true",
    "MLFLOW_HTTP_REQUEST_TIMEOUT": "8",
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "1",
    "MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR": "false",
    "MLFLOW_LOGGING_LEVEL": "WARNING",
    "MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT": "true",
    "GIT_PYTHON_REFRESH": "quiet",
}
_PARENT = "mlflow.parentRunId"
_BATCH = 900  # MLflow takes at most 1000 metrics and 100 parameters in one call


class Run(BaseModel):
    """One run as it grows, and as it is kept until it is sent."""

    model_config = ConfigDict(ser_json_bytes="base64", val_json_bytes="base64", extra="forbid")

    name: str
    params: dict[str, str]
    tags: dict[str, str]
    status: str = "FINISHED"
    start: float = Field(default_factory=time.time)
    end: float = Field(default_factory=time.time)
    metrics: dict[str, float] = {}
    """name -> final value"""
    curves: dict[str, list[tuple[int, float]]] = {}
    """name -> (step, value) pairs"""
    images: dict[str, bytes] = {}
    """name without suffix -> PNG"""
    children: list[Run] = []

    def log(
        self,
        metrics: Mapping[str, float | None] | None = None,
        curves: Mapping[str, Sequence[tuple[int, float]]] | None = None,
        images: Mapping[str, bytes | Path] | None = None,
        tags: Mapping[str, str] | None = None,
    ) -> None:
        """Add values. What is None or not a number is left out; infinities become parameters."""
        for key, value in (metrics or {}).items():
            if value is None or math.isnan(value):
                continue
            if math.isinf(value):
                self.params.setdefault(_key(key), str(value))
            else:
                self.metrics[_key(key)] = float(value)
        for key, points in (curves or {}).items():
            finite = [(int(step), float(value)) for step, value in points if math.isfinite(value)]
            self.curves.setdefault(_key(key), []).extend(finite)
        for key, image in (images or {}).items():
            self.images[_key(key)] = image.read_bytes() if isinstance(image, Path) else image
        self.tags.update({_key(key): str(value) for key, value in (tags or {}).items()})

    def child(
        self, name: str, params: Mapping[str, Any] | None = None, *values: Any, **named: Any
    ) -> None:
        """Add a finished run below this one, such as one operating point, with values to log."""
        child = Run(name=name, params=flatten(params or {}), tags=dict(self.tags))
        child.log(*values, **named)
        self.children.append(child)


@contextlib.contextmanager
def tracked(scenario: str, stage: str, params: Mapping[str, Any] | None = None) -> Iterator[Run]:
    """A run of ``stage``, kept when the block ends, also by an error (FAILED) or Ctrl-C (KILLED).

    Args:
        scenario: the experiment.
        params: may be nested; written as dotted names.
    """
    tags = {"stage": stage, "scenario": scenario, "git_commit": commit()}
    run = Run(name=stage, params=flatten(params or {}), tags=tags)
    try:
        yield run
    except BaseException as error:
        run.status = "FAILED" if isinstance(error, Exception) else "KILLED"
        raise
    finally:
        run.end = time.time()
        if not _is_off():
            try:
                write_text(KEPT / f"{scenario}--{stage}.json", run.model_dump_json())
            except OSError as problem:  # tracking never fails the work
                say(f"not tracked: {problem}")


def deliver() -> None:
    """Send every kept run, oldest first; never raises, and stops at the first that fails."""
    uri = os.environ.get("MLFLOW_TRACKING_URI") or DEFAULT_URI
    left: list[Any] = []
    try:
        if _is_off() or not KEPT.is_dir():
            return
        with locked("mlflow"):
            left = _claimed()
            if left:
                _reach(uri)
                client = _client(uri)
            while left:
                _, path, run = left[0]
                _send(client, uri, run)
                path.unlink()
                left.pop(0)
    except Exception as error:
        say(f"tracking: {_place(uri)} failed ({type(error).__name__}: {_brief(error)}); "
            f"{len(left)} runs are kept for later")  # fmt: skip


def flatten(values: Mapping[str, Any], prefix: str = "") -> dict[str, str]:
    """Nested parameters as MLflow's flat text ones: ``{"a": {"b": 1}}`` is ``{"a.b": "1"}``."""
    flat: dict[str, str] = {}
    for name, value in values.items():
        key = f"{prefix}{_key(name)}"
        if isinstance(value, Mapping) and value:
            flat |= flatten(value, f"{key}.")
        elif value is not None:
            flat[key] = str(value)[:6000]
    return flat


def _is_off() -> bool:
    return os.environ.get("LEAKBOARD_TRACKING", "").lower() == "off"


def _key(name: object) -> str:
    """MLflow's alphabet for names, less the slash."""
    return re.sub(r"[^\w.: -]", "_", str(name), flags=re.ASCII)[:250] or "_"


def _claimed() -> list[tuple[float, Path, Run]]:
    """What is kept, by age, moved out of the way of stages that end meanwhile.

    What is no run of ours is set aside, and named.
    """
    for path in KEPT.glob("*.json"):
        path.rename(path.with_suffix(".sending"))
    found = []
    for path in KEPT.glob("*.sending"):
        try:
            run = Run.model_validate_json(path.read_bytes())
            found.append((run.end, path, run))
        except (OSError, ValueError):
            aside = path.rename(path.with_suffix(".unreadable"))
            say(f"tracking: {aside} is no whole run and is set aside")
    return sorted(found, key=lambda each: each[:2])


def _reach(uri: str) -> None:
    """Raise what is wrong with a store before MLflow, which takes minutes to say it, is imported.

    A database made here lets readers and a writer meet (WAL), which halves the time to write.
    """
    parts = urlsplit(uri)
    if parts.scheme in ("http", "https"):
        assert parts.hostname, "no host"
        port = parts.port or {"http": 80, "https": 443}[parts.scheme]
        with socket.create_connection((parts.hostname, port), PATIENCE) as server:
            if parts.scheme == "http":  # whatever it answers
                server.sendall(f"GET /health HTTP/1.1\r\nHost: {parts.hostname}\r\n\r\n".encode())
                server.recv(1)
    elif parts.scheme == "sqlite":
        with closing(sqlite3.connect(_database(uri), timeout=PATIENCE)) as database:
            database.execute("PRAGMA journal_mode=WAL")
    elif "://" not in uri and uri != "databricks":
        raise ValueError("no scheme; allowed are sqlite:///FILE, http://HOST:PORT, ...")


def _database(uri: str) -> Path:
    return Path(urlsplit(uri).path[1:])


def _client(uri: str) -> Any:
    """A client that has reached its store; a fresh database is made here, under the lock."""
    for name, value in _ENVIRONMENT.items():
        os.environ.setdefault(name, value)
    from mlflow import MlflowClient

    logging.getLogger("alembic").setLevel(logging.WARNING)
    client = MlflowClient(uri)
    client.search_experiments(max_results=1)
    return client


def _send(client: Any, uri: str, run: Run) -> None:
    """Add a run; what it replaces is tagged, and what a killed delivery left is closed."""
    stage, scenario = run.tags["stage"], run.tags["scenario"]
    experiment = _experiment(client, uri, scenario)
    same = f"tags.stage = '{stage}' and attributes.run_name = '{run.name}'"
    earlier = client.search_runs([experiment], same, max_results=10_000)
    _create(client, experiment, run)
    for old in earlier:
        tags, number = old.data.tags, old.info.run_id
        if "superseded" in tags or _PARENT in tags:
            continue
        if old.info.status == "RUNNING" and not _is_dead(tags):
            continue
        if run.status != "FINISHED" and old.info.status == "FINISHED":
            continue  # a failure does not supersede the last success
        below = f"tags.`{_PARENT}` = '{number}'"
        for each in (*client.search_runs([experiment], below, max_results=10_000), old):
            if each.info.status == "RUNNING":
                client.set_terminated(each.info.run_id, "KILLED")
            client.set_tag(each.info.run_id, "superseded", "true")


def _experiment(client: Any, uri: str, name: str) -> str:
    """The scenario's experiment, whose pictures lie beside the database, wherever that is moved."""
    found = client.get_experiment_by_name(name)
    if found is not None and found.lifecycle_stage == "deleted":
        client.restore_experiment(found.experiment_id)
    number = str(found.experiment_id if found else client.create_experiment(name))
    if uri.startswith("sqlite:"):
        home = _database(uri).absolute().parent
        place = PICTURES if home == Path.cwd() else str(home / PICTURES)
        # MLflow's own call would make the place absolute, and so wrong after a move.
        with closing(sqlite3.connect(_database(uri))) as database, database:
            database.execute("UPDATE experiments SET artifact_location = ? "
                             "WHERE experiment_id = ?", (place, number))  # fmt: skip
            database.execute("UPDATE runs SET artifact_uri = ? || '/' || run_uuid || '/artifacts' "
                             "WHERE experiment_id = ?", (place, number))  # fmt: skip
    return number


def _is_dead(tags: Mapping[str, str]) -> bool:
    """Whether the process that was sending this run is gone; ours is not sending it."""
    pid = tags.get("pid", "")
    here = tags.get("host") == platform.node() and pid.isdecimal()
    return here and (int(pid) == os.getpid() or not is_alive(int(pid)))


def _create(client: Any, experiment: str, run: Run, parent: str | None = None) -> None:
    from mlflow.entities import Metric, Param

    tags = run.tags | {"host": platform.node(), "pid": str(os.getpid())}
    tags |= {_PARENT: parent} if parent else {}
    start, end = round(1000 * run.start), round(1000 * run.end)
    number = client.create_run(experiment, start, tags, run.name).info.run_id
    points = [(key, value, 0) for key, value in run.metrics.items()]
    points += [(key, v, step) for key, pairs in run.curves.items() for step, v in pairs]
    metrics = [Metric(key, value, end, step) for key, value, step in points]
    params = [Param(key, value) for key, value in run.params.items()]
    while metrics or params:
        client.log_batch(number, metrics[:_BATCH], params[:99])
        metrics, params = metrics[_BATCH:], params[99:]
    if run.images:
        with tempfile.TemporaryDirectory() as folder:
            for key, image in run.images.items():
                Path(folder, f"{key}.png").write_bytes(image)
            client.log_artifacts(number, folder)
    for child in run.children:
        _create(client, experiment, child, number)
    client.set_terminated(number, run.status, end)


def _place(uri: str) -> str:
    """The address without user and password."""
    return re.sub(r"//[^/@]*@", "//", uri)


def _brief(error: Exception) -> str:
    """The error's first words, unless they could repeat an address with a password in it."""
    text = " ".join(str(error).split())
    return "no answer" if "://" in text or "HTTPConnection" in text else text[:120]
