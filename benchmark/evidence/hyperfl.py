"""HyperFL's messages: the output biases of the hypernetwork carry the gradient that it hides.

An output layer makes theta = W f + b from the hidden code f. In one step its bias gradient is
therefore exactly the gradient g of theta, and its weight gradient g f': one message gives f, with
f and the broadcast theta, and with both the ordinary gradient of a model with a private head.

Several local steps send the sum over t of g(t) [1, f(t)'], and f moves from step to step. That
helps the server: for single images the part of a linear layer is a sum of as many products of
three vectors as there are steps, output gradient times input times [1, f(t)], and such a sum has
one decomposition only, found by an eigenvalue problem (Harshman, UCLA Working Papers in Phonetics
22, 1972; Leurgans et al., SIAM Journal on Matrix Analysis 14, 1993). So every step's code is
known, and with it theta in every step, and the output gradient that the private head caused.

Where all hidden units are dead, f is zero and theta is the broadcast b: the message is that of
plain averaging with a private head, and so is its evidence.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from benchmark.defenses.hyperfl import slot
from benchmark.evidence.base import Evidence, evidence_of
from benchmark.evidence.layers import linear_input
from benchmark.evidence.shared_layers import (
    ObservedRound,
    last_layer,
    shared_layers_evidence,
    split,
    step_size,
)
from benchmark.federated.transcript import Transcript
from benchmark.runtime.randomness import generator

LEAST_SINGULAR = 1e-6
"""A step whose part of the message is relatively smaller is lost in float32's rounding."""

SPREAD = 1e-3
"""How far a variable of one moves an output gradient that was found in closed form, relatively."""


def code(transcript: Transcript) -> Tensor:
    """The hypernetwork's hidden code [hidden], by least squares over all of its outputs.

    Exact in one step; in several an average over the steps.
    """
    stacked = torch.cat([t.flatten(0, -2) for t in _sums(transcript).values()])
    return linear_input(stacked[:, 1:], stacked[:, 0]).squeeze(0)


def generated(transcript: Transcript, codes: Tensor) -> dict[str, Tensor]:
    """The feature extractor's weights [T, ...] that the broadcast makes from codes [T, hidden]."""
    received = transcript.broadcast
    return {
        name: (
            codes @ received[f"hyper.{slot(name)}.weight"].T + received[f"hyper.{slot(name)}.bias"]
        ).unflatten(1, weight.shape)
        for name, weight in split(transcript.setting)[0].named_parameters()
    }


def _sums(transcript: Transcript) -> dict[str, Tensor]:
    """Sums over the steps of gradient times [1, code], [..., 1 + hidden], by layer parameter."""
    found = {}
    for name, weight in split(transcript.setting)[0].named_parameters():
        of_bias, of_weight = (
            transcript.message[f"hyper.{slot(name)}.{part}"] for part in ("bias", "weight")
        )
        found[name] = torch.cat([of_bias.unsqueeze(1), of_weight], 1).unflatten(0, weight.shape)
    return found


@evidence_of("hyperfl")
def generated_weights(transcript: Transcript) -> Evidence:
    """Match the gradient of the generated weights, which the output biases show, for any head."""
    steps, average = transcript.setting.local_steps, code(transcript)
    seen = ObservedRound(
        base=generated(transcript, average.expand(steps, -1)),
        update={name: tensor[..., 0].unsqueeze(0) for name, tensor in _sums(transcript).items()},
        # a step on W and b moves theta = W f + b by 1 + |f|^2 times its gradient
        gain=(1 + average.square().sum()).expand(steps, steps),
        mix=torch.ones(steps, 1),
    )
    return shared_layers_evidence(transcript, seen)


@evidence_of("hyperfl")
def generated_weights_per_step(transcript: Transcript) -> Evidence | None:
    """Tell the local steps apart by their codes, and unroll the generated weights with them."""
    steps = transcript.setting.local_steps
    if steps == 1:
        return None
    found = separate(transcript)
    if found is None:
        codes, estimate = code(transcript).expand(steps, -1), _directions(transcript)
    else:
        codes, estimate = found
    wide = F.pad(codes, (1, 0), value=1.0)
    # The messages of T steps lie in the T directions of their codes: nothing else is to be matched.
    basis = torch.linalg.svd(wide).Vh[:steps].T
    seen = ObservedRound(
        base=generated(transcript, codes),
        update={n: torch.movedim(t @ basis, -1, 0) for n, t in _sums(transcript).items()},
        gain=wide @ wide.T,
        mix=wide @ basis,
        estimate=estimate,
        spread=1.0 if found is None else SPREAD,
    )
    return shared_layers_evidence(transcript, seen)


def separate(transcript: Transcript) -> tuple[Tensor, Tensor] | None:
    """Every local step's code [T, hidden] and the last layer's output gradient [T, out], in order.

    None where that is not determined: several images in a step, a last layer that is not linear,
    steps whose inputs or output gradients do not differ, or units that were all dead.
    """
    setting = transcript.setting
    steps, (name, layer) = setting.local_steps, last_layer(setting)
    if setting.batch_size > 1 or not isinstance(layer, nn.Linear):
        return None
    if steps > min(layer.weight.shape):
        return None
    sums = _sums(transcript)
    parts = [sums[f"{name}.weight"], sums[f"{name}.bias"].unsqueeze(1)]
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
    found = left @ mixing
    # what enters the bias is a one, so that the columns add up to its gradient
    found = found * torch.linalg.lstsq(found, total[:, -1, :1]).solution.T
    order = _order(transcript, codes)
    return codes[order, 1:].float(), found.T[order].float()


def _order(transcript: Transcript, codes: Tensor) -> list[int]:
    """Which of the codes [T, 1 + hidden] came first, and which came next.

    The hypernetwork's first layer sent the embedding as nearly as the steps are short, hence the
    first code; each step's gradient moves the code to the next one's.
    """
    setting, message = transcript.setting, transcript.message
    received = {name: tensor.double() for name, tensor in transcript.broadcast.items()}
    weight, bias = received["hyper.hidden.weight"], received["hyper.hidden.bias"]
    embedding = linear_input(message["hyper.hidden.weight"], message["hyper.hidden.bias"])[0]
    embedding = embedding.double()
    rate, sums = step_size(setting), _sums(transcript)
    columns = torch.cat([t.flatten(0, -2) for t in sums.values()]).double()
    gradients = columns @ torch.linalg.pinv(codes) / rate
    outputs = torch.cat([received[f"hyper.{slot(name)}.weight"] for name in sums])
    code_gradients = gradients.T @ outputs
    current = weight @ embedding + bias
    moves = rate * (1 + embedding.square().sum()) * torch.eye(len(weight), dtype=weight.dtype)
    moves = moves + setting.private_lr * weight @ weight.T
    left, order = list(range(len(codes))), []
    while left:
        distance = (codes[left, 1:] - F.relu(current)).norm(dim=1)
        order.append(left.pop(int(distance.argmin())))
        active = codes[order[-1], 1:] > 0
        current = torch.where(active, codes[order[-1], 1:], current)
        current = current - moves @ (code_gradients[order[-1]] * active)
    return order


def _directions(transcript: Transcript) -> Tensor:
    """Orthogonal stand-ins [N, out] for the last layer's output gradients, of the same span."""
    setting, sums = transcript.setting, _sums(transcript)
    name, _ = last_layer(setting)
    weight, bias = sums[f"{name}.weight"][..., 0], sums[f"{name}.bias"][..., 0]
    size = bias.norm() / (step_size(setting) * setting.images**0.5)
    return torch.where(size > 0, size, 1.0) * torch.linalg.svd(weight).U[:, : setting.images].T
