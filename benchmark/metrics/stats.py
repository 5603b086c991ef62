"""Intervals, exact paired tests and ranges of ranks: all over victims, never over images.

The images of a batch stand or fall together, so a victim (one observed message) is one
observation. Nothing here is drawn at random: intervals and tests are exact.
"""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import combinations

import numpy as np
from numpy.typing import ArrayLike

LEVEL = 0.95


@dataclass(frozen=True)
class Estimate:
    """A mean over n victims and its confidence interval, lo <= mean <= hi."""

    mean: float
    lo: float
    hi: float
    n: int


def per_victim(values: ArrayLike, victims: Sequence[Hashable]) -> np.ndarray:
    """Mean of the images' ``values`` for each victim, in order of first appearance.

    >>> per_victim([1.0, 0.0, 1.0], ["a", "a", "b"])
    array([0.5, 1. ])
    """
    array = np.asarray(values, dtype=np.float64)
    if len(array) != len(victims):
        raise ValueError(f"{len(array)} values for {len(victims)} images")
    index: dict[Hashable, int] = {}
    places = np.array([index.setdefault(victim, len(index)) for victim in victims], dtype=int)
    return np.bincount(places, weights=array) / np.bincount(places)


def rate_interval(values: ArrayLike, *, level: float = LEVEL) -> Estimate:
    """Mean of victims' shares in [0, 1] with the exact interval of Clopper and Pearson (1934).

    Where shares lie between 0 and 1 their sum is rounded down for the lower and up for the upper
    bound, so that the interval is never narrower than that of whole victims.
    """
    array = np.asarray(values, dtype=np.float64)
    if not len(array):
        raise ValueError("an interval needs at least one value")
    if not (array.min() >= 0 and array.max() <= 1):
        raise ValueError("a rate's values must lie in [0, 1]")
    n, total = len(array), float(array.sum())
    tail = (1 - level) / 2
    lo = _lower(int(np.floor(total + 1e-9)), n, tail)
    hi = 1 - _lower(n - int(np.ceil(total - 1e-9)), n, tail)
    return Estimate(total / n, lo, hi, n)


@lru_cache(maxsize=100_000)
def _lower(successes: int, n: int, tail: float) -> float:
    """The rate at which so many successes or more have the chance ``tail``."""
    from scipy.stats import beta

    return float(beta.ppf(tail, successes, n - successes + 1)) if successes else 0.0


def exceeds(rate: float, n: int, bound: float, *, level: float = LEVEL) -> bool:
    """Whether a rate measured on ``n`` trials is significantly above ``bound``: the one-sided
    lower limit of Clopper and Pearson, successes rounded down, is above it."""
    return _lower(int(np.floor(rate * n + 1e-9)), n, 1 - level) > bound


def sign_flip(differences: ArrayLike) -> float:
    """Two-sided p-value of no difference within pairs: each sign is as likely as its opposite.

    Exact: the share of all ``2 ** n`` choices of signs whose sum is at least as far from zero as
    the sum observed. Differences are whole numbers (images recovered more by one side), so sums
    are counted instead of listed. Of differences -1, 0 and 1 this is McNemar's exact test.

    >>> sign_flip([1, 1, 1, 0])
    0.25
    """
    array = np.asarray(differences)
    if not len(array) or not np.isfinite(array).all() or (np.rint(array) != array).any():
        raise ValueError("paired differences must be whole numbers, one at least")
    whole = array.astype(int)
    counts = np.bincount(np.abs(whole))[1:]
    return _tail(tuple(counts.tolist()), abs(int(whole.sum())))


@lru_cache(maxsize=100_000)
def _tail(counts: tuple[int, ...], observed: int) -> float:
    """Chance that |sum| >= observed for so many terms of size 1, 2, ... with random signs."""
    from scipy.stats import binom

    positive = np.ones(1)  # chances of each sum of the terms with a plus sign
    for size, count in enumerate(counts, start=1):
        if count:
            term = np.zeros(size * count + 1)
            term[::size] = binom.pmf(np.arange(count + 1), count, 0.5)
            positive = np.convolve(positive, term)
    total = len(positive) - 1
    sums = 2 * np.arange(total + 1) - total
    return min(1.0, float(positive[np.abs(sums) >= observed].sum()))


def holm(p_values: ArrayLike) -> np.ndarray:
    """Holm's step-down adjustment of p-values (Holm 1979).

    >>> holm([0.01, 0.04, 0.03]).round(6)
    array([0.03, 0.06, 0.06])
    """
    p = np.asarray(p_values, dtype=np.float64)
    order = np.argsort(p, kind="stable")
    steps = np.maximum.accumulate(p[order] * (len(p) - np.arange(len(p))))
    adjusted = np.empty_like(p)
    adjusted[order] = np.minimum(1.0, steps)
    return adjusted


Bounds = Mapping[str, tuple[ArrayLike, ArrayLike]]
"""Entry -> images leaked per victim, at least and at most; the same victims for all."""


def rank_ranges(
    bounds: Bounds, seeds: Sequence[int], families: Sequence[Sequence[str]], *, level: float = LEVEL
) -> list[dict[str, tuple[int, int]]]:
    """For every family the range of ranks that each of its entries may have; rank 1 leaks least.

    An entry is placed before another where even the most that it may leak is significantly less
    than the least that the other leaks: paired by victim, exact sign flips, Holm's correction
    over the distinct pairs of all families together, and no seed's mean the other way round.
    ``lo`` is one more than the number of entries placed before, ``hi`` the size of the family
    less the number placed behind.

    Args:
        bounds: whole numbers of leaked images, victims in one order.
        seeds: the seed, that is the trained model, of each victim.
        families: entries that are compared with each other; an entry may be in several.
        level: one less the chance of any wrong placement, given the trained models.

    >>> good, bad = ([0] * 20, [0] * 20), ([1] * 20, [1] * 20)
    >>> rank_ranges({"a": bad, "b": good, "c": good}, [0] * 20, [["a", "b", "c"], ["c"]])
    [{'a': (3, 3), 'b': (1, 2), 'c': (1, 2)}, {'c': (1, 1)}]
    """
    low = {name: np.asarray(pair[0]) for name, pair in bounds.items()}
    high = {name: np.asarray(pair[1]) for name, pair in bounds.items()}
    pairs = list(dict.fromkeys(
        tuple(sorted(pair)) for family in families for pair in combinations(family, 2)
    ))  # fmt: skip
    if any(each.shape != np.shape(seeds) for each in (*low.values(), *high.values())):
        raise ValueError("entries to rank need the same victims")
    orders, p_values = [], []
    for one, other in pairs:
        better, worse = (one, other) if high[one].sum() < low[other].sum() else (other, one)
        gaps = high[better] - low[worse]
        orders.append((better, worse, gaps))
        p_values.append(sign_flip(gaps) if gaps.sum() < 0 else 1.0)
    models = [np.asarray(seeds) == seed for seed in dict.fromkeys(seeds)]
    before = {
        (better, worse)
        for (better, worse, gaps), p in zip(orders, holm(p_values), strict=True)
        if p <= 1 - level and all(gaps[model].sum() <= 0 for model in models)
    }
    return [
        {
            name: (
                1 + sum((other, name) in before for other in family),
                len(family) - sum((name, other) in before for other in family),
            )
            for name in family
        }
        for family in families
    ]
