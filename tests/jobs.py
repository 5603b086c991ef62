"""What the tests of execution hand to workers: module-level, so that it can be sent."""

from __future__ import annotations

import os
import signal
import sys
import threading
import time
from pathlib import Path
from typing import Any

from benchmark.config.errors import ParamsError


def square(number: int) -> int:
    return number * number


def summed(seed: int) -> float:
    """A sum whose last bits depend on the number of threads."""
    import torch

    generator = torch.Generator().manual_seed(seed)
    left = torch.randn(300, 300, generator=generator)
    return float((left @ left).exp().clamp(max=1e6).sum())


def surroundings(number: int) -> dict[str, Any]:
    import torch

    return {
        "pid": os.getpid(),
        "threads": torch.get_num_threads(),
        "gpu": os.environ.get("CUDA_VISIBLE_DEVICES"),
    }


class OutOfMemoryError(RuntimeError):
    """Named as torch names its own."""


def troubled(kind: str) -> str:
    if kind == "memory":
        raise MemoryError
    if kind == "cuda":
        raise OutOfMemoryError("CUDA out of memory.\nTried to allocate")
    if kind == "late":
        raise TimeoutError("after 3 s")
    if kind == "params":
        raise ParamsError("dgp.share: too much")
    if kind == "wrong":
        raise ValueError("two\nlines")
    if kind == "unsendable":
        return threading.Lock()  # type: ignore[return-value]
    return kind


def dies_always(kind: str) -> str:
    if kind == "die":
        os.kill(os.getpid(), signal.SIGKILL)
    time.sleep(0.05)
    return kind


def dies_once(job: tuple[str, int]) -> int:
    folder, number = job
    if number == 2:
        try:
            Path(folder, "died").touch(exist_ok=False)
        except FileExistsError:
            return number
        os.kill(os.getpid(), signal.SIGKILL)
    return number


def note_and_sleep(folder: str) -> None:
    Path(folder, str(os.getpid())).touch()
    time.sleep(120)


if __name__ == "__main__":  # a stage that never ends by itself
    from benchmark.runtime.parallel import run

    list(run(note_and_sleep, [sys.argv[1]] * 4, workers=2))
