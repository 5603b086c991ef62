"""The objective audit: was it the evidence that ran out, or the optimiser that failed?

A defense is credited only where the attack explained what it saw at least as well as the truth
does, and still did not find it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import pandas as pd

OK, EXHAUSTED, FAILED, BROKEN = "ok", "evidence-exhausted", "optimiser-failed", "broken-attack"
NOT_APPLICABLE, MISSED = "not-applicable", "missed"
"""Verdicts of closed forms, which minimise nothing: their assumption does not hold here, or it does
and they found nothing all the same."""

VERDICTS = (OK, EXHAUSTED, FAILED, BROKEN, NOT_APPLICABLE, MISSED)

TOLERANCE = 0.1
"""Share of a cell's images that may fall short before the cell's verdict says so."""

RESOLUTION = 1e-9
"""Losses below this are equal: optimisers stop about there, and float32 goes little farther."""

ACCURATE_LOSS = 1e-3
"""Evidence describes the message where the truth's loss is below this, or as :func:`describes`
says."""

BROKEN_LOSS = 1e-6
"""Without a defense the truth must explain the evidence; above this loss it does not."""


def verdict(
    recovered: bool,
    loss_guess: float,
    loss_truth: float,
    undefended: bool,
    *,
    closed_form: bool = False,
    applicable: bool = True,
) -> str:
    """The verdict on one image.

    Args:
        recovered: whether the first measure of the guess exceeds tau.
        loss_guess: the attack's objective at its guess, prior left out.
        loss_truth: the same at the truth, with the client's true randomness.
        undefended: whether there is no defense, so that ``loss_truth`` has to vanish.
        closed_form: whether the attack solves instead of searching. It may explain a message no
            better than the truth does because it never tried to, so its loss proves nothing.
        applicable: whether what a closed form assumes is met here, as the attack says.
    """
    if undefended and not loss_truth <= BROKEN_LOSS:
        return BROKEN
    if recovered:
        return OK
    if closed_form:
        return MISSED if applicable else NOT_APPLICABLE
    return EXHAUSTED if loss_guess <= max(loss_truth, RESOLUTION) else FAILED


def describes(noisy: bool, exact: bool, loss_truth: float) -> bool:
    """Whether evidence describes the message, so that exhausting it may be credited.

    Args:
        noisy: whether known noise is all that keeps the truth from explaining it.
        exact: whether that noise is the defense's own, as it declares it. The mean of a few random
            rounds, and what is estimated from earlier messages, are not: a truth that they do not
            fit is theirs, and a guess that fits them better proves nothing.
        loss_truth: the attack's objective at the truth.
    """
    return loss_truth < ACCURATE_LOSS or (noisy and exact)


def summary(verdicts: list[str]) -> str:
    """The verdict on a cell: the gravest that more than a tenth of its images have.

    >>> summary(["ok"] * 9 + ["optimiser-failed"])
    'ok'
    >>> summary(["ok"] * 5 + ["missed"] * 2 + ["not-applicable"] * 3)
    'missed'
    """
    for name in (BROKEN, FAILED, MISSED, NOT_APPLICABLE, EXHAUSTED):
        if verdicts.count(name) > (0 if name == BROKEN else TOLERANCE * len(verdicts)):
            return name
    return OK


def credit(images: pd.DataFrame, within: tuple[str, ...] = ()) -> pd.Series:
    """Whether a defense is credited with a private image that was not recovered.

    It is where some evidence that describes the message was exhausted by an attack, and no such
    evidence was left with failed optimisers alone: what a wrong description of the message, or a
    weak search, does not find is no protection. A closed form that does not apply says nothing.

    Args:
        images: rows of victims.csv for one operating point and checkpoint, or for several that
            the columns ``within`` tell apart.

    Returns:
        bool, indexed by ``within``, seed, victim and image.
    """
    image = [*within, "seed", "victim", "image"]
    told = images[(images["accurate"] == 1) & (images["verdict"] != NOT_APPLICABLE)]
    outcome = (
        told.assign(exhausted=told["verdict"] == EXHAUSTED, found=told["success"] == 1)
        .groupby([*image, "evidence"])[["exhausted", "found"]]
        .any()
    )
    outcome["stuck"] = ~outcome["exhausted"] & ~outcome["found"]
    each = outcome.groupby(level=image)[["exhausted", "stuck"]].any()
    every = images.groupby(image).size().index
    return (each["exhausted"] & ~each["stuck"]).reindex(every, fill_value=False)
