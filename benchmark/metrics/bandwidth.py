"""Bytes on the wire until a model is good enough."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

Curve = Sequence[tuple[int, float]]
"""(finished rounds, value) in the order of training."""


def bytes_to_target(curves: Mapping[str, Curve], target: float, clients: int) -> int | None:
    """Bytes of all clients, up and down, until the accuracy first reaches ``target``.

    Args:
        curves: of one run: ``accuracy``, which may be measured before the first round too, and
            ``uplink_bytes`` and ``downlink_bytes`` of every round, means over clients.
        target: accuracy in [0, 1].

    Returns:
        None where the target is never reached.

    >>> up, down = [(1, 3.0), (2, 4.0)], [(1, 1.0), (2, 1.0)]
    >>> accuracy = [(0, 0.1), (1, 0.5), (2, 0.9)]
    >>> curves = {"accuracy": accuracy, "uplink_bytes": up, "downlink_bytes": down}
    >>> bytes_to_target(curves, 0.5, clients=2)
    8
    """
    rounds = next((number for number, reached in curves["accuracy"] if reached >= target), None)
    if rounds is None:
        return None
    sides = (curves["uplink_bytes"], curves["downlink_bytes"])
    return round(clients * sum(size for side in sides for number, size in side if number <= rounds))
