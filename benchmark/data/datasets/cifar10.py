"""CIFAR-10: up to 60,000 images of 3x32x32 (Krizhevsky 2009), of whichever batches are there."""

from __future__ import annotations

from pathlib import Path

import torch

from benchmark.data.datasets.base import Dataset, check_md5, downloading, register


@register("cifar10")
def cifar10(folder: Path) -> Dataset:
    """The training batches first. They are pickles: none is opened before its MD5 is right."""
    import benchmark.runtime.compat  # noqa: F401, I001  first: a torchvision built for CUDA needs it
    from torchvision.datasets import CIFAR10

    class Present(CIFAR10):
        """The batches that are there, as if all were test batches; no names of classes."""

        train_list: list[list[str]] = []
        test_list = [
            [file, md5] for file, md5 in CIFAR10.train_list + CIFAR10.test_list
            if (folder / CIFAR10.base_folder / file).is_file()
        ]  # fmt: skip

        def _load_meta(self) -> None:
            pass

    if not Present.test_list:
        with downloading("cifar10", folder):
            CIFAR10(folder, download=True)
        Present.test_list = CIFAR10.train_list + CIFAR10.test_list
    for file, md5 in Present.test_list:
        check_md5(folder / CIFAR10.base_folder / file, md5)
    found = Present(folder, train=False)
    images = torch.from_numpy(found.data).permute(0, 3, 1, 2).contiguous()
    return Dataset("cifar10", images.float().div_(255), torch.tensor(found.targets), 10)
