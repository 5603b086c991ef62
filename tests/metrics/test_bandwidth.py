"""Bytes until a target accuracy, on cases counted by hand."""

from __future__ import annotations

import pytest

from benchmark.metrics.bandwidth import bytes_to_target

CURVES = {
    "accuracy": [(0, 0.1), (10, 0.6), (20, 0.9), (30, 0.7), (40, 0.95)],
    "uplink_bytes": [(number, 15.0) for number in range(1, 41)],
    "downlink_bytes": [(number, 5.0) for number in range(1, 41)],
}


@pytest.mark.parametrize(("target", "rounds"), [(0.05, 0), (0.6, 10), (0.8, 20), (0.92, 40)])
def test_bytes_are_all_clients_both_ways_until_the_target_is_first_reached(
    target: float, rounds: int
) -> None:
    assert bytes_to_target(CURVES, target, clients=2) == rounds * 2 * (15 + 5)


def test_a_target_that_is_never_reached_has_no_bytes() -> None:
    assert bytes_to_target(CURVES, 0.99, clients=2) is None


def test_halves_of_bytes_are_rounded_once() -> None:
    """Means over clients are no whole numbers; their sum over clients is."""
    curves = CURVES | {"uplink_bytes": [(1, 10 / 3), (2, 11 / 3)], "downlink_bytes": []}
    assert bytes_to_target(curves, 0.5, clients=3) == 21
