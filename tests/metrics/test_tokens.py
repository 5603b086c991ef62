"""Measures of sentences, by hand: ROUGE is counts of words, pairs and common subsequences."""

from __future__ import annotations

import numpy as np
import pytest

from benchmark.metrics import tokens
from benchmark.metrics.judges import EMPTY, Images, Texts, judge_of
from benchmark.results.columns import CELLS, VICTIMS

WORDS = ("", "the", "cat", "sat", "on", "mat", "dog", "ran")


def test_rouge_of_a_known_pair() -> None:
    """Six words against four, all four of them common: P = 1, R = 2/3. One of three pairs ("on
    mat" is none, "the cat" is one) against five; the longest common subsequence has four words."""
    one, two, longest = tokens.rouges("the cat on mat", "the cat sat on the mat")
    assert one == pytest.approx(2 * (4 / 4) * (4 / 6) / (4 / 4 + 4 / 6))
    assert two == pytest.approx(2 * (1 / 3) * (1 / 5) / (1 / 3 + 1 / 5))
    assert longest == pytest.approx(0.8)


def test_order_counts_for_the_subsequence_but_not_for_single_words() -> None:
    one, two, longest = tokens.rouges("mat the on", "on the mat")
    assert one == 1 and two == 0 and longest == pytest.approx(1 / 3)


def test_repeated_words_count_as_often_as_they_are_in_both() -> None:
    one, _, _ = tokens.rouges("the the the the", "the cat")
    assert one == pytest.approx(2 * (1 / 4) * (1 / 2) / (1 / 4 + 1 / 2))


def test_padding_neither_helps_nor_hides() -> None:
    truth = [1, 2, 3, 0, 0]
    assert tokens.exact([1, 2, 3, 0, 0], truth) == 1
    assert tokens.exact([1, 2, 0, 0, 0], truth) == pytest.approx(2 / 3)
    assert tokens.exact([1, 2, 3, 4, 4], truth) == pytest.approx(3 / 5)
    assert tokens.exact([0, 0, 0, 0, 0], truth) == 0


def test_sentences_are_paired_one_to_one() -> None:
    truths = np.array([[1, 2, 3], [1, 2, 4], [6, 7, 0]])
    guesses = truths[[2, 0, 1]]
    assert np.array_equal(guesses[tokens.match(guesses, truths)], truths)
    twice = np.array([[1, 2, 3], [1, 2, 3], [6, 7, 0]])
    assert sorted(tokens.match(twice, truths)) == [0, 1, 2]


def test_a_sentence_is_told_apart_from_others_of_its_class() -> None:
    truth, other = np.array([[1, 2, 3]]), np.array([[1, 2, 4], [6, 7, 5]])
    said = [0]
    assert tokens.identify(truth, truth, said, other, [0, 0]).all()
    assert not tokens.identify(other[:1], truth, said, other, [0, 0]).any()
    assert not tokens.identify(truth, truth, said, other, [1, 1]).any()


def test_the_floor_is_the_nearest_or_the_usual_sentence() -> None:
    auxiliary = np.array([[1, 2, 3, 0], [1, 6, 3, 0], [4, 4, 4, 4]])
    floor = tokens.without_attack([[1, 2, 7, 0], [5, 5, 5, 5]], [0, 1], auxiliary, [0, 0, 1])
    assert floor == pytest.approx([2 / 3, 0])
    # By hand: of class 0 the usual words are 1, 2 (the first of two), 3.
    assert tokens.without_attack([[1, 2, 3, 0]], [0], auxiliary[1:], [0, 1]) == pytest.approx(2 / 3)


def test_recovered_means_every_word_of_a_short_sentence() -> None:
    judge = Texts(WORDS)
    rows = np.full((20, 4), 5)
    tau = judge.tau(rows, np.zeros(20, int), np.full((3, 4), 6), np.zeros(3, int), 20.0)
    assert tau == tokens.SUCCESS and 9 / 10 <= tau < 1
    known = judge.tau(rows, np.zeros(20, int), rows, np.zeros(20, int), 20.0)
    assert known == 1  # whatever is guessed anyway is no leakage


def test_every_judge_fills_columns_of_the_schema() -> None:
    truths = np.array([[1, 2, 3, 0], [6, 7, 0, 0]])
    judge = judge_of({"vocabulary": list(WORDS)})
    assert isinstance(judge, Texts) and isinstance(judge_of({}), Images)
    scores = judge.score(truths, truths)
    assert list(scores) == list(judge.measures)
    assert all((values == 1).all() for values in scores.values())
    rows = [
        {**EMPTY, **{n: v[i] for n, v in scores.items()}, judge.floor: 0.5} for i in range(2)
    ]  # fmt: skip
    assert set(EMPTY) <= set(VICTIMS) and set(judge.summary(rows)) <= set(CELLS)
    assert judge.summary(rows)["baseline_exact_tokens"] == 0.5
    pictures = Images().score(np.zeros((1, 1, 7, 7)), np.zeros((1, 1, 7, 7)))
    assert {*pictures, *scores, "baseline_psnr", "baseline_exact_tokens"} == set(EMPTY)
