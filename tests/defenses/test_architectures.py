"""PRECODE, PPP, HyperFL and FedRep: the models they train, and what leaves the client."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor
from torch.distributions import Normal, kl_divergence
from torch.func import functional_call
from torch.nn import functional as F

from benchmark.defenses.base import build
from benchmark.defenses.parts.bottleneck import Bottlenecked
from benchmark.federated.client import Client
from benchmark.federated.setting import Setting, schema, stateless_model
from benchmark.federated.simulation import start
from benchmark.federated.update import Update
from benchmark.models.base import build as build_model
from tests import tiny


def bottlenecked(width: int = 6, beta: float = 0.25) -> Bottlenecked:
    model = build("precode", {"width": width, "beta": beta}).wrap(build_model("elu", (1, 6, 6), 10))
    model.initialise(tiny.rng(1))
    assert isinstance(model, Bottlenecked)
    return model


def test_precode_divergence_is_in_bits_and_averaged_over_images() -> None:
    model = bottlenecked(beta=0.25)
    images = torch.randn(5, 1, 6, 6, generator=tiny.rng(2))
    eps = torch.randn(5, 6, generator=tiny.rng(3))
    logits, penalty = model.run(images, {"bottleneck": eps})
    code = F.linear(model.features(images), model.encoder.weight, model.encoder.bias)
    mean, std = code[:, :6], F.softplus(code[:, 6:])
    bits = kl_divergence(Normal(mean, std), Normal(0.0, 1.0)).sum(-1).mean() / math.log(2)
    assert torch.allclose(penalty, 0.25 * bits, rtol=1e-5)
    decoded = F.linear(mean + std * eps, model.decoder.weight, model.decoder.bias)
    assert torch.allclose(logits, model.head(decoded), atol=1e-6)
    soft = F.one_hot(torch.arange(5), 10).float()
    loss = model(images, {"bottleneck": eps}, soft)
    assert torch.allclose(loss, F.cross_entropy(logits, torch.arange(5)) + penalty)


def test_precode_has_the_papers_size_at_its_defaults() -> None:
    """2KD + 2K + KD + D further parameters."""
    plain = build_model("elu", (1, 6, 6), 10)
    wrapped = build("precode", {}).wrap(plain)
    size, width = 48, 256
    extra = sum(p.numel() for p in wrapped.parameters()) - sum(
        p.numel() for p in build_model("elu", (1, 6, 6), 10).parameters()
    )
    assert extra == 3 * width * size + 2 * width + size


def test_precode_randomness_is_behind_the_features() -> None:
    """Another draw: other gradients everywhere, the same features."""
    setting = tiny.setting_of(build("precode", {"width": 6}))
    weights, _ = start(setting, 1, 0, tiny.SECRET)
    pixels, labels = tiny.images_of(setting, 0)
    batches = tiny.batches_of(setting, pixels, labels)
    sent, drawn = [], []
    for seed in (1, 2):
        _, (client,) = start(setting, 1, 0, tiny.SECRET)
        sent.append(client.round(weights, batches, tiny.rng(seed)))
        drawn.append(client.revealed["noise.bottleneck"])
    assert drawn[0].shape == (1, 6) and not torch.equal(drawn[0], drawn[1])
    for name in ("decoder.weight", "head.weight", "head.bias"):
        assert not torch.allclose(sent[0][name], sent[1][name], rtol=1e-3)
    features = [s["encoder.weight"][0] / s["encoder.bias"][0] for s in sent]
    assert torch.allclose(features[0], features[1], rtol=1e-3, atol=1e-5)


def test_precode_draws_anew_for_every_image_and_round() -> None:
    setting = tiny.setting_of(build("precode", {"width": 6}), batch_size=3)
    weights, (client,) = start(setting, 1, 0, tiny.SECRET)
    batches = tiny.batches_of(setting, *tiny.images_of(setting, 0))
    source, draws = tiny.rng(1), []
    for _ in range(2):
        client.round(weights, batches, source)
        draws.append(client.revealed["noise.bottleneck"])
    rows = torch.cat(draws)
    assert rows.shape == (6, 6) and len(torch.unique(rows, dim=0)) == 6


@pytest.mark.parametrize("noised_encoder", [False, True])
def test_ppp_perturbs_exactly_the_named_layers(noised_encoder: bool) -> None:
    defense = build("ppp", {"width": 16, "noise": 0.3, "noised_encoder": noised_encoder})
    shapes = schema(tiny.setting_of(defense))
    source = tiny.rng(1)
    update = Update({n: torch.randn(s, generator=source) for n, s in shapes.items()})
    sent, _ = defense.protect(update, update * 0.0, tiny.rng(2))
    touched = {name for name in update if not torch.equal(sent[name], update[name])}
    parts = ("features.", "encoder.") if noised_encoder else ("features.",)
    assert touched == {name for name in shapes if name.startswith(parts)}
    assert {name.split(".")[0] for name in shapes} == {"features", "encoder", "decoder", "head"}
    for name in touched:
        draw = sent[name] - update[name]
        if draw.numel() > 1000:
            assert float(draw.std()) == pytest.approx(0.3, rel=0.1)
    every = torch.cat([(sent[n] - update[n]).flatten() for n in touched])
    assert float(every.std()) == pytest.approx(0.3, rel=0.05)


def hyper_client(hidden: int = 7, **facts: object) -> tuple[Setting, Update, Client]:
    setting = tiny.setting_of(build("hyperfl", {"embedding": 5, "hidden": hidden}), **facts)
    weights, (client,) = start(setting, 1, 0, tiny.SECRET)
    return setting, weights, client


def generated(weights: Update, embedding: Tensor) -> dict[str, Tensor]:
    """theta = W relu(T v + t) + b, output by output, by hand."""
    code = (weights["hyper.hidden.weight"] @ embedding + weights["hyper.hidden.bias"]).clamp_min(0)
    plain = build_model("elu", (1, 6, 6), 10)
    return {
        name: (
            weights[f"hyper.{name.replace('.', '_')}.weight"] @ code
            + weights[f"hyper.{name.replace('.', '_')}.bias"]
        ).reshape(parameter.shape)
        for name, parameter in plain.features.named_parameters()
    }


def test_hyperfl_works_with_generated_weights() -> None:
    setting, weights, client = hyper_client()
    images = torch.randn(4, 1, 6, 6, generator=tiny.rng(3))
    logits = functional_call(stateless_model(setting), {**weights, **client.private}, (images,))
    made = {f"features.{n}": t for n, t in generated(weights, client.private["embedding"]).items()}
    head = {n: t for n, t in client.private.items() if n.startswith("head.")}
    plain = build_model("elu", (1, 6, 6), 10)
    assert torch.allclose(logits, functional_call(plain, {**made, **head}, (images,)), atol=1e-6)


def test_hyperfl_keeps_embedding_and_head() -> None:
    setting, weights, client = hyper_client(batch_size=2)
    assert set(client.private) == {"embedding", "head.weight", "head.bias"}
    assert all(name.startswith("hyper.") for name in schema(setting))
    before = {name: tensor.clone() for name, tensor in client.private.items()}
    batches = tiny.batches_of(setting, *tiny.images_of(setting, 0))
    sent = client.round(weights, batches, tiny.rng())
    assert list(sent) == list(schema(setting))
    assert all(not torch.equal(before[name], client.private[name]) for name in before)
    assert torch.equal(client.revealed["private.embedding"], before["embedding"]), (
        "the embedding moves with the shared step, which used it as it was"
    )
    assert torch.equal(client.revealed["private.head.weight"], client.private["head.weight"]), (
        "the head is fitted first and then held"
    )


@pytest.mark.parametrize("hidden", [8, 16, 128])
def test_hyperfl_begins_with_weights_of_the_usual_size(hidden: int) -> None:
    """Larger ones saturate: a client's first message is then zero, which no attack can read."""
    usual = build_model("elu", (1, 6, 6), 10)
    usual.initialise(tiny.rng(1))
    setting = tiny.setting_of(build("hyperfl", {"hidden": hidden}))
    ratios: dict[str, list[float]] = {}
    for seed in range(4):
        weights, (client,) = start(setting, 1, seed, tiny.SECRET)
        for name, made in generated(weights, client.private["embedding"]).items():
            plain = dict(usual.features.named_parameters())[name].detach()
            if plain.numel() > 1000:
                ratios.setdefault(name, []).append(float(made.std() / plain.std()))
        batches = tiny.batches_of(setting, *tiny.images_of(setting, seed))
        assert float(client.round(weights, batches, tiny.rng()).norm()) > 0.1
    assert all(sum(r) / len(r) == pytest.approx(1, abs=0.25) for r in ratios.values())


def test_hyperfl_embeddings_and_heads_are_each_clients_own() -> None:
    setting = tiny.setting_of(build("hyperfl", {"hidden": 7}))
    _, clients = start(setting, 3, 0, tiny.SECRET)
    for name in ("embedding", "head.weight"):
        assert not torch.equal(clients[0].private[name], clients[1].private[name])
    many = torch.cat([c.private["embedding"] for c in start(setting, 40, 0, "s")[1]])
    assert abs(float(many.mean())) < 0.1 and float(many.std()) == pytest.approx(1, rel=0.05)


@pytest.mark.parametrize(
    ("layers", "kept"), [(1, {"head"}), (2, {"head", "features.fc"})], ids=["one", "two"]
)
def test_fedrep_keeps_its_last_layers(layers: int, kept: set[str]) -> None:
    setting = tiny.setting_of(build("fedrep", {"private_layers": layers}), batch_size=2)
    weights, (client,) = start(setting, 1, 0, tiny.SECRET)
    everything = {n for n, _ in stateless_model(setting).named_parameters()}
    assert {name.rsplit(".", 1)[0] for name in client.private} == kept
    assert set(weights) == everything - set(client.private)
    assert all(
        type(setting.defense).trained_before_shared(setting.defense, n) for n in client.private
    )


def test_fedrep_fits_its_head_before_the_features_move() -> None:
    """The shared gradient is taken at the head after its own step on the same batch."""
    setting = tiny.setting_of(build("fedrep", {}), batch_size=3, private_lr=0.5)
    weights, (client,) = start(setting, 1, 0, tiny.SECRET)
    images, labels = tiny.batches_of(setting, *tiny.images_of(setting, 0))[0]
    model = stateless_model(setting)

    def gradients(parameters: dict[str, Tensor], wanted: list[str]) -> dict[str, Tensor]:
        leaves = {n: parameters[n].clone().requires_grad_() for n in wanted}
        logits = functional_call(model, {**parameters, **leaves}, (images,))
        found = torch.autograd.grad(F.cross_entropy(logits, labels), list(leaves.values()))
        return dict(zip(wanted, found, strict=True))

    start_at = {**weights, **client.private}
    head = {n: client.private[n] - 0.5 * g for n, g in
            gradients(start_at, ["head.weight", "head.bias"]).items()}  # fmt: skip
    expected = gradients({**weights, **head}, list(weights))
    sent = client.round(weights, [(images, labels)], tiny.rng())
    for name, tensor in expected.items():
        assert torch.allclose(sent[name], tensor, atol=1e-6)
    for name, tensor in head.items():
        assert torch.allclose(client.private[name], tensor, atol=1e-6)
