"""Intervals that cover, exact tests against enumeration and SciPy, ranks that admit ties."""

from __future__ import annotations

import subprocess
import sys
from itertools import product

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats as scipy_stats

from benchmark.metrics.stats import (
    exceeds,
    holm,
    per_victim,
    rank_ranges,
    rate_interval,
    sign_flip,
)
from benchmarks import calibration


def test_statistics_do_not_import_torch() -> None:
    code = "import sys, benchmark.metrics.stats as s; s.rate_interval([0, 1, 1]); print('torch' in sys.modules)"  # noqa: E501
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"


# ------------------------------------------------------------------------------------ intervals


def test_victims_are_averaged_before_anything_is_counted() -> None:
    values, victims = [1, 0, 1, 1, 0], ["b", "b", "a", "a", "c"]
    assert per_victim(values, victims).tolist() == [0.5, 1.0, 0.0]
    with pytest.raises(ValueError, match="2 values for 1 images"):
        per_victim([1, 2], ["a"])


def test_images_of_one_batch_do_not_narrow_the_interval() -> None:
    """Counting 8 images of a batch as 8 observations would make it about sqrt(8) narrower."""
    outcomes = np.random.default_rng(0).random(20) < 0.5
    images = np.repeat(outcomes, 8)
    victims = np.repeat(np.arange(20), 8).tolist()
    by_victim, by_image = rate_interval(per_victim(images, victims)), rate_interval(images)
    assert by_victim.n == 20
    assert by_victim.hi - by_victim.lo > 2 * (by_image.hi - by_image.lo)


@pytest.mark.parametrize("n", [1, 8, 24, 128])
def test_the_interval_is_clopper_and_pearsons(n: int) -> None:
    for recovered in range(n + 1):
        estimate = rate_interval([1] * recovered + [0] * (n - recovered))
        expected = scipy_stats.binomtest(recovered, n).proportion_ci(0.95, "exact")
        assert (estimate.lo, estimate.hi) == pytest.approx((expected.low, expected.high))
        assert (estimate.mean, estimate.n) == (pytest.approx(recovered / n), n)
    assert rate_interval([0] * n).hi == pytest.approx(1 - 0.025 ** (1 / n)), "closed form at none"


def test_shares_are_rounded_outward() -> None:
    estimate = rate_interval([0.5, 0.25, 0.5])  # between one and two whole victims
    one, two = (scipy_stats.binomtest(k, 3).proportion_ci(0.95, "exact") for k in (1, 2))
    assert (estimate.lo, estimate.hi) == pytest.approx((one.low, two.high))
    tenths = rate_interval([0.1] * 10)  # its sum in floats is a little less than 1
    assert (tenths.lo, tenths.hi) == (rate_interval([1] + [0] * 9).lo,
                                      rate_interval([1] + [0] * 9).hi)  # fmt: skip


@pytest.mark.parametrize("n", [24, 64])
@pytest.mark.parametrize("rate", [0.05, 0.3, 0.5, 0.9])
def test_intervals_cover_at_least_as_often_as_they_say(rate: float, n: int) -> None:
    """Summed over all outcomes; the bootstrap missed rates near 0 and 1 far more often."""
    covered = 0.0
    for recovered in range(n + 1):
        estimate = rate_interval([1] * recovered + [0] * (n - recovered))
        if estimate.lo <= rate <= estimate.hi:
            covered += scipy_stats.binom.pmf(recovered, n, rate)
    assert covered >= 0.95


@settings(max_examples=60, deadline=None)
@given(st.lists(st.sampled_from([0.0, 0.25, 0.5, 1.0]), min_size=1, max_size=12))
def test_a_rate_lies_in_its_interval_and_that_in_zero_to_one(values: list[float]) -> None:
    estimate = rate_interval(values)
    assert 0 <= estimate.lo <= estimate.mean <= estimate.hi <= 1
    assert estimate.mean == pytest.approx(np.mean(values))


@pytest.mark.parametrize(
    ("values", "says"),
    [([], "at least one value"), ([np.nan, 1.0], r"in \[0, 1\]"), ([0.5, 1.5], r"in \[0, 1\]")],
)
def test_what_is_no_rate_is_refused(values: list[float], says: str) -> None:
    with pytest.raises(ValueError, match=says):
        rate_interval(values)


def test_higher_levels_give_wider_intervals() -> None:
    values = np.random.default_rng(0).random(30) < 0.4
    narrow, wide = rate_interval(values, level=0.8), rate_interval(values, level=0.99)
    assert wide.lo < narrow.lo and narrow.hi < wide.hi


@pytest.mark.parametrize("n", [20, 840])
def test_an_accuracy_exceeds_chance_where_scipys_one_sided_test_says_so(n: int) -> None:
    for correct in range(n // 20, n // 4):
        test = scipy_stats.binomtest(correct, n, 0.1, alternative="greater")
        assert exceeds(correct / n, n, 0.1) == (test.pvalue < 0.05), correct


# ------------------------------------------------------------------------------ paired comparison


@settings(max_examples=60, deadline=None)
@given(st.lists(st.integers(-4, 4), min_size=1, max_size=9))
def test_sign_flips_are_counted_as_if_they_were_listed(gaps: list[int]) -> None:
    sums = [abs(sum(s * g for s, g in zip(signs, gaps, strict=True)))
            for signs in product((1, -1), repeat=len(gaps))]  # fmt: skip
    assert sign_flip(gaps) == pytest.approx(np.mean([s >= abs(sum(gaps)) for s in sums]))


@pytest.mark.parametrize("seed", range(5))
def test_sign_flips_are_scipys_exact_permutation_test(seed: int) -> None:
    rng = np.random.default_rng(seed)
    ours, theirs = rng.integers(0, 5, 10), rng.integers(0, 4, 10)
    expected = scipy_stats.permutation_test(
        (ours, theirs), lambda a, b, axis: np.mean(a - b, axis=axis),
        permutation_type="samples", vectorized=True, n_resamples=np.inf,
    )  # fmt: skip
    assert sign_flip(ours - theirs) == pytest.approx(expected.pvalue)


@pytest.mark.parametrize(("more", "fewer"), [(9, 1), (5, 0), (12, 12), (30, 11), (0, 0)])
def test_of_zeros_and_ones_it_is_mcnemars_exact_test(more: int, fewer: int) -> None:
    gaps = [1] * more + [-1] * fewer + [0] * 40
    pairs = more + fewer
    expected = scipy_stats.binomtest(more, pairs).pvalue if pairs else 1.0
    assert sign_flip(gaps) == pytest.approx(expected)


def test_a_few_victims_prove_nothing_and_many_are_still_exact() -> None:
    assert sign_flip([1, 1, 1]) == 0.25  # 2 ** (1 - 3)
    assert sign_flip([8] * 128) == pytest.approx(2.0**-127, rel=1e-9)


def test_no_small_p_value_comes_more_often_than_it_says() -> None:
    """Enumerated over 24 victims that differ by coin: a percentile bootstrap's p-values below .001
    came several times as often."""
    for level in (0.05, 0.01, 0.001):
        size = 0.0
        for more in range(25):
            p = sign_flip([1] * more + [-1] * (24 - more))
            size += scipy_stats.binom.pmf(more, 24, 0.5) * (p <= level)
        assert size <= level


@pytest.mark.parametrize("gaps", [[], [0.5, 1.0], [np.nan]])
def test_differences_are_whole_numbers(gaps: list[float]) -> None:
    with pytest.raises(ValueError, match="whole numbers"):
        sign_flip(gaps)


def test_holm_is_the_step_down_procedure() -> None:
    rng = np.random.default_rng(0)
    p = rng.random(12) ** 3
    order = np.argsort(p)
    rejected = np.zeros(12, bool)
    for step, index in enumerate(order):
        if p[index] > 0.05 / (12 - step):
            break
        rejected[index] = True
    assert ((holm(p) <= 0.05) == rejected).all()
    assert (holm(p) >= p).all()


# ----------------------------------------------------------------------------------------- ranks


def ranges(leakage: dict[str, np.ndarray], **unsure: np.ndarray) -> dict[str, tuple[int, int]]:
    """Of one family and three models; ``unsure`` adds inconclusive images to an entry's."""
    bounds = {n: (v, v + unsure.get(n, 0 * v)) for n, v in leakage.items()}
    seeds = np.arange(len(next(iter(leakage.values())))) % 3
    return rank_ranges(bounds, seeds.tolist(), [list(leakage)])[0]


def test_entries_that_cannot_be_told_apart_share_ranks() -> None:
    rng = np.random.default_rng(0)
    leakage = {name: (rng.random(24) < 0.5).astype(int) for name in "abcd"}
    assert set(ranges(leakage).values()) == {(1, 4)}


def test_clear_differences_are_ranked_least_leakage_first() -> None:
    ramp = {f"d{level}": np.full(24, level) for level in range(5)}
    assert ranges(ramp) == {f"d{level}": (level + 1, level + 1) for level in range(5)}


def test_many_entries_can_still_be_told_apart() -> None:
    """The smallest p-value must survive the correction over all pairs."""
    leakage = {str(i): np.full(24, int(i >= 15)) for i in range(30)}
    found = ranges(leakage)
    assert all(found[str(i)] == ((1, 15) if i < 15 else (16, 30)) for i in range(30))


def test_the_inconclusive_count_as_leaked_for_the_one_and_as_kept_for_the_other() -> None:
    none, all_ = np.zeros(24, int), np.ones(24, int)
    assert ranges({"a": none, "b": all_}) == {"a": (1, 1), "b": (2, 2)}
    assert ranges({"a": none, "b": all_}, a=all_) == {"a": (1, 2), "b": (1, 2)}
    assert ranges({"a": none, "b": none}, b=all_) == {"a": (1, 2), "b": (1, 2)}, (
        "what was not recovered does not make an entry worse"
    )


def test_a_seed_that_points_the_other_way_forbids_an_order() -> None:
    better = {"a": np.zeros(60, int), "b": np.ones(60, int)}
    assert ranges(better)["a"] == (1, 1)
    seeds = np.arange(60) % 3
    against = {"a": (seeds == 2).astype(int), "b": (seeds != 2).astype(int)}
    against["b"][0] = 1
    gaps = against["a"] - against["b"]
    assert sign_flip(gaps) < 0.05, "over all victims the difference is significant"
    assert ranges(against)["a"] == (1, 2)


def test_pairs_of_all_families_share_one_correction() -> None:
    """A pair in both families counts once; one more pair elsewhere halves what is left of .05."""
    a, b = np.zeros(12, int), np.zeros(12, int)
    b[:6] = 1  # p = 2 ** -5 = .031
    bounds = {"a": (a, a), "b": (b, b), "c": (b, b)}
    alone = rank_ranges(bounds, [0] * 12, [["a", "b"], ["a", "b"]])
    assert alone == [{"a": (1, 1), "b": (2, 2)}] * 2
    more = rank_ranges(bounds, [0] * 12, [["a", "b"], ["a", "b", "c"]])
    assert more[0] == {"a": (1, 2), "b": (1, 2)}


def test_ranks_do_not_depend_on_the_order_of_entries() -> None:
    rng = np.random.default_rng(0)
    leakage = {str(i): (rng.random(60) < i / 5).astype(int) for i in range(6)}
    backwards = ranges(dict(reversed(leakage.items())))
    assert ranges(leakage) == {name: backwards[name] for name in leakage}


@settings(max_examples=40, deadline=None)
@given(st.integers(1, 6), st.integers(3, 12), st.integers(0, 10**6))
def test_rank_ranges_are_possible(entries: int, victims: int, seed: int) -> None:
    rng = np.random.default_rng(seed)
    found = ranges({str(i): rng.integers(0, 3, victims) for i in range(entries)})
    assert all(1 <= lo <= hi <= entries for lo, hi in found.values())
    assert any(lo == 1 for lo, _ in found.values())
    assert any(hi == entries for _, hi in found.values())


def test_entries_must_have_the_same_victims() -> None:
    with pytest.raises(ValueError, match="same victims"):
        rank_ranges({"a": ([1, 0], [1, 0]), "b": ([1], [1])}, [0, 0], [["a", "b"]])


def test_one_entry_and_none() -> None:
    assert rank_ranges({"a": ([1], [1])}, [0], [["a"]]) == [{"a": (1, 1)}]
    assert rank_ranges({}, [], [[]]) == [{}]


# ----------------------------------------------------------------------------------- calibration


@pytest.mark.parametrize("defenses", [1, 6])
def test_without_model_effects_a_wrong_placement_is_as_rare_as_it_says(defenses: int) -> None:
    """All leak the same, so any placement is wrong; .05 and three standard errors of 300 boards."""
    board = calibration.Simulated(seeds=3, victims=8, defenses=defenses, spread=0.0)
    wrong = calibration.size(board, 300)
    assert wrong <= 0.05 + 3 * (0.05 * 0.95 / 300) ** 0.5


def test_the_readme_has_the_numbers_that_the_command_wrote() -> None:
    assert calibration.table(calibration.read()) in calibration.README.read_text(encoding="utf-8")
