"""The board's small victim model: two convolutions and two linear layers with ELU.

ELU has second derivatives, which attacks differentiate, and saturates on one side only: under
the published attacks leaky ReLU hinders L-BFGS, and sigmoid the cosine, before any defense does.
"""

from __future__ import annotations

from collections import OrderedDict

from torch import nn

from benchmark.models.base import VictimModel, register


@register("elu")
def elu(shape: tuple[int, int, int], classes: int) -> VictimModel:
    """conv 8 - conv 16 stride 2 - linear 48 - linear; 14,074 parameters on 8x8 digits."""
    channels, height, width = shape
    size = 16 * ((height + 1) // 2) * ((width + 1) // 2)
    features = nn.Sequential(
        OrderedDict(
            conv1=nn.Conv2d(channels, 8, 3, padding=1),
            act1=nn.ELU(),
            conv2=nn.Conv2d(8, 16, 3, stride=2, padding=1),
            act2=nn.ELU(),
            flat=nn.Flatten(),
            fc=nn.Linear(size, 48),
            act3=nn.ELU(),
        )
    )
    return VictimModel(features, nn.Linear(48, classes))
