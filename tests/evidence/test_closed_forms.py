"""What each defense's mechanism gives away, checked at the truth of real clients' messages."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor
from torch.func import functional_call
from torch.nn import functional as F

from benchmark.attacks.base import get
from benchmark.attacks.engine.batch import structure
from benchmark.attacks.parts.objectives import Cosine
from benchmark.defenses.base import Defense, build
from benchmark.evidence.base import registered_evidence
from benchmark.evidence.generic import client_update
from benchmark.evidence.hyperfl import code, generated
from benchmark.evidence.precode import encoder_features
from benchmark.federated.setting import Setting, stateless_model
from benchmark.federated.simulation import start
from benchmark.federated.update import Update
from benchmark.models.base import build as build_model
from tests import tiny
from tests.evidence.truth import ATTACKS, at_truth, error, losses, read
from tests.tiny import Victim

# ------------------------------------------------------------------------------ undefended


SETTINGS = {
    "one image": tiny.setting_of("none"),
    "three images": tiny.setting_of("none", batch_size=3),
    "local steps": tiny.fedavg("none"),
}
settings = pytest.mark.parametrize("setting", SETTINGS.values(), ids=list(SETTINGS))


@settings
def test_undefended_the_truth_explains_everything_at_the_start(setting: Setting) -> None:
    for victim in tiny.observe(setting, 3):
        assert max(losses(victim, read(victim, "oblivious"))) < 1e-6


@settings
def test_undefended_the_truth_explains_everything_after_training(setting: Setting) -> None:
    """Also where gradients are small, which an epsilon in a cosine would drown."""
    for victim in tiny.observe(setting, 3, start_from=tiny.trained(setting)):
        assert max(losses(victim, read(victim, "oblivious"))) < 1e-6


def test_a_search_finds_its_model_made_however_many_were_used_since() -> None:
    """A prediction that is mapped over victims could not make it: that draws its first weights."""
    (victim,) = tiny.observe(tiny.setting_of("none"))
    for _ in range(2):
        used = structure(read(victim, "oblivious"), Cosine(), (), joint_labels=False).setting
        made = stateless_model.cache_info().misses
        stateless_model(used)
        assert stateless_model.cache_info().misses == made
        stateless_model.cache_clear()


@pytest.mark.parametrize(
    "setting",
    [tiny.setting_of("none"), tiny.fedavg("none", 2, 1)],
    ids=["one image", "local steps"],
)
def test_undefended_the_truth_explains_gradients_of_a_ten_billionth(setting: Setting) -> None:
    """Local steps that small leave float32 weights as they are, and are seen all the same."""
    weights, clients = start(setting, 1, 0, tiny.SECRET)
    certain = weights["head.bias"].clone()
    certain[tiny.images_of(setting, 0)[1][0]] += 26.0  # the wrong classes share exp(-26)
    sure = Update({**weights, "head.bias": certain})
    (victim,) = tiny.observe(setting, 1, start_from=(sure, clients))
    assert 1e-13 < float(victim.transcript.message.norm()) < 1e-9
    evidence = read(victim, "oblivious")
    assert max(losses(victim, evidence)) < 1e-6
    other = torch.rand(setting.images, 1, 6, 6, generator=tiny.rng(4))
    far = [get(name).losses([evidence], [other], [victim.soft], [{}])[0] for name in ATTACKS]
    assert min(far) > 1e-3


@pytest.mark.parametrize(
    "defense",
    [build("none", {}), build("precode", {"width": 5}), build("fedrep", {}), build("dgp", {})],
    ids=lambda d: d.name,
)
@pytest.mark.parametrize("steps", [1, 3])
def test_the_unrolled_update_is_the_clients(defense: Defense, steps: int) -> None:
    """Local steps written for functorch against the client's own loop, randomness included."""
    setting = tiny.fedavg(defense, local_steps=steps)
    weights, (client,) = start(setting, 1, 0, tiny.SECRET)
    pixels, labels = tiny.images_of(setting, 0)
    theirs = client.train(weights, tiny.batches_of(setting, pixels, labels), tiny.rng(1))
    revealed = client.revealed
    guess = {"images": setting.normalise(pixels), "labels": F.one_hot(labels, 10).float()}
    draws = {n.removeprefix("noise."): t for n, t in revealed.items() if n.startswith("noise.")}
    own = {n.removeprefix("private."): t for n, t in revealed.items() if n.startswith("private.")}
    ours = client_update(setting, guess, draws, dict(weights), own)
    assert tiny.relative_error(ours, dict(theirs)) < 1e-6


# --------------------------------------------------------------------------------- HyperFL


def hyperfl(batch_size: int = 1, hidden: int = 12, **facts: Any) -> list[Victim]:
    defense = build("hyperfl", {"embedding": 9, "hidden": hidden})
    return tiny.observe(tiny.setting_of(defense, batch_size=batch_size, **facts), 4)


def plain_gradient(victim: Victim) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """The weights that were generated, and the ordinary model's gradient in them."""
    sent, truth = victim.transcript.broadcast, victim.truth
    code_before_relu = F.linear(
        truth["private.embedding"], sent["hyper.hidden.weight"], sent["hyper.hidden.bias"]
    )
    plain = build_model("elu", (1, 6, 6), 10)
    theta = {}
    for name, weight in plain.features.named_parameters():
        output = f"hyper.{name.replace('.', '_')}"
        flat = F.linear(F.relu(code_before_relu), sent[f"{output}.weight"], sent[f"{output}.bias"])
        theta[name] = flat.view(weight.shape).detach().requires_grad_()
    features = functional_call(plain.features, theta, (truth["images"],))
    logits = F.linear(features, truth["private.head.weight"], truth["private.head.bias"])
    grads = torch.autograd.grad(F.cross_entropy(logits, truth["labels"]), list(theta.values()))
    made = {name: tensor.detach() for name, tensor in theta.items()}
    return made, dict(zip(theta, grads, strict=True))


@pytest.mark.parametrize("batch_size", [1, 4])
def test_hyperfl_head_bias_gradient_is_the_feature_extractor_gradient(batch_size: int) -> None:
    for victim in hyperfl(batch_size):
        _, expected = plain_gradient(victim)
        found = read(victim, "generated-weights").terms["update"].value
        assert list(found) == list(expected)
        for name, tensor in expected.items():
            assert torch.equal(found[name][0], tensor), name


@pytest.mark.parametrize("batch_size", [1, 4])
def test_hyperfl_code_and_weights_follow_from_one_message(batch_size: int) -> None:
    for victim in hyperfl(batch_size):
        sent = victim.transcript.broadcast
        embedding = victim.truth["private.embedding"]
        true = F.relu(F.linear(embedding, sent["hyper.hidden.weight"], sent["hyper.hidden.bias"]))
        assert torch.allclose(code(victim.transcript), true, atol=1e-5 * float(true.norm()))
        theta, _ = plain_gradient(victim)
        made = generated(victim.transcript, code(victim.transcript).unsqueeze(0))
        assert tiny.relative_error({n: t[0] for n, t in made.items()}, theta) < 1e-5


@pytest.mark.parametrize("batch_size", [1, 4])
def test_hyperfl_generated_weights_explain_the_message_without_head_and_label(
    batch_size: int,
) -> None:
    for victim in hyperfl(batch_size):
        evidence = read(victim, "generated-weights")
        assert evidence.labels == "eliminated" and evidence.given is None
        assert error(victim, evidence) < 1e-5
        assert max(losses(victim, evidence)) < 1e-6
        assert not evidence.hidden, "the output gradient is known, or solved for"


@pytest.mark.parametrize("scale", [0.0, 1e-9, 1e-22, 1e-36])
def test_hyperfl_code_is_a_number_however_small_the_message(scale: float) -> None:
    (victim, *_) = hyperfl()
    transcript = victim.transcript
    small = transcript.message * scale
    faint = type(transcript)(
        transcript.setting, 0, 0, transcript.broadcast, small, transcript.labels
    )
    found = code(faint)
    assert torch.isfinite(found).all()
    if scale > 1e-30:
        assert torch.allclose(found, code(transcript), rtol=1e-4)


# ------------------------------------------------------------------------------ PRECODE, PPP


PRECODES = [
    build("precode", {"width": 6}),
    build("ppp", {"width": 6, "noise": 0.5}),
]


def features_of_truth(victim: Victim) -> Tensor:
    weights = {
        n.removeprefix("features."): t
        for n, t in victim.transcript.broadcast.items()
        if n.startswith("features.")
    }
    plain = build_model("elu", (1, 6, 6), 10)
    return functional_call(plain.features, weights, (victim.truth["images"],))


@pytest.mark.parametrize("defense", PRECODES, ids=lambda d: d.name)
def test_the_encoders_gradients_give_the_features_whatever_was_drawn(defense: Defense) -> None:
    for victim in tiny.observe(tiny.setting_of(defense), 6):
        term = encoder_features(victim.transcript)
        assert term is not None
        true = features_of_truth(victim)
        assert torch.allclose(term.value["features"], true, atol=1e-5 * float(true.norm()))
        evidence = read(victim, "bottleneck-features")
        assert evidence.labels == "eliminated"
        assert error(victim, evidence, "features") < 1e-5
        assert error(victim, read(victim, "features-and-gradient"), "features") < 1e-5


def test_the_encoder_shows_the_gradient_of_the_features() -> None:
    """The layers in front are predicted without draw, head or label, up to the noise on them."""
    for victim in tiny.observe(tiny.setting_of(PRECODES[0]), 3):
        evidence = read(victim, "known-feature-gradient")
        assert evidence.labels == "eliminated" and not evidence.hidden
        assert error(victim, evidence) < 1e-5
        assert max(losses(victim, evidence)) < 1e-6
        assert max(losses(victim, read(victim, "features-and-gradient"))) < 1e-6
    for victim in tiny.observe(tiny.setting_of(PRECODES[1]), 3):
        evidence = read(victim, "known-feature-gradient")
        term, predicted = evidence.terms["update"], at_truth(victim, evidence)["update"]
        gap = torch.cat([(term.value[n] - predicted[n]).flatten() for n in term.value])
        assert evidence.noisy and float(gap.std()) == pytest.approx(0.5, rel=0.05)


def test_the_features_of_several_images_do_not_follow_from_the_encoder() -> None:
    for defense in PRECODES:
        (victim,) = tiny.observe(tiny.setting_of(defense, batch_size=2))
        names = {e.name: e for e in registered_evidence(defense.name)}
        assert names["bottleneck-features"].build(victim.transcript) is None
        assert names["features-and-gradient"].build(victim.transcript) is None
        assert names["before-bottleneck"].build(victim.transcript) is not None


NOISED = build("ppp", {"width": 6, "noise": 0.01, "noised_encoder": True})


def test_a_noised_encoder_gives_noisy_features() -> None:
    for victim in tiny.observe(tiny.setting_of(NOISED), 4):
        names = {e.name: e for e in registered_evidence("ppp")}
        for name in (
            "bottleneck-features",
            "known-feature-gradient",
            "features-and-gradient",
        ):
            assert names[name].build(victim.transcript) is None
        term, true = encoder_features(victim.transcript), features_of_truth(victim)
        assert term is not None
        assert (term.value["features"] - true).norm() > 1e-3 * true.norm()


@pytest.mark.parametrize("granted", [True, False])
def test_the_clean_decoder_gives_the_draw_behind_a_noised_encoder(granted: bool) -> None:
    """With the draw solved for, all that is left is the noise, of the stated size."""
    for victim in tiny.observe(tiny.setting_of(NOISED, labels_given=granted), 3):
        evidence = read(victim, "solved-bottleneck-noise")
        assert evidence.noisy and not evidence.hidden and evidence.labels == "eliminated"
        predicted, term = at_truth(victim, evidence)["update"], evidence.terms["update"]
        assert torch.allclose(predicted["draw"], victim.truth["noise.bottleneck"], atol=1e-4)
        noised = [name for name in term.value if name != "draw"]
        assert noised and all(name.startswith(("features.", "encoder.")) for name in noised)
        gap = torch.cat([(term.value[n] - predicted[n]).flatten() for n in noised])
        assert float(gap.std()) == pytest.approx(0.01, rel=0.05)
        assert term.variance is not None
        assert float(term.variance["encoder.bias"]) == pytest.approx(1e-4)


@pytest.mark.parametrize("name", ["precode", "ppp"])
@pytest.mark.parametrize("batch_size", [1, 2])
def test_bpda_eot_bottlenecks_are_the_mean_over_opposite_draws(name: str, batch_size: int) -> None:
    """And the truth explains the message better than with one draw that is not the client's."""
    defense = build(name, {"width": 6})
    victims = tiny.observe(tiny.setting_of(defense, batch_size=batch_size), 4)
    single, expected = [], []
    for victim in victims:
        evidence = read(victim, "bpda-eot")
        draws = evidence.data["draws"]["bottleneck"]
        assert evidence.cost == len(draws) >= 2 and torch.equal(draws[0], -draws[1])
        updates = []
        for draw in draws:
            shared = {n: t.clone().requires_grad_() for n, t in evidence.data["shared"].items()}
            inputs = (victim.guess["images"], {"bottleneck": draw}, victim.guess["labels"])
            model = stateless_model(victim.transcript.setting)
            loss = functional_call(model, shared, inputs)
            updates.append(torch.autograd.grad(loss, list(shared.values())))
        mean = {
            n: sum(u) / len(draws) for n, u in zip(shared, zip(*updates, strict=True), strict=True)
        }
        assert tiny.relative_error(at_truth(victim, evidence)["update"], mean) < 1e-5
        expected.append(losses(victim, evidence)[0])
        single.append(losses(victim, read(victim, "oblivious"))[0])
    assert sum(expected) < 0.9 * sum(single)


def test_what_draws_nothing_costs_one_gradient_a_step() -> None:
    for setting in (tiny.setting_of("dgp"), tiny.fedavg("dgp", local_steps=2)):
        (victim,) = tiny.observe(setting)
        evidence = read(victim, "bpda-eot")
        assert "draws" not in evidence.data and evidence.cost == setting.local_steps


@pytest.mark.parametrize("defense", [build("precode", {"width": 6}), PRECODES[1]], ids=repr)
def test_the_draws_behind_the_bottleneck_can_be_optimised_along(defense: Defense) -> None:
    for victim in tiny.observe(tiny.setting_of(defense, batch_size=2), 2):
        evidence = read(victim, "joint-noise")
        assert torch.equal(
            evidence.reveal(evidence.setting, victim.truth, evidence.data)["noise.bottleneck"],
            victim.truth["noise.bottleneck"],
        )
        clean = {n: t for n, t in evidence.terms["update"].value.items() if "features" not in n}
        predicted = at_truth(victim, evidence)["update"]
        assert tiny.relative_error(predicted, clean) < 1e-5
        if defense.name == "precode":
            assert max(losses(victim, evidence)) < 1e-6
            assert min(losses(victim, read(victim, "oblivious"))) > 1e-4, "its draw is another"


# --------------------------------------------------------------------------------- FedRep


@pytest.mark.parametrize("layers", [1, 2])
@pytest.mark.parametrize(
    "facts",
    [{}, {"batch_size": 4}, {"algorithm": "fedavg", "local_steps": 3, "batch_size": 2}],
    ids=["B=1", "B=4", "fedavg"],
)
def test_fedrep_headless_explains_the_update_exactly(layers: int, facts: dict[str, Any]) -> None:
    setting = tiny.setting_of(build("fedrep", {"private_layers": layers}), **facts)
    for victim in tiny.observe(setting, 3):
        evidence = read(victim, "shared-layers")
        assert evidence.labels == "eliminated"
        assert error(victim, evidence) < 1e-4
        assert max(losses(victim, evidence)) < 1e-6
        assert bool(evidence.hidden) == (setting.local_steps > 1), "known, or solved for"


@pytest.mark.parametrize("layers", [1, 2])
def test_fedrep_hidden_gradients_are_near_one(layers: int) -> None:
    """The attack's start, standard normal, is of the size of what it looks for."""
    setting = tiny.fedavg(build("fedrep", {"private_layers": layers}))
    for victim in tiny.observe(setting, 3):
        evidence = read(victim, "shared-layers")
        hidden = evidence.reveal(evidence.setting, victim.truth, evidence.data)["output_gradient"]
        assert 0.1 < float(hidden.square().mean().sqrt()) < 10


# ------------------------------------------------------------------------------ DP, DP-SGD


@pytest.mark.parametrize("facts", [{}, {"batch_size": 4}], ids=["B=1", "B=4"])
@pytest.mark.parametrize("clip", [0.05, 100.0])
def test_dpsgd_bpda_eot_explains_all_but_the_noise(facts: dict[str, Any], clip: float) -> None:
    quiet = build("dpsgd", {"noise": 1e-9, "clip": clip})
    for victim in tiny.observe(tiny.setting_of(quiet, **facts), 2):
        assert error(victim, read(victim, "bpda-eot")) < 1e-5
    noisy = build("dpsgd", {"noise": 0.7, "clip": clip})
    (victim,) = tiny.observe(tiny.setting_of(noisy, **facts))
    evidence = read(victim, "bpda-eot")
    predicted, term = at_truth(victim, evidence)["update"], evidence.terms["update"]
    gap = torch.cat([(term.value[n] - predicted[n]).flatten() for n in predicted])
    assert term.variance is not None
    stated = float(term.variance["head.bias"]) ** 0.5
    assert stated == pytest.approx(0.7 * clip / victim.transcript.setting.batch_size)
    assert float(gap.std()) == pytest.approx(stated, rel=0.05)


def test_dpsgd_bpda_eot_unrolls_local_steps() -> None:
    quiet = build("dpsgd", {"noise": 1e-9, "clip": 0.3})
    (victim,) = tiny.observe(tiny.fedavg(quiet))
    assert error(victim, read(victim, "bpda-eot")) < 1e-4


@pytest.mark.parametrize("clip", [0.05, 100.0])
def test_dp_bpda_eot_explains_all_but_the_noise(clip: float) -> None:
    noisy = build("dp", {"noise": 0.3, "clip": clip})
    (victim,) = tiny.observe(tiny.setting_of(noisy))
    evidence = read(victim, "bpda-eot")
    predicted, term = at_truth(victim, evidence)["update"], evidence.terms["update"]
    gap = torch.cat([(term.value[n] - predicted[n]).flatten() for n in predicted])
    assert term.variance is not None
    assert float(gap.std()) == pytest.approx(0.3 * clip, rel=0.05)
    assert float(term.variance["head.bias"]) == pytest.approx((0.3 * clip) ** 2)


# --------------------------------------------------------------------------------- pruned


@pytest.mark.parametrize("remembering", [False, True], ids=["first round", "with residual"])
@pytest.mark.parametrize(
    ("name", "fields"),
    [
        ("pruning", {"keep": 0.1}), ("pruning", {"keep": 0.01}),
        ("dgp", {}), ("dgp", {"drop_largest": 0.1, "drop_smallest": 0.85}),
    ],
)  # fmt: skip
def test_bounds_hold_for_what_was_not_sent(
    name: str, fields: dict[str, Any], remembering: bool
) -> None:
    """Sent entries are the carried update's own; the others lie where the bounds allow."""
    setting = tiny.setting_of(build(name, fields))
    weights, (client,) = start(setting, 1, 0, tiny.SECRET)
    batches = tiny.batches_of(setting, *tiny.images_of(setting, 0))
    if remembering:
        before = tiny.batches_of(setting, *tiny.images_of(setting, 7))
        client.round(weights, before, tiny.rng())
    memory = client.memory
    (victim,) = tiny.observe(setting, start_from=(weights, [client]))
    carried = client.copy().train(weights, batches, tiny.rng()) + memory
    (sent, term) = (
        read(victim, n).terms["update"] for n in ("nonzero-entries", "pruning-thresholds")
    )
    for key, value in term.value.items():
        assert term.mask and term.lower and sent.mask
        mask, true = term.mask[key].bool(), carried[key].abs()
        assert torch.equal(term.mask[key], sent.mask[key])
        assert torch.equal(mask, value != 0)
        assert torch.allclose(value[mask], carried[key][mask])
        admissible = true <= term.lower[key]
        if term.upper is not None:
            admissible |= true >= term.upper[key]
        assert admissible[~mask].all(), key
        assert bool(term.upper) == (name == "dgp")


@pytest.mark.parametrize("name", ["pruning", "dgp"])
def test_the_truth_of_a_first_round_has_no_loss_under_the_bounds(name: str) -> None:
    for victim in tiny.observe(tiny.setting_of(name), 2):
        assert max(losses(victim, read(victim, "nonzero-entries"))) < 1e-6
        assert max(losses(victim, read(victim, "pruning-thresholds"))) < 1e-6
        assert min(losses(victim, read(victim, "oblivious"))) > 1e-3


@pytest.mark.parametrize("name", ["dgp", "pruning"])
def test_bpda_eot_pruning_explains_a_first_round_exactly(name: str) -> None:
    for victim in tiny.observe(tiny.setting_of(name), 2):
        assert error(victim, read(victim, "bpda-eot")) < 1e-6
