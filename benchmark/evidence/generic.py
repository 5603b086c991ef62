"""Readings that every defense gets for free: the published attack's, and four that know better."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from functools import lru_cache
from typing import Any

import torch
from torch import Generator, Tensor
from torch.func import functional_call, grad, vmap

from benchmark.defenses.base import Defense
from benchmark.evidence.base import EVERY, Evidence, Hidden, Tensors, Term, reads
from benchmark.federated.client import Batch, Client
from benchmark.federated.setting import Setting, initial, skeleton
from benchmark.federated.transcript import Transcript
from benchmark.federated.update import Update
from benchmark.randomness import generator

ABSENT = 0.01
"""A message with at least this share of exact zeros was pruned."""

PAIRS = 2
"""Pairs of opposite draws over which a forward pass that consumes noise is averaged."""


def client_update(
    setting: Setting,
    guess: Tensors,
    noise: Tensors,
    shared: Tensors,
    private: Tensors,
) -> dict[str, Tensor]:
    """What a client would compute on ``guess``: one gradient, or local steps unrolled."""
    model = skeleton(setting)

    def loss(weights: Tensors, images: Tensor, labels: Tensor, draw: Tensors) -> Tensor:
        return functional_call(model, {**weights, **private}, (images, draw, labels))

    if setting.algorithm == "fedsgd":
        return grad(loss)(dict(shared), guess["images"], guess["labels"], noise)
    weights, total = dict(shared), {name: torch.zeros_like(t) for name, t in shared.items()}
    for step in range(setting.local_steps):
        rows = slice(step * setting.batch_size, (step + 1) * setting.batch_size)
        draw = {name: tensor[rows] for name, tensor in noise.items()}
        slope = grad(loss)(weights, guess["images"][rows], guess["labels"][rows], draw)
        moved = {name: setting.local_lr * slope[name] for name in weights}
        weights = {name: weights[name] - moved[name] for name in weights}
        # summed as the client does: a difference of weights would round small steps away
        total = {name: total[name] + moved[name] for name in weights}
    return total


def predict_update(
    setting: Setting, guess: Tensors, hidden: Tensors, data: Mapping[str, Any]
) -> dict[str, Tensors]:
    """The update that the guess causes, with noise that is hidden or was redrawn."""
    noise = {name: hidden.get(f"noise.{name}", draw) for name, draw in data["noise"].items()}
    return {"update": client_update(setting, guess, noise, data["shared"], data["private"])}


def predict_protected(
    setting: Setting, guess: Tensors, hidden: Tensors, data: Mapping[str, Any]
) -> dict[str, Tensors]:
    """The update after the defense, whose steps are passed straight through when differentiated.

    It is the mean over ``data["draws"]`` [K, N, ...] of what the forward pass consumes, where the
    evidence has them; ``protect`` is asked for its own expectation.
    """
    if "draws" in data:
        update = _expected(setting, guess, data)
    else:
        update = dict(predict_update(setting, guess, hidden, data)["update"])
    nothing = Update({name: torch.zeros_like(tensor) for name, tensor in update.items()})
    sent, _ = setting.defense.protect(
        Update({name: tensor.detach() for name, tensor in update.items()}), nothing, None
    )
    return {"update": {n: tensor + (sent[n] - tensor.detach()) for n, tensor in update.items()}}


def _expected(setting: Setting, guess: Tensors, data: Mapping[str, Any]) -> dict[str, Tensor]:
    def once(noise: Tensors) -> dict[str, Tensor]:
        return client_update(setting, guess, noise, data["shared"], data["private"])

    return {name: each.mean(0) for name, each in vmap(once)(data["draws"]).items()}


def simulate_undefended(
    setting: Setting, batch: Tensors, data: Mapping[str, Any], rng: Generator
) -> dict[str, Tensors]:
    """What a client with this batch computes, before its defense changes it."""
    client = newcomer(setting, data["shared"], rng)
    return {"update": client.train(Update(data["shared"]), _steps(setting, batch), rng)}


def simulate_round(
    setting: Setting, batch: Tensors, data: Mapping[str, Any], rng: Generator
) -> dict[str, Tensors]:
    """What a client with this batch sends in its first round."""
    client = newcomer(setting, data["shared"], rng)
    update = client.round(Update(data["shared"]), _steps(setting, batch), rng)
    return {"update": setting.defense.message([update])[0]}


def _steps(setting: Setting, batch: Tensors) -> list[Batch]:
    images, labels = (batch[name].split(setting.batch_size) for name in ("images", "labels"))
    return list(zip(images, labels, strict=True))


def newcomer(setting: Setting, shared: Tensors, rng: Generator) -> Client:
    """A client that has held nothing back, with private parameters drawn from ``rng``."""
    names = [name for name, _ in skeleton(setting).named_parameters() if name not in shared]
    drawn = initial(setting, rng) if names else {}
    private = {name: drawn[name] for name in names}
    return Client(setting, private, Update({n: torch.zeros_like(t) for n, t in shared.items()}))


def reveal_noise(
    setting: Setting, truth: Mapping[str, Tensor], data: Mapping[str, Any]
) -> dict[str, Tensor]:
    """The client's own draws."""
    return {name: tensor for name, tensor in truth.items() if name.startswith("noise.")}


@reads(EVERY, knowledge="oblivious")
def oblivious(transcript: Transcript) -> Evidence:
    """Match the whole message, as if there were no defense; private values redrawn at random."""
    setting = transcript.setting
    return Evidence(
        name="oblivious",
        defense=setting.defense.name,
        knowledge="oblivious",
        setting=setting,
        predict=predict_update,
        data={
            "shared": dict(transcript.broadcast),
            "private": redrawn_parameters(transcript),
            "noise": redrawn_noise(transcript),
        },
        terms={"update": Term(value=dict(transcript.message))},
        simulate=simulate_undefended,
        linear=linear_layers(transcript.message),
        labels="unknown" if transcript.labels is None else "given",
        given=transcript.labels,
        cost=setting.local_steps,
    )


@reads(EVERY)
def sent(transcript: Transcript) -> Evidence | None:
    """Match the entries that were sent, say nothing of the others."""
    if type(transcript.setting.defense).protect is Defense.protect:
        return None
    zeros = sum(int((t == 0).sum()) for t in transcript.message.values())
    entries = sum(t.numel() for t in transcript.message.values())
    if zeros < ABSENT * entries:
        return None
    mask = {name: (tensor != 0).float() for name, tensor in transcript.message.items()}
    return reread(
        transcript, "sent", terms={"update": Term(value=dict(transcript.message), mask=mask)}
    )


@reads(EVERY)
def resimulated(transcript: Transcript) -> Evidence | None:
    """Apply the defense to the guess's update too, in expectation over its randomness."""
    defense, probe = transcript.setting.defense, of_all_sizes(transcript.message)
    again, _ = defense.protect(probe, probe * 0.0, None)
    unchanged = all(torch.equal(again[name], tensor) for name, tensor in probe.items())
    evidence = reread(transcript, "resimulated", predict=predict_protected)
    draws = [redrawn_noise(transcript, number) for number in range(PAIRS)]
    if not draws[0]:  # an update that noise alone changes is expected to be what it was
        return None if unchanged else evidence
    pairs = {
        name: torch.stack([sign * draw[name] for draw in draws for sign in (1, -1)])
        for name in draws[0]
    }
    count = 2 * PAIRS * evidence.cost
    return replace(evidence, data={**evidence.data, "draws": pairs}, cost=count)


@reads(EVERY)
def joint_noise(transcript: Transcript) -> Evidence | None:
    """Optimise the draws that the client's forward pass consumed together with the images."""
    draws = skeleton(transcript.setting).noise_shapes(transcript.setting.images)
    if not draws:
        return None
    hidden = {
        f"noise.{name}": Hidden(shape=shape, init="zero", prior=1e-4, lr=0.05)
        for name, shape in draws.items()
    }
    return reread(transcript, "joint-noise", hidden=hidden, reveal=reveal_noise)


@reads(EVERY)
def body(transcript: Transcript) -> Evidence | None:
    """Match every layer but the last linear one, which shows labels and hides behind noise."""
    inside = {n: t for n, t in transcript.message.items() if not n.startswith("head.")}
    drawn = skeleton(transcript.setting).noise_shapes(1)
    if not drawn or len(inside) == len(transcript.message):
        return None
    return reread(transcript, "body", terms={"update": Term(value=inside)})


def reread(transcript: Transcript, name: str, **changes: Any) -> Evidence:
    """The oblivious evidence with a name, adaptive knowledge and ``changes``."""
    knowing: dict[str, Any] = {"knowledge": "adaptive", "simulate": simulate_round}
    return replace(oblivious(transcript), name=name, **(knowing | changes))


def of_all_sizes(like: Update) -> Update:
    """An update with entries between 1e-6 and 1e6 in size, which a defense will not leave alone.

    A message would not do to find out: what was clipped or pruned once may stay as it is.
    """
    rng = generator("attacker", "probe")
    return like.map(
        lambda t: (
            torch.randn(t.shape, generator=rng)
            * 10.0 ** (12 * torch.rand(t.shape, generator=rng) - 6)
        )
    )


def redrawn_parameters(transcript: Transcript) -> dict[str, Tensor]:
    """Random stand-ins for the parameters that never left the client."""
    model = fresh_model(transcript.setting)
    return {n: t for n, t in model.items() if not transcript.setting.defense.shared(n)}


@lru_cache(maxsize=16)
def fresh_model(setting: Setting) -> dict[str, Tensor]:
    """Weights drawn by the public rule from a stream of the attacker's own."""
    return initial(setting, generator("attacker", "parameters"))


def redrawn_noise(transcript: Transcript, number: int = 0) -> dict[str, Tensor]:
    """Random stand-ins for the draws that the client's forward pass consumed; others by number."""
    shapes = skeleton(transcript.setting).noise_shapes(transcript.setting.images)
    rng = generator("attacker", "noise", transcript.victim, *([number] if number else []))
    return {name: torch.randn(shape, generator=rng) for name, shape in shapes.items()}


def linear_layers(message: Tensors) -> dict[str, tuple[Tensor, Tensor]]:
    """Weight and bias gradients of the linear layers among what was sent."""
    layers = [n.removesuffix(".weight") for n, t in message.items() if t.ndim == 2]
    return {
        name: (message[f"{name}.weight"], message[f"{name}.bias"])
        for name in layers
        if f"{name}.weight" in message and f"{name}.bias" in message
    }
