"""How jobs are spread over processes, GPUs and clusters.

``concurrent.futures.Executor`` is the facade. Which one: the environment variable
LEAKBOARD_EXECUTOR, else ``executor`` in the untracked ``.leakboard/execution.json``, else loky,
or this very process where one worker would do. How many workers: LEAKBOARD_WORKERS, else
``workers`` in that file, else the processors we may use. ``address`` there is the Dask scheduler's
or Ray cluster's. None of this changes a result, so none of it is in params.yaml.
"""

from __future__ import annotations

import contextlib
import importlib
import importlib.util
import json
import os
import tempfile
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import FIRST_COMPLETED, Executor, Future, wait
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

from benchmark.config.errors import ParamsError
from benchmark.runtime.progress import progress
from benchmark.runtime.workers import one_thread, prepare, visible_gpus

SETTINGS = Path(".leakboard/execution.json")
PACKAGES = {"serial": "loky", "loky": "loky", "dask": "distributed", "ray": "ray"}
"""The executors, and the package that each needs."""

Job = TypeVar("Job")
Result = TypeVar("Result")


class ExecutionError(ValueError):
    """The surroundings ask for an execution that cannot be had; the message is one line."""


@dataclass(frozen=True)
class Plan:
    """Where jobs run: an executor, how many at once, and a cluster's address if any."""

    executor: str
    workers: int
    address: str | None = None


@dataclass(frozen=True)
class Failure:
    """What became of a job that returned nothing: ``failed``, ``oom`` or ``timeout``, and why."""

    status: str
    reason: str


def run(
    function: Callable[[Job], Result],
    jobs: Iterable[Job],
    workers: int | None = None,
    describe: str = "",
    apart: bool = False,
) -> Iterator[tuple[Job, Result | Failure]]:
    """Yield (job, what ``function`` returned or why it did not) as jobs finish, in any order.

    Args:
        function: a module-level function; its results must not depend on where or when it runs.
        jobs: picklable values.
        workers: at most so many at once; None leaves it to the machine.
        describe: the name of the work in the progress line; none is shown without.
        apart: never in this very process, unless the settings say ``serial``: jobs may kill it.

    A worker that dies takes its pool along; the jobs that it may have held are tried once more,
    one by one, and the one that kills its worker again is a Failure. Leaving the iterator early,
    by Ctrl-C too, ends the workers at once.

    Raises:
        ExecutionError: the settings are wrong.
        ParamsError: a job found the parameters wrong; no job could do better.
    """
    todo = list(jobs)
    plan = choose(len(todo), workers, apart)
    refuse_missing(plan.executor)
    with progress(len(todo), describe) as bar:
        serial = plan.executor == "serial"
        results = _serial(function, todo) if serial else _parallel(function, todo, plan, bar)
        for done in results:
            bar.update()
            yield done


def choose(jobs: int, workers: int | None = None, apart: bool = False) -> Plan:
    """The plan that environment, settings file and machine make for so many jobs.

    Raises:
        ExecutionError: the settings are wrong.
    """
    from loky import cpu_count  # processors of our own: affinity and container limits count

    settings = _settings()
    name = os.environ.get("LEAKBOARD_EXECUTOR") or settings.get("executor")
    if name not in (None, *PACKAGES):
        raise ExecutionError(f"executor {name!r} is unknown; allowed: {', '.join(PACKAGES)}")
    wanted = (workers, os.environ.get("LEAKBOARD_WORKERS") or None, settings.get("workers"))
    count = str(next((number for number in wanted if number is not None), cpu_count()))
    if not (count.isascii() and count.isdecimal() and int(count) > 0):
        raise ExecutionError(f"workers {count!r} is not allowed: a whole number from 1 up")
    number = max(1, min(int(count), jobs))
    own = "loky" if apart or number > 1 else "serial"
    return Plan(name or own, number, settings.get("address"))


def refuse_missing(executor: str) -> None:
    """Raise ExecutionError where the package that an executor needs is not installed."""
    package = PACKAGES[executor]
    if importlib.util.find_spec(package) is None:
        rule = f"executor {executor!r} needs the package {package!r}, which is not installed"
        raise ExecutionError(rule)


def _settings() -> dict[str, Any]:
    try:
        settings = json.loads(SETTINGS.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return {}
    except ValueError as error:
        raise ExecutionError(f"{SETTINGS} is not JSON: {error}") from None
    allowed = ("executor", "workers", "address")
    if not isinstance(settings, dict) or not set(settings) <= set(allowed):
        raise ExecutionError(f"{SETTINGS}: a mapping; allowed: {', '.join(allowed)}")
    return settings


def _guarded(function: Callable[[Job], Result], job: Job) -> Result | Failure:
    """Run one job where it is, errors as values: not every exception survives being sent."""
    try:
        return function(job)
    except ParamsError:
        raise
    except Exception as error:
        return _failure(error)


def _failure(error: BaseException) -> Failure:
    name = type(error).__name__
    status = "failed"
    if isinstance(error, MemoryError) or name == "OutOfMemoryError":
        status = "oom"
    elif isinstance(error, TimeoutError):
        status = "timeout"
    text = " ".join(str(error).split())[:300]
    return Failure(status, f"{name}: {text}" if text else name)


def _serial(
    function: Callable[[Job], Result], jobs: list[Job]
) -> Iterator[tuple[Job, Result | Failure]]:
    with one_thread():
        for job in jobs:
            yield job, _guarded(function, job)


def _parallel(
    function: Callable[[Job], Result], jobs: list[Job], plan: Plan, bar: Any
) -> Iterator[tuple[Job, Result | Failure]]:
    """Pools one after another: a broken one is followed by the suspects, each in its own."""
    waiting = deque(jobs)
    while waiting:
        suspects: list[Job] = []
        yield from _pool(function, waiting, plan, bar, suspects)
        for job in suspects:
            again: list[Job] = []
            yield from _pool(function, deque([job]), replace(plan, workers=1), bar, again)
            if again:
                yield job, Failure("failed", "worker died")


def _pool(
    function: Callable[[Job], Result],
    waiting: deque[Job],
    plan: Plan,
    bar: Any,
    suspects: list[Job],
) -> Iterator[tuple[Job, Result | Failure]]:
    """Work through ``waiting`` until it is empty or the pool breaks.

    Few jobs are handed over ahead of time, so that few are suspected when a worker dies: those
    are moved to ``suspects``; what was not handed over stays in ``waiting``.
    """
    running: dict[Future[Any], Job] = {}
    with _EXECUTORS[plan.executor](plan) as pool:
        while (waiting or running) and not suspects:
            while waiting and len(running) < 2 * plan.workers:
                try:
                    future = pool.submit(partial(_guarded, function), waiting[0])
                except BrokenProcessPool:
                    if not running:
                        suspects.append(waiting.popleft())
                    break
                running[future] = waiting.popleft()
            finished, _ = wait(running, timeout=1.0, return_when=FIRST_COMPLETED)
            bar.update(0)
            for future in finished:
                job, error = running.pop(future), future.exception()
                if isinstance(error, BrokenProcessPool):
                    suspects.append(job)
                elif isinstance(error, ParamsError):
                    raise error
                else:
                    yield job, _failure(error) if error else future.result()
            if suspects:
                suspects += running.values()


@contextlib.contextmanager
def _loky(plan: Plan) -> Iterator[Executor]:
    from loky import ProcessPoolExecutor

    # Stacks keep their memory for the next ones; loky would take a worker that does for one that
    # leaks, and start another.
    os.environ.setdefault("LOKY_MAX_MEMORY_LEAK_SIZE", "8e8")
    with tempfile.TemporaryDirectory(prefix="leakboard-") as slots:
        facts = (os.getpid(), slots, visible_gpus())
        pool = ProcessPoolExecutor(plan.workers, initializer=prepare, initargs=facts)
        try:
            yield pool
        finally:  # however the block is left
            pool.shutdown(wait=True, kill_workers=True)


@contextlib.contextmanager
def _dask(plan: Plan) -> Iterator[Executor]:
    distributed = importlib.import_module("distributed")
    own = {"n_workers": plan.workers, "threads_per_worker": 1, "dashboard_address": "127.0.0.1:0"}
    with distributed.Client(**({"address": plan.address} if plan.address else own)) as client:
        pool = client.get_executor(pure=False)
        try:
            yield pool
        finally:
            pool.shutdown(wait=False)


@contextlib.contextmanager
def _ray(plan: Plan) -> Iterator[Executor]:
    ray = importlib.import_module("ray")
    own = {"num_cpus": plan.workers, "include_dashboard": False}
    ray.init(**({"address": plan.address} if plan.address else own))

    class Tasks(Executor):
        """Just enough of an Executor: a task's reference can be had as a future."""

        def submit(self, function: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Future[Any]:
            return ray.remote(function).remote(*args, **kwargs).future()

    try:
        yield Tasks()
    finally:
        ray.shutdown()


_EXECUTORS = {"loky": _loky, "dask": _dask, "ray": _ray}
