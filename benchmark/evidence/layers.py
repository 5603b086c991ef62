"""What gradients say of layers: a linear layer's input, and the layers in front of it."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.func import functional_call, grad

from benchmark.evidence.base import Tensors


def feature_parameters(weights: Tensors) -> dict[str, Tensor]:
    """Those of the feature extractor, by the names that they have in it."""
    prefix = "features."
    return {n.removeprefix(prefix): t for n, t in weights.items() if n.startswith(prefix)}


def linear_input(weight: Tensor, bias: Tensor) -> Tensor:
    """A linear layer's input [1, in] from its gradients [out, in] and [out] for one image.

    Every row of the weight gradient is the bias gradient's entry times the input (Phong et al.,
    2017, arXiv:1706.04970, Proposition 3). Least squares over all rows, so that independent noise
    on the rows averages out. Gradients of any size will do; where they are zero nothing is known
    of the input, and it is given as 0.
    """
    size = bias.abs().max()
    size = torch.where(size > 0, size, 1.0)
    rows = bias / size  # squares of small gradients would vanish
    return ((weight / size).T @ rows / rows.square().sum().clamp_min(1.0)).unsqueeze(0)


def gradient_given_output(
    layers: nn.Module, weights: Tensors, images: Tensor, output_gradient: Tensor
) -> dict[str, Tensor]:
    """The gradient of the layers' weights, for the loss's gradient with respect to their output."""

    def product(parameters: dict[str, Tensor]) -> Tensor:
        return (functional_call(layers, parameters, (images,)) * output_gradient).sum()

    return grad(product)(dict(weights))
