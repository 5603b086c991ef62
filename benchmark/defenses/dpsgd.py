"""Example-level differential privacy: DP-SGD on every client.

Source: Abadi et al., CCS 2016, arXiv:1607.00133, Algorithm 1; clipping, noise and accounting are
Opacus's.
"""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Generator

from benchmark.defenses.base import Defense, Guarantee, register, require
from benchmark.federated.update import Update

if TYPE_CHECKING:
    from benchmark.federated.client import Batch, Client


@register
@dataclass(frozen=True, kw_only=True)
class DifferentiallyPrivateSGD(Defense):
    """Clip every example's gradient to ``clip``, add noise of ``noise * clip`` to their sum."""

    name = "dpsgd"
    reads = ("images",)
    title = "DP-SGD (example-level)"
    cite = "abadi2016deep"
    url = "https://arxiv.org/abs/1607.00133"
    summary = "Every example's gradient is clipped and their noised sum is sent; Poisson sampling."
    randomised = True
    note = (
        "Our reading: epsilon is for one example, which its client has or has not, against a "
        "server that sees every round. Sampling rate and normaliser are public constants of the "
        "protocol: batch size over the mean number of examples of a client, and batch size. Both "
        "would give an example away if they followed the number that its client holds."
    )
    sampling = "poisson"

    noise: float = 0.1
    clip: float = 1.0
    delta: float = 1e-5

    def __post_init__(self) -> None:
        require(self.noise > 0, f"dpsgd.noise must be positive, not {self.noise}")
        require(self.clip > 0, f"dpsgd.clip must be positive, not {self.clip}")
        require(0 < self.delta < 1, f"dpsgd.delta must be between 0 and 1, not {self.delta}")

    def local(
        self, client: Client, broadcast: Update, batches: Sequence[Batch], rng: Generator
    ) -> Update:
        """Noised mean gradients; with several local steps each of them is noised."""
        weights, total = broadcast, broadcast * 0.0
        for batch in batches:
            step = self._noised_gradient(client, weights, batch, rng)
            if client.setting.algorithm == "fedsgd":
                return step
            moved = step * client.setting.local_lr
            weights, total = weights - moved, total + moved
        return total

    def _noised_gradient(
        self, client: Client, weights: Update, batch: Batch, rng: Generator
    ) -> Update:
        from opacus import GradSampleModule
        from opacus.optimizers import DPOptimizer
        from torch.nn import functional as F

        import benchmark.runtime.compat  # noqa: F401  (before opacus, which imports torchvision)
        from benchmark.federated.setting import skeleton

        images, labels = batch
        model = skeleton(client.setting)
        model.load_state_dict(dict(weights))
        sampled = GradSampleModule(model, loss_reduction="mean")
        optimiser = DPOptimizer(
            torch.optim.SGD(sampled.parameters(), lr=1.0),
            noise_multiplier=self.noise,
            max_grad_norm=self.clip,
            expected_batch_size=client.setting.batch_size,  # never how many were drawn, or are held
            loss_reduction="mean",
            generator=rng,
        )
        if len(images):
            with warnings.catch_warnings():  # images need no gradient, and hooks say so
                warnings.filterwarnings("ignore", message="Full backward hook is firing")
                F.cross_entropy(sampled(images), labels).backward()
        else:  # a Poisson draw may be empty: then the noise alone is sent
            for parameter in sampled.parameters():
                parameter.grad_sample = parameter.new_zeros(0, *parameter.shape)
        optimiser.pre_step()
        step = {
            n: p.grad.detach().clone() for n, p in model.named_parameters() if p.grad is not None
        }
        optimiser.zero_grad()
        sampled.to_standard_module()
        return Update(step)

    def guarantee(self, *, rounds: int, rate: float) -> Guarantee:
        """The sampled Gaussian mechanism composed over the rounds."""
        from benchmark.defenses.parts.accounting import epsilon

        return Guarantee(
            epsilon(noise=self.noise, rate=min(rate, 1.0), steps=rounds, delta=self.delta),
            self.delta,
            unit="example",
            adversary="server",
        )
