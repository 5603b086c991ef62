"""Kinds of first images, and what the starts of a trial depend on."""

from __future__ import annotations

import pytest
import torch

from benchmark.attacks.base import get
from benchmark.attacks.parts.starts import Normal, Patterned, Starts, Uniform, Zeros

SHAPE = (2, 3, 7, 6)


def rng(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


@pytest.mark.parametrize("start", [Normal(), Uniform(), Zeros(), Patterned()], ids=repr)
def test_starts_have_the_shape_that_is_asked_for_and_depend_on_the_generator_alone(start) -> None:
    first = start(SHAPE, rng())
    assert first.shape == SHAPE
    assert torch.equal(first, start(SHAPE, rng()))
    assert torch.equal(first, start(SHAPE, rng(1))) == isinstance(start, Zeros)


def test_uniform_starts_fill_minus_one_to_one() -> None:
    values = Uniform()((1, 1, 100, 100), rng())
    assert -1 <= float(values.min()) < -0.99 and 0.99 < float(values.max()) <= 1
    assert float(values.square().mean()) == pytest.approx(1 / 3, abs=0.02)


def test_patterned_starts_repeat_a_tile_and_cut_the_last_one() -> None:
    image = Patterned(tiles=2)(SHAPE, rng())  # tiles of 4 by 3 on 7 by 6
    assert torch.equal(image[..., :3, :], image[..., 4:, :])
    assert torch.equal(image[..., :3], image[..., 3:])
    assert len(image[0, 0].unique()) == 12


def test_a_trials_start_depends_on_its_own_seed_restart_and_attempt(victims) -> None:
    evidence = victims(1)[0][0]

    def images(seeds, attempt=0):
        starts = Starts(evidence, seeds, 2, False, Normal())
        return starts.draw(attempt, chunk=slice(0, 2 * len(seeds)))["images"]

    assert torch.equal(images([3, 4])[2:], images([4]))
    drawn = torch.cat([images([3, 4]), images([3, 4], attempt=1)])
    assert len(drawn.flatten(1).unique(dim=0)) == len(drawn)


def test_a_search_begins_where_its_start_says(victims) -> None:
    """With one evaluation the guess is the start itself."""
    attack = get("ig").configured(init=Zeros(), iterations=1)
    evidence = victims(1)[0][0]
    guess = attack.run([evidence])[0]
    mean = evidence.setting.denormalise(torch.zeros(1, 1, 6, 6))
    assert torch.allclose(guess.images, mean)
