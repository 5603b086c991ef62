"""Evidence that every defense gets for free: as if it were undefended, and knowing what it does.

The oblivious ones are what an undefended message of the same model allows, and on undefended
messages they are all there is. The others follow from running the defense: what it withholds, what
it leaves alone, and what it would have made of a guess (BPDA and EOT: Athalye et al., ICML 2018,
arXiv:1802.00420). One that would match the same entries by the same prediction as an oblivious one
is left out.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import replace
from functools import lru_cache
from typing import Any

import torch
from torch import Generator, Tensor
from torch.autograd import Function
from torch.func import functional_call, grad, vmap

from benchmark.defenses.base import Defense
from benchmark.evidence.base import EVERY, Evidence, Hidden, Tensors, Term, reads
from benchmark.federated.client import Batch, Client
from benchmark.federated.setting import Setting, initial, skeleton
from benchmark.federated.transcript import Transcript
from benchmark.federated.update import Update
from benchmark.runtime.randomness import generator

ABSENT = 0.01
"""A message with at least this share of exact zeros was pruned."""

ROUNDING = 1e-5
"""A tensor that differs by relatively less is the same, computed in another order."""

SIZED = 4
"""Draws by which an update is brought to a size: noise adds to its message's."""

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
    update = _undefended(setting, guess, hidden, data)
    nothing = Update({name: torch.zeros_like(tensor) for name, tensor in update.items()})
    sent, _ = setting.defense.protect(
        Update({name: tensor.detach() for name, tensor in update.items()}), nothing, None
    )
    return {"update": _straight_through(update, sent)}


def predict_rehearsed(
    setting: Setting, guess: Tensors, hidden: Tensors, data: Mapping[str, Any]
) -> dict[str, Tensors]:
    """The message after the defense's whole round, differentiated as if it were undefended.

    The mean over the public streams of random numbers that ``data["streams"]`` counts.
    """
    update = _undefended(setting, guess, hidden, data)
    weights = {**data["shared"], **data["private"]}
    count = len(data["streams"])
    sent = _Rehearsal.apply(
        setting, tuple(data["shared"]), tuple(weights), count, guess["images"], guess["labels"],
        *weights.values(),
    )  # fmt: skip
    return {"update": _straight_through(update, dict(zip(data["shared"], sent, strict=True)))}


class _Rehearsal(Function):
    """A client's round under its defense, as the client itself would compute it.

    Not part of any transformation: a defense's own code may do what vmap refuses, so that stacks
    are taken apart, and autograd is its own affair.
    """

    @staticmethod
    def forward(
        setting: Setting,
        shared: tuple[str, ...],
        names: tuple[str, ...],
        count: int,
        images: Tensor,
        labels: Tensor,
        *weights: Tensor,
    ) -> tuple[Tensor, ...]:
        known = dict(zip(names, (t.detach() for t in weights), strict=True))
        batch = {"images": images.detach(), "labels": labels.detach().argmax(-1)}
        with torch.enable_grad():
            rounds = [rehearse(setting, known, shared, batch, k) for k in range(count)]
        return tuple(torch.stack([r[n] for r in rounds]).mean(0).detach() for n in shared)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
        ctx.mark_non_differentiable(*output)

    @staticmethod
    def backward(ctx: Any, *slopes: Tensor) -> tuple[None, ...]:
        return (None,) * len(ctx.needs_input_grad)

    @staticmethod
    def vmap(info: Any, in_dims: tuple[Any, ...], *args: Any) -> tuple[Any, Any]:
        rows = [
            _Rehearsal.apply(
                *(
                    arg.select(dim, k) if isinstance(dim, int) else arg
                    for arg, dim in zip(args, in_dims, strict=True)
                )
            )
            for k in range(info.batch_size)
        ]
        stacks = tuple(torch.stack(column) for column in zip(*rows, strict=True))
        return stacks, (0,) * len(stacks)


def rehearse(
    setting: Setting,
    weights: Tensors,
    shared: Iterable[str],
    batch: Tensors,
    number: int,
    defended: bool = True,
) -> Update:
    """What a client that has held nothing back would send of ``batch``, or would send undefended.

    Args:
        weights: shared and private ones.
        batch: ``images`` [N, ...] and ``labels`` int64 [N].
        number: which public stream of random numbers it draws from.
    """
    broadcast = Update({name: weights[name] for name in shared})
    private = {name: tensor for name, tensor in weights.items() if name not in broadcast}
    client = Client(setting, private, broadcast.map(torch.zeros_like))
    rng = generator("attacker", "rehearsal", number)
    if not defended:
        return client.train(broadcast, _steps(setting, batch), rng)
    sent = client.round(broadcast, _steps(setting, batch), rng)
    return setting.defense.message([sent])[0]


def _straight_through(update: Tensors, sent: Tensors) -> dict[str, Tensor]:
    """The values of ``sent`` with the derivatives of ``update``."""
    return {n: tensor + (sent[n] - tensor.detach()) for n, tensor in update.items()}


def _undefended(
    setting: Setting, guess: Tensors, hidden: Tensors, data: Mapping[str, Any]
) -> dict[str, Tensor]:
    if "draws" in data:
        return _expected(setting, guess, data)
    return dict(predict_update(setting, guess, hidden, data)["update"])


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


@reads(EVERY, knowledge="oblivious")
def body(transcript: Transcript) -> Evidence | None:
    """Match every layer but the last, whose gradient is the largest and mixes all images."""
    setting = transcript.setting
    if setting.batch_size == 1 or setting.vocabulary or setting.cuts:
        return None  # the whole message is as good, or is not what gives the images away
    inside = {n: t for n, t in transcript.message.items() if not n.startswith("head.")}
    if not inside or len(inside) == len(transcript.message):
        return None
    whole = oblivious(transcript)
    return replace(whole, name="body", terms={"update": Term(value=inside)})


@reads(EVERY)
def sent(transcript: Transcript) -> Evidence | None:
    """Match the entries that were sent, say nothing of the others."""
    if not withholds(transcript):
        return None
    mask = {name: (tensor != 0).float() for name, tensor in transcript.message.items()}
    return reread(
        transcript, "sent", terms={"update": Term(value=dict(transcript.message), mask=mask)}
    )


@reads(EVERY)
def untouched(transcript: Transcript) -> Evidence | None:
    """Match the tensors that the defense leaves as they are, say nothing of the others."""
    setting = transcript.setting
    if not alters(setting.defense) or skeleton(setting).noise_shapes(1):
        return None
    _, changed = probed(transcript)
    kept = {name: t for name, t in transcript.message.items() if name not in changed}
    if not changed or not kept:
        return None
    return reread(transcript, "untouched", terms={"update": Term(value=kept)})


@reads(EVERY)
def resimulated(transcript: Transcript) -> Evidence | None:
    """Apply the defense to the guess's update too, in expectation over its randomness."""
    setting = transcript.setting
    defense, draws = setting.defense, [redrawn_noise(transcript, k) for k in range(PAIRS)]
    if not alters(defense) and not draws[0]:
        return None
    evidence = reread(transcript, "resimulated", predict=predict_protected)
    if draws[0]:
        pairs = {
            name: torch.stack([sign * draw[name] for draw in draws for sign in (1, -1)])
            for name in draws[0]
        }
        count = 2 * PAIRS * evidence.cost
        evidence = replace(evidence, data={**evidence.data, "draws": pairs}, cost=count)
    if acts_inside(defense):
        return _rehearsed(transcript, evidence)
    if not unbiased(defense, transcript.message) or draws[0]:
        return evidence
    return _noised(transcript, evidence) if noises(defense, transcript.message) else None


def _rehearsed(transcript: Transcript, evidence: Evidence) -> Evidence | None:
    """The evidence with the defense's whole round in its prediction; None if that changes nothing.

    A round takes what an undefended one takes, of every stream of random numbers.
    """
    random, changed = probed(transcript)
    if not changed:
        return None
    streams = torch.arange(2 * PAIRS if random else 1)
    return replace(
        evidence,
        predict=predict_rehearsed,
        data={**evidence.data, "streams": streams},
        cost=evidence.cost + len(streams) * transcript.setting.local_steps,
        noisy=random,
        exact=not random,
    )


def _noised(transcript: Transcript, evidence: Evidence) -> Evidence:
    """The whole of a message that is right on average, weighed by how far a message strays.

    The variance of every tensor is that of the defense's draws on an update of the attacker's own,
    brought to the size at which its messages are as large as the one that was seen.
    """
    setting, message = transcript.setting, transcript.message
    alike = rehearse(setting, *_own_round(transcript), 0, defended=False)

    def drawn(number: int) -> Update:
        rng = generator("attacker", "rehearsal", number)
        return setting.defense.protect(alike, alike * 0.0, rng)[0]

    for number in range(SIZED):
        sent = drawn(number)
        alike = Update({n: t * _ratio(message[n], sent[n]) for n, t in alike.items()})
    strayed: dict[str, list[Tensor]] = {name: [] for name in alike}
    for number in range(SIZED, SIZED + 2 * PAIRS):
        for name, tensor in (drawn(number) - alike).items():
            strayed[name].append(tensor.square().mean())
    variance = {name: torch.stack(squares).mean() for name, squares in strayed.items()}
    term = Term(value=dict(message), variance=variance)
    return replace(evidence, predict=predict_update, terms={"update": term}, noisy=True)


def _ratio(tensor: Tensor, other: Tensor) -> Tensor:
    size = other.norm()
    return tensor.norm() / torch.where(size > 0, size, 1.0)


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


def acts_inside(defense: Defense) -> bool:
    """Whether the defense replaces more of a client's round than what is done to its update."""
    cls = type(defense)
    return cls.local is not Defense.local or cls.message is not Defense.message


def alters(defense: Defense) -> bool:
    """Whether a message may be another than the update that was computed."""
    return acts_inside(defense) or type(defense).protect is not Defense.protect


def withholds(transcript: Transcript) -> bool:
    """Whether a zero in the message means that the entry was not sent, rather than its value.

    The message has too many zeros to be an update, and the defense says what they mean; where it
    does not, zeros are values if it leaves an update as it is on average.
    """
    defense = transcript.setting.defense
    zeros = sum(int((t == 0).sum()) for t in transcript.message.values())
    entries = sum(t.numel() for t in transcript.message.values())
    if not alters(defense) or zeros < ABSENT * entries:
        return False
    if defense.zeros is not None:
        return defense.zeros == "withheld"
    if not unbiased(defense, transcript.message):
        return True
    return acts_inside(defense) and bool(probed(transcript)[1])


def unbiased(defense: Defense, like: Update) -> bool:
    """Whether ``protect`` leaves an update as it is, in expectation over its randomness."""
    probe = of_all_sizes(like)
    expected, _ = defense.protect(probe, probe * 0.0, None)
    return _equal(expected, probe)


def noises(defense: Defense, like: Update) -> bool:
    """Whether ``protect`` changes an update that it leaves as it is in expectation."""
    probe = of_all_sizes(like)
    drawn, _ = defense.protect(probe, probe * 0.0, generator("attacker", "rehearsal"))
    return not _equal(drawn, probe)


def probed(transcript: Transcript) -> tuple[bool, set[str]]:
    """Whether the defense's round is random, and the tensors in which it differs from a plain one.

    Found by protecting an update with entries of all sizes, and where the defense does more than
    that by playing a client, on inputs of the attacker's own.
    """
    defense, probe = transcript.setting.defense, of_all_sizes(transcript.message)
    protected, _ = defense.protect(probe, probe * 0.0, generator("attacker", "rehearsal"))
    changed = {name for name in probe if _moved(protected[name], probe[name])}
    if not acts_inside(defense):
        return noises(defense, transcript.message), changed
    own = (transcript.setting, *_own_round(transcript))
    plain = rehearse(*own, 0, defended=False)
    first, other = rehearse(*own, 0), rehearse(*own, 1)
    changed |= {name for name in plain if _moved(first[name], plain[name])}
    return not _equal(first, other), changed


def _own_round(transcript: Transcript) -> tuple[Tensors, Iterable[str], Tensors]:
    """Weights, the names of the shared ones, and a batch of random inputs and labels."""
    setting, rng = transcript.setting, generator("attacker", "inputs")
    if setting.vocabulary:
        shape = (setting.images, *setting.shape)
        images = torch.randint(1, setting.vocabulary, shape, generator=rng)
    else:
        images = setting.normalise(torch.rand(setting.images, *setting.shape, generator=rng))
    labels = torch.randint(setting.classes, (setting.images,), generator=rng)
    weights = {**transcript.broadcast, **redrawn_parameters(transcript)}
    return weights, list(transcript.broadcast), {"images": images, "labels": labels}


def _equal(one: Tensors, other: Tensors) -> bool:
    return all(torch.equal(one[name], tensor) for name, tensor in other.items())


def _moved(tensor: Tensor, before: Tensor) -> bool:
    """By more than the order of a sum can move it."""
    return bool((tensor - before).norm() > ROUNDING * before.norm())


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
