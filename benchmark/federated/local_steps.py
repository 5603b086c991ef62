"""A client's steps on its own data, the one place where they are unrolled.

Pure functions of tensors, of one client or of a stack of them (rows along a new first dimension of
everything); which one, and whether the result can be differentiated, is a matter of how gradients
are computed.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from functools import partial

import torch
from torch import Tensor
from torch.func import functional_call, grad, vmap

from benchmark.federated.setting import Setting, stateless_model

Tensors = Mapping[str, Tensor]
Step = tuple[Tensor, Tensor, Tensors]
"""Model inputs [B, ...], soft labels [B, classes], and what the forward pass draws [B, ...]."""


Gradient = Callable[[Setting, Tensors, Tensors, Step], dict[str, Tensor]]
"""Of the batch's mean training loss with respect to the first parameters, the second ones held."""


def gradient(setting: Setting, moving: Tensors, held: Tensors, step: Step) -> dict[str, Tensor]:
    """One client's, as a value."""
    leaves = {name: tensor.detach().requires_grad_() for name, tensor in moving.items()}
    return _backward(leaves, _loss(setting, leaves, held, step))


def stacked_gradient(
    setting: Setting, moving: Tensors, held: Tensors, step: Step
) -> dict[str, Tensor]:
    """Every row's, as a value; rows do not touch one another."""
    leaves = {name: tensor.detach().requires_grad_() for name, tensor in moving.items()}
    return _backward(leaves, vmap(partial(_loss, setting))(leaves, dict(held), step).sum())


def differentiable_gradient(
    setting: Setting, moving: Tensors, held: Tensors, step: Step
) -> dict[str, Tensor]:
    """One client's, as a function of everything that it depends on."""
    return grad(lambda parameters: _loss(setting, parameters, held, step))(dict(moving))


def _loss(setting: Setting, moving: Tensors, held: Tensors, step: Step) -> Tensor:
    inputs, labels, noise = step
    parameters = {**held, **moving}
    return functional_call(stateless_model(setting), parameters, (inputs, noise, labels))


def _backward(leaves: dict[str, Tensor], loss: Tensor) -> dict[str, Tensor]:
    return dict(zip(leaves, torch.autograd.grad(loss, list(leaves.values())), strict=True))


def shared_steps(
    setting: Setting,
    shared: Tensors,
    private: Tensors,
    steps: Sequence[Step],
    gradient_of: Gradient,
    trained: Collection[str] = (),
) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """The update of the shared parameters, one gradient (FedSGD) or the sum of the local steps
    (FedAvg), and the private parameters afterwards.

    Args:
        trained: the private parameters that move along at every step; the others are held.
    """
    weights, own = dict(shared), dict(private)
    total = {name: torch.zeros_like(tensor) for name, tensor in weights.items()}
    for step in steps:
        moving = {**weights, **{name: own[name] for name in trained}}
        slope = gradient_of(setting, moving, own, step)
        own |= {name: own[name] - setting.private_lr * slope[name] for name in trained}
        if setting.algorithm == "fedsgd":
            return {name: slope[name] for name in weights}, own
        moved = {name: setting.local_lr * slope[name] for name in weights}
        weights = {name: weights[name] - moved[name] for name in weights}
        # summed step by step: a difference of weights would round small steps away
        total = {name: total[name] + moved[name] for name in weights}
    return total, own


def local_training(
    setting: Setting,
    shared: Tensors,
    private: Tensors,
    first: Sequence[Step],
    steps: Sequence[Step],
    gradient_of: Gradient,
) -> tuple[dict[str, Tensor], dict[str, Tensor], dict[str, Tensor]]:
    """A client's whole round before its defense protects the update.

    The private parameters that are `trained_before_shared` take a pass of their own over ``first``,
    the shared ones held; then the shared ones move over ``steps`` and the other private ones with
    them.

    Returns:
        The update, the private parameters as the shared ones met them, and as they are afterwards.
    """
    before = [name for name in private if setting.defense.trained_before_shared(name)]
    met = dict(private)
    for step in first:
        slope = gradient_of(setting, {name: met[name] for name in before}, {**shared, **met}, step)
        met |= {name: met[name] - setting.private_lr * slope[name] for name in before}
    others = [name for name in private if name not in before]
    update, after = shared_steps(setting, shared, met, steps, gradient_of, others)
    return update, met, after
