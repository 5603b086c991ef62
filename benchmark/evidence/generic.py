"""Evidence that every defense gets for free: as if it were undefended, and knowing what it does.

The oblivious ones are what an undefended message of the same model allows, and on undefended
messages they are all there is. The others follow from running the defense: what it withholds, what
it leaves alone, and what it would have made of a guess (BPDA and EOT: Athalye et al., ICML 2018,
arXiv:1802.00420). One that would match the same entries by the same prediction as an oblivious one
is left out.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import torch
from torch import Tensor
from torch.func import vmap

from benchmark.evidence.base import EVERY, Data, Evidence, Hidden, Tensors, Term, Terms, evidence_of
from benchmark.evidence.probing import (
    alters,
    effect,
    fresh_model,
    own_batch,
    replaces_round,
    withholds,
)
from benchmark.evidence.simulation import (
    SimulatedRound,
    simulate_client,
    simulate_round,
    simulate_undefended,
)
from benchmark.federated.local_steps import Step, differentiable_gradient, shared_steps
from benchmark.federated.setting import Setting, schema, stateless_model
from benchmark.federated.transcript import Transcript
from benchmark.federated.update import Update
from benchmark.runtime.randomness import generator

RESCALINGS = 4
"""Draws by which an update is brought to a size: noise adds to its message's."""

PAIRS = 2
"""Pairs of opposite draws over which a forward pass that consumes noise is averaged."""


def client_update(
    setting: Setting, guess: Tensors, noise: Tensors, shared: Tensors, private: Tensors
) -> dict[str, Tensor]:
    """What an undefended client would compute on ``guess``.

    Args:
        noise: what the forward pass draws, [N, ...] by name.
        shared, private: weights by name; the private ones stay as they are.
    """
    steps = steps_of(setting, guess, noise)
    return shared_steps(setting, shared, private, steps, differentiable_gradient)[0]


def steps_of(setting: Setting, guess: Tensors, noise: Tensors) -> list[Step]:
    """The guess's images [N, ...] as the batches of the local steps."""
    size = len(guess["images"]) if setting.algorithm == "fedsgd" else setting.batch_size
    images, labels = (guess[name].split(size) for name in ("images", "labels"))
    draws = {name: tensor.split(size) for name, tensor in noise.items()}
    return [
        (*batch, {name: parts[number] for name, parts in draws.items()})
        for number, batch in enumerate(zip(images, labels, strict=True))
    ]


def predict_update(setting: Setting, guess: Tensors, hidden: Tensors, data: Data) -> Terms:
    """The update that the guess causes, with noise that is hidden or was redrawn.

    Where the evidence has ``data["draws"]`` [K, N, ...] it is the mean over those.
    """

    def update(noise: Tensors) -> dict[str, Tensor]:
        return client_update(setting, guess, noise, data["shared"], data["private"])

    if "draws" in data:
        return {"update": {name: t.mean(0) for name, t in vmap(update)(data["draws"]).items()}}
    noise = {name: hidden.get(f"noise.{name}", draw) for name, draw in data["noise"].items()}
    return {"update": update(noise)}


def predict_protected(setting: Setting, guess: Tensors, hidden: Tensors, data: Data) -> Terms:
    """The update after ``protect`` in its expectation, with the derivatives of the update."""
    update = dict(predict_update(setting, guess, hidden, data)["update"])
    detached = Update({name: tensor.detach() for name, tensor in update.items()})
    sent, _ = setting.defense.protect(detached, detached.map(torch.zeros_like), None)
    return {"update": _straight_through(update, sent)}


def predict_simulated(setting: Setting, guess: Tensors, hidden: Tensors, data: Data) -> Terms:
    """The message after the defense's whole round, with the derivatives of the update.

    The mean over the public streams of random numbers that ``data["streams"]`` counts.
    """
    update = dict(predict_update(setting, guess, hidden, data)["update"])
    weights, count = {**data["shared"], **data["private"]}, len(data["streams"])
    sent = SimulatedRound.apply(
        setting, tuple(weights), count, guess["images"], guess["labels"], *weights.values()
    )
    return {"update": _straight_through(update, dict(zip(schema(setting), sent, strict=True)))}


def _straight_through(update: Tensors, sent: Tensors) -> dict[str, Tensor]:
    """The values of ``sent`` with the derivatives of ``update``."""
    return {n: tensor + (sent[n] - tensor.detach()) for n, tensor in update.items()}


def reveal_noise(setting: Setting, truth: Tensors, data: Data) -> dict[str, Tensor]:
    """The client's own draws."""
    return {name: tensor for name, tensor in truth.items() if name.startswith("noise.")}


@evidence_of(EVERY, knowledge="oblivious")
def oblivious(transcript: Transcript) -> Evidence:
    """Match the whole message, as if there were no defense; private values redrawn at random."""
    setting, redrawn = transcript.setting, fresh_model(transcript.setting)
    return Evidence(
        setting=setting,
        predict=predict_update,
        data={
            "shared": dict(transcript.broadcast),
            "private": {n: t for n, t in redrawn.items() if not setting.defense.shared(n)},
            "noise": redrawn_noise(transcript),
        },
        terms={"update": Term(value=dict(transcript.message))},
        simulate=simulate_undefended,
        linear=linear_layers(transcript.message),
        labels="unknown" if transcript.labels is None else "given",
        given=transcript.labels,
        cost=setting.local_steps,
    )


def adaptive(transcript: Transcript, **changes: Any) -> Evidence:
    """The oblivious evidence with ``changes``, simulated with the defense."""
    return replace(oblivious(transcript), **{"simulate": simulate_round, **changes})


@evidence_of(EVERY, knowledge="oblivious")
def without_last_layer(transcript: Transcript) -> Evidence | None:
    """Match every layer but the last, whose gradient is the largest and mixes all images."""
    setting = transcript.setting
    if setting.batch_size == 1 or setting.vocabulary or setting.cuts:
        return None  # the whole message is as good, or is not what gives the images away
    inside = {n: t for n, t in transcript.message.items() if not n.startswith("head.")}
    if not inside or len(inside) == len(transcript.message):
        return None
    return replace(oblivious(transcript), terms={"update": Term(value=inside)})


@evidence_of(EVERY)
def nonzero_entries(transcript: Transcript) -> Evidence | None:
    """Match the entries that were sent, say nothing of the others."""
    if not withholds(transcript):
        return None
    mask = {name: (tensor != 0).float() for name, tensor in transcript.message.items()}
    return adaptive(transcript, terms={"update": Term(value=dict(transcript.message), mask=mask)})


@evidence_of(EVERY)
def unprotected_parameters(transcript: Transcript) -> Evidence | None:
    """Match the parameters whose gradients the defense leaves as they are, and no others."""
    setting = transcript.setting
    if not alters(setting.defense) or stateless_model(setting).noise_shapes(1):
        return None
    changed = effect(setting).changed
    kept = {name: t for name, t in transcript.message.items() if name not in changed}
    if not changed or not kept:
        return None
    return adaptive(transcript, terms={"update": Term(value=kept)})


@evidence_of(EVERY)
def bpda_eot(transcript: Transcript) -> Evidence | None:
    """Apply the defense to the guess's update too, in expectation over its randomness."""
    setting = transcript.setting
    draws = [redrawn_noise(transcript, number) for number in range(PAIRS)]
    if not alters(setting.defense) and not draws[0]:
        return None
    evidence = adaptive(transcript, predict=predict_protected)
    if draws[0]:
        pairs = {
            name: torch.stack([sign * draw[name] for draw in draws for sign in (1, -1)])
            for name in draws[0]
        }
        evidence = replace(
            evidence,
            data={**evidence.data, "draws": pairs},
            cost=2 * PAIRS * evidence.cost,
            exact=False,
        )
    if replaces_round(setting.defense):
        return _whole_round(evidence)
    found = effect(setting)
    if not found.unbiased or draws[0]:
        return evidence
    return _gaussian_likelihood(transcript, evidence) if found.noised else None


def _whole_round(evidence: Evidence) -> Evidence | None:
    """The evidence with the defense's whole round in its prediction; None if that changes nothing.

    A round costs what an undefended one does, for every stream of random numbers.
    """
    found = effect(evidence.setting)
    if not found.changed:
        return None
    streams = torch.arange(2 * PAIRS if found.random else 1)
    return replace(
        evidence,
        predict=predict_simulated,
        data={**evidence.data, "streams": streams},
        cost=evidence.cost + len(streams) * evidence.setting.local_steps,
        noisy=found.random,
        exact=evidence.exact and not found.random,
    )


def _gaussian_likelihood(transcript: Transcript, evidence: Evidence) -> Evidence:
    """The whole of a message that is right on average, weighed by how far a message strays.

    The variance of every tensor is that of the defense's draws on an update of the attacker's own,
    brought to the size at which its messages are as large as the one that was seen.
    """
    setting, message = transcript.setting, transcript.message
    weights = {**evidence.data["shared"], **evidence.data["private"]}
    alike = simulate_client(setting, weights, own_batch(setting), 0, defended=False)

    def drawn(number: int) -> Update:
        rng = generator("attacker", "rehearsal", number)
        return setting.defense.protect(alike, alike * 0.0, rng)[0]

    for number in range(RESCALINGS):
        sent = drawn(number)
        alike = Update({n: t * _ratio(message[n], sent[n]) for n, t in alike.items()})
    errors = [drawn(RESCALINGS + number) - alike for number in range(2 * PAIRS)]
    variance = {n: torch.stack([e[n].square().mean() for e in errors]).mean() for n in alike}
    term = Term(value=dict(message), variance=variance)
    return replace(
        evidence, predict=predict_update, terms={"update": term}, noisy=True, exact=False
    )


def _ratio(tensor: Tensor, other: Tensor) -> Tensor:
    size = other.norm()
    return tensor.norm() / torch.where(size > 0, size, 1.0)


@evidence_of(EVERY)
def joint_noise(transcript: Transcript) -> Evidence | None:
    """Optimise the draws that the client's forward pass consumed together with the images."""
    draws = stateless_model(transcript.setting).noise_shapes(transcript.setting.images)
    if not draws:
        return None
    hidden = {
        f"noise.{name}": Hidden(shape=shape, init="zero", prior=1e-4, lr=0.05)
        for name, shape in draws.items()
    }
    return adaptive(transcript, hidden=hidden, reveal=reveal_noise)


def redrawn_noise(transcript: Transcript, number: int = 0) -> dict[str, Tensor]:
    """Random stand-ins for the draws that the client's forward pass consumed; others by number."""
    shapes = stateless_model(transcript.setting).noise_shapes(transcript.setting.images)
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
