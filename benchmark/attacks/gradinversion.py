"""GradInversion: several seeds search together, under image priors, with labels read off.

Source: Yin et al., "See through Gradients", CVPR 2021, arXiv:2104.07586: squared distance of the
gradients, total variation, L2, group consistency over the seeds, and labels by the minimum rule
(batches without repeated labels). The authors published no code; the weights of the priors (1e-4,
1e-6, 1e-2), Adam at 0.1 with a warm-up of 50 of 20,000 iterations and half a cosine after it, and
four seeds are those of public re-implementations.

Left out: the prior on BatchNorm statistics, since no victim model here has BatchNorm layers;
Langevin noise, which re-implementations keep small and which would make the best iterate a
matter of chance; the registration of seeds to each other before their mean is taken.
"""

from __future__ import annotations

from benchmark.attacks.base import register
from benchmark.attacks.engine.adam import SignedAdam
from benchmark.attacks.parts.labels import Distinct, Given
from benchmark.attacks.parts.objectives import SquaredError
from benchmark.attacks.parts.optimisation import OptimisationAttack
from benchmark.attacks.parts.priors import L2, GroupConsistency, TotalVariation

GRAD_INVERSION = register(
    OptimisationAttack(
        name="gradinversion",
        title="GradInversion",
        cite="yin2021see",
        url="https://arxiv.org/abs/2104.07586",
        summary="Squared distance of gradients with total variation, L2 and group consistency, "
        "minimised by Adam from several seeds at once.",
        objective=SquaredError(),
        priors=(TotalVariation(1e-4), L2(1e-6)),
        group=GroupConsistency(0.01),
        optimiser=SignedAdam(lr=0.1, fall="cosine", warmup=50, signed=()),
        labels=Given() | Distinct(),
        box=True,
        iterations=20_000,
        restarts=4,
    )
)
