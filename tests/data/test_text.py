"""Sentences as data: what is kept, what numbers mean, and that splits share no sentence."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest
import torch

from benchmark.data import text
from benchmark.data.datasets import cola
from benchmark.data.datasets.base import FOLDER_VARIABLE, DataError, Dataset, load
from benchmark.data.splits import split


@pytest.fixture(scope="module")
def docstrings() -> Dataset:
    return load("docstrings")


def said(dataset: Dataset, row: torch.Tensor) -> str:
    return " ".join(dataset.vocabulary[word] for word in row.tolist() if word)


def test_words_are_lower_case_and_commas_count() -> None:
    assert text.words_of("We don't, it's k-means.") == ["we", "don't", ",", "it's", "k-means"]


def test_numbers_are_places_in_the_vocabulary() -> None:
    sentences = [("The cat sat on mats.", 0), ("On mats, the cat sat.", 1), ("Too short.", 1)]
    rows, labels, vocabulary = text.numbered([*sentences, sentences[0]])
    assert vocabulary[text.PAD] == "" and list(vocabulary) == sorted(vocabulary)
    assert "," not in vocabulary  # it is in one sentence only, which goes with it
    assert rows.shape == (1, text.LENGTH) and labels.tolist() == [0]
    assert [vocabulary[word] for word in rows[0][:5]] == ["the", "cat", "sat", "on", "mats"]
    assert (rows[0][5:] == text.PAD).all()


def test_the_embedded_corpus_is_english_without_unknown_words(docstrings: Dataset) -> None:
    assert docstrings.images.dtype == torch.int64
    assert docstrings.shape == (text.LENGTH,)
    assert len(docstrings) > 600 and len(docstrings.vocabulary) < text.LARGEST
    assert int(docstrings.images.max()) == len(docstrings.vocabulary) - 1
    assert set(docstrings.labels.tolist()) == set(range(docstrings.classes))
    lengths = (docstrings.images != text.PAD).sum(1)
    assert int(lengths.min()) == text.SHORTEST and int(lengths.max()) == text.LENGTH
    spoken = [said(docstrings, row) for row in docstrings.images]
    assert len(set(spoken)) == len(spoken)
    assert any("decision tree" in sentence for sentence in spoken)
    counts = np.bincount(docstrings.images.flatten().numpy(), minlength=1)
    assert counts.min() >= 1


def test_a_language_model_is_asked_for_the_last_word(docstrings: Dataset) -> None:
    asked = load("next-word")
    assert asked.classes == len(asked.vocabulary) == len(docstrings.vocabulary)
    for row in range(0, len(asked), 97):
        spoken = f"{said(asked, asked.images[row])} {asked.vocabulary[int(asked.labels[row])]}"
        assert spoken == said(docstrings, docstrings.images[row])


def test_padding_comes_last(docstrings: Dataset) -> None:
    padded = docstrings.images == text.PAD
    assert not bool((padded[:, :-1] & ~padded[:, 1:]).any())


def test_splits_share_no_sentence_and_no_near_duplicate(docstrings: Dataset) -> None:
    parts = split(docstrings, {"client": 200, "auxiliary": 100, "report": 60}, seed=3)
    bags = {
        name: [set(row[row != text.PAD].tolist()) for row in part.images]
        for name, part in parts.items()
    }
    for private in bags["report"]:
        for known in bags["auxiliary"] + bags["client"]:
            # Words may repeat in a sentence, so sets can be nearer than counts, by a few.
            assert len(private ^ known) >= 2 and private != known
    again = split(docstrings, {"client": 200, "auxiliary": 100, "report": 60}, seed=3)
    assert torch.equal(parts["report"].images, again["report"].images)
    assert parts["report"].vocabulary == docstrings.vocabulary


def test_sentences_that_differ_in_one_word_are_one() -> None:
    rows = torch.tensor([[1, 2, 3, 4, 5], [1, 2, 3, 4, 6], [7, 8, 9, 4, 6]])
    some = Dataset("some", rows, torch.zeros(3, dtype=torch.int64), 1, tuple("_abcdefghi"))
    parts = split(some, {"client": 1, "report": 1}, seed=0)
    first, second = parts["client"].images[0].tolist(), parts["report"].images[0].tolist()
    assert [7, 8, 9, 4, 6] in (first, second)
    with pytest.raises(DataError, match="2 are left"):
        split(some, {"client": 2, "report": 1}, seed=0)


def test_texts_have_words_and_images_have_pixels(docstrings: Dataset) -> None:
    with pytest.raises(DataError, match="do not fit"):
        Dataset("wrong", docstrings.images, docstrings.labels, 2)
    assert docstrings.moments() == ((), ())
    renamed = ("", *(word.upper() for word in docstrings.vocabulary[1:]))
    other = Dataset("docstrings", docstrings.images, docstrings.labels, 2, renamed)
    assert other.digest() != docstrings.digest()


def test_absent_cola_says_where_it_was_looked_for(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"cola is not in .*text/cola"):
        load("cola", tmp_path)
    for name in cola.MD5:
        (tmp_path / "text/cola").mkdir(parents=True, exist_ok=True)
        (tmp_path / "text/cola" / name).write_text("gj04\t1\t\tNot the published file.\n")
    with pytest.raises(DataError, match="damaged"):
        load("cola", tmp_path)


@pytest.mark.skipif(
    not Path(os.environ.get(FOLDER_VARIABLE, "/nowhere"), "text/cola").is_dir(),
    reason="CoLA is not in LEAKBOARD_DATA",
)
def test_cola_has_acceptable_and_unacceptable_sentences() -> None:
    found = load("cola")
    assert found.classes == 2 and len(found) > 2000
    share = float(found.labels.double().mean())
    assert 0.6 < share < 0.75  # 70 percent of the published sentences are acceptable
    assert "bill rolled out of the room" in {said(found, row) for row in found.images}
