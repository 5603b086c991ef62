"""TAG: squared and absolute distance of gradients, over the vectors of a sentence's words.

Source: Deng et al., EMNLP 2021 (Findings), arXiv:2103.06819, by way of a public re-implementation
(breaching 0.1.2): squares plus a tenth of absolute values; Adam for BERT (decoupled weight decay)
at 0.05 for 1,000 iterations, gradients no longer than 1, and, which that re-implementation guesses,
a warm-up of 50 iterations and a linear fall of the step size. Our readings: one weight for all
layers, both distances relative to the observed gradient's, the length of 1 in those units, a weight
decay of 0.01, starts near the mean of the words that are known to be there, labels where they are
granted.
"""

from __future__ import annotations

from benchmark.attacks.base import register
from benchmark.attacks.engine.adam import SignedAdam
from benchmark.attacks.parts.labels import Given, Joint
from benchmark.attacks.parts.objectives import SquaredAndAbsolute
from benchmark.attacks.parts.optimisation import OptimisationAttack

TAG = register(
    OptimisationAttack(
        name="tag",
        title="TAG",
        cite="deng2021tag",
        url="https://arxiv.org/abs/2103.06819",
        summary="Squared plus absolute distance of gradients, over the vectors of words.",
        reads=("text",),
        objective=SquaredAndAbsolute(0.1),
        optimiser=SignedAdam(
            lr=0.05, fall="linear", warmup=50, clip=1.0, weight_decay=0.01, epsilon=1e-6, signed=()
        ),
        labels=Given() | Joint(),
        iterations=1000,
    )
)
