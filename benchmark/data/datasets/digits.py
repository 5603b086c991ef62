"""Handwritten digits, 1,797 of 1x8x8 with 17 grey levels; scikit-learn ships them (UCI)."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch

from benchmark.data.datasets.base import Dataset, register


@register("digits")
def digits(folder: Path) -> Dataset:
    """Nothing is downloaded."""
    from sklearn.datasets import load_digits

    bunch = load_digits()
    images = torch.from_numpy(bunch.images.astype(np.float32) / 16).unsqueeze(1)
    return Dataset("digits", images, torch.from_numpy(bunch.target.astype(np.int64)), 10)
