"""The imprint block's gradients give images away: closed forms, and how often images collide."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor

from benchmark.attacks.base import Unsupported, get
from benchmark.attacks.robbing import read_bins
from benchmark.data.preparation import Public
from benchmark.defenses.base import Defense, build
from benchmark.federated.setting import Setting, initial, stateless_model
from benchmark.models.parts.imprint import brightness_cuts
from benchmark.pipeline.attack import readable
from tests import tiny

ROBBING = get("robbing")


def public_of(count: int = 400, seed: int = 8) -> Public:
    pixels = torch.rand(count, 1, 6, 6, generator=tiny.rng(seed))
    return Public({}, pixels, torch.arange(count) % 10)


def malicious(
    defense: Defense | str = "none", *, bins: int = 64, batch_size: int = 4, **facts: Any
) -> Setting:
    setting = tiny.setting_of(defense, batch_size=batch_size, **facts)
    darkest = float(setting.normalise(torch.zeros(1, 1, 1)).mean())
    cuts = brightness_cuts(setting.normalise(public_of().images), darkest, bins)
    return replace(setting, cuts=cuts)


def bins_of(setting: Setting, pixels: Tensor) -> list[int]:
    brightness = setting.normalise(pixels).flatten(1).mean(1)
    return (torch.bucketize(brightness, torch.tensor(setting.cuts), right=True) - 1).tolist()


def test_a_bin_holds_one_image_times_a_factor() -> None:
    images, deltas = torch.randn(3, 5), torch.tensor([0.5, -2.0, 0.1])
    active = torch.tensor([[1, 1, 0, 0], [1, 0, 0, 0], [1, 1, 1, 1]]).float()  # image x row
    weight = (active * deltas[:, None]).T @ images
    bias = (active * deltas[:, None]).sum(0)
    all_sent = torch.ones(4, 5, dtype=torch.bool)
    found, seen, factor = read_bins(weight, bias, all_sent, all_sent[:, 0])
    assert torch.allclose(factor, torch.tensor([-2.0, 0.5, 0.0, 0.1]), atol=1e-6)
    assert torch.allclose(found[[1, 0, 3]], images, atol=1e-4) and bool(seen.all())


def test_rows_that_were_not_sent_are_stepped_over() -> None:
    image = torch.randn(5)
    weight, bias = 0.3 * image.repeat(4, 1), torch.full((4,), 0.3)
    weight[2:], bias[2:] = 0, 0
    sent = torch.ones(4, 5, dtype=torch.bool)
    sent[1], weight[1], bias[1] = False, 0, 0
    sent[0, 4], weight[0, 4] = False, 0
    found, seen, _ = read_bins(weight, bias, sent, sent[:, 0])
    assert torch.allclose(found[0][:4], image[:4], atol=1e-5)
    assert seen[0].tolist() == [True] * 4 + [False]


def test_cuts_part_the_auxiliary_images_evenly() -> None:
    setting = malicious(bins=16)
    counts = torch.bincount(torch.tensor(bins_of(setting, public_of().images)), minlength=16)
    assert counts.sum() == 400 and int(counts.min()) >= 24 and int(counts.max()) <= 26


def test_images_alone_in_their_bins_are_recovered_exactly_and_no_others() -> None:
    setting = malicious(batch_size=6, bins=16)
    victims = tiny.observe(setting, 6)
    evidences = readable([v.transcript for v in victims])["oblivious"]
    guesses = ROBBING.run(evidences, public_of())
    alone = 0
    for guess, victim in zip(guesses, victims, strict=True):
        pixels = victim.truth["pixels"]
        bins = bins_of(setting, pixels)
        error = torch.cdist(pixels.flatten(1), guess.images.flatten(1)).min(1).values
        for own, far in zip(bins, error.tolist(), strict=True):
            assert (far < 1e-3) == (bins.count(own) == 1)
            alone += bins.count(own) == 1
        exact = torch.cdist(guess.images.flatten(1), pixels.flatten(1)).amin(1) < 1e-3
        assert guess.applicable is not None and bool(guess.applicable[exact].all())
        spare = setting.images - len(set(bins))
        assert int((~guess.applicable).sum()) >= spare, "a bin was shared for each spare guess"
    assert 0 < alone < 36  # both cases were seen


@pytest.mark.parametrize(("bins", "batch"), [(16, 4), (64, 8), (16, 8)])
def test_the_share_of_lonely_images_is_the_formula(bins: int, batch: int) -> None:
    """(1 - 1/m) ** (B - 1), over 300 batches of fresh images from the auxiliary distribution."""
    setting = malicious(bins=bins)
    held = torch.tensor(bins_of(setting, public_of(300 * batch, seed=9).images)).view(300, batch)
    alone = (held[:, :, None] == held[:, None, :]).sum(2) == 1
    assert float(alone.float().mean()) == pytest.approx((1 - 1 / bins) ** (batch - 1), abs=0.03)


def test_the_truth_explains_the_crafted_models_messages() -> None:
    victims = tiny.observe(malicious(), 2)
    evidences = readable([v.transcript for v in victims])["oblivious"]
    losses = ROBBING.losses(
        evidences, [v.truth["pixels"] for v in victims], [v.soft for v in victims]
    )
    assert max(losses) < 1e-6


def test_pruned_rows_are_read_where_they_were_sent() -> None:
    """With half of the entries the message still gives pixels away; oblivious reading does not."""
    setting = malicious(build("pruning", {"keep": 0.5}), batch_size=2)
    victims = tiny.observe(setting, 6)
    found = readable([v.transcript for v in victims])
    error = {
        name: torch.stack(
            [
                torch.cdist(v.truth["pixels"].flatten(1), g.images.flatten(1)).min(1).values.mean()
                for g, v in zip(ROBBING.run(found[name], public_of()), victims, strict=True)
            ]
        ).mean()
        for name in ("oblivious", "nonzero-entries")
    }
    assert error["nonzero-entries"] < error["oblivious"]


def test_factors_within_known_noise_are_no_images() -> None:
    """Then the guess is the mean auxiliary image; read obliviously, it is noise over noise."""
    victims = tiny.observe(malicious(build("dp", {"noise": 1.0})), 2)
    found = readable([v.transcript for v in victims])
    mean = public_of().images.mean(0)
    for guess in ROBBING.run(found["bpda-eot"], public_of()):
        far = (guess.images - mean).flatten(1).abs().amax(1)
        assert int((far == 0).sum()) >= 3
        assert guess.applicable is not None and not bool(guess.applicable[far == 0].any())
    assert not torch.allclose(
        ROBBING.run(found["oblivious"], public_of())[0].images, mean, atol=0.1
    )


def test_what_is_not_as_bright_as_its_bin_is_no_image() -> None:
    """Noise divided by noise, read as if there were none."""
    victims = tiny.observe(malicious(build("dp", {"noise": 1.0}), batch_size=8), 6)
    found = readable([v.transcript for v in victims])["oblivious"]
    said = torch.cat([g.applicable for g in ROBBING.run(found, public_of())])
    assert float(said.float().mean()) < 0.25


def test_crafted_weights_are_the_same_for_everyone_and_the_rest_is_drawn() -> None:
    setting = malicious()
    one, two = (initial(setting, tiny.rng(seed)) for seed in (1, 2))
    for name in one:
        crafted = name.startswith("features.imprint.")
        assert torch.equal(one[name], two[name]) == crafted
    assert list(stateless_model(setting).features)[0](torch.zeros(2, 1, 6, 6)).shape == (2, 1, 6, 6)


def test_settings_keep_their_cuts_and_old_ones_have_none() -> None:
    setting = malicious()
    assert Setting.from_json(setting.to_json()) == setting
    honest = tiny.setting_of("none")
    assert "cuts" not in honest.to_json() and Setting.from_json(honest.to_json()) == honest


def test_an_honest_server_and_local_steps_are_refused_with_a_reason() -> None:
    honest = readable([tiny.observe(tiny.setting_of("none"))[0].transcript])["oblivious"]
    with pytest.raises(Unsupported, match="not malicious"):
        ROBBING.run(honest, public_of())
    steps = malicious(algorithm="fedavg", local_steps=2, local_lr=0.01)
    evidence = readable([tiny.observe(steps)[0].transcript])["oblivious"]
    with pytest.raises(Unsupported, match="local steps"):
        ROBBING.run(evidence, public_of())
    assert ROBBING.threat == "malicious"
