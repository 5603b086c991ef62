"""Inverting gradients: the direction of the gradient and a total-variation prior.

Source: Geiping et al., NeurIPS 2020, arXiv:2003.14053, and its public code, whose defaults these
are: signed Adam with steps of 0.1, which fall tenfold at 3/8, 5/8 and 7/8 of 4,800 iterations, one
start, total variation of 1e-4, images inside the box.
"""

from __future__ import annotations

from benchmark.attacks.base import register
from benchmark.attacks.engine.adam import SignedAdam
from benchmark.attacks.parts.labels import Given, Inferred, Joint
from benchmark.attacks.parts.objectives import Cosine
from benchmark.attacks.parts.optimisation import OptimisationAttack
from benchmark.attacks.parts.priors import TotalVariation

INVERTING_GRADIENTS = register(
    OptimisationAttack(
        name="ig",
        title="Inverting Gradients",
        cite="geiping2020inverting",
        url="https://arxiv.org/abs/2003.14053",
        summary="Cosine similarity with total variation, minimised by signed Adam inside the box.",
        objective=Cosine(),
        priors=(TotalVariation(1e-4),),
        optimiser=SignedAdam(lr=0.1, milestones=(3 / 8, 5 / 8, 7 / 8)),
        labels=Given() | Inferred() | Joint(),
        box=True,
        iterations=4800,
    )
)
