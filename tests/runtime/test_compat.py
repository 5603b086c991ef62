"""torchvision and what stands on it import wherever torch does."""

from __future__ import annotations

import subprocess
import sys


def _python(code: str) -> str:
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=300, check=False
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_torchvision_torchmetrics_and_opacus_import_after_compat():
    _python("import benchmark.runtime.compat, torchvision, torchmetrics, opacus")


def test_a_second_mending_declares_nothing():
    code = "import benchmark.runtime.compat as c; print(c.mend_torchvision())"
    assert _python(code).strip() == "()"


def test_a_metric_that_torchmetrics_builds_on_torchvision_can_be_computed():
    code = """
import benchmark.runtime.compat, torch
from torchmetrics.functional.image import peak_signal_noise_ratio as psnr
print(float(psnr(torch.zeros(1, 1, 8, 8), torch.full((1, 1, 8, 8), 0.1), data_range=1.0)))
"""
    assert abs(float(_python(code)) - 20.0) < 1e-3
