"""Reading HyperFL's messages: the hypernetwork's output biases carry the hidden gradient in clear.

An output layer makes theta = W f + b from the hidden code f. In one step its bias gradient is
therefore exactly the gradient g of theta, and its weight gradient g f': one message gives f, with
f and the broadcast theta, and with both the ordinary gradient of a model with a private head.

Several local steps send the sum over t of g(t) [1, f(t)'], and f moves from step to step. That
helps the server: for single images the part of a linear layer is a sum of as many products of
three vectors as there are steps, what arrives at the layer times what enters it times [1, f(t)],
and such a sum has one decomposition only, found by an eigenvalue problem (Harshman, UCLA Working
Papers in Phonetics 22, 1972; Leurgans et al., SIAM Journal on Matrix Analysis 14, 1993). So every
step's code is known, and with it theta in every step, and what arrived from the private head.

Where all hidden units are dead, f is zero and theta is the broadcast b: the message is that of
plain averaging with a private head, and is read as such.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from benchmark.defenses.hyperfl import slot
from benchmark.evidence.base import Evidence, evidence_of
from benchmark.evidence.precode import ratio
from benchmark.evidence.shared_layers import (
    ObservedRound,
    cut_layer,
    shared_layers_evidence,
    split,
    step_size,
)
from benchmark.federated.transcript import Transcript
from benchmark.runtime.randomness import generator

LEAST_SINGULAR = 1e-6
"""A step whose part of the message is relatively smaller is lost in float32's rounding."""

DOUBT = 1e-3
"""How far a variable of one moves an upstream that was found in closed form, relative to it."""


def code(transcript: Transcript) -> Tensor:
    """The hypernetwork's hidden code [hidden], by least squares over all of its outputs.

    Exact in one step; in several an average over the steps.
    """
    sent = _sent(transcript)
    stacked = torch.cat([t.flatten(0, -2) for t in sent.values()])
    return ratio(stacked[:, 1:], stacked[:, 0]).squeeze(0)


def generated(transcript: Transcript, hidden: Tensor) -> dict[str, Tensor]:
    """The feature extractor's weights [T, ...] that the broadcast makes from codes [T, hidden]."""
    received = transcript.broadcast
    return {
        name: (
            hidden @ received[f"hyper.{slot(name)}.weight"].T + received[f"hyper.{slot(name)}.bias"]
        ).unflatten(1, weight.shape)
        for name, weight in split(transcript.setting)[0].named_parameters()
    }


def _sent(transcript: Transcript) -> dict[str, Tensor]:
    """Sums over the steps of gradient times [1, code], [..., 1 + hidden], by the trunk's names."""
    message = transcript.message
    return {
        name: torch.cat(
            [
                message[f"hyper.{slot(name)}.bias"].unsqueeze(1),
                message[f"hyper.{slot(name)}.weight"],
            ],
            1,
        ).unflatten(0, weight.shape)
        for name, weight in split(transcript.setting)[0].named_parameters()
    }


@evidence_of("hyperfl")
def generated_weights(transcript: Transcript) -> Evidence:
    """Undo the hypernetwork by its bias identity, and eliminate head and labels."""
    steps, hidden = transcript.setting.local_steps, code(transcript)
    seen = ObservedRound(
        base=generated(transcript, hidden.expand(steps, -1)),
        update={name: tensor[..., 0].unsqueeze(0) for name, tensor in _sent(transcript).items()},
        # a step on W and b moves theta = W f + b by 1 + |f|^2 times its gradient
        gain=(1 + hidden.square().sum()).expand(steps, steps),
        mix=torch.ones(steps, 1),
    )
    return shared_layers_evidence(transcript, seen, "generated-weights")


@evidence_of("hyperfl")
def generated_weights_per_step(transcript: Transcript) -> Evidence | None:
    """Tell the local steps apart by their codes, and unroll the client with them."""
    setting = transcript.setting
    steps = setting.local_steps
    if steps == 1:
        return None
    found = separate(transcript)
    if found is None:
        hidden, start, doubt = code(transcript).expand(steps, -1), _directions(transcript), 1.0
    else:
        hidden, start = found
        doubt = DOUBT
    codes = F.pad(hidden, (1, 0), value=1.0)
    # The messages of T steps lie in the T directions of their codes: nothing else is to be matched.
    basis = torch.linalg.svd(codes).Vh[:steps].T
    seen = ObservedRound(
        base=generated(transcript, hidden),
        update={n: torch.movedim(t @ basis, -1, 0) for n, t in _sent(transcript).items()},
        gain=codes @ codes.T,
        mix=codes @ basis,
        start=start,
        doubt=doubt,
    )
    return shared_layers_evidence(transcript, seen, "generated-weights-per-step")


def separate(transcript: Transcript) -> tuple[Tensor, Tensor] | None:
    """Every local step's code [T, hidden] and what arrived at its cut layer [T, out], in order.

    None where that is not determined: several images in a step, a cut that is not linear, steps
    whose inputs or upstreams do not differ, or units that were all dead.
    """
    setting = transcript.setting
    steps, (layer, cut) = setting.local_steps, cut_layer(setting)
    if setting.batch_size > 1 or not isinstance(cut, nn.Linear) or steps > min(cut.weight.shape):
        return None
    sent = _sent(transcript)
    parts = [sent[f"{layer}.weight"], sent[f"{layer}.bias"].unsqueeze(1)]
    total = torch.cat(parts, 1).double() / step_size(setting)
    left, sizes, right = torch.linalg.svd(total[..., 0], full_matrices=False)
    if not bool(sizes[steps - 1] > LEAST_SINGULAR * sizes[0]):
        return None
    left, right = left[:, :steps], right[:steps]
    slices = torch.einsum("or,oik,si->krs", left, total, right)
    ratios = slices @ torch.linalg.inv(slices[0])
    weights = torch.randn(len(ratios), generator=generator("attacker", "pencil")).double()
    values, vectors = torch.linalg.eig(torch.einsum("k,krs->rs", weights, ratios))
    apart = (values[:, None] - values).abs() + torch.eye(steps).double() * values.abs().max()
    if not bool(apart.min() > LEAST_SINGULAR * values.abs().max()):
        return None  # two steps with one code, such as units that were all dead
    mixing = vectors.real
    if not bool(torch.linalg.cond(mixing) < 1 / LEAST_SINGULAR):
        return None  # inputs that do not differ
    codes = torch.linalg.solve(mixing, ratios @ mixing).diagonal(dim1=1, dim2=2).T
    upstream = left @ mixing
    # what enters the bias is a one, so that the columns add up to its gradient
    upstream = upstream * torch.linalg.lstsq(upstream, total[:, -1, :1]).solution.T
    order = _order(transcript, codes)
    return codes[order, 1:].float(), upstream.T[order].float()


def _order(transcript: Transcript, codes: Tensor) -> list[int]:
    """Which of the codes [T, 1 + hidden] came first, and which came next.

    The hypernetwork's first layer sent the embedding as nearly as the steps are short, hence the
    first code; each step's gradient moves the code to the next one's.
    """
    setting, message = transcript.setting, transcript.message
    received = {name: tensor.double() for name, tensor in transcript.broadcast.items()}
    weight, bias = received["hyper.hidden.weight"], received["hyper.hidden.bias"]
    embedding = ratio(message["hyper.hidden.weight"], message["hyper.hidden.bias"])[0].double()
    rate, sent = step_size(setting), _sent(transcript)
    names, columns = list(sent), torch.cat([t.flatten(0, -2) for t in sent.values()]).double()
    gradients = columns @ torch.linalg.pinv(codes) / rate
    outputs = torch.cat([received[f"hyper.{slot(name)}.weight"] for name in names])
    arriving = gradients.T @ outputs
    code = weight @ embedding + bias
    moves = rate * (1 + embedding.square().sum()) * torch.eye(len(weight), dtype=weight.dtype)
    moves = moves + setting.private_lr * weight @ weight.T
    left, order = list(range(len(codes))), []
    while left:
        distance = (codes[left, 1:] - F.relu(code)).norm(dim=1)
        order.append(left.pop(int(distance.argmin())))
        active = codes[order[-1], 1:] > 0
        code = torch.where(active, codes[order[-1], 1:], code)
        code = code - moves @ (arriving[order[-1]] * active)
    return order


def _directions(transcript: Transcript) -> Tensor:
    """Orthogonal stand-ins [N, out] for what arrived at the cut layer, of its gradient's span."""
    setting = transcript.setting
    layer, _ = cut_layer(setting)
    sent = _sent(transcript)
    weight, bias = sent[f"{layer}.weight"][..., 0], sent[f"{layer}.bias"][..., 0]
    size = bias.norm() / (step_size(setting) * setting.images**0.5)
    return torch.where(size > 0, size, 1.0) * torch.linalg.svd(weight).U[:, : setting.images].T
