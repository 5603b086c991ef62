"""What a client's earlier messages say of what it still holds back, against its sealed memory."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from benchmark.attacks.base import get
from benchmark.evidence.pruning import POOLED, TRUST, history, weighed
from benchmark.pipeline.attack import readable
from tests import tiny
from tests.tiny import Victim

both = pytest.mark.parametrize("name", ["pruning", "dgp"])


@both
def test_what_was_sent_last_left_nothing_behind(name: str) -> None:
    """Ages agree with the client's memory: nothing is held of age 0, something of the rest."""
    victim, memory = tiny.remembered(tiny.setting_of(name))
    window = victim.transcript.window
    fresh = held = 0
    for key, kept in memory.items():
        age = history([message[key] for message in window]).age
        assert torch.equal(kept[age == 0], torch.zeros_like(kept[age == 0]))
        assert torch.equal(age == 0, window[-1][key] != 0)
        never = torch.stack([message[key] == 0 for message in window]).all(0)
        assert torch.equal(age < 0, never)
        fresh, held = fresh + int((age == 0).sum()), held + int((kept[age > 0] != 0).sum())
    assert fresh > 100 and held > 100


def test_ages_and_spreads_are_counted_by_hand() -> None:
    """One entry sent in rounds 2 and 5 of 6, one in the last alone, one never."""
    sent = torch.zeros(6, 3)
    sent[1, 0], sent[4, 0], sent[5, 1] = 2.0, -3.0, 5.0
    known = history(list(sent))
    assert known.age.tolist() == [1.0, 0.0, -1.0]
    average = (4 + 9 + 25) / (5 + 6)  # squares over the rounds that they were gathered in
    expected = [(13 + POOLED * average) / (5 + POOLED), (25 + POOLED * average) / (6 + POOLED),
                average]  # fmt: skip
    assert known.spread.tolist() == pytest.approx(expected)


def test_the_spread_of_a_random_walk_is_found() -> None:
    """Contributions of known size, every entry sent once in four rounds on average."""
    source = tiny.rng(2)
    size = torch.linspace(0.5, 2.0, 4000)
    held, messages = torch.zeros(4000), []
    for _ in range(60):
        held = held + size * torch.randn(4000, generator=source)
        chosen = torch.rand(4000, generator=source) < 0.25
        messages.append(torch.where(chosen, held, 0.0))
        held = torch.where(chosen, 0.0, held)
    known = history(messages)
    assert float((known.spread / size.square()).mean()) == pytest.approx(1, abs=0.1)
    normal = held / (known.age * known.spread).sqrt()
    assert float(normal[known.age > 0].square().mean()) == pytest.approx(1, abs=0.2)


@both
def test_fresh_entries_are_the_gradients_own_and_count_most(name: str) -> None:
    setting = tiny.setting_of(name)
    victim, _ = tiny.remembered(setting)
    transcript = victim.transcript
    term = weighed(transcript)
    assert term and term.mask and term.variance
    plain = readable([transcript])["oblivious"][0]
    true = plain.predict(setting, victim.guess, {}, plain.data)["update"]
    for key, value in term.value.items():
        fresh = (transcript.window[-1][key] != 0) & (transcript.message[key] != 0)
        assert bool((term.mask[key][fresh] == 1).all())
        assert torch.allclose(value[fresh], true[key][fresh], rtol=1e-4, atol=1e-7)
        assert torch.allclose(term.variance[key][fresh], (TRUST * value[fresh]).square())
        aged = (term.mask[key] == 1) & ~fresh
        assert bool((term.variance[key][aged] > (TRUST * value[aged]).square()).all())


@both
def test_readings_of_a_window_are_there_only_with_one(name: str) -> None:
    (first,) = tiny.observe(tiny.setting_of(name))
    found = readable([first.transcript])
    assert "residual-weighted" not in found and not found["first-linear-layer-nonzero"][0].noisy
    later, _ = tiny.remembered(tiny.setting_of(name))
    found = readable([later.transcript])
    assert found["residual-weighted"][0].noisy and found["first-linear-layer-nonzero"][0].noisy
    assert found["residual-weighted"][0].simulate is None
    assert not found["residual-weighted"][0].exact
    assert not found["first-linear-layer-nonzero"][0].exact


@both
def test_a_window_describes_what_the_message_alone_does_not(name: str) -> None:
    """The truth is far from the message, which carries six batches, and near to what is fresh."""
    victim, _ = tiny.remembered(tiny.setting_of(name))
    found = readable([victim.transcript])

    def at(name: str, pixels: Tensor) -> float:
        evidence = found[name][0]
        soft = None if evidence.labels == "eliminated" else victim.soft
        return get("ig").losses([evidence], [pixels], [soft])[0]

    truth = victim.truth["pixels"]
    assert at("nonzero-entries", truth) > 0.1
    assert at("first-linear-layer-nonzero", truth) < 0.02 and at("residual-weighted", truth) < 0.05
    other = torch.rand(truth.shape, generator=tiny.rng(4))
    assert at("first-linear-layer-nonzero", other) > 3 * at("first-linear-layer-nonzero", truth)


def test_the_image_is_read_through_what_the_client_held_back() -> None:
    """Under error feedback the window recovers what the message alone does not."""
    victim, _ = tiny.remembered(tiny.setting_of("dgp"))

    def error(victim: Victim, name: str) -> float:
        evidence = readable([victim.transcript])[name][0]
        (guess,) = get("ig").configured(iterations=150).run([evidence])
        return float((guess.images - victim.truth["pixels"]).square().mean())

    assert error(victim, "residual-weighted") < 3e-4 < 3e-3 < error(victim, "nonzero-entries")
