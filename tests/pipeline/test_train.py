"""What a training run keeps, and what it does not depend on."""

from __future__ import annotations

from dataclasses import replace

import pytest

from benchmark.pipeline.publish import _training
from benchmark.pipeline.train import read_record
from benchmark.results.columns import names
from tests import board


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> board.Board:
    return board.make(tmp_path_factory.mktemp("small"))


def aiming(small: board.Board, target: float) -> board.Board:
    federation = small.scenario.federation.model_copy(update={"target_accuracy": target})
    return replace(small, scenario=small.scenario.model_copy(update={"federation": federation}))


def test_another_target_accuracy_trains_nothing(small: board.Board) -> None:
    once = small.states("none", {})
    assert aiming(small, 0.123).states("none", {}) == once


def test_bytes_to_target_follow_from_the_curves_of_a_run(small: board.Board) -> None:
    """Three rounds of three clients, evaluated before the first and after the last."""
    record = read_record(small.states("none", {}))
    assert not {"bytes_to_target", "target_accuracy"} & set(record["training"])
    curves, clients = record["curves"], small.scenario.federation.clients
    assert [number for number, _ in curves["accuracy"]] == [0, 3]
    assert len(curves["downlink_bytes"]) == len(curves["uplink_bytes"]) == 3
    sizes = [size for side in ("uplink_bytes", "downlink_bytes") for _, size in curves[side]]
    curves["accuracy"] = [[0, 0.1], [3, 0.6]]
    for target, expected in ((0.1, 0), (0.5, clients * sum(sizes)), (0.9, None)):
        row = _training(record, aiming(small, target).scenario.federation)
        assert row["bytes_to_target"] == expected and row["target_accuracy"] == target
        assert tuple(row) == names("training.csv")
