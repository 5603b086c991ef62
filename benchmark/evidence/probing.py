"""What an attacker finds out about a defense by running it on inputs of its own.

The answers depend on the public setting alone and are kept for the process.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

import torch
from torch import Tensor

from benchmark.defenses.base import Defense
from benchmark.evidence.base import Tensors
from benchmark.evidence.simulation import simulate_client
from benchmark.federated.setting import Setting, initial, schema
from benchmark.federated.transcript import Transcript
from benchmark.federated.update import Update
from benchmark.runtime.randomness import generator

PRUNED = 0.01
"""A message with at least this share of exact zeros was pruned."""

ROUNDING = 1e-5
"""A tensor that differs by relatively less is the same, computed in another order."""


@dataclass(frozen=True)
class Effect:
    """What a defense does to an update.

    Attributes:
        unbiased: whether ``protect`` leaves an update as it is in expectation.
        noised: whether ``protect`` changes an update at all, by one draw.
        random: whether two rounds of one client on one batch differ.
        changed: the parameters whose part of a message is another than in an undefended round.
    """

    unbiased: bool
    noised: bool
    random: bool
    changed: frozenset[str]


@lru_cache(maxsize=64)
def effect(setting: Setting) -> Effect:
    """Found by protecting an update with entries of all sizes; where the defense does more than
    that, by simulating a client's rounds on random inputs and weights too."""
    defense, probe = setting.defense, of_all_sizes(setting)
    expected, _ = defense.protect(probe, probe * 0.0, None)
    drawn, _ = defense.protect(probe, probe * 0.0, generator("attacker", "rehearsal"))
    changed = {name for name in probe if _differs(drawn[name], probe[name])}
    noised = random = not _equal(drawn, probe)
    if replaces_round(defense):
        weights, batch = fresh_model(setting), own_batch(setting)
        plain = simulate_client(setting, weights, batch, 0, defended=False)
        first, other = (simulate_client(setting, weights, batch, number) for number in (0, 1))
        changed |= {name for name in plain if _differs(first[name], plain[name])}
        random = not _equal(first, other)
    return Effect(_equal(expected, probe), noised, random, frozenset(changed))


def replaces_round(defense: Defense) -> bool:
    """Whether the defense replaces more of a client's round than what is done to its update."""
    cls = type(defense)
    return cls.local is not Defense.local or cls.message is not Defense.message


def alters(defense: Defense) -> bool:
    """Whether a message may be another than the update that was computed."""
    return replaces_round(defense) or type(defense).protect is not Defense.protect


def withholds(transcript: Transcript) -> bool:
    """Whether a zero in the message means that the entry was not sent, rather than its value.

    The message has too many zeros to be an update, and the defense says what they mean; where it
    does not, zeros are values if it leaves an update as it is on average.
    """
    setting, message = transcript.setting, transcript.message
    defense = setting.defense
    zeros = sum(int((t == 0).sum()) for t in message.values())
    if not alters(defense) or zeros < PRUNED * sum(t.numel() for t in message.values()):
        return False
    if defense.zeros is not None:
        return defense.zeros == "withheld"
    found = effect(setting)
    return not found.unbiased or (replaces_round(defense) and bool(found.changed))


def of_all_sizes(setting: Setting) -> Update:
    """An update with entries between 1e-6 and 1e6 in size, which a defense will not leave alone.

    A message would not do to find out: what was clipped or pruned once may stay as it is.
    """
    rng = generator("attacker", "probe")
    return Update(
        {
            name: torch.randn(shape, generator=rng)
            * 10.0 ** (12 * torch.rand(shape, generator=rng) - 6)
            for name, shape in schema(setting).items()
        }
    )


def own_batch(setting: Setting) -> dict[str, Tensor]:
    """Random ``images`` [N, ...], as model inputs, and ``labels`` int64 [N]."""
    rng, shape = generator("attacker", "inputs"), (setting.images, *setting.shape)
    if setting.vocabulary:
        images = torch.randint(1, setting.vocabulary, shape, generator=rng)
    else:
        images = setting.normalise(torch.rand(shape, generator=rng))
    return {
        "images": images,
        "labels": torch.randint(setting.classes, (setting.images,), generator=rng),
    }


@lru_cache(maxsize=16)
def fresh_model(setting: Setting) -> dict[str, Tensor]:
    """Weights drawn by the public rule from a stream of the attacker's own."""
    return initial(setting, generator("attacker", "parameters"))


def _equal(one: Tensors, other: Tensors) -> bool:
    return all(torch.equal(one[name], tensor) for name, tensor in other.items())


def _differs(tensor: Tensor, before: Tensor) -> bool:
    """By more than the order of a sum can move it."""
    return bool((tensor - before).norm() > ROUNDING * before.norm())
