"""Rounding: what is shown never claims more, and never hides a difference from nothing or all."""

from __future__ import annotations

import math

import pytest

from leaderboard import display


@pytest.mark.parametrize(
    ("value", "text"),
    [(0, "0%"), (1, "100%"), (0.875, "88%"), (0.004, "0.4%"), (0.996, "99.6%"), (1e-5, "<0.1%"),
     (0.99999, ">99.9%"), (None, "–"), (math.nan, "–")],
)  # fmt: skip
def test_share(value: float | None, text: str) -> None:
    assert display.share(value) == text


@pytest.mark.parametrize(
    ("value", "text"),
    [(0, "0 B"), (999, "999 B"), (999.6, "1.00 kB"), (1000, "1.00 kB"), (9994, "9.99 kB"),
     (9996, "10.0 kB"), (56234, "56.2 kB"), (99_960, "100 kB"), (999_600, "1.00 MB"),
     (4.5e8, "450 MB"), (3e15, "3000 TB"), (None, "–")],
)  # fmt: skip
def test_bytes(value: float | None, text: str) -> None:
    assert display.bytes_(value) == text


@pytest.mark.parametrize(
    ("value", "text"),
    [(math.inf, "∞"), (8.3214567, "8.32"), (1e-5, "1e-5"), (1234.5, "1.23e3"), (12, "12")],
)
def test_epsilon(value: float, text: str) -> None:
    assert display.epsilon(value) == text


def test_ranks_and_intervals_and_the_rest() -> None:
    assert display.ranks(2.0, 2.0) == "2"
    assert display.ranks(1.0, 3.0) == "1–3"
    assert display.ranks(math.nan, 3.0) == "–"
    assert display.interval(0.7083, 0.9583) == "71–96"
    assert display.points(0.01234) == "1.2"
    assert display.points(-0.02) == "−2.0"
    assert display.points(-0.0001) == "0.0"
    assert display.points(math.nan) == "–"
    assert display.decibel(53.94) == "53.9"
    assert display.accuracy(0.9512) == "95.1%"
    assert display.seconds(0.0123) == "12 ms"
    assert display.seconds(0.0042) == "4.2 ms"
    assert display.seconds(65.2) == "65 s"
    assert display.exact(56234.0, "bytes") == "56,234 bytes"
    assert display.exact(0.1) == "0.1"
    assert (
        display.setting({"drop_largest": 0.05, "labels": True}) == "drop largest 0.05, labels yes"
    )
