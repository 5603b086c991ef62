"""Searches among word vectors: DLG and TAG, and LAMP's exchanges and language model."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch

from benchmark.attacks.base import AttackError, get
from benchmark.attacks.lamp import exchange
from benchmark.attacks.parts import words
from benchmark.attacks.parts.fluency import Bigrams
from benchmark.attacks.parts.objectives import SquaredAndAbsolute, prepare
from benchmark.attacks.parts.optimisation import Found
from benchmark.attacks.parts.priors import VectorLength
from benchmark.config.schema import load_params
from benchmark.defenses.base import build as defense
from benchmark.evidence.base import Term
from benchmark.evidence.generic import nonzero_entries, oblivious
from tests import sentences, tiny

SEARCHES = ["dlg", "tag", "lamp"]


def short(name: str, iterations: int) -> Any:
    """The attack in the board's settings, which take few iterations."""
    return get(name).configured(**{**load_params().attacks[name].fields, "iterations": iterations})


@pytest.fixture(scope="module")
def victims() -> list[tiny.Victim]:
    return tiny.observe(sentences.setting_of(), 3)


@pytest.mark.parametrize("name", SEARCHES)
def test_undefended_sentences_are_found(name: str, victims: list[tiny.Victim]) -> None:
    attack = short(name, 90)
    evidences = [oblivious(victim.transcript) for victim in victims]
    guesses = attack.run(evidences, sentences.public())
    right = [
        float((guess.images == victim.truth["pixels"]).double().mean())
        for guess, victim in zip(guesses, victims, strict=True)
    ]
    assert sum(right) / len(right) > 0.8
    truths = [victim.truth["pixels"] for victim in victims]
    assert max(attack.losses(evidences, truths, [v.soft for v in victims])) < 1e-6
    backwards = [truth.flip(1) for truth in truths]
    assert min(attack.losses(evidences, backwards, [v.soft for v in victims])) > 1e-2


@pytest.mark.parametrize("name", SEARCHES)
def test_equal_seeds_give_equal_sentences(name: str, victims: list[tiny.Victim]) -> None:
    attack = short(name, 9)
    evidences = [oblivious(victim.transcript) for victim in victims[:2]]
    one = attack.run(evidences, sentences.public(), [5, 6])
    two = attack.run(evidences, sentences.public(), [5, 6])
    assert all(torch.equal(a.images, b.images) for a, b in zip(one, two, strict=True))
    assert all(a.loss == b.loss for a, b in zip(one, two, strict=True))


def test_pruned_words_are_still_named() -> None:
    """A word whose vector has a gradient was read: ninety percent pruned, hardly a row is lost."""
    (victim,) = tiny.observe(sentences.setting_of(defense("pruning", {"keep": 0.1})), 1)
    evidence = nonzero_entries(victim.transcript)
    assert evidence is not None
    present = set(words.words_present(evidence).tolist())
    read = set(victim.truth["pixels"].flatten().tolist())
    assert present <= read and len(present) >= len(read) - 1


def test_a_search_does_not_match_what_free_vectors_have_no_part_in(
    victims: list[tiny.Victim],
) -> None:
    evidence = oblivious(victims[0].transcript)
    left = words.searched(evidence).terms["update"].value
    assert set(evidence.terms["update"].value) - set(left) == {words.WORDS}
    truth = victims[0].truth["pixels"]
    vectors = words.inputs(evidence, truth)
    assert vectors.shape == (1, *words.searched_shape(evidence))
    assert torch.equal(words.content(evidence, vectors + 0.01), truth)


def test_hidden_word_vectors_are_a_reason(victims: list[tiny.Victim]) -> None:
    (victim,) = tiny.observe(tiny.setting_of("none"), 1)
    assert words.reason(oblivious(victim.transcript)) is None
    evidence = oblivious(victims[0].transcript)
    evidence = tiny.replace(evidence, data={**evidence.data, "shared": {}})
    assert "not public" in str(get("tag").refusal(evidence))
    assert "not public" in str(get("dager").refusal(evidence))


def test_image_attacks_refuse_sentences(victims: list[tiny.Victim]) -> None:
    evidence = oblivious(victims[0].transcript)
    assert "the private data are text" in str(get("ig").refusal(evidence))
    assert get("dlg").refusal(evidence) is None


def test_words_outside_the_vocabulary_are_an_error(victims: list[tiny.Victim]) -> None:
    evidence = oblivious(victims[0].transcript)
    guess = get("dager").run([evidence])[0]
    wrong = tiny.replace(guess, images=guess.images + sentences.WORDS)
    with pytest.raises(AttackError, match="a word lies outside"):
        get("dager")._checked(wrong, evidence)


def test_the_language_model_is_a_distribution_that_prefers_what_it_read() -> None:
    heard = torch.tensor([[1, 2, 3, 0], [1, 2, 4, 0], [5, 2, 3, 0]])
    language = Bigrams(heard, 7, backing=1.0)
    assert torch.allclose(language.surprise.neg().exp().sum(1), torch.ones(7).double())
    # p(2 | 1): two pairs of two, and all words: two... three of twelve, plus one of each of seven.
    expected = (2 + 1.0 * (3 + 1) / (12 + 7)) / (2 + 1.0)
    assert math.exp(-float(language.surprise[1, 2])) == pytest.approx(expected)
    assert language(heard[:1]) < language(heard[:1].flip(1))
    assert language(torch.stack([heard, heard])).shape == (2,)


def test_the_best_round_is_kept_and_all_rounds_are_counted(
    victims: list[tiny.Victim], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Rounds that end with losses of 3, 1 and 2: the guess is the second one's."""
    attack = get("lamp").configured(rounds=3, iterations=6, exchanges=4)
    evidence = oblivious(victims[0].transcript)
    vectors = [torch.full((1, sentences.LENGTH, 48), float(k)) for k in range(3)]
    rounds = iter([[Found({"images": vectors[k]}, (3, 1, 2)[k], 0.1 * k, 2, "budget")]
                   for k in range(3)])  # fmt: skip
    monkeypatch.setattr(type(attack), "search", lambda *_: next(rounds))
    (guess,) = attack.run([evidence], sentences.public())
    assert guess.loss == pytest.approx(0.1)
    assert torch.equal(guess.images, words.content(evidence, vectors[1]))
    assert guess.evaluations == 3 * 2 + 2 * (4 + 1)


def test_exchanges_only_reorder() -> None:
    rng = tiny.rng()
    orders = [exchange(3, 5, rng) for _ in range(200)]
    assert all(order.sort().values.tolist() == list(range(15)) for order in orders)
    assert len({tuple(order.tolist()) for order in orders}) > 50


def test_tags_distance_is_both_distances() -> None:
    value = torch.tensor([3.0, -4.0])
    target = prepare(Term(value={"w": value}))
    prediction = torch.tensor([3.0, -3.0])
    expected = 1 / 25 + 0.5 * 1 / 7
    assert float(SquaredAndAbsolute(0.5)(prediction, target)) == pytest.approx(expected)
    assert float(SquaredAndAbsolute()(value, target)) < 1e-12


def test_vectors_of_the_usual_length_are_not_penalised() -> None:
    prior = VectorLength(weight=2.0, length=5.0)
    assert float(prior(torch.tensor([[[3.0, 4.0]]]))) == pytest.approx(0, abs=1e-12)
    assert float(prior(torch.tensor([[[6.0, 8.0]]]))) == pytest.approx(2.0)
