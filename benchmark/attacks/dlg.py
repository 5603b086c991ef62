"""Deep leakage from gradients: squared distance of gradients, images and labels together.

Source: Zhu, Liu and Han, NeurIPS 2019, arXiv:1906.08935, and its public code: torch's L-BFGS, which
remembers 100 steps, called 300 times for 20 iterations each. Our readings: a line search in place
of steps of one, a fresh start where the search is stuck, and the squared distance relative to the
observed gradient's. `python -m benchmarks.quality` measures it on the network of that code.
"""

from __future__ import annotations

from benchmark.attacks.base import register
from benchmark.attacks.engine.lbfgs import LBFGS
from benchmark.attacks.parts.labels import Joint
from benchmark.attacks.parts.objectives import SquaredError
from benchmark.attacks.parts.optimisation import OptimisationAttack

DEEP_LEAKAGE = register(
    OptimisationAttack(
        name="dlg",
        title="Deep Leakage from Gradients",
        cite="zhu2019deep",
        url="https://arxiv.org/abs/1906.08935",
        summary="Squared distance of gradients, minimised over inputs and soft labels by L-BFGS.",
        reads=("images", "text"),
        objective=SquaredError(),
        optimiser=LBFGS(history=100, patience=100, tolerance=1e-9),
        labels=Joint(),
        iterations=6000,
    )
)
