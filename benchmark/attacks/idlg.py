"""Improved deep leakage from gradients: the label is read off the gradient, images are optimised.

Source: Zhao, Mopuri and Bilen, 2020, arXiv:2001.02610. For one image under cross-entropy the true
class alone has a negative bias gradient, so that only the image is left to find. Granted labels are
used where there are several images, for which the rule does not hold. The public code searches as
DLG's does: 300 calls of torch's L-BFGS for 20 iterations each; our readings are those of `dlg.py`.
"""

from __future__ import annotations

from benchmark.attacks.base import register
from benchmark.attacks.engine.lbfgs import LBFGS
from benchmark.attacks.parts.labels import Given, Inferred
from benchmark.attacks.parts.objectives import SquaredError
from benchmark.attacks.parts.optimisation import OptimisationAttack

IMPROVED_DEEP_LEAKAGE = register(
    OptimisationAttack(
        name="idlg",
        title="Improved Deep Leakage from Gradients",
        cite="zhao2020idlg",
        url="https://arxiv.org/abs/2001.02610",
        summary="The label by the sign of the last layer's gradient, then squared distance of "
        "gradients, minimised over the images by L-BFGS.",
        objective=SquaredError(),
        optimiser=LBFGS(history=100, patience=100, tolerance=1e-9),
        labels=Given() | Inferred(),
        iterations=6000,
    )
)
