"""A convolutional network of the size that image attacks are usually shown on.

The ConvNetSmall of the breaching framework, with ReLU and global average pooling.
"""

from __future__ import annotations

from collections import OrderedDict

from torch import nn

from benchmark.models.base import VictimModel, register

SMALLEST = 5


@register("convnet")
def convnet(shape: tuple[int, int, int], classes: int) -> VictimModel:
    """conv 32, 64, 128 stride 2 - max-pool 3 - conv 128 stride 2 - average - linear.

    242,122 parameters for three channels and ten classes.

    Raises:
        ValueError: an image side is below 5, too short for the pooling.
    """
    channels, height, width = shape
    if min(height, width) < SMALLEST:
        raise ValueError(f"convnet needs images of at least {SMALLEST}x{SMALLEST}, not "
                         f"{height}x{width}")  # fmt: skip
    features = nn.Sequential(
        OrderedDict(
            conv1=nn.Conv2d(channels, 32, 3, padding=1),
            act1=nn.ReLU(),
            conv2=nn.Conv2d(32, 64, 3, padding=1),
            act2=nn.ReLU(),
            conv3=nn.Conv2d(64, 128, 3, stride=2, padding=1),
            act3=nn.ReLU(),
            pool=nn.MaxPool2d(3),
            conv4=nn.Conv2d(128, 128, 3, stride=2, padding=1),
            act4=nn.ReLU(),
            average=nn.AdaptiveAvgPool2d(1),
            flat=nn.Flatten(),
        )
    )
    return VictimModel(features, nn.Linear(128, classes))
