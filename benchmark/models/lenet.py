"""DLG's LeNet: sigmoids and wide uniform weights.

Source: Zhu, Liu and Han, NeurIPS 2019, arXiv:1906.08935, and its public code.
"""

from __future__ import annotations

from collections import OrderedDict

from torch import Generator, nn

from benchmark.models.base import VictimModel, register

INITIAL_BOUND = 0.5


class LeNet(VictimModel):
    """All weights and biases start uniform in (-0.5, 0.5).

    Under PyTorch's narrower rule the gradients of so many sigmoids in a row vanish.
    """

    def initialise(self, rng: Generator) -> None:
        """Draw all weights afresh from ``rng`` alone."""
        for parameter in self.parameters():
            nn.init.uniform_(parameter, -INITIAL_BOUND, INITIAL_BOUND, generator=rng)


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
    return LeNet(features, nn.Linear(12 * area, classes))
