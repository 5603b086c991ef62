"""Learning to Invert: a network that turns messages into images, trained on auxiliary ones.

Source: Wu, Chen, Guo and Weinberger, UAI 2023, arXiv:2210.10880, and its public code: three
hidden layers of 3000, Adam at 1e-4 for 200 epochs on a whole data set, squared error whatever the
order of a batch's images, and feature hashing where a message is large.

Boards with a few hundred auxiliary images set a smaller network, which learns in seconds. Our
readings: messages are brought to unit length first, so that the size of a gradient is no matter,
and hashed to 16,384 numbers whatever their size; auxiliary images are varied once each was seen, up
to the number of CIFAR-10's training images; the network ends in a sigmoid; the step size falls
along half a cosine.

All victims of a cell were sent the same weights, so one inverse serves them all. It knows the
defense if the evidence does: it learns from what the evidence says that a client would send.
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Generator, Tensor, nn
from torch.nn import functional as F

from benchmark.attacks.base import Guess, register
from benchmark.attacks.parts import learning
from benchmark.attacks.parts.auxiliary import batches, labelled, require
from benchmark.attacks.parts.direct import DirectAttack
from benchmark.config.errors import ParamsError
from benchmark.runtime.randomness import generator
from benchmark.runtime.store import digest

if TYPE_CHECKING:
    from benchmark.evidence.base import Evidence, Tensors


@dataclass(frozen=True, kw_only=True)
class LearnedInverse(DirectAttack):
    """A multilayer perceptron from hashed messages to images.

    examples   simulated messages that it is trained on
    features   numbers that a message is hashed to
    layers     hidden ones
    width      of each of them
    batch      examples in one step
    epochs     passes over the examples
    rate       Adam's first step size
    """

    examples: int = 50_000
    features: int = 16_384
    layers: int = 3
    width: int = 3000
    batch: int = 256
    epochs: int = 200
    rate: float = 1e-4

    def __post_init__(self) -> None:
        self.at_least_one("examples", "features", "layers", "width", "batch", "epochs")
        if not self.rate > 0:
            raise ParamsError(f"attacks.{self.name}.rate must be above 0, not {self.rate}")

    def supports(self, evidence: Evidence) -> str | None:
        """Needs messages that can be simulated, whole, and nothing to search for beside images."""
        if evidence.simulate is None:
            return "the evidence does not say how to simulate a client's message"
        if evidence.hidden:
            return "hidden variables are searched for, not learned"
        if any(term.mask is not None for term in evidence.terms.values()):
            return "what was not sent is learned from whole messages, which other evidence shows"
        return None

    def reconstruct(
        self,
        evidences: Sequence[Evidence],
        public: Any,
        seeds: Sequence[int],
        deadline: float | None,
    ) -> list[Guess]:
        """Train once, then read every victim's message."""
        known, first = require(public, self.name), evidences[0]
        setting = first.setting
        rng = generator("attack", self.name, setting.scenario)
        images, labels = batches(known, self.examples, setting.images, rng)
        shown = learning.simulated(first, images, labels, rng, deadline)
        inputs = torch.stack([message(first, terms) for terms in shown])
        hashed = Hash.of(inputs, self.features, rng)
        seen, targets = hashed(inputs), images[: len(inputs)]

        def train() -> tuple[nn.Module, bool]:
            network = self._network(images.shape[1:])
            learning.initialise(network, rng)
            return network, learning.fit(
                network, seen, targets, self.epochs, self.rate, rng, deadline, self.batch
            )

        everything = (seen, targets, rng.get_state())
        key = digest(self.parameters(), *(t.numpy().tobytes() for t in everything))
        network, late = _LEARNED.network(key, train)
        observed = [message(e, {n: t.value for n, t in e.terms.items()}) for e in evidences]
        with torch.no_grad():
            found = network(hashed(torch.stack(observed)))
        paired = [labelled(x, e, known) for x, e in zip(found, evidences, strict=True)]
        soft = [None if y is None else F.one_hot(y, setting.classes).float() for _, y in paired]
        guesses = [
            Guess(
                images=x,
                labels=y,
                soft=s,
                simulated=len(inputs) * setting.local_steps,
                stopped="timeout" if late else "",
            )
            for (x, y), s in zip(paired, soft, strict=True)
        ]
        return self.valued(evidences, guesses)

    def _network(self, shape: torch.Size) -> nn.Module:
        sizes = [self.features, *[self.width] * self.layers]
        hidden = [
            part for a, b in itertools.pairwise(sizes) for part in (nn.Linear(a, b), nn.ReLU())
        ]
        last = nn.Linear(self.width, shape.numel())
        return nn.Sequential(*hidden, last, nn.Sigmoid(), nn.Unflatten(1, shape))


_LEARNED = learning.Learned()


def message(evidence: Evidence, shown: Mapping[str, Tensors]) -> Tensor:
    """What the evidence's terms show, as one vector of unit length (or zero)."""
    parts = [
        shown[name][tensor].reshape(-1)
        for name, term in evidence.terms.items()
        for tensor in term.value
    ]
    return F.normalize(torch.cat(parts), dim=0, eps=torch.finfo(torch.float32).tiny)


@dataclass(frozen=True)
class Hash:
    """Feature hashing (Weinberger et al., ICML 2009), then features of mean 0 and deviation 1.

    ``bucket`` [n] int64 and ``sign`` [n] are of every entry; ``mean`` and ``deviation`` [features]
    of the hashed examples.
    """

    bucket: Tensor
    sign: Tensor
    mean: Tensor
    deviation: Tensor

    @classmethod
    def of(cls, examples: Tensor, features: int, rng: Generator) -> Hash:
        """A hash of vectors like ``examples`` [k, n]."""
        size = examples.shape[1]
        bucket = torch.randint(features, (size,), generator=rng)
        sign = 2.0 * torch.randint(2, (size,), generator=rng) - 1
        plain = cls(bucket, sign, torch.zeros(features), torch.ones(features))
        hashed = plain(examples)
        deviation = hashed.std(0, correction=0)
        return cls(bucket, sign, hashed.mean(0), torch.where(deviation > 0, deviation, 1.0))

    def __call__(self, vectors: Tensor) -> Tensor:
        """[k, n] to [k, features]."""
        hashed = vectors.new_zeros(len(vectors), len(self.mean))
        hashed.index_add_(1, self.bucket, vectors * self.sign)
        return (hashed - self.mean) / self.deviation


LEARNING_TO_INVERT = register(
    LearnedInverse(
        name="lti",
        title="Learning to Invert",
        cite="wu2023learning",
        url="https://arxiv.org/abs/2210.10880",
        summary="A network from messages to images, trained on auxiliary images' own messages.",
        threat="auxiliary",
    )
)
