"""Kinds of first images, and what the starts of a trial depend on."""

from __future__ import annotations

import pytest
import torch

from benchmark.attacks.base import get
from benchmark.attacks.parts.starts import Normal, Patterned, Starts

SHAPE = (2, 3, 7, 6)


def rng(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


@pytest.mark.parametrize("start", [Normal(), Patterned()], ids=repr)
def test_starts_have_the_shape_that_is_asked_for_and_depend_on_the_generator_alone(start) -> None:
    first = start(SHAPE, rng())
    assert first.shape == SHAPE
    assert torch.equal(first, start(SHAPE, rng()))
    assert not torch.equal(first, start(SHAPE, rng(1)))


def test_patterned_starts_repeat_a_tile_and_cut_the_last_one() -> None:
    image = Patterned(tiles=2)(SHAPE, rng())  # tiles of 4 by 3 on 7 by 6
    assert torch.equal(image[..., :3, :], image[..., 4:, :])
    assert torch.equal(image[..., :3], image[..., 3:])
    assert len(image[0, 0].unique()) == 12


def test_a_trials_start_depends_on_its_own_seed_restart_and_attempt(victims) -> None:
    evidence = victims(1)[0][0]

    def images(seeds, victim, restart, attempt=0):
        return Starts(evidence, seeds, False, Normal()).one(victim, restart, attempt)["images"]

    assert torch.equal(images([3, 4], 1, 1), images([4], 0, 1))
    drawn = [images([3, 4], v, r, a) for v in (0, 1) for r in (0, 1) for a in (0, 1)]
    assert len(torch.stack(drawn).flatten(1).unique(dim=0)) == len(drawn)


def test_a_search_begins_where_its_start_says(victims) -> None:
    """With one evaluation the guess is the start itself, here an image of four equal tiles."""
    attack = get("ig").configured(init={"is": "Patterned"}, iterations=1)
    (guess,) = attack.run(victims(1)[0])
    assert torch.equal(guess.images[..., :3, :3], guess.images[..., 3:, 3:])
