"""Example-level differential privacy: DP-SGD on every client.

Source: Abadi et al., CCS 2016, arXiv:1607.00133, Algorithm 1; clipped as Opacus does it, which also
accounts for it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Generator, Tensor
from torch.func import vmap
from torch.nn import functional as F

from benchmark.defenses.base import Defense, Guarantee, Trainer, gaussian, register, require
from benchmark.federated.local_steps import differentiable_gradient
from benchmark.federated.setting import Setting
from benchmark.federated.update import Batch, Update, stacked


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
        self, client: Trainer, broadcast: Update, batches: Sequence[Batch], rng: Generator
    ) -> Update:
        """Noised mean gradients; with several local steps each of them is noised."""
        return self.local_together([client], broadcast, [batches], [rng])[0]

    def local_together(
        self,
        clients: Sequence[Trainer],
        broadcast: Update,
        batches: Sequence[Sequence[Batch]],
        rngs: Sequence[Generator],
    ) -> list[Update]:
        """The examples of all clients as one stack."""
        setting: Setting = clients[0].setting
        weights, totals = [broadcast] * len(clients), [broadcast * 0.0] * len(clients)
        for number, step in enumerate(zip(*batches, strict=True)):
            clipped = self._clipped(setting, weights, step, shared=number == 0)
            # never divided by how many were drawn, or are held
            steps = [self._noised(c, rng) * (1 / setting.batch_size)
                     for c, rng in zip(clipped, rngs, strict=True)]  # fmt: skip
            if setting.algorithm == "fedsgd":
                return steps
            moved = [each * setting.local_lr for each in steps]
            weights = [w - m for w, m in zip(weights, moved, strict=True)]
            totals = [t + m for t, m in zip(totals, moved, strict=True)]
        return totals

    def _clipped(
        self, setting: Setting, weights: Sequence[Update], batches: Sequence[Batch], shared: bool
    ) -> list[Update]:
        """Every client's sum of its examples' clipped gradients; zero where none was drawn.

        Args:
            shared: whether all clients are still at the same weights.
        """
        inputs, labels = (torch.cat(column) for column in zip(*batches, strict=True))
        if not len(labels):
            return [each * 0.0 for each in weights]
        sizes = torch.tensor([len(own) for _, own in batches])
        owner = torch.repeat_interleave(torch.arange(len(batches)), sizes)
        soft = F.one_hot(labels, setting.classes).to(inputs.dtype)

        rows = dict(weights[0]) if shared else {n: t[owner] for n, t in stacked(weights).items()}

        def of_one(here: dict[str, Tensor], image: Tensor, label: Tensor) -> dict[str, Tensor]:
            return differentiable_gradient(setting, here, {}, (image[None], label[None], {}))

        slopes = vmap(of_one, in_dims=(None if shared else 0, 0, 0))(rows, inputs, soft)
        squares = [t.flatten(1).square().sum(1) for t in slopes.values()]
        norms = torch.stack(squares).sum(0).sqrt()
        factors = (self.clip / (norms + 1e-6)).clamp(max=1.0)
        membership = F.one_hot(owner, len(batches)).to(factors) * factors[:, None]
        sums = {n: torch.tensordot(membership, t, ([0], [0])) for n, t in slopes.items()}
        return [Update({n: t[row] for n, t in sums.items()}) for row in range(len(batches))]

    def _noised(self, total: Update, rng: Generator) -> Update:
        return total.map(lambda t: t + gaussian(t, self.noise * self.clip, rng))

    def guarantee(self, *, rounds: int, rate: float) -> Guarantee:
        """The sampled Gaussian mechanism composed over the rounds."""
        from benchmark.defenses.parts.accounting import epsilon

        return Guarantee(
            epsilon(noise=self.noise, rate=min(rate, 1.0), steps=rounds, delta=self.delta),
            self.delta,
            unit="example",
            adversary="server",
        )
