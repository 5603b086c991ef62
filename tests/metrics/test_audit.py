"""The objective audit, case by case."""

from __future__ import annotations

import math

import pandas as pd
import pytest

from benchmark.metrics import audit
from benchmark.metrics.audit import (
    BROKEN,
    BROKEN_LOSS,
    EXHAUSTED,
    FAILED,
    MISSED,
    NOT_APPLICABLE,
    OK,
    RESOLUTION,
    TOLERANCE,
    credit,
    summary,
    verdict,
)
from benchmark.results.columns import VERDICTS


@pytest.mark.parametrize(
    ("recovered", "guess", "truth", "undefended", "expected"),
    [
        (True, 0.5, 0.0, False, OK),
        (True, 0.0, 0.9, False, OK),
        (False, 0.2, 0.3, False, EXHAUSTED),
        (False, 0.3, 0.3, False, EXHAUSTED),
        (False, 0.8, 0.0, False, FAILED),
        (False, 0.3 + 1e-6, 0.3, False, FAILED),
        (False, RESOLUTION / 2, 0.0, False, EXHAUSTED),
        (False, 2 * RESOLUTION, 0.0, False, FAILED),
        (True, 0.0, 0.0, True, OK),
        (True, 0.0, 2 * BROKEN_LOSS, True, BROKEN),
        (False, 0.9, 2 * BROKEN_LOSS, True, BROKEN),
        (False, 0.9, BROKEN_LOSS / 2, True, FAILED),
        (False, math.nan, 0.1, False, FAILED),
        (False, 0.1, math.nan, False, FAILED),
        (False, math.inf, math.inf, True, BROKEN),
        (True, 0.0, math.nan, True, BROKEN),
    ],
)
def test_only_evidence_that_ran_out_is_credited(
    recovered: bool, guess: float, truth: float, undefended: bool, expected: str
) -> None:
    assert verdict(recovered, guess, truth, undefended) == expected


def test_verdicts_are_the_schemas() -> None:
    assert set(audit.VERDICTS) == {OK, EXHAUSTED, FAILED, BROKEN, NOT_APPLICABLE, MISSED}
    assert set(audit.VERDICTS) <= set(VERDICTS)


@pytest.mark.parametrize("applicable", [True, False])
@pytest.mark.parametrize(("guess", "truth"), [(0.0, 0.5), (0.5, 0.0), (0.1, math.nan)])
def test_a_closed_form_proves_nothing_about_evidence(
    guess: float, truth: float, applicable: bool
) -> None:
    def said(recovered: bool, undefended: bool) -> str:
        return verdict(recovered, guess, truth, undefended, closed_form=True, applicable=applicable)

    assert said(recovered=False, undefended=False) == (MISSED if applicable else NOT_APPLICABLE)
    assert said(recovered=True, undefended=False) == OK
    broken = not truth <= BROKEN_LOSS
    assert (said(recovered=False, undefended=True) == BROKEN) == broken


@pytest.mark.parametrize(
    ("noisy", "exact", "truth", "told"),
    [
        (False, True, 0.0, True),
        (False, True, 0.5, False),
        (True, True, 0.5, True),  # the defense's own noise
        (True, False, 0.5, False),  # a mean over draws, or an estimate
        (True, False, 0.0, True),
        (False, True, math.nan, False),
    ],
)
def test_only_a_description_of_the_message_earns_credit(
    noisy: bool, exact: bool, truth: float, told: bool
) -> None:
    assert audit.describes(noisy, exact, truth) is told


@pytest.mark.parametrize(
    ("counts", "expected"),
    [
        ({OK: 10}, OK),
        ({OK: 9, FAILED: 1}, OK),
        ({OK: 8, FAILED: 2}, FAILED),
        ({OK: 5, EXHAUSTED: 5}, EXHAUSTED),
        ({EXHAUSTED: 8, FAILED: 2}, FAILED),
        ({EXHAUSTED: 9, FAILED: 1}, EXHAUSTED),
        ({OK: 99, BROKEN: 1}, BROKEN),
        ({OK: 8, EXHAUSTED: 1, FAILED: 1}, OK),
        ({OK: 8, MISSED: 2}, MISSED),
        ({OK: 8, NOT_APPLICABLE: 2}, NOT_APPLICABLE),
        ({MISSED: 2, NOT_APPLICABLE: 8}, MISSED),
        ({MISSED: 8, FAILED: 2}, FAILED),
        ({EXHAUSTED: 8, NOT_APPLICABLE: 2}, NOT_APPLICABLE),
        ({OK: 9, NOT_APPLICABLE: 1}, OK),
    ],
    ids=str,
)
def test_a_cells_verdict_is_its_gravest(counts: dict[str, int], expected: str) -> None:
    assert pytest.approx(0.1) == TOLERANCE
    assert summary([name for name, count in counts.items() for _ in range(count)]) == expected


def credited(*readings: tuple[str, str, int, int]) -> bool:
    """Of one image: (evidence, verdict, whether recovered, whether the reading is accurate)."""
    rows = [
        {"seed": 0, "victim": 1, "image": 0, "evidence": name, "verdict": said, "success": won,
         "accurate": accurate}
        for name, said, won, accurate in readings
    ]  # fmt: skip
    found = credit(pd.DataFrame(rows))
    assert list(found.index) == [(0, 1, 0)]
    return bool(found.iloc[0])


def test_credit_needs_an_accurate_reading_that_ran_out() -> None:
    assert credited(("a", EXHAUSTED, 0, 1))
    assert not credited(("a", EXHAUSTED, 0, 0))
    assert not credited(("a", FAILED, 0, 1))
    assert not credited(("a", BROKEN, 0, 1))


@pytest.mark.parametrize("said", [MISSED, NOT_APPLICABLE])
def test_closed_forms_credit_nobody(said: str) -> None:
    assert not credited(("a", said, 0, 1))
    assert not credited(("a", said, 0, 1), ("b", said, 0, 1))


def test_an_accurate_reading_whose_optimisers_failed_takes_the_credit_away() -> None:
    assert not credited(("a", EXHAUSTED, 0, 1), ("b", FAILED, 0, 1))
    assert credited(("a", EXHAUSTED, 0, 1), ("b", FAILED, 0, 0))
    assert credited(("a", EXHAUSTED, 0, 1), ("a", FAILED, 0, 1)), "another attack got there"
    assert not credited(("a", EXHAUSTED, 0, 0), ("b", FAILED, 0, 0))


def test_credit_is_image_by_image() -> None:
    rows = pd.DataFrame(
        {"seed": [0, 0, 1], "victim": [0, 1, 0], "image": 0, "evidence": "a", "success": 0,
         "verdict": [EXHAUSTED, FAILED, EXHAUSTED], "accurate": [1, 1, 0]}
    )  # fmt: skip
    assert credit(rows).to_dict() == {(0, 0, 0): True, (0, 1, 0): False, (1, 0, 0): False}
