"""The shared layers of a network whose last layers and loss stayed with the client.

The gradient of the shared layers is that of the inner product of their output with the loss's
gradient with respect to it, whatever head and labels made that. This output gradient is

``known``      for one image and a linear last layer: its bias gradient, which was sent.
``projected``  in one step, where the last layer has more inputs than there are rows that enter it
               (images, times places of a convolution). Its own gradient is the sum over the rows
               of output gradient times input, so that a guess's inputs and least squares give the
               output gradient, and images whose inputs do not span what was sent cannot explain
               it: no unknown but the images is left. (Separable least squares: Golub and Pereyra,
               SIAM Journal on Numerical Analysis 10, 1973.)
``hidden``     elsewhere: a variable that the attack optimises. A linear layer's gradient has no
               more dimensions than images, and holds the output gradient of every one of them; the
               variable then has one entry per pair of images, not per image and output.

Local steps are unrolled. Step t works with the weights ``base[t] - rate * sum over s < t of
gain[t, s] * gradient[s]``, and what is observed is, for every column j of ``mix``, the sum over t
of ``rate * mix[t, j] * gradient[t]``. Plain averaging has one column of ones and gains of one.
"""

from __future__ import annotations

import math
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import functional_call, grad
from torch.nn import functional as F

from benchmark.evidence.base import Data, Evidence, Hidden, Tensors, Term, Terms
from benchmark.evidence.generic import oblivious
from benchmark.evidence.layers import feature_parameters, gradient_given_output
from benchmark.federated.setting import Setting, stateless_model
from benchmark.federated.transcript import Transcript

RIDGE = 1e-8
"""Relative size of what keeps least squares defined where inputs repeat, as in blank margins."""


@dataclass(frozen=True)
class ObservedRound:
    """What was seen of the shared layers in a round of T local steps.

    Attributes:
        base: [T, ...] weights of every step, apart from the movement by the observed gradients.
        update: [k, ...] observed sums of gradients.
        gain: [T, T], used below the diagonal.
        mix: [T, k].
        estimate: [N, out] estimate of a linear last layer's output gradient, or None.
        spread: how far the hidden variable moves that estimate, relative to it.
    """

    base: Tensors
    update: Tensors
    gain: Tensor
    mix: Tensor
    estimate: Tensor | None = None
    spread: float = 1.0


@lru_cache(maxsize=16)
def split(setting: Setting) -> tuple[nn.Sequential, nn.Sequential]:
    """The feature extractor's layers up to the last one that is shared, and those behind it.

    Trailing layers without weights (activations, reshaping) count as behind.
    """
    model = stateless_model(setting)
    layers = list(getattr(model, "extractor", model.features).named_children())
    kept = {n for n, _ in model.named_parameters() if not setting.defense.shared(n)}
    shared = [
        index
        for index, (name, layer) in enumerate(layers)
        if list(layer.parameters()) and not any(n.startswith(f"features.{name}.") for n in kept)
    ]
    cut = shared[-1] + 1
    return nn.Sequential(OrderedDict(layers[:cut])), nn.Sequential(OrderedDict(layers[cut:]))


def last_layer(setting: Setting) -> tuple[str, nn.Module]:
    """The last shared layer, and its name."""
    return list(split(setting)[0].named_children())[-1]


def step_size(setting: Setting) -> float:
    """What a gradient is multiplied by before it is sent."""
    return 1.0 if setting.algorithm == "fedsgd" else setting.local_lr


def shared_layers_evidence(transcript: Transcript, seen: ObservedRound) -> Evidence:
    """Evidence on the shared layers of a round, whatever head and labels were behind them."""
    setting = transcript.setting
    name, layer = last_layer(setting)
    first = {n: t[0] for n, t in seen.base.items()}
    inputs, output = _through_last(setting, first, torch.zeros(setting.images, *setting.shape))
    weight, bias = seen.update[f"{name}.weight"], seen.update[f"{name}.bias"]
    rate = step_size(setting)
    data: dict[str, Any] = {"base": dict(seen.base), "gain": seen.gain, "mix": seen.mix}
    hidden, predict = {}, predict_shared_layers
    if setting.images == 1 and isinstance(layer, nn.Linear):
        data["output_gradient"] = bias / rate
    elif setting.local_steps == 1 and _determined(layer, inputs):
        data["last"] = torch.cat([weight[0].flatten(1), bias[0].unsqueeze(1)], 1) / rate
        predict = predict_projected
    else:
        basis = _basis(setting, layer, weight, seen.estimate)
        shape = tuple(output.shape[1:]) if basis is None else (len(basis),)
        if seen.estimate is None:
            size = bias.norm() / (rate * setting.images * math.prod(shape) ** 0.5)
            data["scale"] = torch.where(size > 0, size, 1.0)
        else:
            data |= {"estimate": seen.estimate, "scale": torch.tensor(seen.spread)}
        if basis is not None:
            data["basis"] = basis
        hidden["output_gradient"] = Hidden(
            shape=(setting.images, *shape),
            init="normal" if seen.estimate is None else "zero",
            lr=0.05,
        )
    return replace(
        oblivious(transcript),
        predict=predict,
        data=data,
        terms={"update": Term(value=dict(seen.update))},
        hidden=hidden,
        reveal=reveal_output_gradient,
        simulate=None,
        linear={},
        labels="eliminated",
        given=None,
    )


def _basis(
    setting: Setting, layer: nn.Module, weight: Tensor, estimate: Tensor | None
) -> Tensor | None:
    """[r, out] whose span holds the output gradients of all images; None for everything."""
    if estimate is not None:
        return estimate
    if not isinstance(layer, nn.Linear) or setting.images >= min(layer.weight.shape):
        return None
    return torch.linalg.svd(torch.cat(list(weight), 1)).U[:, : setting.images].T


def predict_shared_layers(setting: Setting, guess: Tensors, hidden: Tensors, data: Data) -> Terms:
    """The shared layers' update, for a known or hidden gradient with respect to their output."""
    if "output_gradient" in data:
        found = data["output_gradient"]
    else:
        found = hidden["output_gradient"] * data["scale"]
        if "basis" in data:
            found = found @ data["basis"]
        if "estimate" in data:
            found = found + data["estimate"]
    return _update(setting, data, guess["images"], found)


def predict_projected(setting: Setting, guess: Tensors, hidden: Tensors, data: Data) -> Terms:
    """The shared layers' update, for the output gradient that explains the last layer best."""
    images = guess["images"]
    inputs, output = _through_last(setting, {n: t[0] for n, t in data["base"].items()}, images)
    patches = _patches(last_layer(setting)[1], inputs)
    found = output_gradient_of(patches.flatten(0, 1), data["last"]).unflatten(0, patches.shape[:2])
    return _update(setting, data, images, found.transpose(1, 2).reshape(output.shape))


def output_gradient_of(inputs: Tensor, gradient: Tensor) -> Tensor:
    """The output gradient [n, out] by which a layer's ``inputs`` [n, in] explain its weights'
    ``gradient`` [out, in] best: least squares in double precision, with a ridge of ``RIDGE``."""
    inputs, wide = inputs.double(), gradient.double()
    gram = inputs @ inputs.T
    ridge = RIDGE * gram.diagonal().sum() * torch.eye(len(inputs), dtype=gram.dtype)
    return torch.linalg.solve(gram + ridge, inputs @ wide.T).to(gradient.dtype)


def reveal_output_gradient(setting: Setting, truth: Tensors, data: Data) -> dict[str, Tensor]:
    """The hidden variable that stands for the true output gradients, step by step."""
    if "scale" not in data:
        return {}
    behind = split(setting)[1]
    private = {k.removeprefix("private."): t for k, t in truth.items() if k.startswith("private.")}
    inner = feature_parameters(private)
    soft = F.one_hot(truth["labels"], setting.classes).to(truth["images"].dtype)
    found: list[Tensor] = []

    def output_gradient(step: int, weights: dict[str, Tensor]) -> Tensor:
        rows = _rows(setting, step)

        def loss(output: Tensor) -> Tensor:
            features = functional_call(behind, inner, (output,))
            logits = F.linear(features, private["head.weight"], private["head.bias"])
            return F.cross_entropy(logits, soft[rows])

        output = functional_call(split(setting)[0], weights, (truth["images"][rows],))
        found.append(grad(loss)(output))
        return found[-1]

    _gradients(setting, data, truth["images"], output_gradient)
    variable = torch.cat(found) - data.get("estimate", 0.0)
    if "basis" in data:
        variable = variable @ torch.linalg.pinv(data["basis"].double()).to(variable.dtype)
    return {"output_gradient": variable / data["scale"]}


def _update(
    setting: Setting, data: Data, images: Tensor, output_gradient: Tensor
) -> dict[str, Tensors]:
    """What is observed of the shared layers, for the ``output_gradient`` [N, ...] of all images."""
    found = _gradients(setting, data, images, lambda step, _: output_gradient[_rows(setting, step)])
    mix = step_size(setting) * data["mix"]
    return {
        "update": {
            name: torch.tensordot(mix, torch.stack([step[name] for step in found]), ([0], [0]))
            for name in data["base"]
        }
    }


def _gradients(
    setting: Setting,
    data: Data,
    images: Tensor,
    output_gradient: Callable[[int, dict[str, Tensor]], Tensor],
) -> list[dict[str, Tensor]]:
    """The gradients of all local steps; ``output_gradient`` is asked per step, at its weights."""
    found: list[dict[str, Tensor]] = []
    for step in range(setting.local_steps):
        weights = {name: base[step] for name, base in data["base"].items()}
        for past, gradient in enumerate(found):
            factor = step_size(setting) * data["gain"][step, past]
            weights = {name: weights[name] - factor * gradient[name] for name in weights}
        batch, known = images[_rows(setting, step)], output_gradient(step, weights)
        found.append(gradient_given_output(split(setting)[0], weights, batch, known))
    return found


def _rows(setting: Setting, step: int) -> slice:
    return slice(step * setting.batch_size, (step + 1) * setting.batch_size)


def _through_last(setting: Setting, weights: Tensors, images: Tensor) -> tuple[Tensor, Tensor]:
    """Input and output of the last shared layer."""
    name, layer = last_layer(setting)
    own = {n.removeprefix(f"{name}."): t for n, t in weights.items() if n.startswith(f"{name}.")}
    others = {n: t for n, t in weights.items() if not n.startswith(f"{name}.")}
    inputs = functional_call(split(setting)[0][:-1], others, (images,))
    return inputs, functional_call(layer, own, (inputs,))


def _patches(layer: nn.Module, inputs: Tensor) -> Tensor:
    """[N, places, in + 1] the rows that a linear or convolutional layer multiplies, and a one."""
    if isinstance(layer, nn.Conv2d):
        assert not isinstance(layer.padding, str)
        rows = F.unfold(
            inputs, layer.kernel_size, layer.dilation, layer.padding, layer.stride
        ).transpose(1, 2)
    else:
        rows = inputs.unsqueeze(1)
    return torch.cat([rows, torch.ones_like(rows[..., :1])], -1)


def _determined(layer: nn.Module, inputs: Tensor) -> bool:
    """Whether the rows that enter a layer cannot span all that its gradient may be."""
    if isinstance(layer, nn.Conv2d) and (
        layer.groups > 1 or layer.padding_mode != "zeros" or isinstance(layer.padding, str)
    ):
        return False
    images, places, width = _patches(layer, inputs).shape
    return images * places < width
