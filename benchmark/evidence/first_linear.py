"""Reading a linear layer: its gradient is made of its inputs, whatever arrives from behind it.

For N images the weight and bias gradients of a linear layer, side by side, are a sum of N outer
products: what the loss passes back to an image times that image's input with a one appended
(Phong et al., 2017, arXiv:1706.04970, Proposition 3). So every row lies in the span of the N
inputs, and the layers behind, their noise, labels and loss need not be known. A guess is judged by
the inputs that it causes: each row is explained as well as they can, by least squares over the
entries that were sent and by the precision of their noise. That is the maximum of the likelihood
over everything that could have arrived, and for one image the cosine of every row with the input.
Where one image's gradient shows no gap and no noise, its bias gradient is what arrived: it is
taken as it is, and inputs are compared in size as well.

Matching inputs is better conditioned than matching gradients; what it gains is on the board, where
the same attacks run on `rows` and on the whole message.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Mapping
from dataclasses import replace
from functools import lru_cache
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import functional_call

from benchmark.evidence.base import EVERY, Evidence, Tensors, Term, reads
from benchmark.evidence.generic import oblivious, sent
from benchmark.federated.setting import Setting, stateless_model
from benchmark.federated.transcript import Transcript
from benchmark.models.base import VictimModel

LEAST_VARIANCE = 1e-8
"""Of the noisiest entry's: nothing counts more than its reciprocal, as in the attacks' losses."""
CLEAR = 1e-3
"""Rows that differ by less from one outer product show neither gap nor noise."""
RIDGE = 1e-6
"""Of the mean curvature, added where a row may not determine all of its coefficients."""


@reads(EVERY, knowledge="oblivious")
def rows(transcript: Transcript) -> Evidence | None:
    """Explain every row of the first linear layer's gradient by the layer's own inputs."""
    whole = oblivious(transcript).terms["update"]
    evidence = explain_rows(transcript, whole, name="rows")
    return evidence and replace(evidence, knowledge="oblivious")


@reads(EVERY)
def sent_rows(transcript: Transcript) -> Evidence | None:
    """Explain what was sent of every row of the first linear layer by the layer's own inputs."""
    known = sent(transcript)
    evidence = known and explain_rows(transcript, known.terms["update"])
    if evidence is None:
        return None
    mask = evidence.terms["rows"].mask
    assert mask is not None
    return evidence if any(not part.all() for part in mask.values()) else None


def noisy_rows(transcript: Transcript) -> Evidence | None:
    """The rows, as something that noise keeps even the truth from explaining."""
    return explain_rows(
        transcript, oblivious(transcript).terms["update"], noisy=True, name="noisy-rows"
    )


def explain_rows(
    transcript: Transcript, update: Term, *, noisy: bool = False, name: str = "sent-rows"
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
    layer = first_linear(setting)
    if setting.local_steps > 1 or layer is None:
        return None
    parts = [f"{layer}.weight", f"{layer}.bias"]
    front = {f"features.{n}" for n, _ in in_front(setting, layer).named_parameters()}
    if not front <= set(transcript.broadcast) or not set(parts) <= set(update.value):
        return None
    if setting.images >= len(update.value[parts[1]]):
        return None
    largest = torch.stack([update.value[n].abs().max() for n in parts]).max()
    size = torch.where(largest > 0, largest, torch.ones_like(largest))
    mask = {n: _part(update.mask, n, update, 1.0) for n in parts}
    variance = {n: _part(update.variance, n, update, 0.0) for n in parts}
    most = torch.stack([v.max() for v in variance.values()]).max()
    precision = {n: mask[n] / _ratio(variance[n], most) for n in parts}
    top = torch.stack([p.max() for p in precision.values()]).max().clamp_min(1e-30)
    term = Term(
        # squares of small gradients would vanish
        value={n: update.value[n] * mask[n] / size for n in parts},
        mask=None if update.mask is None else mask,
        variance=None if update.variance is None else {n: variance[n] / size**2 for n in parts},
        kind="value",
    )
    evidence = oblivious(transcript)
    return replace(
        evidence,
        name=name,
        knowledge="adaptive",
        predict=predict_rows,
        data={
            "shared": evidence.data["shared"],
            "observed": _side_by_side(term.value, parts),
            "precision": _side_by_side({n: p / top for n, p in precision.items()}, parts),
            "clear": _clear(setting, _side_by_side(term.value, parts)),
        },
        terms={"rows": term},
        simulate=None,
        labels="eliminated",
        given=None,
        noisy=noisy,
    )


def predict_rows(
    setting: Setting, guess: Tensors, hidden: Tensors, data: Mapping[str, Any]
) -> dict[str, Tensors]:
    """The nearest rows that the guess's inputs to the layer can explain."""
    layer = first_linear(setting)
    assert layer is not None
    front = in_front(setting, layer)
    weights = {n: data["shared"][f"features.{n}"] for n, _ in front.named_parameters()}
    inputs = functional_call(front, weights, (guess["images"],))
    inputs = torch.cat([inputs, torch.ones_like(inputs[:, :1])], 1)
    explained = nearest(data["observed"], data["precision"], inputs)
    if setting.images == 1:
        outer = data["observed"][:, -1:] * inputs
        explained = torch.where(data["clear"], outer, explained)
    return {"rows": {f"{layer}.weight": explained[:, :-1], f"{layer}.bias": explained[:, -1]}}


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
def first_linear(setting: Setting) -> str | None:
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
    arriving = observed[:, -1]
    energy = arriving.square().sum().clamp_min(torch.finfo(observed.dtype).tiny)
    gap = observed - torch.outer(arriving, observed.T @ arriving / energy)
    return gap.norm() <= CLEAR * observed.norm()


def _part(parts: Tensors | None, name: str, term: Term, default: float) -> Tensor:
    value = term.value[name]
    if parts is None:
        return torch.full_like(value, default)
    return parts[name].to(value.dtype).expand_as(value)


def _ratio(variance: Tensor, most: Tensor) -> Tensor:
    scaled = variance / torch.where(most > 0, most, torch.ones_like(most))
    return torch.where(most > 0, scaled.clamp_min(LEAST_VARIANCE), torch.ones_like(scaled))


def _side_by_side(parts: Tensors, names: list[str]) -> Tensor:
    """Weight [out, in] and bias [out] as [out, in + 1]."""
    weight, bias = (parts[name] for name in names)
    return torch.cat([weight, bias[:, None]], 1)
