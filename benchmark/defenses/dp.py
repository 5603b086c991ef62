"""Update-level differential privacy: the client clips its whole update and adds Gaussian noise.

Source: Abadi et al., CCS 2016, arXiv:1607.00133 (Gaussian mechanism), applied to the update as in
McMahan et al., ICLR 2018, arXiv:1710.06963, but by the client itself, before anything is sent:
noise that the server adds would not protect against the server.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Generator

from benchmark.defenses.base import Defense, Guarantee, gaussian, register, require
from benchmark.federated.update import Update


@register
@dataclass(frozen=True, kw_only=True)
class LocalGaussian(Defense):
    """Clip the update's norm to ``clip``, add noise of standard deviation ``noise * clip``."""

    name = "dp"
    title = "DP (update-level)"
    cite = "mcmahan2018learning"
    url = "https://arxiv.org/abs/1710.06963"
    summary = "Every client clips its update and adds Gaussian noise before sending."
    randomised = True
    note = (
        "Our reading: the server is the adversary, so it knows who took part (no amplification by "
        "sampling) and only noise that the client adds counts. The unit is a client: neighbours "
        "differ in one client, whose updates of all rounds, each clipped to C, are there or are "
        "all replaced by nothing, and epsilon composes all rounds."
    )

    noise: float = 0.01
    clip: float = 1.0
    delta: float = 1e-5

    def __post_init__(self) -> None:
        require(self.noise > 0, f"dp.noise must be positive, not {self.noise}")
        require(self.clip > 0, f"dp.clip must be positive, not {self.clip}")
        require(0 < self.delta < 1, f"dp.delta must be between 0 and 1, not {self.delta}")

    def protect(
        self, update: Update, memory: Update, rng: Generator | None
    ) -> tuple[Update, Update]:
        """Clip, then noise every entry."""
        clipped = update * (self.clip / torch.clamp_min(update.norm(), self.clip))
        return clipped.map(lambda t: t + gaussian(t, self.noise * self.clip, rng)), memory

    def guarantee(self, *, rounds: int, rate: float) -> Guarantee:
        """The Gaussian mechanism composed over the rounds: replacing an update that is clipped to
        ``clip`` by nothing moves what the server sees by ``clip`` at most, in every round."""
        from benchmark.defenses.parts.accounting import epsilon

        return Guarantee(
            epsilon(noise=self.noise, rate=1.0, steps=rounds, delta=self.delta),
            self.delta,
            unit="client",
            adversary="server",
        )
