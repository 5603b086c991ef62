"""What is particular to iDLG, CPL and GradInversion."""

from __future__ import annotations

import pytest
import torch

from benchmark.attacks.base import get
from benchmark.attacks.cpl import WithPrediction
from benchmark.evidence.generic import oblivious
from benchmark.federated.setting import stateless_model
from tests.tiny import observe, setting_of


@pytest.mark.parametrize("name", ["idlg", "cpl", "gradinversion"])
def test_labels_of_single_images_are_read_off(name) -> None:
    victims = observe(setting_of("none", labels_given=False), 6)
    attack = get(name).configured(iterations=1)
    guesses = attack.run([oblivious(v.transcript) for v in victims])
    assert [int(g.labels) for g in guesses] == [int(v.truth["labels"]) for v in victims]
    assert attack.labels_from(oblivious(victims[0].transcript)) == "inferred"


def test_idlg_and_cpl_refuse_batches_whose_labels_are_unknown() -> None:
    evidence = oblivious(
        observe(setting_of("none", labels_given=False, batch_size=2))[0].transcript
    )
    for name in ("idlg", "cpl"):
        assert "single image" in get(name).refusal(evidence)
    assert get("gradinversion").refusal(evidence) is None


def test_cpl_adds_the_models_own_prediction_to_what_is_predicted() -> None:
    victim = observe(setting_of("none"))[0]
    evidence = oblivious(victim.transcript)
    found = WithPrediction(evidence.predict)(evidence.setting, victim.guess, {}, evidence.data)
    model = stateless_model(evidence.setting)
    model.load_state_dict(dict(victim.transcript.broadcast))
    expected = model(victim.guess["images"]).softmax(-1)
    assert torch.allclose(found["prediction"]["probabilities"], expected)
    plain = evidence.predict(evidence.setting, victim.guess, {}, evidence.data)["update"]
    assert all(torch.equal(found["update"][n], t) for n, t in plain.items())


def test_cpl_is_drawn_to_images_that_the_model_classifies_as_the_label() -> None:
    victim = observe(setting_of("none"))[0]
    evidence = oblivious(victim.transcript)
    model = stateless_model(evidence.setting)

    def confidence(fit: float) -> float:
        guess = get("cpl").configured(fit=fit, iterations=40).run([evidence])[0]
        model.load_state_dict(dict(victim.transcript.broadcast))
        logits = model(evidence.setting.normalise(guess.images))
        return float(logits.detach().softmax(-1)[0, int(guess.labels)])

    assert confidence(10.0) > 1.1 * confidence(0.0)


def test_gradinversions_seeds_agree_more_with_a_stronger_group(victims) -> None:
    """Without a pull the seeds end apart; the penalty is added to what selects the best one."""
    evidence = victims(1, batch_size=3)[0][0]
    attack = get("gradinversion").configured(iterations=30, restarts=2)

    def total(weight: float) -> float:
        guess = attack.configured(group={"weight": weight}).run([evidence])[0]
        return float(guess.loss)

    assert total(0.0) < total(100.0)


def test_gradinversion_recovers_a_batch() -> None:
    """Two images of different classes whose labels are not granted."""
    setting = setting_of("none", labels_given=False, batch_size=2)
    victim = next(v for v in observe(setting, 4) if len(v.truth["labels"].unique()) == 2)
    attack = get("gradinversion").configured(iterations=300, restarts=2)
    guess = attack.run([oblivious(victim.transcript)])[0]
    assert sorted(guess.labels.tolist()) == sorted(victim.truth["labels"].tolist())
    truth = victim.truth["pixels"][victim.truth["labels"].argsort()]
    assert float((guess.images - truth).square().mean()) < 0.02
