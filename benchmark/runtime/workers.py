"""What a worker process is told before it computes: one thread, one GPU, no life after its parent.

Nothing here imports torch: all of this has to be settled before the job's own imports do.
"""

from __future__ import annotations

import contextlib
import ctypes
import fcntl
import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

_THREADS = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS", "NUMEXPR_NUM_THREADS")
_SET_PARENT_DEATH_SIGNAL = 1  # PR_SET_PDEATHSIG in <linux/prctl.h>
_slot: int | None = None  # the open file whose lock is this worker's place in the GPU round


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
    end_with_parent(parent)


def end_with_parent(parent: int) -> None:
    """End this process at once when ``parent`` is gone.

    The kernel does it on Linux. It reports the end of the parent's *thread*, and nothing at all
    if the parent was gone before, and other systems have no such call; so a thread looks as well.
    """
    if sys.platform == "linux":
        with contextlib.suppress(OSError, AttributeError):
            libc = ctypes.CDLL(None, use_errno=True)
            libc.prctl(_SET_PARENT_DEATH_SIGNAL, signal.SIGKILL, 0, 0, 0)
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
    environment = {name: os.environ.get(name) for name in _THREADS}
    os.environ.update(dict.fromkeys(_THREADS, "1"))
    torch = sys.modules.get("torch")
    threads = torch.get_num_threads() if torch else 0
    if torch:
        torch.set_num_threads(1)
    try:
        yield
    finally:
        for name, value in environment.items():
            os.environ.pop(name)
            if value is not None:
                os.environ[name] = value
        if torch:
            torch.set_num_threads(threads)


def visible_gpus() -> tuple[str, ...]:
    """The GPUs to share out, as CUDA_VISIBLE_DEVICES names them; empty if there is one at most."""
    listed = os.environ.get("CUDA_VISIBLE_DEVICES")
    if listed is not None:
        gpus = tuple(name.strip() for name in listed.split(",") if name.strip())
    else:
        found = (p.name.removeprefix("nvidia") for p in Path("/dev").glob("nvidia[0-9]*"))
        gpus = tuple(str(number) for number in range(sum(name.isdigit() for name in found)))
    return gpus if len(gpus) > 1 else ()


def _take_slot(folder: Path) -> int:
    """The first place that no living worker holds; the lock ends with the process."""
    global _slot
    number = 0
    while True:
        handle = os.open(folder / f"{number}.lock", os.O_RDWR | os.O_CREAT, 0o600)
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(handle)
            number += 1
        else:
            _slot = handle
            return number
