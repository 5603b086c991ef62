"""Heads that never leave: what arrives from behind them is solved for, step by step."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from benchmark.attacks.base import get
from benchmark.defenses.base import build
from benchmark.evidence.hyperfl import generated_weights, generated_weights_per_step, separate
from benchmark.evidence.shared_layers import output_gradient_of
from benchmark.federated.local_steps import gradient
from benchmark.federated.simulation import start
from benchmark.federated.update import Update
from benchmark.metrics import images
from tests import tiny
from tests.evidence.truth import error, losses, read
from tests.tiny import Victim


def psnr(victims: list[Victim], guesses: list[Tensor]) -> float:
    """The median over all private images."""
    found = []
    for victim, guess in zip(victims, guesses, strict=True):
        true = victim.truth["pixels"].numpy()
        order = images.match(guess.numpy(), true)
        found += list(images.psnr(guess.numpy()[order], true))
    return float(torch.tensor(found).median())


# --------------------------------------------------------------------------------- FedRep


def test_a_layers_output_gradient_follows_from_its_gradient_and_its_inputs() -> None:
    rows, output_gradient = (
        torch.randn(5, 9, generator=tiny.rng()),
        torch.randn(5, 3, generator=tiny.rng(1)),
    )
    gradient = output_gradient.T @ rows
    assert torch.allclose(output_gradient_of(rows, gradient), output_gradient, atol=1e-4)
    alike = torch.cat([rows[:1].expand(4, -1), rows[1:2]])
    assert torch.isfinite(output_gradient_of(alike, gradient)).all(), "repeated inputs"


def test_images_that_do_not_span_the_gradient_cannot_explain_it() -> None:
    """With two private layers the convolution's gradient alone tells images apart."""
    victims = tiny.observe(tiny.setting_of(build("fedrep", {"private_layers": 2})), 3)
    attack = get("ig")
    for victim, other in zip(victims, victims[1:] + victims[:1], strict=True):
        evidence = read(victim, "shared-layers")
        assert not evidence.hidden
        assert max(losses(victim, evidence)) < 1e-6
        assert attack.loss(evidence, other.truth["pixels"], victim.soft) > 1e-2


def test_two_private_layers_do_not_hide_the_image() -> None:
    victims = tiny.observe(tiny.setting_of(build("fedrep", {"private_layers": 2})), 4)
    evidences = [read(victim, "shared-layers") for victim in victims]
    guesses = get("dlg").configured(iterations=400).run(evidences)
    assert psnr(victims, [g.images for g in guesses]) > 40


# --------------------------------------------------------------------------------- HyperFL


def averaged(steps: int = 3, batch_size: int = 1, rate: float = 0.05, **facts: int) -> list[Victim]:
    defense = build("hyperfl", {"embedding": 9, "hidden": 12, **facts})
    setting = tiny.setting_of(
        defense,
        algorithm="fedavg",
        local_steps=steps,
        local_lr=rate,
        batch_size=batch_size,
    )
    return tiny.observe(setting, 3)


def followed(victim: Victim) -> tuple[Tensor, Tensor]:
    """Each step's code, and the gradient that arrives at the last linear layer of the features,
    from the client's own gradient."""
    setting, truth = victim.transcript.setting, victim.truth
    private = {n.removeprefix("private."): t for n, t in truth.items() if n.startswith("private.")}
    shared = dict(victim.transcript.broadcast)
    codes, output_gradient = [], []
    for image, label in zip(truth["images"], truth["labels"], strict=True):
        first = [shared[f"hyper.hidden.{part}"] for part in ("weight", "bias")]
        codes.append(F.relu(F.linear(private["embedding"], *first)))
        moving = {**shared, "embedding": private["embedding"]}
        batch = (image[None], F.one_hot(label[None], setting.classes).float(), {})
        step = gradient(setting, moving, private, batch)
        output_gradient.append(step["hyper.fc_bias.bias"])
        private["embedding"] = private["embedding"] - setting.private_lr * step["embedding"]
        shared = {name: shared[name] - setting.local_lr * step[name] for name in shared}
    return torch.stack(codes), torch.stack(output_gradient)


@pytest.mark.parametrize("steps", [2, 3, 5])
def test_every_local_step_of_hyperfl_is_told_apart(steps: int) -> None:
    """Codes and what arrived from the private head, in the order of the steps."""
    for victim in averaged(steps):
        found = separate(victim.transcript)
        assert found is not None
        codes, output_gradient = followed(victim)
        assert (codes[1:] - codes[:-1]).norm() > 1e-3 * codes.norm(), "the code moves"
        assert (found[0] - codes).norm() < 1e-4 * codes.norm()
        assert (found[1] - output_gradient).norm() < 1e-3 * output_gradient.norm()


@pytest.mark.parametrize("steps", [2, 3, 5])
def test_hyperfl_weights_per_step_explain_several_steps_exactly(steps: int) -> None:
    for victim in averaged(steps):
        evidence = read(victim, "generated-weights-per-step")
        assert evidence.labels == "eliminated" and evidence.cost == steps
        assert error(victim, evidence) < 1e-5
        assert max(losses(victim, evidence)) < 1e-6
        average = read(victim, "generated-weights")
        assert min(losses(victim, average)) > 1e-5, "an average code will not do"


def test_hyperfl_weights_per_step_find_more_than_the_average() -> None:
    victims = averaged(rate=0.1)[:2]
    attack = get("dlg").configured(iterations=60)
    found = {}
    for evidence_of in (generated_weights, generated_weights_per_step):
        evidences = [evidence_of(victim.transcript) for victim in victims]
        assert all(evidence is not None for evidence in evidences)
        guesses = attack.run([e for e in evidences if e is not None])
        found[evidence_of] = psnr(victims, [g.images for g in guesses])
    assert found[generated_weights_per_step] > max(30, found[generated_weights] + 10)


def test_hyperfl_with_dead_units_is_plain_averaging() -> None:
    """Codes of zero: the weights are the broadcast biases, and the biases' sum is the update."""
    setting = averaged()[0].transcript.setting
    weights, clients = start(setting, 2, 0, tiny.SECRET)
    dead = Update({**weights, "hyper.hidden.bias": torch.full((12,), -1e3)})
    for victim in tiny.observe(setting, 2, start_from=(dead, clients)):
        assert separate(victim.transcript) is None
        codes, _ = followed(victim)
        assert not codes.any()
        for name in ("generated-weights", "generated-weights-per-step"):
            evidence = read(victim, name)
            public = dead["hyper.fc_bias.bias"]
            assert torch.equal(evidence.data["base"]["fc.bias"], public.expand(3, -1))
            assert max(losses(victim, evidence)) < 1e-6


def test_hyperfl_steps_with_several_images_are_not_told_apart() -> None:
    for victim in averaged(steps=2, batch_size=2):
        assert separate(victim.transcript) is None
        assert read(victim, "generated-weights-per-step").hidden


# ----------------------------------------------------------------------------------- both


@pytest.mark.parametrize(
    ("name", "fields", "evidence_name"),
    [
        ("fedrep", {"private_layers": 1}, "shared-layers"),
        ("fedrep", {"private_layers": 2}, "shared-layers"),
        ("hyperfl", {"embedding": 9, "hidden": 12}, "generated-weights"),
    ],
)
def test_a_message_at_the_end_of_float32_is_explained_all_the_same(
    name: str, fields: dict[str, int], evidence_name: str
) -> None:
    (victim,) = tiny.observe(tiny.setting_of(build(name, fields)))
    largest = max(t.abs().max() for t in victim.transcript.message.values())
    faint = victim.transcript.message * (1e-38 / float(largest))
    small = replace(victim, transcript=replace(victim.transcript, message=faint))
    assert max(losses(small, read(small, evidence_name))) < 1e-6


@pytest.mark.parametrize("batch_size", [1, 3])
@pytest.mark.parametrize(
    ("name", "evidence_name"), [("fedrep", "shared-layers"), ("hyperfl", "generated-weights")]
)
def test_a_single_local_step_is_a_gradient_times_its_rate(
    name: str, evidence_name: str, batch_size: int
) -> None:
    (victim,) = tiny.observe(tiny.fedavg(build(name, {}), local_steps=1, batch_size=batch_size))
    assert error(victim, read(victim, evidence_name)) < 1e-4
