"""What holds for every registered attack, and what the base does with one that misbehaves."""

from __future__ import annotations

import dataclasses
import json
import math
import operator
import time
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch

import benchmark.attacks
from benchmark.attacks import base
from benchmark.attacks.base import Attack, AttackError, Guess, Unsupported, get, names, register
from benchmark.attacks.engine.lbfgs import LBFGS
from benchmark.attacks.parts.optimisation import OptimisationAttack
from benchmark.config.errors import ParamsError

ATTACKS = [get(name) for name in names()]
SEARCHES = [a for a in ATTACKS if isinstance(a, OptimisationAttack)]
every_attack = pytest.mark.parametrize("attack", ATTACKS, ids=lambda a: a.name)
every_search = pytest.mark.parametrize("attack", SEARCHES, ids=lambda a: a.name)


def with_iterations(attack: Attack, iterations: int) -> Attack:
    """The attack with another budget, or as it is where it has none."""
    budgeted = any(f.name == "iterations" for f in dataclasses.fields(attack))
    return attack.configured(iterations=iterations) if budgeted else attack


def short(attack: Attack) -> Attack:
    return with_iterations(attack, 12)


def supported(attack: Attack, evidences) -> bool:
    """Whether the attack applies; where it does not, it says why and refuses to run."""
    reasons = [attack.refusal(e) for e in evidences]
    assert all(reason is None or reason.strip() for reason in reasons)
    if any(reasons):
        with pytest.raises(Unsupported):
            attack.run(evidences)
    return not any(reasons)


def onehot(labels: list[torch.Tensor]) -> list[torch.Tensor]:
    return [torch.nn.functional.one_hot(y, 10).float() for y in labels]


@every_attack
def test_files_are_named_after_attacks(attack: Attack) -> None:
    assert (Path(benchmark.attacks.__path__[0]) / f"{attack.name}.py").exists()
    assert attack.title and attack.summary
    assert bool(attack.cite) == bool(attack.url), "both, or not published"
    assert json.loads(json.dumps(attack.parameters()))["name"] == attack.name


@every_attack
@pytest.mark.parametrize(
    "options",
    [{}, {"labels": "unknown"}, {"labels": "eliminated"}, {"hidden": True}, {"batch_size": 3}],
    ids=str,
)
def test_guesses_are_valid(attack: Attack, victims, options) -> None:
    evidences, images, _ = victims(2, **options)
    if not supported(attack, evidences):
        return
    guesses = short(attack).run(evidences)
    for guess, truth in zip(guesses, images, strict=True):
        assert guess.images.shape == truth.shape
        assert float(guess.images.min()) >= 0 and float(guess.images.max()) <= 1
        assert math.isfinite(guess.loss)
        if attack in SEARCHES:
            assert 0 < guess.evaluations <= 12 * attack.restarts
            assert guess.stopped in {"budget", "converged"}
        assert (guess.labels is None) == (options.get("labels") == "eliminated")
        assert set(guess.hidden) == ({"factor"} if "hidden" in options else set())


@every_attack
def test_equal_seeds_give_equal_guesses_whoever_else_is_attacked(attack: Attack, victims) -> None:
    evidences = victims(3)[0]
    if not supported(attack, evidences):
        return
    first = short(attack).run(evidences, seeds=[4, 5, 6])
    again = short(attack).run(evidences, seeds=[4, 5, 6])
    alone = short(attack).run(evidences[1:2], seeds=[5])
    for a, b in zip(first, again, strict=True):
        assert torch.equal(a.images, b.images) and a.loss == b.loss
    assert torch.allclose(alone[0].images, first[1].images, atol=1e-2)


@every_search
def test_other_seeds_begin_elsewhere(attack: Attack, victims) -> None:
    evidences = victims(3)[0]
    if not supported(attack, evidences):
        return
    first = short(attack).run(evidences, seeds=[4, 5, 6])
    other = short(attack).run(evidences, seeds=[7, 8, 9])
    for a, b in zip(first, other, strict=True):
        assert not torch.equal(a.images, b.images)


@every_attack
@pytest.mark.parametrize("scale", [1.0, 1e-10])
def test_the_truth_explains_undefended_evidence(attack: Attack, victims, scale) -> None:
    evidences, images, labels = victims(2, scale=1.0)
    if scale != 1.0:
        # A gradient this small, in prediction and observation alike.
        small = victims(2, scale=scale)[0]
        evidences = [dataclasses.replace(e, predict=tiny) for e in small]
    if not supported(attack, evidences):
        return
    losses = attack.losses(evidences, images, onehot(labels))
    assert max(losses) < 1e-6
    assert attack.loss(evidences[0], images[0], onehot(labels)[0]) == pytest.approx(
        losses[0], abs=1e-9
    )
    wrong = attack.losses(evidences, [1 - x for x in images], onehot(labels))
    assert min(wrong) > 1e-3


def tiny(setting, guess, hidden, data):
    from tests.attacks.conftest import predict

    update = predict(setting, guess, hidden, data)["update"]
    return {"update": {name: 1e-10 * tensor for name, tensor in update.items()}}


@every_attack
def test_the_reported_loss_is_the_loss_at_the_guess(attack: Attack, victims) -> None:
    """Exactly so where the solution lies inside the box."""
    evidences = victims(2, hidden=True)[0]
    if not supported(attack, evidences):
        evidences = victims(2)[0]
    if not supported(attack, evidences):
        return
    guesses = with_iterations(attack, 80).run(evidences)
    losses = attack.losses(
        evidences,
        [g.images for g in guesses],
        [g.soft for g in guesses],
        [g.hidden for g in guesses],
    )
    for guess, loss in zip(guesses, losses, strict=True):
        assert loss == pytest.approx(guess.loss, rel=0.05, abs=1e-6)


@every_attack
def test_small_gradients_are_inverted_as_well_as_large_ones(attack: Attack, victims) -> None:
    evidences, images, _ = victims(2, scale=1e-10)
    evidences = [dataclasses.replace(e, predict=tiny) for e in evidences]
    if not supported(attack, evidences):
        return
    guesses = with_iterations(attack, 200).run(evidences)
    for guess, truth in zip(guesses, images, strict=True):
        assert float((guess.images - truth).square().mean()) < 1e-3


@every_search
def test_restarts_are_counted_and_keep_the_better_one(attack: Attack, victims) -> None:
    evidences = victims(2)[0]
    if not supported(attack, evidences):
        return
    one = short(attack).configured(restarts=1).run(evidences)
    three = short(attack).configured(restarts=3).run(evidences)
    for a, b in zip(one, three, strict=True):
        assert b.evaluations == 3 * a.evaluations
        assert b.loss <= a.loss * 1.01 + 1e-4


@every_search
def test_a_deadline_in_the_past_still_gives_a_guess(attack: Attack, victims) -> None:
    evidences = victims(2)[0]
    if not supported(attack, evidences):
        return
    guesses = attack.run(evidences, deadline=time.monotonic() - 1)
    assert [g.stopped for g in guesses] == ["timeout", "timeout"]
    assert all(math.isfinite(g.loss) and g.evaluations == attack.restarts for g in guesses)


@every_attack
def test_evidence_without_terms_is_refused_with_a_reason(attack: Attack, victims) -> None:
    empty = dataclasses.replace(victims(1)[0][0], terms={})
    assert attack.refusal(empty)
    with pytest.raises(Unsupported):
        attack.run([empty])


@every_search
def test_parameters_are_changed_by_name_or_refused(attack: Attack) -> None:
    assert attack.configured(iterations=7).iterations == 7
    step = "tolerance" if isinstance(attack.optimiser, LBFGS) else "lr"
    assert getattr(attack.configured(optimiser={step: 0.5}).optimiser, step) == 0.5
    with pytest.raises(ValueError, match="allowed: .*iterations"):
        attack.configured(iteration=7)


def test_a_part_is_exchanged_for_another_of_its_kind_by_name() -> None:
    changed = get("ig").configured(optimiser={"is": "LBFGS", "history": 7})
    assert changed.optimiser == LBFGS(history=7)
    plain = get("ig").configured(optimiser={"is": "SignedAdam", "lr": 0.3}).optimiser
    assert plain == dataclasses.replace(get("ig").optimiser, lr=0.3)
    for wrong in ("Problem", "nothing", 3):
        with pytest.raises(ParamsError, match="ig.optimiser.is: .* is unknown.*LBFGS"):
            get("ig").configured(optimiser={"is": wrong})


PUBLISHED = {
    "ig": {"iterations": 4800, "restarts": 1, "optimiser.lr": 0.1, "priors": [1e-4]},
    "dlg": {"iterations": 300 * 20, "optimiser.history": 100},
    "idlg": {"iterations": 300 * 20, "optimiser.history": 100},
    "gradinversion": {"iterations": 20_000, "optimiser.lr": 0.1, "optimiser.warmup": 50,
                      "optimiser.fall": "cosine", "priors": [1e-4, 1e-6]},
    "dimitrov": {"iterations": 400, "optimiser.lr": 0.4, "optimiser.decay": 0.995,
                 "priors": [1e-3]},
    "tag": {"iterations": 1000, "optimiser.lr": 0.05, "optimiser.warmup": 50,
            "optimiser.clip": 1.0, "optimiser.fall": "linear", "objective.absolute": 0.1},
    "lamp": {"iterations": 2000, "optimiser.lr": 0.01, "fluency": 0.1, "exchanges": 200,
             "priors": [0.1]},
    "lti": {"layers": 3, "width": 3000, "rate": 1e-4, "batch": 256, "epochs": 200},
    "rog": {"scale": 0.25, "iterations": 100, "rate": 0.05},
}  # fmt: skip
"""What the papers and their authors' code say, see each file's source."""


@pytest.mark.parametrize("name", sorted(PUBLISHED))
def test_attacks_are_declared_as_they_were_published(name: str) -> None:
    for path, wanted in PUBLISHED[name].items():
        found = operator.attrgetter(path)(get(name))
        assert ([prior.weight for prior in found] if path == "priors" else found) == wanted, path


def test_two_attacks_of_one_name_are_refused() -> None:
    with pytest.raises(ValueError, match="two attacks"):
        register(get("ig").configured(iterations=3))
    assert register(get("ig")) is get("ig")


def test_unknown_attacks_are_refused_with_what_is_allowed() -> None:
    with pytest.raises(ParamsError, match="dlg, .*ig"):
        get("nonesuch")


@dataclass(frozen=True, kw_only=True)
class Rogue(Attack):
    """Returns what it is told to."""

    guess: Guess

    def reconstruct(self, evidences, public, seeds, deadline):
        return [self.guess for _ in evidences]


def fine(**changes) -> Guess:
    values = {"images": torch.full((1, 1, 6, 6), 0.5), "labels": torch.tensor([3]), "soft": None}
    return Guess(**{**values, **changes})


@pytest.mark.parametrize(
    "guess",
    [
        fine(images=torch.zeros(1, 6, 6)),
        fine(images=torch.full((1, 1, 6, 6), torch.nan)),
        fine(labels=torch.tensor([10])),
        fine(labels=torch.tensor([1.0])),
        fine(labels=torch.tensor([1, 2])),
        fine(soft=torch.ones(1, 9)),
        fine(applicable=torch.ones(1)),
        fine(applicable=torch.ones(2, dtype=torch.bool)),
    ],
    ids=[
        "shape",
        "nan",
        "class",
        "float labels",
        "too many labels",
        "soft shape",
        "applicable as numbers",
        "applicable shape",
    ],
)
def test_malformed_guesses_are_errors(guess: Guess, victims) -> None:
    with pytest.raises(AttackError):
        Rogue(name="rogue", guess=guess).run(victims(1)[0])


@every_attack
def test_only_closed_forms_say_where_they_apply(attack: Attack, victims) -> None:
    evidences = victims(2)[0]
    if supported(attack, evidences):
        for guess in short(attack).run(evidences):
            assert (guess.applicable is not None) == attack.closed_form
    with pytest.raises(ValueError, match="'closed_form' is no key here"):
        attack.configured(closed_form=not attack.closed_form)
    assert "closed_form" not in attack.parameters()


def test_closed_forms_are_declared() -> None:
    declared = {attack.name for attack in ATTACKS if attack.closed_form}
    assert {"robbing", "dager", "analytic", "spear", "rgap"} <= declared
    assert not declared & {attack.name for attack in SEARCHES}


def test_pixels_outside_the_range_are_clipped(victims) -> None:
    wild = fine(images=torch.linspace(-3, 3, 36).reshape(1, 1, 6, 6))
    guess = Rogue(name="rogue", guess=wild).run(victims(1)[0])[0]
    assert float(guess.images.min()) == 0 and float(guess.images.max()) == 1


def test_as_many_seeds_as_victims(victims) -> None:
    with pytest.raises(ValueError, match="seeds"):
        get("ig").run(victims(2)[0], seeds=[1])


def test_listing_names_needs_no_import() -> None:
    assert {"dlg", "ig"} <= set(base.names())
