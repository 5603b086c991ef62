"""DLG's LeNet: sigmoids and wide uniform weights.

Source: Zhu, Liu and Han, NeurIPS 2019, arXiv:1906.08935, and its public code.
"""

from __future__ import annotations

from collections import OrderedDict

from torch import nn

from benchmark.models.base import VictimModel, register

INITIAL_BOUND = 0.5
"""Of weights and biases alike: under PyTorch's narrower rule so many sigmoids' gradients vanish."""


@register("lenet")
def lenet(shape: tuple[int, int, int], classes: int) -> VictimModel:
    """Three 5x5 convolutions of 12 channels (strides 2, 2, 1) - linear; any image size."""
    channels, height, width = shape
    area = ((height + 3) // 4) * ((width + 3) // 4)  # two strides of 2, each rounding up
    features = nn.Sequential(
        OrderedDict(
            conv1=nn.Conv2d(channels, 12, 5, stride=2, padding=2),
            act1=nn.Sigmoid(),
            conv2=nn.Conv2d(12, 12, 5, stride=2, padding=2),
            act2=nn.Sigmoid(),
            conv3=nn.Conv2d(12, 12, 5, stride=1, padding=2),
            act3=nn.Sigmoid(),
            flat=nn.Flatten(),
        )
    )
    model = VictimModel(features, nn.Linear(12 * area, classes))
    for layer in model.modules():
        if isinstance(layer, nn.Conv2d | nn.Linear):
            layer.initial_bound = INITIAL_BOUND  # type: ignore[assignment]
    return model
