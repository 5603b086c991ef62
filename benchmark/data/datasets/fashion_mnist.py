"""Fashion-MNIST: 70,000 clothing images of 1x28x28 (Xiao et al. 2017, arXiv:1708.07747)."""

from __future__ import annotations

from pathlib import Path

import torch

from benchmark.data.datasets.base import Dataset, check_md5, downloading, register

MD5 = {
    "train-images-idx3-ubyte": "f4a8712d7a061bf5bd6d2ca38dc4d50a",
    "train-labels-idx1-ubyte": "9018921c3c673c538a1fc5bad174d6f9",
    "t10k-images-idx3-ubyte": "8181f5470baa50b63fa0f6fddb340f0a",
    "t10k-labels-idx1-ubyte": "15d484375f8d13e6eb1aabb0c3f46965",
}
"""Of the unpacked files; torchvision knows those of the packed ones."""


@register("fashion-mnist")
def fashion_mnist(folder: Path) -> Dataset:
    """The 60,000 training images first."""
    import benchmark.runtime.compat  # noqa: F401, I001  first: a torchvision built for CUDA needs it
    from torchvision.datasets import FashionMNIST

    raw = folder / "FashionMNIST" / "raw"
    if not all((raw / file).is_file() for file in MD5):
        with downloading("fashion-mnist", folder):
            FashionMNIST(folder, download=True)
    for file, md5 in MD5.items():
        check_md5(raw / file, md5)
    parts = [FashionMNIST(folder, train=train) for train in (True, False)]
    images = torch.cat([part.data for part in parts])
    labels = torch.cat([part.targets for part in parts])
    return Dataset("fashion-mnist", images.unsqueeze(1).float().div_(255), labels.long(), 10)
