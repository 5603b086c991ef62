"""LAMP: a search over word vectors, interrupted to move words where the language wants them.

Gradients tell which words there are much better than where: between rounds of the search, words
and parts of sentences are exchanged at random, and the change that lowers the mismatch plus the
language model's surprise the most is kept.

Source: Balunović et al., NeurIPS 2022, arXiv:2202.08827, and its public code: the cosine (one of
two distances), Adam at 0.01 for 2,000 iterations, by a factor of 0.9 less every 50, 200 exchanges
every 75 iterations after the first 200, weights of 0.1 for the language and for the vectors'
length. Our readings: the language model is made of bigrams of the auxiliary sentences in place of
GPT-2; changes are judged on the words that the vectors stand for; rounds are equally long, each
begins without Adam's means, and the one with the least loss of all is the guess; exchanges are of
a batch, not of each sentence; the start is near the mean of the words that are known to be there in
place of the best of 500 random ones.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import torch
from torch import Generator, Tensor

from benchmark.attacks.base import Guess, register
from benchmark.attacks.engine.adam import SignedAdam
from benchmark.attacks.parts import words
from benchmark.attacks.parts.fluency import Bigrams
from benchmark.attacks.parts.labels import Given, Joint
from benchmark.attacks.parts.objectives import Cosine
from benchmark.attacks.parts.optimisation import Found, OptimisationAttack, data_losses
from benchmark.attacks.parts.priors import VectorLength
from benchmark.runtime.randomness import generator

if TYPE_CHECKING:
    from benchmark.evidence.base import Evidence


@dataclass(frozen=True, kw_only=True)
class AlternatingAttack(OptimisationAttack):
    """Rounds of search with exchanges of words in between.

    rounds      searches, which share the iterations (one at least is each one's); exchanges come
                between them
    exchanges   random changes that are tried, each costs one gradient
    fluency     weight of the logarithm of the perplexity beside the objective
    cooling     factor of a first-order step size from one round to the next
    """

    rounds: int = 25
    exchanges: int = 200
    fluency: float = 0.1
    cooling: float = 0.9 ** (80 / 50)

    def __post_init__(self) -> None:
        super().__post_init__()
        self.at_least_one("rounds")

    def reconstruct(
        self,
        evidences: Sequence[Evidence],
        public: Any,
        seeds: Sequence[int],
        deadline: float | None,
    ) -> list[Guess]:
        """Search, exchange, and search on from there; the best round of each victim counts."""
        if public is None:
            language = None
        else:
            language = Bigrams(public.images, evidences[0].setting.vocabulary)
        rounds = min(self.rounds, self.iterations)
        search = replace(self, iterations=self.iterations // rounds)
        found = best = search.search(evidences, seeds, deadline)
        for turn in range(1, rounds):
            if any(each.stopped == "timeout" for each in found):
                break
            moved = [
                self._exchanged(evidence, each, language, generator("lamp", seed, turn))
                for evidence, each, seed in zip(evidences, found, seeds, strict=True)
            ]
            if isinstance(search.optimiser, SignedAdam):
                cooler = replace(search.optimiser, lr=search.optimiser.lr * self.cooling)
                search = replace(search, optimiser=cooler)
            later = search.search(evidences, seeds, deadline, [each.variables for each in moved])
            found = [
                replace(new, evaluations=new.evaluations + old.evaluations)
                for new, old in zip(later, moved, strict=True)
            ]
            best = [
                replace(
                    min(old, new, key=lambda each: each.total),
                    evaluations=new.evaluations,
                    stopped=new.stopped,
                )
                for old, new in zip(best, found, strict=True)
            ]
        return [self.guess(e, f) for e, f in zip(evidences, best, strict=True)]

    def _exchanged(
        self, evidence: Evidence, found: Found, language: Bigrams | None, rng: Generator
    ) -> Found:
        """The best of some random changes of the order of words, or none."""
        vectors = found.variables["images"]
        count, length = vectors.shape[:2]
        orders = [torch.arange(count * length)]
        orders += [exchange(count, length, rng) for _ in range(self.exchanges)]
        tried = [vectors.flatten(0, 1)[order].view_as(vectors) for order in orders]
        said = [words.content(evidence, each) for each in tried]
        guess = self.guess(evidence, found)
        total = torch.tensor(
            data_losses(
                self.objective,
                [replace(evidence, place=None)] * len(said),
                said,
                [guess.soft] * len(said),
                [guess.hidden] * len(said),
            )
        )
        if language is not None:
            total = total + self.fluency * language(torch.stack(said))
        best = tried[int(total.argmin())]
        return replace(
            found,
            variables={**found.variables, "images": best},
            evaluations=found.evaluations + len(said),
        )


def exchange(count: int, length: int, rng: Generator) -> Tensor:
    """A random change of order [count * length]: two words swap places, a word or a part of a
    sentence moves elsewhere within it, or two sentences swap their ends."""
    order = torch.arange(count * length).view(count, length)
    kind, row, other = (int(torch.randint(n, (), generator=rng)) for n in (4, count, count))
    start, end = sorted(torch.randperm(length + 1, generator=rng)[:2].tolist())
    target = int(torch.randint(length, (), generator=rng))
    if kind == 0:
        first, second = (row, start), (other, target)
        order[first], order[second] = order[second].clone(), order[first].clone()
    elif kind == 3 and row != other:
        order[[row, other], start:] = order[[other, row], start:]
    else:
        end = start + 1 if kind == 1 else end
        part, rest = order[row, start:end], torch.cat([order[row, :start], order[row, end:]])
        at = min(target, len(rest))
        order[row] = torch.cat([rest[:at], part, rest[at:]])
    return order.flatten()


LAMP = register(
    AlternatingAttack(
        name="lamp",
        title="LAMP",
        cite="balunovic2022lamp",
        url="https://arxiv.org/abs/2202.08827",
        summary="TAG's distance over word vectors, words moved where a language model wants them.",
        threat="auxiliary",
        reads=("text",),
        objective=Cosine(),
        priors=(VectorLength(),),
        optimiser=SignedAdam(lr=0.01, milestones=(), signed=()),
        labels=Given() | Joint(),
        iterations=2000,
    )
)
