"""Where an attack's numbers lie: the device, how much of it one stack may fill, and reuse."""

from __future__ import annotations

import ctypes
import os
import sys
from functools import lru_cache

import torch

DEVICE = "LEAKBOARD_DEVICE"
BUDGET = {"cpu": 512 * 2**20, "cuda": 8 * 2**30}
"""Bytes that one stack may need, by kind of device: several workers share a machine. A rule, not
what happens to be free, so that chunks are the same everywhere."""

_NO_MAPPING, _NO_TRIMMING, _GROWTH = (-4, 0), (-1, -1), (-2, 256 * 2**20)  # <malloc.h>


def device() -> torch.device:
    """The processor, unless LEAKBOARD_DEVICE names another device that is there.

    Raises:
        ValueError: the device is not there.
    """
    name = os.environ.get(DEVICE) or "cpu"
    try:
        wanted = torch.device(name)
    except RuntimeError:
        wanted = None
    if wanted is None or wanted.type not in BUDGET:
        raise ValueError(f"{DEVICE}: {name!r} is not allowed: one of {', '.join(BUDGET)}")
    if wanted.type == "cuda" and not torch.cuda.is_available():
        raise ValueError(f"{DEVICE}: {name!r} is not allowed: torch finds no CUDA device here")
    there = torch.cuda.device_count() if wanted.type == "cuda" else 1
    if (wanted.index or 0) >= there:
        raise ValueError(f"{DEVICE}: {name!r} is not allowed: there are {there}, counted from 0")
    return wanted


@lru_cache(maxsize=1)
def keep_freed() -> None:
    """Let freed memory stay with the process, where the C library is glibc.

    Otherwise every tensor above 32 MiB is mapped afresh, page by page, each time it is made.
    """
    if sys.platform != "linux":
        return
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is not None:
        for option in (_NO_MAPPING, _NO_TRIMMING, _GROWTH):
            mallopt(*option)
