"""What attacks do with auxiliary images: draw batches of them, and tell which label a guess has.

Auxiliary images are those of the scenario's public split, which no victim is in.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from scipy.optimize import linear_sum_assignment
from torch import Generator, Tensor
from torch.nn import functional as F

if TYPE_CHECKING:
    from benchmark.data.preparation import Public
    from benchmark.evidence.base import Evidence


def require(public: Public | None, name: str) -> Public:
    """The public data.

    Raises:
        ValueError: there are none.
    """
    if public is None:
        raise ValueError(f"{name} learns from auxiliary images and was given none")
    return public


def batches(public: Public, count: int, size: int, rng: Generator) -> tuple[Tensor, Tensor]:
    """``count`` batches of ``size`` auxiliary images: pixels [count, size, C, H, W] and labels.

    Every image comes as often as any other. From its second time on it is moved by up to one
    pixel and blended with another image of its class, so that no two batches are the same.
    """
    total, wanted = len(public.labels), count * size
    turns = -(-wanted // total)
    order = torch.cat([torch.randperm(total, generator=rng) for _ in range(turns)])[:wanted]
    images, labels = public.images[order], public.labels[order]
    fresh = min(total, wanted)
    images = torch.cat([images[:fresh], _varied(images[fresh:], labels[fresh:], public, rng)])
    return images.unflatten(0, (count, size)), labels.unflatten(0, (count, size))


def _varied(images: Tensor, labels: Tensor, public: Public, rng: Generator) -> Tensor:
    share = 0.5 * torch.rand(len(images), 1, 1, 1, generator=rng)
    mates = torch.empty(len(labels), dtype=torch.int64)
    for label in labels.unique().tolist():
        alike = (public.labels == label).nonzero().flatten()
        rows = labels == label
        mates[rows] = alike[torch.randint(len(alike), (int(rows.sum()),), generator=rng)]
    mixed = (1 - share) * _moved(images, rng) + share * _moved(public.images[mates], rng)
    return mixed


def _moved(images: Tensor, rng: Generator) -> Tensor:
    """Each image shifted by -1, 0 or 1 pixel along both sides; edges are repeated."""
    height, width = images.shape[-2:]
    if not len(images):
        return images
    padded = F.pad(images, (1, 1, 1, 1), mode="replicate")
    down, right = torch.randint(0, 3, (2, len(images)), generator=rng)
    rows = (down[:, None] + torch.arange(height))[:, None, :, None]
    columns = (right[:, None] + torch.arange(width))[:, None, None, :]
    each, channels = torch.arange(len(images)), torch.arange(images.shape[1])
    return padded[each[:, None, None, None], channels[:, None, None], rows, columns]


def labelled(images: Tensor, evidence: Evidence, public: Public) -> tuple[Tensor, Tensor | None]:
    """Guessed images [N, C, H, W] in the order of their labels, and the labels [N].

    Granted labels stay as they are: the images are dealt to them by their distance from the
    nearest auxiliary image of the label. Without them each image has its nearest one's label.
    """
    order, labels = dealt(images, evidence, public)
    return images[order], labels


def dealt(images: Tensor, evidence: Evidence, public: Public) -> tuple[Tensor, Tensor | None]:
    """The order [N] in which guessed images have their labels, and the labels, as `labelled`."""
    unmoved = torch.arange(len(images))
    if evidence.labels == "eliminated":
        return unmoved, None
    distances = torch.cdist(images.flatten(1), public.images.flatten(1))
    if evidence.given is None:
        return unmoved, public.labels[distances.argmin(1)]
    far = float(distances.max()) + 1
    cost = torch.stack(
        [
            torch.where(public.labels == label, distances, far).min(1).values
            for label in evidence.given
        ]
    )
    _, chosen = linear_sum_assignment(cost.numpy())
    return torch.as_tensor(chosen), evidence.given
