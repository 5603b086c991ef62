"""The executors behind :mod:`benchmark.runtime.parallel`, contexts that leave no worker behind."""

from __future__ import annotations

import contextlib
import importlib
import importlib.util
import os
import tempfile
from collections.abc import Callable, Iterator
from concurrent.futures import Executor, Future
from dataclasses import dataclass
from typing import Any

from benchmark.runtime.workers import prepare, visible_gpus

EXECUTORS = ("serial", "loky", "dask", "ray")


class ExecutionError(ValueError):
    """The chosen way to execute is unknown or not installed; the message is one line."""


@dataclass(frozen=True)
class Plan:
    """Where jobs run: one of EXECUTORS, how many at once, and a cluster's address if any."""

    executor: str
    workers: int
    address: str | None = None


@contextlib.contextmanager
def executor(plan: Plan) -> Iterator[Executor]:
    """The planned executor; its workers are gone when the block is left, however it is left.

    Raises:
        ExecutionError: the package that it takes is not installed.
    """
    maker = {"loky": _loky, "dask": _dask, "ray": _ray}[plan.executor]
    package = {"dask": "distributed"}.get(plan.executor, plan.executor)
    if importlib.util.find_spec(package) is None:
        rule = f"executor {plan.executor!r} needs the package {package!r}, which is not installed"
        raise ExecutionError(rule)
    with maker(plan) as made:
        yield made


@contextlib.contextmanager
def _loky(plan: Plan) -> Iterator[Executor]:
    from loky import ProcessPoolExecutor

    with tempfile.TemporaryDirectory(prefix="leakboard-") as slots:
        executor = ProcessPoolExecutor(
            plan.workers,
            initializer=prepare,
            initargs=(os.getpid(), slots, visible_gpus()),
        )
        try:
            yield executor
        finally:
            executor.shutdown(wait=True, kill_workers=True)


@contextlib.contextmanager
def _dask(plan: Plan) -> Iterator[Executor]:
    distributed = importlib.import_module("distributed")
    options: dict[str, Any] = {"address": plan.address} if plan.address else {
        "n_workers": plan.workers, "threads_per_worker": 1, "dashboard_address": "127.0.0.1:0",
    }  # fmt: skip
    with distributed.Client(**options) as client:
        executor = client.get_executor(pure=False)
        try:
            yield executor
        finally:
            executor.shutdown(wait=False)


@contextlib.contextmanager
def _ray(plan: Plan) -> Iterator[Executor]:
    ray = importlib.import_module("ray")
    options: dict[str, Any] = {"address": plan.address} if plan.address else {
        "num_cpus": plan.workers, "include_dashboard": False,
    }  # fmt: skip
    ray.init(**options)
    try:
        yield _RayExecutor(ray)
    finally:
        ray.shutdown()


class _RayExecutor(Executor):
    """Just enough of an Executor: a Ray task's reference can be had as a future."""

    def __init__(self, ray: Any) -> None:
        self._task = ray.remote(_call)

    def submit(self, function: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Future[Any]:
        return self._task.remote(function, args, kwargs).future()


def _call(function: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    return function(*args, **kwargs)
