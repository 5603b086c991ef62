"""Robbing the Fed: a malicious server's imprint block holds images apart, and gives them away.

Source: Fowl, Geiping, Czaja, Goldblum and Goldstein, ICLR 2022, arXiv:2110.13057. The block cuts
a measurement of the images into bins (`benchmark/models/parts/imprint.py`). Row i of its first
layer receives the gradients of all images above cut i, so the difference of two neighbouring rows
is one image times a factor, and the bias's difference is that factor, if the image is alone
between the cuts. Of B images in m bins of equal mass an image is alone with probability
(1 - 1/m)^(B - 1), the figure to hold this against: 0.896 for 8 images in 64 bins.

Our readings: a row counts where the evidence says that its bias was sent, so that neighbours may
lie further apart; a factor that known noise could make is none; pixels that were not sent, and
images that no bin shows, are the mean auxiliary image's; labels are those of the nearest auxiliary
images. The paper's variant for several local steps, which needs another block, is left out.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from torch.nn import functional as F

from benchmark.attacks.base import Guess, register
from benchmark.attacks.parts.auxiliary import dealt, require
from benchmark.attacks.parts.direct import DirectAttack
from benchmark.models.parts.imprint import NAME

if TYPE_CHECKING:
    from benchmark.evidence.base import Evidence

WEIGHT, BIAS = f"features.{NAME}.measure.weight", f"features.{NAME}.measure.bias"
EMPTY = 1e-5
"""A bin whose factor is smaller than this share of the largest holds rounding errors alone."""
SIGNIFICANT = 4 * 2**0.5
"""So many deviations of known noise a factor must have: four of a difference of two."""
ROUNDING = 1e-3
"""How far from its bin the brightness of what was read may lie for it to be one image."""


@dataclass(frozen=True, kw_only=True)
class RobbingTheFed(DirectAttack):
    """Images in closed form from the gradients of an imprint block."""

    def supports(self, evidence: Evidence) -> str | None:
        """Refuses models without the block, and messages of several local steps."""
        if not evidence.setting.cuts:
            return "the server is not malicious: there is no imprint block in front of the model"
        if evidence.setting.algorithm != "fedsgd":
            return "local steps move the imprint block's weights from image to image"
        shown = evidence.terms["update"].value if "update" in evidence.terms else {}
        if WEIGHT not in shown or BIAS not in shown:
            return "the imprint block's gradients are not in the evidence"
        return None

    def reconstruct(
        self,
        evidences: Sequence[Evidence],
        public: Any,
        seeds: Sequence[int],
        deadline: float | None,
    ) -> list[Guess]:
        """One readout per victim; nothing is random."""
        known = require(public, self.name)
        guesses = []
        for evidence in evidences:
            images, alone = _reconstructed(evidence, known.images.mean(0))
            order, labels = dealt(images, evidence, known)
            classes = evidence.setting.classes
            guesses.append(
                Guess(
                    images=images[order],
                    labels=labels,
                    soft=None if labels is None else F.one_hot(labels, classes).float(),
                    hidden=_still(evidence),
                    applicable=alone[order],
                )
            )
        return self.valued(evidences, guesses)


def read_bins(
    weight: Tensor, bias: Tensor, sent_weight: Tensor, sent_bias: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """What lies between neighbouring rows of the imprint block's gradient.

    Args:
        weight: [bins, pixels] gradient of the first layer's weight, ``bias`` [bins] of its bias.
        sent_weight, sent_bias: bool, which entries are known, of the same shapes.

    Returns:
        Per row whose bias is known (k of them) the images [k, pixels] in normalised model inputs
        between its cut and the next such row's, which of their pixels are known, and their
        factors [k]. Where the factor is zero, the image means nothing.
    """
    rows = sent_bias.nonzero().flatten()
    # Above the last row nothing is active: a row of zeros, known to everybody.
    weight, bias = F.pad(weight[rows], (0, 0, 0, 1)), F.pad(bias[rows], (0, 1))
    seen = F.pad(sent_weight[rows], (0, 0, 0, 1), value=True)
    factor = bias[:-1] - bias[1:]
    images = (weight[:-1] - weight[1:]) / torch.where(factor == 0, 1.0, factor)[:, None]
    return images, seen[:-1] & seen[1:], factor


def _reconstructed(evidence: Evidence, otherwise: Tensor) -> tuple[Tensor, Tensor]:
    """[N, C, H, W] pixels: the images with the largest factors, then ``otherwise`` [C, H, W].

    Beside them whether each can be an image alone in its bin, all of it sent: an image is as bright
    as its bin says, noise and mixtures of images mostly are not, and where no bin is left images
    share one.
    """
    setting, term = evidence.setting, evidence.terms["update"]
    weight, bias = (term.value[name] for name in (WEIGHT, BIAS))
    mask = term.mask or {WEIGHT: torch.ones_like(weight), BIAS: torch.ones_like(bias)}
    images, seen, factor = read_bins(weight, bias, mask[WEIGHT] > 0, mask[BIAS] > 0)
    size = factor.abs()
    best = size.argsort(descending=True)[: setting.images]
    noise = 0.0 if term.variance is None else float(term.variance[BIAS].max()) ** 0.5
    best = best[size[best] > max(EMPTY * float(bias.abs().max()), SIGNIFICANT * noise)]
    pixels = setting.denormalise(images[best].view(-1, *setting.shape))
    cuts = torch.tensor(setting.cuts)[(mask[BIAS] > 0).cpu()]
    above = F.pad(cuts[1:], (0, 1), value=float("inf"))
    brightness = images[best].mean(1)
    alone = (cuts[best] - ROUNDING <= brightness) & (brightness <= above[best] + ROUNDING)
    alone &= seen[best].all(1)
    pixels = torch.where(seen[best].view_as(pixels), pixels, otherwise)
    missing = setting.images - len(best)
    return (
        torch.cat([pixels, otherwise.expand(missing, *otherwise.shape)]),
        F.pad(alone, (0, missing), value=False),
    )


def _still(evidence: Evidence) -> dict[str, Tensor]:
    """Hidden variables at zero: the closed form does without them."""
    return {name: torch.zeros(h.shape) for name, h in evidence.hidden.items()}


ROBBING = register(
    RobbingTheFed(
        name="robbing",
        title="Robbing the Fed",
        cite="fowl2022robbing",
        url="https://arxiv.org/abs/2110.13057",
        summary="A malicious server's layer holds images apart; each is a difference of rows.",
        threat="malicious",
        closed_form=True,
    )
)
