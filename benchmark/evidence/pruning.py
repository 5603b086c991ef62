"""Reading pruned messages: a zero means "not among the largest", not "zero".

After some rounds a message carries more than its batch's gradient: an entry that was held back for
k rounds brings k older gradients along, and in a trained network those are most of what is sent.
A server that kept the client's earlier messages knows each entry's k. Nothing was left of what
was sent in the round just before; of the rest it knows the expected size, from what the same entry
brought along before.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Tensor

from benchmark.evidence import first_linear as linear
from benchmark.evidence.base import Evidence, Term, reads
from benchmark.evidence.generic import reread, sent
from benchmark.federated.transcript import Transcript

TRUST = 0.1
"""How far an entry without older gradients is trusted, relative to its size.

Exact entries beside very noisy ones make a valley that searches do not follow, and errors of a
tenth average out over the entries.
"""
POOLED = 2.0
"""Rounds of the tensor's average that an entry's own history is mixed with."""


@reads("pruning")
def window(transcript: Transcript) -> Evidence | None:
    """Trust each entry by how long it was held back, as the client's earlier messages tell."""
    term = weighed(transcript)
    if term is None:
        return None
    # a simulated client would be one that has held nothing back
    return reread(
        transcript, "window", terms={"update": term}, noisy=True, exact=False, simulate=None
    )


@reads("pruning")
def sent_rows(transcript: Transcript) -> Evidence | None:
    """Explain every row of the first linear layer's gradient by its inputs, weighed likewise."""
    term = weighed(transcript)
    if term is None:
        return linear.sent_rows(transcript)
    evidence = linear.explain_rows(transcript, term, noisy=True)
    return evidence and replace(evidence, exact=False)


@reads("pruning")
def threshold(transcript: Transcript) -> Evidence | None:
    """Match what was sent, and hold the rest below the smallest of it, tensor by tensor."""
    evidence = sent(transcript)
    if evidence is None:
        return None
    term = evidence.terms["update"]
    lower = {n: smallest(t).expand(t.shape) for n, t in term.value.items()}
    return replace(evidence, name="threshold", terms={"update": replace(term, lower=lower)})


def smallest(tensor: torch.Tensor) -> torch.Tensor:
    """Size of the smallest entry that was sent (a scalar)."""
    size = tensor.abs()
    return torch.where(size > 0, size, torch.inf).min()


@dataclass(frozen=True)
class History:
    """What a tensor's earlier messages say of every entry.

    age     rounds that are still held back, 0 after a round in which the entry was sent; -1 where
            it never was in the window
    spread  mean square of what one round contributes, from what was sent after how long
    """

    age: Tensor
    spread: Tensor


def history(earlier: list[Tensor]) -> History:
    """The history of one tensor from its earlier messages, oldest first; at least one.

    Contributions of rounds are taken as independent and of mean zero, so that squares add up.
    """
    age, waited = torch.full_like(earlier[0], -1), torch.zeros_like(earlier[0])
    brought, over = torch.zeros_like(waited), torch.zeros_like(waited)
    for message in earlier:
        was_sent = message != 0
        waited = waited + 1
        brought = brought + message.square()
        over = torch.where(was_sent, over + waited, over)
        waited = torch.where(was_sent, 0.0, waited)
        age = torch.where(was_sent, 0.0, torch.where(age < 0, age, age + 1))
    average = brought.sum() / over.sum().clamp_min(1)
    return History(age, (brought + POOLED * average) / (over + POOLED))


def weighed(transcript: Transcript) -> Term | None:
    """The sent entries with the variance of what they carry along; None without earlier messages.

    Entries that were not sent before within the window say nothing.
    """
    if not transcript.window:
        return None
    value, mask, variance = {}, {}, {}
    for name, tensor in transcript.message.items():
        known = history([message[name] for message in transcript.window])
        value[name] = tensor
        mask[name] = ((tensor != 0) & (known.age >= 0)).to(tensor.dtype)
        carried = known.age.clamp_min(0) * known.spread
        variance[name] = carried + (TRUST * tensor).square()
    return Term(value=value, mask=mask, variance=variance)
