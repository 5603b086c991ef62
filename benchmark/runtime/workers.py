"""How a worker process is set up before it computes: one thread, one GPU, no life after its parent.

Nothing here imports torch: all of this has to be settled before the job's own imports do.
"""

from __future__ import annotations

import contextlib
import itertools
import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

_THREADS = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS", "NUMEXPR_NUM_THREADS")
_slot: Any = None  # the lock that is this worker's place in the round of GPUs, held until it ends


def prepare(parent: int, slots: str, gpus: tuple[str, ...]) -> None:
    """The initialiser of a worker that ``parent`` (a process id) starts.

    Two threads each on a busy machine make a double backward many times slower, hence one.
    Ctrl-C reaches the whole process group; workers leave it to the parent, which ends them.
    """
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    for name in _THREADS:
        os.environ[name] = "1"
    if "torch" in sys.modules:  # too late for the environment
        sys.modules["torch"].set_num_threads(1)
    if gpus:
        os.environ["CUDA_VISIBLE_DEVICES"] = gpus[_take_slot(Path(slots)) % len(gpus)]
    watch(lambda: os.getppid() == parent, lambda: os.kill(os.getpid(), signal.SIGKILL))


def watch(alive: Callable[[], bool], end: Callable[[], None], every: float = 0.5) -> None:
    """Call ``end`` once, as soon as ``alive`` fails: asked now, then by a thread every so often."""

    def loop() -> None:
        while alive():
            time.sleep(every)
        end()

    if not alive():
        return end()
    threading.Thread(target=loop, daemon=True, name="parent-watch").start()


@contextlib.contextmanager
def one_thread() -> Iterator[None]:
    """The same single thread for work done in this process, so that its numbers are the same."""
    before = {name: os.environ.get(name) for name in _THREADS}
    torch = sys.modules.get("torch")
    threads = torch.get_num_threads() if torch else 0
    os.environ.update(dict.fromkeys(_THREADS, "1"))
    if torch:
        torch.set_num_threads(1)
    try:
        yield
    finally:
        for name in _THREADS:
            os.environ.pop(name)
        os.environ.update({name: value for name, value in before.items() if value is not None})
        if torch:
            torch.set_num_threads(threads)


def visible_gpus() -> tuple[str, ...]:
    """The GPUs to share out, as CUDA_VISIBLE_DEVICES names them; empty if there is one at most."""
    listed = os.environ.get("CUDA_VISIBLE_DEVICES")
    if listed is not None:
        gpus = [name.strip() for name in listed.split(",") if name.strip()]
    else:
        found = (path.name.removeprefix("nvidia") for path in Path("/dev").glob("nvidia[0-9]*"))
        gpus = [str(number) for number in range(sum(name.isdigit() for name in found))]
    return tuple(gpus) if len(gpus) > 1 else ()


def _take_slot(folder: Path) -> int:
    """The first place that no living worker holds; the lock ends with the process."""
    from filelock import FileLock, Timeout

    global _slot
    for number in itertools.count():
        _slot = FileLock(folder / f"{number}.lock")
        with contextlib.suppress(Timeout):
            _slot.acquire(blocking=False)
            return number
    raise AssertionError
