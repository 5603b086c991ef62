"""DP and DP-SGD: clipping, noise and epsilon against independent references."""

from __future__ import annotations

import math
import warnings

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.optimize import brentq
from scipy.stats import norm
from torch import Tensor
from torch.func import functional_call
from torch.nn import functional as F

from benchmark.defenses.base import build
from benchmark.defenses.parts.accounting import epsilon
from benchmark.federated.setting import Setting, stateless_model
from benchmark.federated.simulation import start
from benchmark.federated.update import Update
from tests import tiny


def large(scale: float = 1.0) -> Update:
    source = tiny.rng(1)
    return Update(
        {n: scale * torch.randn(200, 500, generator=source) for n in ("a.weight", "b.weight")}
    )


@pytest.mark.parametrize(("scale", "clip"), [(1.0, 2.0), (1e-6, 2.0), (1e-3, 0.5)])
def test_dp_clips_the_whole_update(scale: float, clip: float) -> None:
    update = large(scale)
    sent, _ = build("dp", {"clip": clip}).protect(update, update * 0.0, None)
    size = math.sqrt(sum(float(t.double().square().sum()) for t in update.values()))
    factor = min(1.0, clip / size)
    for name, tensor in update.items():
        assert torch.allclose(sent[name], tensor * factor, rtol=1e-4)
    assert float(sent.norm()) <= clip * (1 + 1e-4)


def test_dp_survives_an_update_of_zero() -> None:
    nothing = large() * 0.0
    sent, _ = build("dp", {"noise": 0.1}).protect(nothing, nothing, None)
    assert all((tensor == 0).all() for tensor in sent.values())


@pytest.mark.parametrize(("noise", "clip"), [(0.01, 1.0), (0.5, 3.0)])
def test_dp_noise_has_the_stated_size_everywhere(noise: float, clip: float) -> None:
    defense, update = build("dp", {"noise": noise, "clip": clip}), large(1e-4)
    sent, _ = defense.protect(update, update * 0.0, tiny.rng(2))
    again, _ = defense.protect(update, update * 0.0, tiny.rng(3))
    clean, _ = defense.protect(update, update * 0.0, None)
    draws = [(sent[n] - clean[n]).flatten().double() for n in update]
    for draw in draws:
        assert draw.std() == pytest.approx(noise * clip, rel=0.01)
        assert abs(draw.mean()) < 4 * noise * clip / math.sqrt(draw.numel())
        assert draw.abs().max() > 3.5 * noise * clip, "the tails are normal"
    other = (again["a.weight"] - clean["a.weight"]).flatten().double()
    for pair in (draws, [draws[0], other]):
        assert abs(float(np.corrcoef(pair[0], pair[1])[0, 1])) < 0.02


@pytest.mark.parametrize(
    ("examples", "batch", "epochs", "noise", "expected"),
    [
        (600, 50, 1000, 37.2, 1), (600, 50, 1000, 10.6, 4), (600, 50, 1000, 5.88, 8),
        (600, 50, 1000, 1.57, 50), (1000, 50, 1000, 8.24, 4), (1000, 50, 1000, 1.28, 50),
        (600, 50, 200, 4.81, 4), (2500, 50, 200, 2.44, 4), (50000, 256, 100, 1.07, 4),
        (50000, 256, 100, 0.453, 50),
    ],
)  # fmt: skip
def test_epsilon_with_sampling_is_what_opacus_gives_for_published_settings(
    examples: int, batch: int, epochs: int, noise: float, expected: float
) -> None:
    """Noise for a wanted epsilon at delta 1e-5, by Opacus; HyperFL's DP baselines among them."""
    rate = batch / examples
    steps = int(epochs / rate)
    assert renyi(noise, rate, steps) == pytest.approx(expected, rel=0.012)
    found = epsilon(noise=noise, rate=rate, steps=steps, delta=1e-5)
    assert 0.8 * expected < found < 1.012 * expected


@pytest.mark.parametrize(
    ("steps", "noise", "expected"),
    [
        (1, 0.1, 96), (1, 0.5, 10.7), (1, 1, 4.73), (1, 2, 2.17), (1, 5, 0.79), (1, 10, 0.38),
        (50, 0.1, 2862), (50, 0.5, 166), (50, 1, 57), (50, 2, 22), (50, 5, 7.1), (50, 10, 3.2),
        (200, 0.1, 11112), (200, 0.5, 535), (200, 1, 166), (200, 2, 57), (200, 5, 16.5),
        (200, 10, 7.1),
    ],
)  # fmt: skip
def test_epsilon_without_sampling_is_opacus_or_a_tighter_bound(
    steps: int, noise: float, expected: float
) -> None:
    found = epsilon(noise=noise, rate=1.0, steps=steps, delta=1e-5)
    exact = exact_gaussian(noise / math.sqrt(steps), 1e-5)
    assert exact <= found < 1.015 * expected
    if exact < 100:  # where privacy losses are composed, the bound is the truth and its error
        assert found <= exact + 0.03


def exact_gaussian(sigma: float, delta: float) -> float:
    """Epsilon of the Gaussian mechanism of sensitivity 1 (Balle and Wang, ICML 2018, Theorem 8)."""

    def excess(eps: float) -> float:
        left = norm.cdf(0.5 / sigma - eps * sigma)
        right = math.exp(min(eps + norm.logcdf(-0.5 / sigma - eps * sigma), 700))
        return left - right - delta

    return float(brentq(excess, 0, 1e6))


def renyi(noise: float, rate: float, steps: int, delta: float = 1e-5) -> float:
    """Opacus's own epsilon, at the orders that it chooses."""
    from opacus.accountants import RDPAccountant

    accountant = RDPAccountant()
    accountant.history = [(noise, rate, steps)]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return float(accountant.get_epsilon(delta=delta))


@pytest.mark.parametrize(
    ("noise", "rate", "steps", "delta"),
    [(1.1, 0.2, 30, 1e-5), (0.5, 0.1, 20, 1e-5), (4.0, 0.05, 200, 1e-6), (2.0, 1.0, 10, 1e-5)],
)
def test_epsilon_is_the_smaller_one_of_opacus_accountants(
    noise: float, rate: float, steps: int, delta: float
) -> None:
    from opacus.accountants import PRVAccountant

    accountant = PRVAccountant()
    for _ in range(steps):
        accountant.step(noise_multiplier=noise, sample_rate=rate)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        composed = accountant.get_epsilon(delta)
    ours = epsilon(noise=noise, rate=rate, steps=steps, delta=delta)
    assert ours == pytest.approx(min(composed, renyi(noise, rate, steps, delta)), rel=1e-9)
    assert composed < renyi(noise, rate, steps, delta), "or this test shows nothing"


def test_where_losses_are_not_composed_epsilon_is_renyis(monkeypatch: pytest.MonkeyPatch) -> None:
    """Too large a grid, or an accountant that gives up, costs tightness and nothing else."""
    from opacus.accountants import PRVAccountant

    weak = epsilon(noise=0.01, rate=0.1, steps=150, delta=1e-5)
    assert weak == pytest.approx(renyi(0.01, 0.1, 150), rel=0.35) and weak <= renyi(0.01, 0.1, 150)

    def gives_up(*_: object, **__: object) -> float:
        raise RuntimeError("Cannot compute epsilon")

    monkeypatch.setattr(PRVAccountant, "get_epsilon", gives_up)
    ours = epsilon(noise=1.1, rate=0.2, steps=31, delta=1e-5)
    assert ours == pytest.approx(renyi(1.1, 0.2, 31), rel=0.01)
    monkeypatch.setattr(PRVAccountant, "get_epsilon", lambda *_, **__: math.nan)
    assert epsilon(noise=1.1, rate=0.2, steps=32, delta=1e-5) > ours


@settings(max_examples=15, deadline=None)
@given(st.floats(3, 200), st.floats(0.001, 0.2), st.integers(1, 20), st.floats(1e-6, 0.4))
def test_epsilon_is_never_negative(noise: float, rate: float, steps: int, delta: float) -> None:
    assert epsilon(noise=noise, rate=rate, steps=steps, delta=delta) >= 0


def test_epsilon_of_zero_and_infinity() -> None:
    assert renyi(50, 0.1, 1, 0.01) < 0, "a bound that no probability can have"
    assert epsilon(noise=50, rate=0.1, steps=1, delta=0.01) == 0
    assert epsilon(noise=1, rate=0.1, steps=0, delta=1e-5) == 0, "nothing is sent"
    assert epsilon(noise=1, rate=0.0, steps=9, delta=1e-5) == 0, "nobody takes part"
    assert epsilon(noise=0.0, rate=0.1, steps=1, delta=1e-5) == math.inf


def test_guarantees_compose_over_what_the_server_sees() -> None:
    dp = build("dp", {"noise": 1.0, "clip": 7.0}).guarantee(rounds=50, rate=0.01)
    exact = exact_gaussian(1 / math.sqrt(50), 1e-5)
    assert dp and dp.epsilon == pytest.approx(exact, abs=0.03), "no amplification by sampling"
    assert dp.unit == "client"
    sgd = build("dpsgd", {"noise": 10.6}).guarantee(rounds=12000, rate=50 / 600)
    assert sgd and 3.5 < sgd.epsilon < 4.01 and sgd.unit == "example"
    full = build("dpsgd", {"noise": 1.0}).guarantee(rounds=50, rate=1.7)
    assert full and full.epsilon == pytest.approx(exact, abs=0.03), "a rate is never above 1"


@pytest.mark.parametrize("rounds", [1, 7])
def test_dps_neighbours_lack_a_clients_updates_of_all_rounds(rounds: int) -> None:
    """What a client sends moves by its clip at most in every round: sensitivity clip * sqrt(T) of
    all that the server sees, against noise * clip in every entry."""
    defense, moved = build("dp", {"noise": 2.0, "clip": 0.5}), 0.0
    for number in range(rounds):
        update = large(10.0 ** (number - 3))
        sent, _ = defense.protect(update, update * 0.0, None)
        moved += float(sent.norm()) ** 2
    assert math.sqrt(moved) <= 0.5 * math.sqrt(rounds) * (1 + 1e-4)
    found = defense.guarantee(rounds=rounds, rate=1.0)
    assert found and found.epsilon == pytest.approx(
        exact_gaussian(2.0 / math.sqrt(rounds), 1e-5), abs=0.03
    )


def dpsgd(noise: float, clip: float = 0.5, **facts: object) -> Setting:
    defense = build("dpsgd", {"noise": noise, "clip": clip})
    return tiny.setting_of(defense, **{"batch_size": 4, **facts})


def step(setting: Setting, images: Tensor, labels: Tensor, seed: int = 0) -> Update:
    weights, (client,) = start(setting, 1, 0, tiny.SECRET)
    return client.round(weights, [(images, labels)], tiny.rng(seed))


def slow_sum(setting: Setting, images: Tensor, labels: Tensor) -> dict[str, Tensor]:
    """Every example's gradient on its own, clipped, summed."""
    weights, _ = start(setting, 1, 0, tiny.SECRET)
    total = {name: torch.zeros_like(tensor) for name, tensor in weights.items()}
    for image, label in zip(images, labels, strict=True):
        leaves = {name: t.clone().requires_grad_() for name, t in weights.items()}
        loss = F.cross_entropy(
            functional_call(stateless_model(setting), leaves, image[None]), label[None]
        )
        grads = dict(zip(leaves, torch.autograd.grad(loss, list(leaves.values())), strict=True))
        size = math.sqrt(sum(float(g.square().sum()) for g in grads.values()))
        factor = min(1.0, setting.defense.clip / size)  # type: ignore[attr-defined]
        for name, grad in grads.items():
            total[name] += factor * grad
    return total


@pytest.mark.parametrize("clip", [0.05, 0.5, 100.0])
@pytest.mark.parametrize("drawn", [4, 1, 7])
def test_dpsgd_is_a_slow_loop_over_examples(drawn: int, clip: float) -> None:
    """Divided by the expected batch size, however many examples the Poisson draw brought."""
    setting = dpsgd(1e-9, clip)
    images = torch.randn(drawn, 1, 6, 6, generator=tiny.rng(1))
    labels = torch.arange(drawn) % 10
    found, expected = step(setting, images, labels), slow_sum(setting, images, labels)
    for name, tensor in expected.items():
        assert torch.allclose(found[name], tensor / 4, atol=1e-6, rtol=1e-4), name


@pytest.mark.parametrize("drawn", [0, 4])
def test_dpsgd_noise_has_the_stated_size(drawn: int) -> None:
    images = torch.randn(drawn, 1, 6, 6, generator=tiny.rng(1))
    labels = torch.arange(drawn)
    noisy = step(dpsgd(2.0), images, labels, seed=5)
    clean = step(dpsgd(1e-9), images, labels, seed=5)
    draw = torch.cat([(noisy[n] - clean[n]).flatten() for n in noisy])
    assert float(draw.std()) == pytest.approx(2.0 * 0.5 / 4, rel=0.03)
    assert abs(float(draw.mean())) < 4 * 0.25 / math.sqrt(draw.numel())
    other = step(dpsgd(2.0), images, labels, seed=6)
    assert not torch.allclose(noisy["head.bias"], other["head.bias"])


def test_dpsgd_noises_every_local_step() -> None:
    """Weights before minus after: the sum of the steps, each from where the last one ended."""
    setting = dpsgd(1e-9, algorithm="fedavg", local_steps=2, local_lr=0.05)
    weights, (client,) = start(setting, 1, 0, tiny.SECRET)
    pixels, labels = tiny.images_of(setting, 0)
    batches = tiny.batches_of(setting, pixels, labels)
    moved = client.round(weights, batches, tiny.rng())
    one = dpsgd(1e-9)
    first = Update({n: t / 4 for n, t in slow_sum(one, *batches[0]).items()})
    _, (client,) = start(one, 1, 0, tiny.SECRET)
    second = client.round(weights - first * 0.05, batches[1:], tiny.rng())
    for name, tensor in moved.items():
        assert torch.allclose(tensor, 0.05 * (first[name] + second[name]), atol=2e-6)
    noisy = dpsgd(2.0, algorithm="fedavg", local_steps=2, local_lr=0.05)
    _, (client,) = start(noisy, 1, 0, tiny.SECRET)
    spread = torch.cat([(t - moved[n]).flatten() for n, t in
                        client.round(weights, batches, tiny.rng(4)).items()])  # fmt: skip
    assert float(spread.std()) == pytest.approx(0.05 * 0.25 * math.sqrt(2), rel=0.05)
