"""Generic evidence on defenses that nobody wrote evidence for."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import pytest
import torch
from sklearn.datasets import load_digits
from torch import Generator, Tensor
from torch.func import functional_call, grad, vmap
from torch.nn import functional as F

from benchmark.attacks.base import get
from benchmark.defenses.base import Defense, names
from benchmark.evidence.base import evidence_of, registered_evidence
from benchmark.federated.client import Client
from benchmark.federated.setting import stateless_model
from benchmark.federated.update import Batch, Update
from benchmark.pipeline.attack import readable
from benchmark.results.columns import CONTROL
from tests import tiny
from tests.evidence.truth import at_truth, losses, read
from tests.tiny import Victim

SETTINGS: dict[str, dict[str, Any]] = {
    "B=1": {},
    "B=2": {"batch_size": 2},
    "LeNet, B=2": {"batch_size": 2, "model": "lenet"},
    "local steps": {"algorithm": "fedavg", "local_steps": 2, "local_lr": 0.01},
}
every_setting = pytest.mark.parametrize("facts", SETTINGS.values(), ids=list(SETTINGS))


def psnr(victims: Sequence[Victim], images: Sequence[Tensor]) -> float:
    """Mean over victims, each capped at 60 dB."""
    errors = [
        (found - victim.truth["pixels"]).double().square().mean()
        for victim, found in zip(victims, images, strict=True)
    ]
    return float(torch.stack([-10 * e.clamp_min(1e-6).log10() for e in errors]).mean())


def recovered(victims: Sequence[Victim], attack: str = "auto") -> dict[str, tuple[str, float]]:
    """Knowledge and mean PSNR, by evidence."""
    found = readable([victim.transcript for victim in victims])
    return {
        name: (
            evidences[0].knowledge,
            psnr(victims, [g.images for g in get(attack).run(evidences)]),
        )
        for name, evidences in found.items()
    }


def best(found: dict[str, tuple[str, float]], knowledge: str) -> float:
    return max(value for known, value in found.values() if known == knowledge)


# ------------------------------------------------------------------- without a defense


@dataclass(frozen=True, kw_only=True)
class Passing(Defense):
    """Overrides every place where it may act, and changes nothing."""

    name = "passing"

    def local(
        self, client: Client, broadcast: Update, batches: Sequence[Batch], rng: Generator
    ) -> Update:
        return client.train(broadcast, batches, rng)

    def protect(
        self, update: Update, memory: Update, rng: Generator | None
    ) -> tuple[Update, Update]:
        return update.map(torch.clone), memory

    def message(self, updates: Sequence[Update]) -> list[Update]:
        return [update.map(torch.clone) for update in updates]


@every_setting
def test_a_defense_that_does_nothing_is_attacked_as_none_is(facts: dict[str, Any]) -> None:
    """Neither harder, nor twice the same: one list of evidence, term by term."""
    (plain,), (passed,) = (
        tiny.observe(tiny.setting_of(defense, **facts)) for defense in ("none", Passing())
    )
    control, found = readable([plain.transcript]), readable([passed.transcript])
    assert list(found) == list(control) and "oblivious" in found
    for name, (evidence,) in found.items():
        (own,) = control[name]
        assert evidence.knowledge == own.knowledge == "oblivious"
        assert evidence.predict is own.predict and evidence.cost == own.cost
        for key, term in evidence.terms.items():
            assert term.mask is None and own.terms[key].mask is None
            assert list(term.value) == list(own.terms[key].value)
            assert all(torch.equal(own.terms[key].value[n], t) for n, t in term.value.items())


@every_setting
def test_every_defense_that_sends_the_models_own_gradient_has_the_controls_list(
    facts: dict[str, Any],
) -> None:
    (plain,) = tiny.observe(tiny.setting_of("none", **facts))
    control = set(readable([plain.transcript]))
    for defense in tiny.points():
        (victim,) = tiny.observe(tiny.setting_of(defense, **facts))
        if set(victim.transcript.message) < set(plain.transcript.message):
            continue  # layers that were not sent cannot be matched
        found = readable([victim.transcript])
        oblivious = {n for n, (e,) in found.items() if e.knowledge == "oblivious"}
        wrapped = set(victim.transcript.message) != set(plain.transcript.message)
        assert oblivious <= control if wrapped else oblivious == control, defense
        for name in oblivious:
            (evidence,) = found[name]
            assert all(term.mask is None and not evidence.noisy for term in evidence.terms.values())


@every_setting
def test_undefended_the_truth_explains_every_evidence(facts: dict[str, Any]) -> None:
    for victim in tiny.observe(tiny.setting_of("none", **facts), 2):
        for name, (evidence,) in readable([victim.transcript]).items():
            assert evidence.knowledge == "oblivious"
            assert max(losses(victim, evidence)) < 1e-6, name


def test_without_a_defense_there_is_nothing_to_know() -> None:
    with pytest.raises(ValueError, match="register it for"):
        evidence_of(CONTROL)
    assert {entry.knowledge for entry in registered_evidence("none")} == {"oblivious"}
    oblivious = [entry.name for entry in registered_evidence("none")]
    for name in names():
        assert [
            e.name for e in registered_evidence(name) if e.knowledge == "oblivious"
        ] == oblivious


def test_several_images_are_read_better_without_the_layer_that_mixes_them() -> None:
    """A network of DLG's kind, whose last layer's gradient is most of the message's length."""
    setting = tiny.setting_of("none", model="lenet", batch_size=4, labels_given=True)
    victims = tiny.observe(setting, 3)
    ends = {}
    for name in ("oblivious", "without-last-layer"):
        evidences = [read(victim, name) for victim in victims]
        guesses = get("dlg").configured(iterations=120).run(evidences)
        pairs = zip(guesses, victims, strict=True)
        ends[name] = sum(
            float(torch.cdist(g.images.flatten(1), v.truth["pixels"].flatten(1)).amin(0).sum())
            for g, v in pairs
        )
    assert ends["without-last-layer"] < 0.7 * ends["oblivious"]


# ------------------------------------------------------------ a defense of the local steps


@dataclass(frozen=True, kw_only=True)
class Soteria(Defense):
    """Sun et al., CVPR 2021: the gradient of a representation without its telling entries.

    An entry is left out where the image moves it most, relative to its size.
    """

    name = "soteria"

    pruned: float = 0.2

    def local(
        self, client: Client, broadcast: Update, batches: Sequence[Batch], rng: Generator
    ) -> Update:
        ((images, labels),) = batches
        model = stateless_model(client.setting)
        weights = {n: t.detach().requires_grad_() for n, t in broadcast.items()}
        inside = {
            n.removeprefix("features."): t for n, t in weights.items() if n.startswith("features.")
        }
        inputs = images.detach().requires_grad_()
        seen = functional_call(model.features, inside, (inputs,))
        every = torch.eye(seen.shape[1]).unsqueeze(1).expand(-1, *seen.shape)
        (moves,) = torch.autograd.grad(
            seen, inputs, every, retain_graph=True, is_grads_batched=True
        )
        telling = moves.flatten(2).norm(dim=2).T / seen.detach().abs()
        kept = telling < telling.quantile(1 - self.pruned, dim=1, keepdim=True)
        logits = F.linear(seen * kept, weights["head.weight"], weights["head.bias"])
        loss = F.cross_entropy(logits, labels)
        return Update(
            dict(zip(weights, torch.autograd.grad(loss, list(weights.values())), strict=True))
        )


@dataclass(frozen=True, kw_only=True)
class NoisyHead(Defense):
    """Noise on the last layer alone, added in the local steps."""

    name = "noisy"

    def local(
        self, client: Client, broadcast: Update, batches: Sequence[Batch], rng: Generator
    ) -> Update:
        update = dict(client.train(broadcast, batches, rng))
        for name in ("head.weight", "head.bias"):
            update[name] = update[name] + torch.randn(update[name].shape, generator=rng)
        return Update(update)


def test_local_steps_are_simulated_under_the_defense() -> None:
    for victim in tiny.observe(tiny.setting_of(Soteria(), model="lenet"), 2):
        evidence = read(victim, "bpda-eot")
        assert evidence.cost == 2 and not evidence.noisy
        assert max(losses(victim, evidence)) < 1e-6
        assert min(losses(victim, read(victim, "oblivious"))) > 1e-2


def test_a_simulated_round_has_the_messages_values_and_the_undefended_derivatives() -> None:
    """Under vmap as by itself, and as the oblivious prediction's derivative."""
    (victim,) = tiny.observe(tiny.setting_of(Soteria(), model="lenet"))
    evidence, plain = read(victim, "bpda-eot"), read(victim, "oblivious")
    setting, soft = evidence.setting, victim.soft
    source = tiny.rng(4)
    images = torch.randn(3, 1, *setting.shape, generator=source)
    shapes = {n: t.shape for n, t in evidence.terms["update"].value.items()}
    along = {n: torch.randn(shape, generator=source) for n, shape in shapes.items()}

    def told(which: Any, images: Tensor) -> Any:
        guess = {"images": images, "labels": soft}
        return which.predict(setting, guess, {}, which.data)["update"]

    def product(which: Any, images: Tensor) -> Tensor:
        return sum((along[n] * t).sum() for n, t in told(which, images).items())

    together = vmap(grad(lambda x: product(evidence, x)))(images)
    values = vmap(lambda x: told(evidence, x))(images)
    for row, image in enumerate(images):
        expected = grad(lambda x: product(plain, x))(image)
        assert torch.allclose(together[row], expected, rtol=1e-3, atol=1e-4)
        sent = Soteria().local(
            victim.client, victim.transcript.broadcast, [(image, victim.truth["labels"])], source
        )
        for name, tensor in sent.items():
            assert torch.allclose(values[name][row], tensor, rtol=1e-3, atol=1e-5)


def test_generic_evidence_recovers_images_through_a_defense_of_the_local_steps(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """On handwritten digits, which the published attack recovers from this network undefended."""
    digits = load_digits()
    images = torch.tensor(digits.images / 16, dtype=torch.float32).unsqueeze(1)
    drawn = [torch.randperm(len(images), generator=tiny.rng(seed))[:1] for seed in range(2)]
    labels = torch.tensor(digits.target)

    def images_of(_: Any, seed: int) -> tuple[Tensor, Tensor]:
        return images[drawn[seed]], labels[drawn[seed]]

    monkeypatch.setattr(tiny, "images_of", images_of)
    shape = {"shape": (1, 8, 8), "mean": (0.3,), "std": (0.38,)}
    found = recovered(tiny.observe(tiny.setting_of(Soteria(), model="lenet", **shape), 2))
    assert found["bpda-eot"][1] > best(found, "oblivious") + 10
    assert found["bpda-eot"][1] > 30


def test_layers_that_the_defense_leaves_alone_are_matched_alone() -> None:
    (victim,) = tiny.observe(tiny.setting_of(NoisyHead()))
    evidence = read(victim, "unprotected-parameters")
    assert set(evidence.terms["update"].value) == {
        name for name in victim.transcript.message if not name.startswith("head.")
    }
    assert max(losses(victim, evidence)) < 1e-6
    assert min(losses(victim, read(victim, "oblivious"))) > 1e-2
    random = read(victim, "bpda-eot")
    assert random.noisy and not random.exact
    assert random.cost == 1 + len(random.data["streams"]) > 2


def test_a_defense_is_probed_once_per_setting(monkeypatch: pytest.MonkeyPatch) -> None:
    setting = tiny.setting_of(NoisyHead(), local_lr=0.123)  # of no other test
    victims, rounds, local = tiny.observe(setting, 3), [], NoisyHead.local

    def counted(self: NoisyHead, *args: Any) -> Update:
        rounds.append(args)
        return local(self, *args)

    monkeypatch.setattr(NoisyHead, "local", counted)
    for victim in victims:
        assert "bpda-eot" in readable([victim.transcript])
    assert len(rounds) == 2  # two streams of random numbers; an undefended round has no `local`


# ----------------------------------------------------------------------- what a zero means


@dataclass(frozen=True, kw_only=True)
class Quantised(Defense):
    """QSGD (Alistarh et al., NeurIPS 2017): sizes rounded up or down, right on average."""

    name = "quantised"

    levels: int = 64

    def protect(
        self, update: Update, memory: Update, rng: Generator | None
    ) -> tuple[Update, Update]:
        return update if rng is None else update.map(lambda t: self._drawn(t, rng)), memory

    def _drawn(self, tensor: Tensor, rng: Generator) -> Tensor:
        norm = tensor.norm().clamp_min(1e-38)
        size = tensor.abs() / norm * self.levels
        up = torch.rand(tensor.shape, generator=rng) < size - size.floor()
        return norm * tensor.sign() * (size.floor() + up) / self.levels + 0.0


@dataclass(frozen=True, kw_only=True)
class Gaps(Quantised):
    """The same with the declaration that zeros are gaps."""

    zeros = "withheld"


@dataclass(frozen=True, kw_only=True)
class Signs(Defense):
    """Entries below the mean size are 0, the others plus or minus it."""

    name = "signs"

    def protect(
        self, update: Update, memory: Update, rng: Generator | None
    ) -> tuple[Update, Update]:
        def ternary(tensor: Tensor) -> Tensor:
            mean = tensor.abs().mean()
            return torch.where(tensor.abs() < mean, 0.0, tensor.sign() * mean)

        return update.map(ternary), memory


@dataclass(frozen=True, kw_only=True)
class Values(Signs):
    """The same with the declaration that zeros are values."""

    zeros = "value"


@pytest.mark.parametrize(
    ("defense", "withheld"),
    [(Quantised(), False), (Gaps(), True), (Signs(), True), (Values(), False)],
    ids=lambda value: type(value).__name__,
)
def test_zeros_are_gaps_by_declaration_or_where_messages_are_wrong_on_average(
    defense: Defense, withheld: bool
) -> None:
    (victim,) = tiny.observe(tiny.setting_of(defense))
    message = victim.transcript.message
    assert sum(int((t == 0).sum()) for t in message.values()) > 100
    found = readable([victim.transcript])
    assert ({"nonzero-entries", "first-linear-layer-nonzero"} & set(found)) == (
        {"nonzero-entries", "first-linear-layer-nonzero"} if withheld else set()
    )
    assert "bpda-eot" in found, "it is never without adaptive evidence"


@pytest.mark.parametrize("levels", [4, 64])
def test_the_noise_of_an_unbiased_message_is_estimated_by_drawing_it(levels: int) -> None:
    """Also where noise is most of the message."""
    victims = tiny.observe(tiny.setting_of(Quantised(levels=levels)), 8)
    ratios = []
    for victim in victims:
        evidence = read(victim, "bpda-eot")
        term, predicted = evidence.terms["update"], at_truth(victim, evidence)["update"]
        assert evidence.noisy and term.mask is None and term.variance is not None
        for name, tensor in term.value.items():
            if tensor.numel() > 100:
                true = (tensor - predicted[name]).square().mean()
                ratios.append(float(term.variance[name] / true))
    assert min(ratios) > 0.3 and max(ratios) < 3


@pytest.mark.parametrize("levels", [4, 32])
def test_generic_evidence_of_a_quantiser_is_not_blunter_than_oblivious(levels: int) -> None:
    victims = tiny.observe(tiny.setting_of(Quantised(levels=levels)), 3)
    found = {}
    for name in ("oblivious", "bpda-eot"):
        guesses = get("auto").run([read(victim, name) for victim in victims])
        found[name] = psnr(victims, [guess.images for guess in guesses])
    # by no more than two searches that end at noise differ
    assert found["bpda-eot"] > found["oblivious"] - 0.5, found
