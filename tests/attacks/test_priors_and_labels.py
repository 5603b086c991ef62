"""Priors against loops, label rules against known gradients."""

from __future__ import annotations

import pytest
import torch

from benchmark.attacks.labels import Given, Inferred, Joint, infer_label
from benchmark.attacks.priors import L2, TotalVariation


def test_total_variation_is_the_mean_over_neighbouring_pixels() -> None:
    images = torch.randn(2, 3, 4, 5, generator=torch.Generator().manual_seed(0))
    across, down = [], []
    for image in images:
        for channel in image:
            for i in range(4):
                for j in range(5):
                    if j + 1 < 5:
                        across.append(abs(float(channel[i, j + 1] - channel[i, j])))
                    if i + 1 < 4:
                        down.append(abs(float(channel[i + 1, j] - channel[i, j])))
    expected = 0.25 * (sum(across) / len(across) + sum(down) / len(down))
    assert float(TotalVariation(0.25)(images)) == pytest.approx(expected, rel=1e-5)


def test_l2_is_the_mean_square() -> None:
    assert float(L2(0.5)(torch.full((1, 1, 2, 2), 3.0))) == pytest.approx(4.5)


def test_the_true_class_has_the_only_negative_bias_gradient(victims) -> None:
    evidences, _, labels = victims(8, labels="unknown")
    for evidence, label in zip(evidences, labels, strict=True):
        assert Inferred().reason(evidence) is None
        assert Inferred().soft(evidence).argmax(-1).tolist() == label.tolist()


def test_without_a_bias_the_row_sums_decide() -> None:
    features = torch.rand(7)
    delta = torch.tensor([0.2, -0.9, 0.7])
    assert infer_label(torch.outer(delta, features), None).tolist() == [1]


def test_alternatives_take_the_first_that_applies(victims) -> None:
    given = victims(1)[0][0]
    unknown = victims(1, labels="unknown")[0][0]
    several = victims(1, batch_size=2, labels="unknown")[0][0]
    rule = Given() | Inferred()
    assert rule.soft(given).argmax(-1).tolist() == given.given.tolist()
    assert rule.soft(unknown) is not None
    assert "not granted" in rule.reason(several) and "single image" in rule.reason(several)
    assert (rule | Joint()).reason(several) is None
    assert (rule | Joint()).soft(several) is None
