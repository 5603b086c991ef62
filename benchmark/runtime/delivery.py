"""Sending kept records to MLflow; the only module that imports it.

``sqlite:///mlflow.db`` with pictures in ``mlartifacts/``, unless MLFLOW_TRACKING_URI says
otherwise. One experiment per scenario; a run replaces its predecessor once it is there. A server
that is away costs a warning and keeps the records.
"""

from __future__ import annotations

import json
import logging
import os
import platform
import shutil
import sys
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from benchmark.runtime.session import locked
from benchmark.runtime.store import is_alive
from benchmark.runtime.tracking import ROOT

DEFAULT_URI = "sqlite:///mlflow.db"
PICTURES = Path("mlartifacts")

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
_BATCH = 900  # MLflow takes at most 1000 metrics and 100 parameters or tags in one call


def deliver() -> None:
    """Send every kept record, oldest first; never raises, and stops at the first that fails."""
    uri = os.environ.get("MLFLOW_TRACKING_URI") or DEFAULT_URI
    with locked("mlflow"):
        claimed = sorted(_claim(), key=lambda folder: folder.stat().st_mtime)
        if not claimed:
            return
        try:
            client = _client(uri)
            for folder in claimed:
                _send(client, uri, folder)
                shutil.rmtree(folder)
        except Exception as error:  # tracking never fails the work it tracks
            kept = sum(folder.exists() for folder in claimed)
            warning = f"tracking: {_place(uri)} failed ({type(error).__name__}: {_brief(error)});"
            print(f"{warning} {kept} records are kept for later", file=sys.stderr, flush=True)


def _claim() -> Iterator[Path]:
    """Move what is pending out of the way of stages that end meanwhile, newer ones first."""
    pending, sending = ROOT / "pending", ROOT / "sending"
    sending.mkdir(parents=True, exist_ok=True)
    for folder in pending.glob("*"):
        target = sending / folder.name
        shutil.rmtree(target, ignore_errors=True)
        folder.rename(target)
    yield from sending.glob("*")


def _client(uri: str) -> Any:
    """A client that has reached its store; a fresh database is made here, under the lock."""
    for name, value in _ENVIRONMENT.items():
        os.environ.setdefault(name, value)
    from mlflow import MlflowClient

    logging.getLogger("alembic").setLevel(logging.WARNING)
    if uri.startswith("sqlite:"):
        _hasten_sqlite()
    client = MlflowClient(uri)
    client.search_experiments(max_results=1)
    return client


@cache
def _hasten_sqlite() -> None:
    """Log ahead, so that a commit need not wait for the disk: half of a delivery's time."""
    from sqlalchemy import event
    from sqlalchemy.engine import Engine

    def connected(connection: Any, _: Any) -> None:
        connection.execute("PRAGMA journal_mode=WAL")
        connection.execute("PRAGMA synchronous=NORMAL")

    event.listen(Engine, "connect", connected)


def _send(client: Any, uri: str, folder: Path) -> None:
    record = json.loads((folder / "record.json").read_text(encoding="utf-8"))
    experiment = _experiment(client, uri, record["tags"]["scenario"])
    before = _predecessors(client, experiment, record["tags"])
    _create(client, experiment, record, folder / "run")
    for run, children in before:
        if run.info.status == "RUNNING" and not _is_dead(run):
            continue
        if record["status"] != "FINISHED" and run.info.status == "FINISHED":
            continue  # a failure does not push out the last success
        for each in (*children, run):  # by its parent a child is found, should this be interrupted
            if each.info.status == "RUNNING":
                client.set_terminated(each.info.run_id, "KILLED")
            _delete(client, each)


def _experiment(client: Any, uri: str, name: str) -> str:
    found = client.get_experiment_by_name(name)
    if found is None:
        place = PICTURES.absolute().as_uri() if uri.startswith("sqlite:") else None
        return str(client.create_experiment(name, artifact_location=place))
    if found.lifecycle_stage == "deleted":
        client.restore_experiment(found.experiment_id)
    return str(found.experiment_id)


def _predecessors(
    client: Any, experiment: str, tags: dict[str, str]
) -> list[tuple[Any, list[Any]]]:
    """Runs of the same stage and defense, each with its child runs, whatever those are tagged."""
    same = " and ".join(f"tags.`{key}` = '{tags[key]}'" for key in ("stage", "scenario"))
    found: list[Any] = []
    page = None
    while True:
        page = client.search_runs([experiment], same, max_results=1000, page_token=page)
        found += page
        page = page.token
        if not page:
            break
    children: dict[str, list[Any]] = {}
    for run in found:
        children.setdefault(run.data.tags.get(_PARENT, ""), []).append(run)
    own = [run for run in children.get("", []) if run.data.tags.get("defense") == tags["defense"]]
    return [(run, children.get(run.info.run_id, [])) for run in own]


def _is_dead(run: Any) -> bool:
    """Whether the process that was sending this run is gone; ours is not sending it."""
    tags = run.data.tags
    pid = tags.get("pid", "")
    here = tags.get("host") == platform.node() and pid.isdecimal()
    return here and (int(pid) == os.getpid() or not is_alive(int(pid)))


def _create(
    client: Any, experiment: str, record: dict[str, Any], folder: Path, parent: str | None = None
) -> None:
    from mlflow.entities import Metric, Param

    tags = record["tags"] | {"host": platform.node(), "pid": str(os.getpid())}
    tags |= {_PARENT: parent} if parent else {}
    start, end = (int(1000 * record[key]) for key in ("start", "end"))
    run = client.create_run(experiment, start, tags, record["name"]).info.run_id
    points = [(key, value, 0) for key, value in record["metrics"].items()]
    points += [(key, v, step) for key, pairs in record["curves"].items() for step, v in pairs]
    metrics = [Metric(key, value, end, step) for key, value, step in points]
    params = [Param(key, value) for key, value in record["params"].items()]
    while metrics or params:
        client.log_batch(run, metrics[:_BATCH], params[:99])
        metrics, params = metrics[_BATCH:], params[99:]
    if (folder / "images").is_dir():
        client.log_artifacts(run, str(folder / "images"))
    for number, child in enumerate(record["children"]):
        _create(client, experiment, child, folder / str(number), run)
    client.set_terminated(run, record["status"], end)


def _delete(client: Any, run: Any) -> None:
    """MLflow keeps a deleted run's files; those that we put beside the database go with it."""
    client.delete_run(run.info.run_id)
    files = urlsplit(run.info.artifact_uri)
    folder = Path(files.path)
    if files.scheme == "file" and PICTURES.absolute() in folder.parents:
        shutil.rmtree(folder.parent, ignore_errors=True)


def _place(uri: str) -> str:
    """The address without user and password."""
    parts = urlsplit(uri)
    return f"{parts.scheme}://{parts.hostname}:{parts.port}" if parts.hostname else uri


def _brief(error: Exception) -> str:
    """The error's first words, unless they could repeat an address with a password in it."""
    text = " ".join(str(error).split())
    return "no answer" if "://" in text or "HTTPConnection" in text else text[:120]
