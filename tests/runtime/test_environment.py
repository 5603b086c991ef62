"""What cannot be had is refused in one line before the first cell, and costs no torch to check."""

from __future__ import annotations

import subprocess
import sys

import pytest

from benchmark.runtime import environment
from benchmark.runtime.parallel import ExecutionError


@pytest.mark.parametrize(
    ("name", "value", "says"),
    [
        ("LEAKBOARD_DEVICE", "cuda", "no CUDA"),
        ("LEAKBOARD_DEVICE", "tpu", "'tpu'"),
        ("LEAKBOARD_DEVICE", "meta", "'meta'"),
        ("LEAKBOARD_DEVICE", "cpu:7", "'cpu:7'"),
        ("LEAKBOARD_CELL_SECONDS", "0", "'0'"),
        ("LEAKBOARD_CELL_SECONDS", "-3", "'-3'"),
        ("LEAKBOARD_CELL_SECONDS", "nan", "'nan'"),
        ("LEAKBOARD_CELL_SECONDS", "inf", "'inf'"),
        ("LEAKBOARD_CELL_SECONDS", "soon", "'soon'"),
        ("LEAKBOARD_COMPILE", "-1", "'-1'"),
        ("LEAKBOARD_COMPILE", "often", "'often'"),
        ("LEAKBOARD_EXECUTOR", "slurm", "'slurm'"),
        ("LEAKBOARD_WORKERS", "0", "'0'"),
    ],
)
def test_what_cannot_be_had_is_one_line(monkeypatch, name, value, says):
    import torch

    if value == "cuda" and torch.cuda.is_available():
        pytest.skip("there is one")
    monkeypatch.setenv(name, value)
    with pytest.raises(ExecutionError) as caught:
        environment.check()
    message = str(caught.value)
    assert says in message and len(message.splitlines()) == 1
    assert name.removeprefix("LEAKBOARD_").lower().split("_")[0] in message.lower()


def test_what_is_allowed_passes(monkeypatch):
    for name in ("DEVICE", "CELL_SECONDS", "COMPILE", "EXECUTOR", "WORKERS"):
        monkeypatch.delenv(f"LEAKBOARD_{name}", raising=False)
    environment.check()
    assert environment.cell_seconds() is None
    monkeypatch.setenv("LEAKBOARD_CELL_SECONDS", "2.5")
    monkeypatch.setenv("LEAKBOARD_DEVICE", "cpu")
    monkeypatch.setenv("LEAKBOARD_COMPILE", "2000")
    environment.check()
    assert environment.cell_seconds() == 2.5


def test_nothing_is_imported_where_nothing_is_asked_for():
    code = (
        "import sys; from benchmark.runtime import environment; environment.check();"
        "assert 'torch' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)
