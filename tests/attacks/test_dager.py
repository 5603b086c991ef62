"""DAGER against sealed sentences: exact without a defense, and honest where it cannot be."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch.nn import functional as F

from benchmark.attacks.base import Unsupported, get
from benchmark.attacks.dager import entering, outside, row_space
from benchmark.defenses.base import build as defense
from benchmark.evidence.generic import oblivious
from benchmark.models.base import build
from tests import sentences, tiny


@pytest.mark.parametrize("batch_size", [1, 4])
def test_undefended_sentences_are_recovered_exactly(batch_size: int) -> None:
    victims = tiny.observe(sentences.setting_of(batch_size=batch_size), 6)
    evidences = [oblivious(victim.transcript) for victim in victims]
    guesses = get("dager").run(evidences)
    for guess, victim in zip(guesses, victims, strict=True):
        assert sentences.same(guess.images, victim.truth["pixels"])
        assert bool(guess.applicable.all()) and guess.applicable.shape == (batch_size,)
    soft = [victim.soft for victim in victims]
    losses = get("dager").losses(evidences, [v.truth["pixels"] for v in victims], soft)
    assert max(losses) < 1e-9


def test_sentences_that_share_words_are_told_apart() -> None:
    """Sums of what was read lie in the first span too: only the second layer refuses them."""
    setting = sentences.setting_of(batch_size=4)
    truth = torch.tensor(
        [[1, 2, 3, 4, 0, 0], [1, 5, 3, 6, 0, 0], [7, 2, 3, 6, 0, 0], [7, 5, 8, 4, 2, 0]]
    )
    (victim,) = tiny.observe(setting, 1)
    client, broadcast = victim.client.copy(), victim.transcript.broadcast
    message = client.round(broadcast, [(truth, torch.tensor([0, 1, 1, 0]))], tiny.rng())
    transcript = replace(victim.transcript, message=message)
    (guess,) = get("dager").run([oblivious(transcript)])
    assert sentences.same(guess.images, truth)


def test_the_row_space_is_what_the_layer_was_given() -> None:
    """Against the definition: inputs and a layer's gradient, by autograd."""
    inputs = torch.randn(5, 12, generator=tiny.rng())
    layer = torch.nn.Linear(12, 9)
    layer(inputs).sin().sum().backward()
    basis = row_space(layer.weight.grad, 1e-6)
    assert basis.shape == (5, 12)
    assert torch.allclose(basis @ basis.T, torch.eye(5, dtype=torch.float64), atol=1e-9)
    assert float(outside(inputs, basis).max()) < 1e-5
    assert float(outside(torch.randn(50, 12, generator=tiny.rng(1)), basis).min()) > 0.05


def test_what_enters_the_second_block_depends_on_earlier_words_only() -> None:
    model = build("transformer", (6,), 2, 60)
    model.initialise(tiny.rng())
    words = sentences.spoken(3, 4)
    whole = entering(model.features, words)
    assert torch.allclose(entering(model.features, words[:, :3]), whole[:, :3], atol=1e-5)
    swapped = entering(model.features, words.flip(1))
    assert not torch.allclose(swapped[:, -1], whole[:, -1], atol=1e-2)


def test_a_batch_that_fills_every_dimension_is_refused() -> None:
    victims = tiny.observe(sentences.setting_of(batch_size=8), 1)
    assert "every word would pass" in str(get("dager").supports(oblivious(victims[0].transcript)))


def test_noise_leaves_a_guess_that_explains_the_message_worse_than_the_truth() -> None:
    noisy = defense("dp", {"clip": 1.0, "noise": 0.1, "delta": 1e-5})
    victims = tiny.observe(sentences.setting_of(noisy), 2)
    evidences = [oblivious(victim.transcript) for victim in victims]
    for guess, evidence, victim in zip(
        get("dager").run(evidences), evidences, victims, strict=True
    ):
        assert not sentences.same(guess.images, victim.truth["pixels"])
        assert not bool(guess.applicable.any()), "no word lies in a noisy row space"
        truth = get("dager").loss(evidence, victim.truth["pixels"], victim.soft)
        assert truth > 0.1 and guess.loss > 0.5 * truth


def test_images_are_refused() -> None:
    (victim,) = tiny.observe(tiny.setting_of("none"), 1)
    evidence = oblivious(victim.transcript)
    assert "the private data are images" in str(get("dager").refusal(evidence))
    with pytest.raises(Unsupported):
        get("dager").run([evidence])


def test_the_client_sends_the_gradient_of_its_sentences() -> None:
    """The message of a round on words is the gradient by autograd."""
    setting = sentences.setting_of(batch_size=2)
    (victim,) = tiny.observe(setting, 1)
    model = build("transformer", setting.shape, setting.classes, setting.vocabulary)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            parameter.copy_(victim.transcript.broadcast[name])
    F.cross_entropy(model(victim.truth["pixels"]), victim.truth["labels"]).backward()
    for name, parameter in model.named_parameters():
        assert parameter.grad is not None
        assert torch.allclose(parameter.grad, victim.transcript.message[name], atol=1e-6)
