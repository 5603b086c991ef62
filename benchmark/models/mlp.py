"""PRECODE's fully connected network.

Its first layer is linear: one image's gradient gives that image away in closed form. Source:
Scheliga, Maeder and Seeland, WACV 2022, arXiv:2108.04725, and its public code.
"""

from __future__ import annotations

import math
from collections import OrderedDict

from torch import nn

from benchmark.models.base import VictimModel, register

WIDTH = 1024


@register("mlp")
def mlp(shape: tuple[int, int, int], classes: int) -> VictimModel:
    """Two linear layers of 1024 with ReLU - linear."""
    features = nn.Sequential(
        OrderedDict(
            flat=nn.Flatten(),
            fc1=nn.Linear(math.prod(shape), WIDTH),
            act1=nn.ReLU(),
            fc2=nn.Linear(WIDTH, WIDTH),
            act2=nn.ReLU(),
        )
    )
    return VictimModel(features, nn.Linear(WIDTH, classes))
