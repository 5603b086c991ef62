"""The first linear layer: its gradient is made of its inputs, whatever its output's gradient is.

For N images the weight and bias gradients of a linear layer, side by side, are a sum of N outer
products: the gradient with respect to the layer's output for an image, times that image's input
with a one appended (Phong et al., 2017, arXiv:1706.04970, Proposition 3). So every row lies in the
span of the N inputs, and the layers behind, their noise, labels and loss need not be known. A guess
is judged by the inputs that it causes: each row is explained as well as they can, by least squares
over the entries that were sent and by the precision of their noise. That is the maximum of the
likelihood over all gradients of the output, and for one image the cosine of every row with the
input. Where one image's gradient shows no gap and no noise, its bias gradient is that of the
output: it is taken as it is, and inputs are compared in size as well.
"""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import replace
from functools import lru_cache

import torch
from torch import Tensor, nn
from torch.func import functional_call

from benchmark.evidence.base import EVERY, Data, Evidence, Tensors, Term, Terms, evidence_of
from benchmark.evidence.generic import nonzero_entries, oblivious
from benchmark.federated.setting import Setting, stateless_model
from benchmark.federated.transcript import Transcript
from benchmark.models.base import VictimModel

LEAST_VARIANCE = 1e-8
"""Of the noisiest entry's: nothing counts more than its reciprocal, as in the attacks' losses."""
CLEAR = 1e-3
"""Rows that differ by less from one outer product show neither gap nor noise."""
RIDGE = 1e-6
"""Of the mean curvature, added where a row may not determine all of its coefficients."""


@evidence_of(EVERY, knowledge="oblivious")
def first_linear_layer(transcript: Transcript) -> Evidence | None:
    """Explain every row of the first linear layer's gradient by the layer's own inputs."""
    return first_linear_evidence(transcript, oblivious(transcript).terms["update"])


@evidence_of(EVERY)
def first_linear_layer_nonzero(transcript: Transcript) -> Evidence | None:
    """Explain what was sent of every row of the first linear layer by the layer's own inputs."""
    known = nonzero_entries(transcript)
    evidence = known and first_linear_evidence(transcript, known.terms["update"])
    if evidence is None:
        return None
    mask = evidence.terms["first_linear_layer"].mask
    assert mask is not None
    return evidence if any(not part.all() for part in mask.values()) else None


def first_linear_layer_noisy(transcript: Transcript) -> Evidence | None:
    """Explain every row of the first linear layer's gradient by its inputs, up to the noise."""
    return first_linear_evidence(transcript, oblivious(transcript).terms["update"], noisy=True)


def first_linear_evidence(
    transcript: Transcript, update: Term, *, noisy: bool = False
) -> Evidence | None:
    """The evidence that one linear layer's gradient is, as ``update`` shows it.

    Args:
        update: the client's update, by parameter name, with mask and noise variance.
        noisy: whether noise keeps the truth from explaining it.

    Returns:
        None where no linear layer's gradient was sent, where private weights lie before the
        first one, or where its rows say nothing: after several local steps, and with as many
        images as rows.
    """
    setting = transcript.setting
    layer = first_linear_name(setting)
    if setting.local_steps > 1 or layer is None:
        return None
    front = {f"features.{n}" for n, _ in in_front(setting, layer).named_parameters()}
    own = {f"{layer}.weight", f"{layer}.bias"}
    if not (front <= set(transcript.broadcast) and own <= set(update.value)):
        return None
    value = _matrix(update.value, layer)
    if setting.images >= len(value):
        return None
    mask = torch.ones_like(value) if update.mask is None else _matrix(update.mask, layer)
    variance = torch.zeros_like(value)
    if update.variance is not None:
        variance = _matrix(
            {n: v.expand_as(update.value[n]) for n, v in update.variance.items()}, layer
        )
    relative = (variance / _or_one(variance.max())).clamp_min(LEAST_VARIANCE)
    precision = mask / relative
    size = _or_one(value.abs().max())  # squares of small gradients would vanish
    observed = value * mask / size
    term = Term(
        value=_parts(observed, layer),
        mask=None if update.mask is None else _parts(mask, layer),
        variance=None if update.variance is None else _parts(variance / size**2, layer),
        kind="value",
    )
    return replace(
        oblivious(transcript),
        predict=predict_first_linear,
        data={
            "shared": dict(transcript.broadcast),
            "observed": observed,
            "precision": precision / precision.max().clamp_min(1e-30),
            "clear": _clear(setting, observed),
        },
        terms={"first_linear_layer": term},
        simulate=None,
        labels="eliminated",
        given=None,
        noisy=noisy,
    )


def predict_first_linear(setting: Setting, guess: Tensors, hidden: Tensors, data: Data) -> Terms:
    """The nearest rows that the guess's inputs to the layer can explain."""
    layer = first_linear_name(setting)
    assert layer is not None
    front = in_front(setting, layer)
    weights = {n: data["shared"][f"features.{n}"] for n, _ in front.named_parameters()}
    inputs = functional_call(front, weights, (guess["images"],))
    inputs = torch.cat([inputs, torch.ones_like(inputs[:, :1])], 1)
    explained = nearest(data["observed"], data["precision"], inputs)
    if setting.images == 1:
        outer = data["observed"][:, -1:] * inputs
        explained = torch.where(data["clear"], outer, explained)
    return {"first_linear_layer": _parts(explained, layer)}


def nearest(rows: Tensor, precision: Tensor, inputs: Tensor) -> Tensor:
    """Each row's best approximation by a combination of ``inputs``.

    Args:
        rows: [R, D].
        precision: [R, D], how much an entry counts; 0 for one that is not known.
        inputs: [N, D], N < R.

    Returns:
        [R, D]; a row of which nothing is known is 0.
    """
    if len(inputs) == 1:
        (one,) = inputs
        along = (precision * rows) @ one
        energy = precision @ one.square()
        return (along / energy.clamp_min(torch.finfo(energy.dtype).tiny))[:, None] * one
    basis = torch.linalg.qr(inputs.T).Q  # [D, N]
    curvature = torch.einsum("rd,da,db->rab", precision, basis, basis)
    along = (precision * rows) @ basis
    mean = curvature.diagonal(dim1=-2, dim2=-1).mean(-1)
    ridge = torch.eye(len(inputs)) * (RIDGE * mean + 1e-30)[:, None, None]
    return torch.linalg.solve(curvature + ridge, along.unsqueeze(-1)).squeeze(-1) @ basis.T


@lru_cache(maxsize=16)
def first_linear_name(setting: Setting) -> str | None:
    """The linear layer nearest to the image; None where what lies before it is not a chain."""
    model = stateless_model(setting)
    if setting.vocabulary or not isinstance(getattr(model, "features", None), nn.Sequential):
        return None
    for name, layer in model.features.named_children():
        if isinstance(layer, nn.Linear):
            return f"features.{name}"
    # otherwise a defense may stand between features and head
    return "head" if type(model) is VictimModel else None


@lru_cache(maxsize=16)
def in_front(setting: Setting, layer: str) -> nn.Sequential:
    """The layers before a linear one."""
    named = list(stateless_model(setting).features.named_children())
    names = [f"features.{name}" for name, _ in named]
    return nn.Sequential(OrderedDict(named[: names.index(layer)] if layer in names else named))


def _clear(setting: Setting, observed: Tensor) -> Tensor:
    """Whether one image's rows are multiples of one input to the last, bias gradient included."""
    if setting.images > 1:
        return torch.tensor(False)
    bias = observed[:, -1]
    energy = bias.square().sum().clamp_min(torch.finfo(observed.dtype).tiny)
    gap = observed - torch.outer(bias, observed.T @ bias / energy)
    return gap.norm() <= CLEAR * observed.norm()


def _or_one(size: Tensor) -> Tensor:
    return torch.where(size > 0, size, torch.ones_like(size))


def _matrix(update: Tensors, layer: str) -> Tensor:
    """Weight [out, in] and bias [out] side by side, [out, in + 1]."""
    weight, bias = update[f"{layer}.weight"], update[f"{layer}.bias"]
    return torch.cat([weight, bias[:, None]], 1)


def _parts(matrix: Tensor, layer: str) -> dict[str, Tensor]:
    """The inverse of :func:`_matrix`."""
    return {f"{layer}.weight": matrix[:, :-1], f"{layer}.bias": matrix[:, -1]}
