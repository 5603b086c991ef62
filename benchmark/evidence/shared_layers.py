"""Layers whose loss stayed with the client: what arrives behind them is eliminated.

The gradient of the layers in front of a cut is that of the inner product of the cut layer's output
with the loss's gradient there, whatever head and labels made it. That gradient, ``upstream``, is

``known``      for one image and a linear cut layer: its bias gradient, which was sent.
``projected``  in one step, where the cut layer has more inputs than there are rows that enter it
               (images, times places of a convolution). Its own gradient is the sum over the rows
               of upstream times input, so that a guess's inputs and least squares give the
               upstream, and images whose inputs do not span what was sent cannot explain it: no
               unknown but the images is left. (Separable least squares: Golub and Pereyra, SIAM
               Journal on Numerical Analysis 10, 1973.)
``hidden``     elsewhere: a variable that the attack optimises. A linear layer's gradient has no
               more dimensions than images, and holds the upstream of every one of them; the
               variable then has one entry per pair of images, not per image and output.

Local steps are unrolled. Step t works with the weights ``base[t] - rate * sum over s < t of
gain[t, s] * gradient[s]``, and what is observed is, for every column j of ``mix``, the sum over t
of ``rate * mix[t, j] * gradient[t]``. Plain averaging has one column of ones and gains of one.
"""

from __future__ import annotations

import math
from collections import OrderedDict
from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.func import functional_call, grad
from torch.nn import functional as F

from benchmark.evidence.base import Evidence, Hidden, Tensors, Term
from benchmark.evidence.generic import oblivious
from benchmark.federated.setting import Setting, stateless_model
from benchmark.federated.transcript import Transcript

RIDGE = 1e-8
"""Relative size of what keeps least squares defined where inputs repeat, as in blank margins."""


@dataclass(frozen=True)
class Observed:
    """What was seen of a trunk in a round of T local steps; parameters are named as in the trunk.

    Attributes:
        base: [T, ...] weights of every step, apart from the movement by the observed gradients.
        update: [k, ...] observed sums of gradients.
        gain: [T, T], used below the diagonal.
        mix: [T, k].
        start: [N, out] estimate of the upstream of a linear cut layer, or None.
        doubt: how far the hidden variable moves that estimate, relative to it.
    """

    base: Tensors
    update: Tensors
    gain: Tensor
    mix: Tensor
    start: Tensor | None = None
    doubt: float = 1.0


@lru_cache(maxsize=16)
def split(setting: Setting) -> tuple[nn.Sequential, nn.Sequential]:
    """The features cut after the last layer that the server knows: trunk and tail.

    Trailing layers without weights (activations, reshaping) go to the tail.
    """
    model = stateless_model(setting)
    features = getattr(model, "extractor", model.features)
    layers = list(features.named_children())
    known = [
        index
        for index, (name, layer) in enumerate(layers)
        if list(layer.parameters()) and not _private(setting, name)
    ]
    cut = known[-1] + 1
    return nn.Sequential(OrderedDict(layers[:cut])), nn.Sequential(OrderedDict(layers[cut:]))


def _private(setting: Setting, layer: str) -> bool:
    parameters = [n for n, _ in stateless_model(setting).named_parameters()]
    owned = [n for n in parameters if n.startswith(f"features.{layer}.")]
    return any(not setting.defense.shared(name) for name in owned)


def cut_layer(setting: Setting) -> tuple[str, nn.Module]:
    """The trunk's last layer and its name in the trunk."""
    return list(split(setting)[0].named_children())[-1]


def step_size(setting: Setting) -> float:
    """What a gradient is multiplied by before it is sent."""
    return 1.0 if setting.algorithm == "fedsgd" else setting.local_lr


def trunk_evidence(transcript: Transcript, seen: Observed, name: str) -> Evidence:
    """Evidence on the trunk of a round, whatever head and labels were behind it."""
    setting = transcript.setting
    layer, cut = cut_layer(setting)
    entering, output = _through(
        setting,
        {n: t[0] for n, t in seen.base.items()},
        torch.zeros(setting.images, *setting.shape),
    )
    weight, bias = seen.update[f"{layer}.weight"], seen.update[f"{layer}.bias"]
    rate = step_size(setting)
    data: dict[str, Any] = {"base": dict(seen.base), "gain": seen.gain, "mix": seen.mix}
    hidden = {}
    predict = predict_trunk
    if setting.images == 1 and isinstance(cut, nn.Linear):
        data["upstream"] = bias / rate
    elif setting.local_steps == 1 and _spans_less(cut, entering):
        data["cut"] = torch.cat([weight[0].flatten(1), bias[0].unsqueeze(1)], 1) / rate
        predict = predict_projected
    else:
        basis = _basis(setting, cut, weight, seen.start)
        shape = tuple(output.shape[1:]) if basis is None else (len(basis),)
        if seen.start is None:
            size = bias.norm() / (rate * setting.images * math.prod(shape) ** 0.5)
            data["scale"] = torch.where(size > 0, size, 1.0)
        else:
            data |= {"start": seen.start, "scale": torch.tensor(seen.doubt)}
        if basis is not None:
            data["basis"] = basis
        init: Literal["zero", "normal"] = "normal" if seen.start is None else "zero"
        hidden["upstream"] = Hidden(shape=(setting.images, *shape), init=init, lr=0.05)
    return replace(
        oblivious(transcript),
        name=name,
        knowledge="adaptive",
        predict=predict,
        data=data,
        terms={"update": Term(value=dict(seen.update))},
        hidden=hidden,
        reveal=reveal_upstream,
        simulate=None,
        linear={},
        labels="eliminated",
        given=None,
    )


def _basis(setting: Setting, cut: nn.Module, weight: Tensor, start: Tensor | None) -> Tensor | None:
    """[r, out] what the upstream of all images lies in the span of; None for everything."""
    if start is not None:
        return start
    if not isinstance(cut, nn.Linear) or setting.images >= min(cut.weight.shape):
        return None
    return torch.linalg.svd(torch.cat(list(weight), 1)).U[:, : setting.images].T


def predict_trunk(
    setting: Setting, guess: Tensors, hidden: Tensors, data: Mapping[str, Any]
) -> dict[str, Tensors]:
    """The trunk's update, for the gradient that is known or assumed to arrive at its output."""
    if "upstream" in data:
        arriving = data["upstream"]
    else:
        arriving = hidden["upstream"] * data["scale"]
        if "basis" in data:
            arriving = arriving @ data["basis"]
        if "start" in data:
            arriving = arriving + data["start"]
    return _update(setting, data, guess["images"], arriving)


def predict_projected(
    setting: Setting, guess: Tensors, hidden: Tensors, data: Mapping[str, Any]
) -> dict[str, Tensors]:
    """The trunk's update, for the gradient at its output that explains the cut layer best."""
    images = guess["images"]
    entering, output = _through(setting, {n: t[0] for n, t in data["base"].items()}, images)
    rows = _patches(cut_layer(setting)[1], entering)
    found = upstream_of(rows.flatten(0, 1), data["cut"])
    arriving = found.unflatten(0, rows.shape[:2]).transpose(1, 2).reshape(output.shape)
    return _update(setting, data, images, arriving)


def upstream_of(rows: Tensor, gradient: Tensor) -> Tensor:
    """The upstream [n, out] of ``rows`` [n, in] that explains a layer's gradient [out, in] best.

    Least squares in double precision, with a ridge of ``RIDGE``.
    """
    rows, wide = rows.double(), gradient.double()
    gram = rows @ rows.T
    ridge = RIDGE * gram.diagonal().sum() * torch.eye(len(rows), dtype=gram.dtype)
    return torch.linalg.solve(gram + ridge, rows @ wide.T).to(gradient.dtype)


def reveal_upstream(
    setting: Setting, truth: Mapping[str, Tensor], data: Mapping[str, Any]
) -> dict[str, Tensor]:
    """The variable that stands for the true gradients at the trunk's output, step by step."""
    if "scale" not in data:
        return {}
    trunk, tail = split(setting)
    private = {k.removeprefix("private."): t for k, t in truth.items() if k.startswith("private.")}
    inner = {
        n.removeprefix("features."): t for n, t in private.items() if n.startswith("features.")
    }
    soft = F.one_hot(truth["labels"], setting.classes).to(truth["images"].dtype)
    found: list[Tensor] = []
    slopes: list[dict[str, Tensor]] = []
    for step in range(setting.local_steps):
        rows = _rows(setting, step)
        weights = _weights(setting, data, slopes)

        def loss(output: Tensor, labels: Tensor = soft[rows]) -> Tensor:
            features = functional_call(tail, inner, (output,))
            logits = F.linear(features, private["head.weight"], private["head.bias"])
            return F.cross_entropy(logits, labels)

        images = truth["images"][rows]
        found.append(grad(loss)(functional_call(trunk, weights, (images,))))
        slopes.append(_gradient(setting, weights, images, found[-1]))
    upstream = torch.cat(found) - data.get("start", 0.0)
    if "basis" in data:
        upstream = upstream @ torch.linalg.pinv(data["basis"].double()).to(upstream.dtype)
    return {"upstream": upstream / data["scale"]}


def _update(
    setting: Setting, data: Mapping[str, Any], images: Tensor, arriving: Tensor
) -> dict[str, Tensors]:
    """What is observed of a trunk at whose output ``arriving`` arrives."""
    slopes: list[dict[str, Tensor]] = []
    for step in range(setting.local_steps):
        rows, weights = _rows(setting, step), _weights(setting, data, slopes)
        slopes.append(_gradient(setting, weights, images[rows], arriving[rows]))
    mix = step_size(setting) * data["mix"]
    return {
        "update": {
            name: torch.tensordot(mix, torch.stack([s[name] for s in slopes]), ([0], [0]))
            for name in data["base"]
        }
    }


def _weights(
    setting: Setting, data: Mapping[str, Any], slopes: list[dict[str, Tensor]]
) -> dict[str, Tensor]:
    """The trunk's weights in the step that follows those of which the ``slopes`` are."""
    step, rate = len(slopes), step_size(setting)
    weights = {name: base[step] for name, base in data["base"].items()}
    for past, slope in enumerate(slopes):
        factor = rate * data["gain"][step, past]
        weights = {name: weights[name] - factor * slope[name] for name in weights}
    return weights


def _rows(setting: Setting, step: int) -> slice:
    return slice(step * setting.batch_size, (step + 1) * setting.batch_size)


def _through(setting: Setting, weights: Tensors, images: Tensor) -> tuple[Tensor, Tensor]:
    """What enters the cut layer, and what leaves it."""
    layer, cut = cut_layer(setting)
    own = {n.removeprefix(f"{layer}."): t for n, t in weights.items() if n.startswith(f"{layer}.")}
    others = {n: t for n, t in weights.items() if not n.startswith(f"{layer}.")}
    entering = functional_call(split(setting)[0][:-1], others, (images,))
    return entering, functional_call(cut, own, (entering,))


def _gradient(
    setting: Setting, weights: Tensors, images: Tensor, arriving: Tensor
) -> dict[str, Tensor]:
    trunk, _ = split(setting)

    def product(parameters: dict[str, Tensor]) -> Tensor:
        return (functional_call(trunk, parameters, (images,)) * arriving).sum()

    return grad(product)(dict(weights))


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


def _spans_less(layer: nn.Module, inputs: Tensor) -> bool:
    """Whether the rows that enter a layer cannot span all that its gradient may be."""
    if isinstance(layer, nn.Conv2d) and (
        layer.groups > 1 or layer.padding_mode != "zeros" or isinstance(layer.padding, str)
    ):
        return False
    images, places, width = _patches(layer, inputs).shape
    return images * places < width
