"""Measures of sentences, by hand: ROUGE is counts of words, pairs and common subsequences."""

from __future__ import annotations

import sys
import types

import numpy as np
import pytest

from benchmark.metrics import tokens
from benchmark.metrics.measures import Measures, measures_of
from benchmark.results import columns as table
from benchmark.results.columns import columns

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


def test_the_baseline_is_the_nearest_or_the_usual_sentence() -> None:
    auxiliary = np.array([[1, 2, 3, 0], [1, 6, 3, 0], [4, 4, 4, 4]])
    baseline = tokens.without_attack([[1, 2, 7, 0], [5, 5, 5, 5]], [0, 1], auxiliary, [0, 0, 1])
    assert baseline == pytest.approx([2 / 3, 0])
    # By hand: of class 0 the usual words are 1, 2 (the first of two), 3.
    assert tokens.without_attack([[1, 2, 3, 0]], [0], auxiliary[1:], [0, 1]) == pytest.approx(2 / 3)


def test_recovered_means_every_word_of_a_short_sentence() -> None:
    measures = Measures("texts", WORDS)
    rows = np.full((20, 4), 5)
    tau = measures.tau(rows, np.zeros(20, int), np.full((3, 4), 6), np.zeros(3, int), 20.0)
    assert tau == tokens.SUCCESS and 9 / 10 <= tau < 1
    known = measures.tau(rows, np.zeros(20, int), rows, np.zeros(20, int), 20.0)
    assert known == 1  # whatever is guessed anyway is no leakage


def test_each_kind_of_data_fills_columns_of_its_own() -> None:
    truths = np.array([[1, 2, 3, 0], [6, 7, 0, 0]])
    texts, pictures = measures_of({"vocabulary": list(WORDS)}), measures_of({})
    words = texts.score(truths, truths)
    assert all((values == 1).all() and len(values) == 2 for values in words.values())
    images = pictures.score(np.zeros((1, 1, 7, 7)), np.zeros((1, 1, 7, 7)))
    assert [next(iter(words)), next(iter(images))] == [texts.first, pictures.first]
    assert (texts.first, pictures.first) == ("exact_tokens", "psnr")
    filled = {*images, *words, texts.baseline, pictures.baseline}
    assert filled == {column.name for column in columns("victims.csv") if column.data}


def test_a_measure_is_a_function_of_its_own_file_and_a_line_of_the_table(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    novel = types.ModuleType("benchmark.metrics.darkness")
    novel.darkness = lambda guesses, truths: 1 - guesses.mean(axis=(1, 2, 3))  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, novel.__name__, novel)
    line = table.Column("share", "darkness", "cells victims", "Darkness", data="images",
                        metric="darkness.darkness")  # fmt: skip
    monkeypatch.setattr(table, "COLUMNS", (*table.COLUMNS, line))
    found = Measures("images").score(np.full((2, 1, 8, 8), 0.25), np.ones((2, 1, 8, 8)))
    assert found["darkness"].tolist() == [0.75, 0.75]
