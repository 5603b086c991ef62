"""Priors against loops, label rules against known gradients."""

from __future__ import annotations

import pytest
import torch

from benchmark.attacks.engine.base import Evaluation
from benchmark.attacks.parts.labels import (
    Distinct,
    Given,
    Inferred,
    Joint,
    counted_labels,
    distinct_labels,
    infer_label,
)
from benchmark.attacks.parts.priors import L2, GroupConsistency, TotalVariation


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


def last_layer(labels: list[int], features: torch.Tensor, logits: torch.Tensor):
    """The last layer's weight and bias gradients of a batch under mean cross-entropy."""
    truth = torch.nn.functional.one_hot(torch.tensor(labels), logits.shape[1])
    delta = (logits.softmax(-1) - truth) / len(labels)
    return delta.T @ features, delta.sum(0)


def test_distinct_labels_by_the_minimum_rule() -> None:
    rng = torch.Generator().manual_seed(0)
    for labels in ([3], [7, 0], [1, 4, 8, 9, 2]):
        features = torch.rand(len(labels), 20, generator=rng)
        logits = 0.1 * torch.randn(len(labels), 10, generator=rng)
        weight, _ = last_layer(labels, features, logits)
        assert distinct_labels(weight, len(labels)).tolist() == sorted(labels)


def test_counted_labels_are_exact_where_all_classes_are_as_likely() -> None:
    """Also where there are more images than classes, so that few entries are negative."""
    rng = torch.Generator().manual_seed(0)
    for labels in ([5], [2, 2], [0, 0, 0, 7], [1, 1, 4, 4, 4, 9, 9, 9], [6] * 20 + [3]):
        features = torch.randn(len(labels), 20, generator=rng)
        _, bias = last_layer(labels, features, torch.zeros(len(labels), 10))
        assert counted_labels(bias, len(labels)).tolist() == sorted(labels)


def test_counts_survive_predictions_that_are_not_quite_uniform() -> None:
    rng = torch.Generator().manual_seed(1)
    right = total = 0
    for _ in range(50):
        labels = torch.randint(10, (16,), generator=rng)
        logits = 0.3 * torch.randn(16, 10, generator=rng)
        _, bias = last_layer(labels.tolist(), torch.rand(16, 4, generator=rng), logits)
        found = counted_labels(bias, 16)
        assert len(found) == 16
        shared = torch.minimum(found.bincount(minlength=10), labels.bincount(minlength=10))
        right, total = right + int(shared.sum()), total + 16
    assert right > 0.95 * total


def test_noise_that_makes_too_many_classes_negative_leaves_the_lowest() -> None:
    assert counted_labels(torch.tensor([-0.1, -0.5, -0.2, -0.4]), 2).tolist() == [1, 3]


def test_batch_rules_say_why_they_do_not_apply(victims) -> None:
    batch = victims(1, batch_size=12, labels="unknown")[0][0]
    assert "labels repeat" in Distinct().reason(batch)
    few = victims(1, batch_size=3, labels="unknown")[0][0]
    assert Distinct().soft(few).sum(0).max() == 1


def test_group_consistency_is_the_gradient_of_the_distance_to_a_fixed_mean() -> None:
    rng = torch.Generator().manual_seed(0)
    images = torch.randn(5, 2, 1, 3, 3, generator=rng)
    victims = torch.tensor([0, 0, 0, 1, 1])
    means = torch.stack([images[:3].mean(0)] * 3 + [images[3:].mean(0)] * 2)
    free = images.clone().requires_grad_()
    penalty = 0.5 * (free - means).square().flatten(1).mean(1)
    (slope,) = torch.autograd.grad(penalty.sum(), free)
    zero = Evaluation(torch.zeros(5), torch.zeros(5), {"images": torch.zeros_like(images)})
    at = GroupConsistency(0.5).added(zero, {"images": images}, victims)
    assert torch.allclose(at.total, penalty.detach(), atol=1e-7)
    assert torch.allclose(at.gradients["images"], slope, atol=1e-7)
    assert (at.data == 0).all()
