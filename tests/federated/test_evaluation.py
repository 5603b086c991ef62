"""Accuracy on the test set and on each client's own mix of labels, against closed forms."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from benchmark.defenses.base import build
from benchmark.federated.client import Client
from benchmark.federated.evaluation import Evaluation, own_mix, right
from benchmark.federated.setting import Setting
from benchmark.federated.simulation import Examples, start
from benchmark.federated.update import Update
from tests import tiny


def labels(*counts: int) -> Tensor:
    """So many labels of class 0, 1, ..."""
    return torch.repeat_interleave(torch.arange(len(counts)), torch.tensor(counts))


def test_a_class_weighs_what_the_client_has_of_it_however_often_the_test_set_shows_it() -> None:
    test, own = labels(90, 10), labels(10, 30)
    weights = own_mix(test, own, 2)
    assert float(weights.sum()) == pytest.approx(1)
    assert float(weights[test == 0].sum()) == pytest.approx(0.25)
    assert weights[test == 1].tolist() == pytest.approx([0.75 / 10] * 10)


def test_a_class_that_the_test_set_lacks_leaves_the_others_their_proportions() -> None:
    test, own = labels(4, 0, 2), labels(2, 5, 6)
    weights = own_mix(test, own, 3)
    assert float(weights[test == 0].sum()) == pytest.approx(2 / 8)
    assert float(weights[test == 2].sum()) == pytest.approx(6 / 8)
    assert not own_mix(labels(4, 0, 2), labels(0, 3, 0), 3).any()


def test_a_row_with_nan_is_wrong_and_never_class_0() -> None:
    logits = torch.tensor([[1.0, 0.0], [torch.nan, 0.0], [0.0, torch.nan], [0.0, 1.0]])
    assert right(logits, torch.tensor([0, 0, 1, 1])).tolist() == [1.0, 0.0, 0.0, 1.0]


def always(setting: Setting, label: int) -> tuple[Update, list[Client]]:
    """Weights, and two clients, whose models answer ``label`` whatever they see."""
    weights, clients = start(setting, 2, 0, tiny.SECRET)
    bias = torch.full((setting.classes,), -9.0)
    bias[label] = 9.0
    chosen = {"head.weight": torch.zeros(setting.classes, 48), "head.bias": bias}

    def answer(parameters: Any) -> dict[str, Tensor]:
        return {name: chosen.get(name, tensor) for name, tensor in parameters.items()}

    for client in clients:
        client.private = answer(client.private)
    return Update(answer(weights)), clients


@pytest.mark.parametrize("name", ["none", "fedrep"])
def test_a_model_that_knows_one_class_is_as_good_as_the_clients_share_of_it(name: str) -> None:
    """Nine of ten test images are of class 0; the clients have a quarter and a half of it."""
    setting = tiny.setting_of(name)
    known = labels(90, 10)
    test = Examples(torch.rand(100, 1, 6, 6, generator=tiny.rng()), known)
    measure = Evaluation(setting, test, [labels(1, 3), labels(2, 2)])
    found = measure(*always(setting, 0))
    assert found.personal == pytest.approx((0.25 + 0.5) / 2)
    assert found.accuracy == pytest.approx(0.9 if name == "none" else 0.375)


def test_only_the_control_and_personalised_defenses_are_measured_on_own_mixes() -> None:
    test = tiny.clusters(20, 1)
    for name in ("none", "pruning", "dpsgd", "hyperfl", "fedrep"):
        setting = tiny.setting_of(build(name, {"hidden": 4} if name == "hyperfl" else {}))
        found = Evaluation(setting, test, [test.labels] * 2)(*start(setting, 2, 0, "s"))
        assert (found.personal is None) is (name in ("pruning", "dpsgd"))
        # with the test set's own mix both are one
        if name != "none" and found.personal is not None:
            assert found.personal == found.accuracy
        elif found.personal is not None:
            assert found.personal == pytest.approx(found.accuracy)


def test_weights_that_are_no_numbers_are_right_about_nothing() -> None:
    setting = tiny.setting_of("none")
    weights, clients = start(setting, 1, 0, "s")
    test = Examples(torch.rand(5, 1, 6, 6, generator=tiny.rng()), torch.zeros(5, dtype=torch.long))
    found = Evaluation(setting, test, [test.labels])(weights * float("nan"), clients)
    assert found.accuracy == 0 and found.personal == 0
