"""What holds for every evidence of every defense, at its defaults and every operating point."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.func import grad, vmap

import benchmark.defenses
import benchmark.evidence
from benchmark.attacks.base import get
from benchmark.config.registry import DEFENSES
from benchmark.defenses.base import Defense, build, names
from benchmark.evidence import base
from benchmark.evidence.base import EVERY, Evidence, evidence_of, registered_evidence
from benchmark.federated.setting import Setting
from benchmark.pipeline.attack import readable
from benchmark.results.columns import KNOWLEDGE
from tests import tiny
from tests.tiny import Victim

every_point = pytest.mark.parametrize("defense", tiny.points(), ids=repr)
SETTINGS = {
    "B=1": lambda defense: tiny.setting_of(defense),
    "B=2": lambda defense: tiny.setting_of(defense, batch_size=2, labels_given=False),
    "fedavg": lambda defense: tiny.fedavg(defense, local_steps=2, batch_size=1),
}
every_setting = pytest.mark.parametrize("facts", SETTINGS.values(), ids=list(SETTINGS))


@pytest.fixture(autouse=True, scope="module")
def everything_is_registered() -> None:
    """Before a test works on a copy of the registry: modules are imported once."""
    benchmark.evidence.load_all()


def structure(tree: Any) -> Any:
    """A tree with shapes in place of tensors."""
    if isinstance(tree, Tensor):
        return tuple(tree.shape)
    return {name: structure(part) for name, part in tree.items()}


def terms_of(evidence: Evidence) -> Any:
    return {
        name: {
            "value": structure(term.value),
            "mask": structure(term.mask or {}),
            "lower": structure(term.lower or {}),
            "upper": structure(term.upper or {}),
            "weight": term.weight,
            "kind": term.kind,
        }
        for name, term in evidence.terms.items()
    }


def hidden_of(evidence: Evidence) -> dict[str, Tensor]:
    source = tiny.rng(3)
    return {n: torch.randn(h.shape, generator=source) for n, h in evidence.hidden.items()}


def guess_of(setting: Setting, seed: int) -> dict[str, Tensor]:
    source = tiny.rng(seed)
    images = torch.randn(setting.images, *setting.shape, generator=source)
    labels = torch.rand(setting.images, setting.classes, generator=source).softmax(-1)
    return {"images": images, "labels": labels}


@every_point
@every_setting
def test_victims_of_a_cell_share_one_structure(defense: Defense, facts: Any) -> None:
    setting = facts(defense)
    victims = tiny.observe(setting, 2)
    found = readable([victim.transcript for victim in victims])
    assert "oblivious" in found
    for name, (first, second) in found.items():
        assert first.name == name and first.defense == defense.name
        assert first.setting == second.setting == setting
        assert first.predict is second.predict and first.reveal is second.reveal
        assert structure(first.data) == structure(second.data)
        assert terms_of(first) == terms_of(second)
        assert dict(first.hidden) == dict(second.hidden)
        assert first.labels == second.labels
        assert first.observations > 0 and first.unknowns >= setting.images * 36
        assert first.terms and all(t.weight > 0 for t in first.terms.values())


@every_point
@every_setting
def test_predictions_are_shaped_like_what_they_explain(defense: Defense, facts: Any) -> None:
    (victim,) = tiny.observe(facts(defense))
    for (evidence,) in readable([victim.transcript]).values():
        hidden = hidden_of(evidence)
        setting = evidence.setting
        predicted = evidence.predict(setting, guess_of(setting, 1), hidden, evidence.data)
        assert set(predicted) == set(evidence.terms)
        for name, term in evidence.terms.items():
            shapes = {n: t.shape for n, t in predicted[name].items() if n in term.value}
            assert shapes == {n: t.shape for n, t in term.value.items()}, evidence.name
            for part in (term.mask, term.lower, term.upper):
                assert part is None or {n: t.shape for n, t in part.items()} == shapes
            for key, spread in (term.variance or {}).items():
                assert torch.broadcast_shapes(spread.shape, shapes[key]) == shapes[key]
            for mask in (term.mask or {}).values():
                assert ((mask == 0) | (mask == 1)).all()
        revealed = evidence.reveal(setting, victim.truth, evidence.data)
        assert set(revealed) == set(evidence.hidden), evidence.name
        for key, value in revealed.items():
            assert tuple(value.shape) == evidence.hidden[key].shape
            assert torch.isfinite(value).all()


@every_point
@pytest.mark.parametrize("facts", [SETTINGS["B=1"], SETTINGS["fedavg"]], ids=["B=1", "fedavg"])
def test_every_prediction_can_be_stacked_and_differentiated(defense: Defense, facts: Any) -> None:
    """One vmapped gradient over two guesses is each guess's own."""
    (victim,) = tiny.observe(facts(defense))
    for (evidence,) in readable([victim.transcript]).values():
        setting, hidden = evidence.setting, hidden_of(evidence)

        def size(
            images: Tensor, labels: Tensor, hidden: Any = hidden, evidence: Evidence = evidence
        ) -> Tensor:
            guess = {"images": images, "labels": labels}
            predicted = evidence.predict(evidence.setting, guess, hidden, evidence.data)
            return sum(
                ((predicted[k][n] - t.value[n]) ** 2).sum()
                for k, t in evidence.terms.items()
                for n in t.value
            )  # type: ignore[return-value]

        guesses = [guess_of(setting, seed) for seed in (1, 2)]
        stack = [torch.stack([g[part] for g in guesses]) for part in ("images", "labels")]
        together = vmap(grad(size))(*stack)
        for row, guess in enumerate(guesses):
            alone = grad(size)(guess["images"], guess["labels"])
            scale = float(alone.abs().max())
            assert torch.allclose(together[row], alone, atol=1e-3 * scale + 1e-12), evidence.name


@pytest.mark.parametrize("name", names())
def test_evidence_is_known_by_name_and_knowledge(name: str) -> None:
    entries = registered_evidence(name)
    assert len({entry.name for entry in entries}) == len(entries)
    (victim,) = tiny.observe(tiny.setting_of(name))
    for entry in entries:
        assert entry.knowledge in KNOWLEDGE and entry.summary.endswith(".")
        assert entry.defense in (EVERY, name)
        evidence = entry.build(victim.transcript)
        if evidence is not None:
            assert (evidence.name, evidence.knowledge) == (entry.name, entry.knowledge)
    oblivious = [e.name for e in entries if e.knowledge == "oblivious"]
    assert oblivious == ["oblivious", "without-last-layer", "first-linear-layer"]


def test_every_own_evidence_applies_somewhere() -> None:
    found: dict[str, set[str]] = {}
    for defense in tiny.points():
        for facts in SETTINGS.values():
            (victim,) = tiny.observe(facts(defense))
            found.setdefault(defense.name, set()).update(readable([victim.transcript]))
    for name in ("pruning", "dgp"):  # whose clients hold something back
        found[name] |= set(readable([tiny.remembered(tiny.setting_of(name))[0].transcript]))
    for name in names():
        assert {e.name for e in registered_evidence(name) if e.defense == name} <= found[name]
    assert found["none"] == {"oblivious", "first-linear-layer", "without-last-layer"}
    pruned = {"nonzero-entries", "first-linear-layer-nonzero", "pruning-thresholds", "bpda-eot"}
    assert pruned <= found["pruning"] & found["dgp"]
    bottlenecked = {"before-bottleneck", "bottleneck-features", "features-and-gradient"}
    assert bottlenecked | {"joint-noise"} <= found["precode"] & found["ppp"]


def test_evidence_that_averages_over_random_draws_says_so() -> None:
    for defense in tiny.points():
        (victim,) = tiny.observe(tiny.setting_of(defense))
        for name, (evidence,) in readable([victim.transcript]).items():
            averages = bool({"draws", "streams"} & set(evidence.data))
            assert evidence.exact != averages, (defense, name)
            assert not averages or name == "bpda-eot"


def test_labels_are_given_only_where_they_are_granted() -> None:
    for defense in (build("none", {}), build("precode", {}), build("fedrep", {})):
        for granted in (True, False):
            (victim,) = tiny.observe(tiny.setting_of(defense, labels_given=granted))
            for (evidence,) in readable([victim.transcript]).values():
                if evidence.labels == "given":
                    assert granted and torch.equal(evidence.given, victim.truth["labels"])
                else:
                    assert evidence.given is None
                    assert evidence.labels == "eliminated" or not granted
            oblivious = readable([victim.transcript])["oblivious"][0]
            assert oblivious.unknowns == (36 if granted else 46)


def test_private_values_are_redrawn_not_read() -> None:
    """The attacker's stand-ins are others than the client's, and the same for all."""
    for name in ("fedrep", "hyperfl"):
        one, two = tiny.observe(tiny.setting_of(name), 2)
        first, second = (readable([v.transcript])["oblivious"][0] for v in (one, two))
        for key, value in first.data["private"].items():
            assert not torch.equal(value, one.truth[f"private.{key}"])
            assert torch.equal(value, second.data["private"][key])
    (victim,) = tiny.observe(tiny.setting_of("precode"))
    drawn = readable([victim.transcript])["oblivious"][0].data["noise"]["bottleneck"]
    assert not torch.equal(drawn, victim.truth["noise.bottleneck"])


def test_observations_count_what_the_mask_lets_through() -> None:
    (victim,) = tiny.observe(tiny.setting_of("dgp"))
    found = readable([victim.transcript])
    message = victim.transcript.message
    assert found["oblivious"][0].observations == sum(t.numel() for t in message.values())
    nonzero = sum(int((t != 0).sum()) for t in message.values())
    assert found["nonzero-entries"][0].observations == nonzero


def written(module: str, name: str = "nonzero-entries") -> Any:
    """Evidence as a file of that name would have it."""

    def build(transcript: Any) -> None:
        """An impostor."""

    build.__name__, build.__module__ = name, f"benchmark.evidence.{module}"
    return build


def test_two_evidences_cannot_have_one_name() -> None:
    with pytest.raises(ValueError, match=r"two evidences of \* are called nonzero-entries"):
        evidence_of(EVERY)(written("first_linear"))
    assert {e.build.__module__ for e in registered_evidence("dgp")} <= {
        "benchmark.evidence.generic", "benchmark.evidence.first_linear", "benchmark.evidence.dgp",
    }  # fmt: skip


@pytest.mark.parametrize(
    ("defense", "module", "says"),
    [
        ("dgp", "pruning", "'levels' of 'dgp' must stand in benchmark/evidence/dgp.py"),
        ("quant", "quant", "is of 'quant', and no defense is called so; there are dgp, dp,"),
        (EVERY, "dgp", "of every defense must stand in benchmark/evidence/generic.py or "),
    ],
)
def test_evidence_outside_its_defenses_file_is_refused(
    defense: str, module: str, says: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(base, "_REGISTRY", dict(base._REGISTRY))
    with pytest.raises(base.EvidenceError) as caught:
        evidence_of(defense)(written(module, "levels"))
    assert says in str(caught.value) and "\n" not in str(caught.value)
    assert f"benchmark.evidence.{module}" in str(caught.value)
    assert not any(name == "levels" for _, name in base._REGISTRY)


def test_every_file_of_evidence_is_where_it_belongs() -> None:
    """As `check` asks; an orphan, whose defense was renamed, would be found."""
    benchmark.evidence.load_all()


HALVES = '''
"""Half of every tensor, what is sent is clipped, noised and shared with a private bias."""

from dataclasses import dataclass

import torch

from benchmark.defenses.base import Defense, gaussian, register


@register
@dataclass(frozen=True, kw_only=True)
class Halves(Defense):
    name = "halves"
    title = "Halves"
    cite = "nobody2026halves"
    url = "https://example.org"
    summary = "Every second entry of every tensor is sent."

    noise: float = 0.01

    def protect(self, update, memory, rng):
        def half(tensor):
            every = torch.arange(tensor.numel()).view(tensor.shape) % 2
            noised = tensor + gaussian(tensor, self.noise, rng)
            return torch.where(every == 0, noised, torch.zeros(()))
        return update.map(half), memory
'''


@pytest.fixture
def newcomer(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Defense]:
    """A defense in one file, dropped beside the others for the time of a test."""
    (tmp_path / "halves.py").write_text(HALVES, encoding="utf-8")
    folders = [*benchmark.defenses.__path__, str(tmp_path)]
    monkeypatch.setattr(benchmark.defenses, "__path__", folders)
    yield build("halves", {"noise": 1e-5})
    DEFENSES.pop("halves")
    sys.modules.pop("benchmark.defenses.halves")
    vars(benchmark.defenses).pop("halves", None)


@every_setting
def test_a_new_defense_gets_the_generic_evidence_for_free(newcomer: Defense, facts: Any) -> None:
    setting = facts(newcomer)
    assert Setting.from_json(setting.to_json()) == setting
    victims: list[Victim] = tiny.observe(setting, 2)
    found = readable([victim.transcript for victim in victims])
    expected = {"oblivious", "nonzero-entries", "bpda-eot"}
    if setting.local_steps == 1:
        expected |= {"first-linear-layer", "first-linear-layer-nonzero"}
    if setting.batch_size > 1:
        expected |= {"without-last-layer"}
    assert set(found) == expected
    attack = get("ig").configured(iterations=3)
    for evidences in found.values():
        guesses = attack.run(evidences)
        assert all(torch.isfinite(guess.images).all() for guess in guesses)
    soft = [victim.soft for victim in victims]
    pixels = [victim.truth["pixels"] for victim in victims]
    at_truth = {n: max(attack.losses(e, pixels, soft, [{}, {}])) for n, e in found.items()}
    assert at_truth["nonzero-entries"] < 0.1 * at_truth["oblivious"]
    assert at_truth["bpda-eot"] < 0.1 * at_truth["oblivious"]


def test_sharper_evidence_is_a_second_file(
    newcomer: Defense, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(base, "_REGISTRY", dict(base._REGISTRY))
    generic = next(e for e in registered_evidence("halves") if e.name == "nonzero-entries")

    def nonzero_entries(transcript: Any) -> Evidence | None:
        """Every second entry, known beforehand."""
        evidence = generic.build(transcript)
        return evidence

    nonzero_entries.__module__ = "benchmark.evidence.halves"
    evidence_of("halves")(nonzero_entries)
    found, others = (
        {e.name: e for e in registered_evidence(name)}["nonzero-entries"]
        for name in ("halves", "dgp")
    )
    assert found.build.__wrapped__ is nonzero_entries and found.summary.startswith("Every second")
    assert others.build is generic.build
