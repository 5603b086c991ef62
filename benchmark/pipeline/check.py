"""What only the plug-ins themselves can say of params.yaml, asked before anything is trained."""

from __future__ import annotations

import inspect
from typing import TYPE_CHECKING

import numpy as np

from benchmark.config.errors import wrong
from benchmark.config.registry import ATTACKS, DATASETS, DEFENSES, PARTITIONS
from benchmark.config.schema import RUN_ON
from benchmark.config.values import check_values

if TYPE_CHECKING:
    from benchmark.config.schema import Federation, Params, Scenario
    from benchmark.models.base import VictimModel

IMAGE = (3, 32, 32)
"""The shape of the images that a model is built for here; which layers it has does not follow."""
SENTENCE = (10,)


def check(params: Params) -> None:
    """Build everything that the params name, as the stages will.

    Raises:
        ParamsError: something cannot be built; the key, its value and what is allowed are named.
    """
    from benchmark.defenses.base import build

    for name, defense in params.defenses.items():
        key = f"defenses.{name}"
        check_values(DEFENSES[name], defense.common, key, also=["points"])
        for point, fields in defense.points.items():
            build(name, fields, f"{key}.points.{point}")
    for name, attack in params.attacks.items():
        ATTACKS[name].configured_at(f"attacks.{name}", attack.fields, RUN_ON)
    for name, scenario in params.scenarios.items():
        for listed, attack in scenario.attacks.items():
            at = f"scenarios.{name}.attacks.{listed}"
            ATTACKS[listed].configured_at(at, attack.fields, RUN_ON)
        _check_scenario(f"scenarios.{name}", scenario)
    refuse_impossible(params)


def _check_scenario(key: str, scenario: Scenario) -> None:
    """Whether data, model, defenses and server read the same, and the data can be divided so."""
    from benchmark.models.base import names, reads

    federation = scenario.federation
    kind = DATASETS[scenario.data].kind
    if reads(federation.model) != kind:
        allowed = ", ".join(name for name in names() if reads(name) == kind)
        raise wrong(f"{key}.federation.model", federation.model, f"{scenario.data} holds {kind}; "
                    f"models that read it: {allowed}")  # fmt: skip
    if kind == "text" and federation.server == "malicious":
        raise wrong(f"{key}.federation.server", "malicious", "the imprint block reads images only")
    for entrant in scenario.entrants:
        if kind not in DEFENSES[entrant].reads:
            raise wrong(f"{key}.entrants", entrant, "it defends models of images only")
    _check_partition(f"{key}.federation", federation)
    for name, attack in scenario.attacks.items():
        _check_knowledge(f"attacks.{name}", attack.knowledge, key, scenario)


def _check_partition(key: str, federation: Federation) -> None:
    function, alpha = PARTITIONS[federation.partition], federation.alpha
    takes = "alpha" in inspect.signature(function).parameters
    if takes != (alpha is not None):
        rule = "needs a number" if takes else "takes none"
        raise wrong(f"{key}.alpha", alpha, f"the partition {federation.partition} {rule}")
    if alpha is not None:
        try:
            function(np.arange(100) % 10, 2, 0, alpha=alpha)
        except ValueError as error:
            raise wrong(f"{key}.alpha", alpha, str(error)) from None


def _check_knowledge(
    key: str, knowledge: tuple[str, ...] | None, board: str, scenario: Scenario
) -> None:
    """An attack that a scenario lists must be run on some evidence there."""
    from benchmark.evidence.base import registered_evidence

    there = {
        entry.knowledge for entrant in scenario.entrants for entry in registered_evidence(entrant)
    }
    if knowledge is not None and not there & {*knowledge}:
        has = ", ".join(sorted(there))
        raise wrong(f"{key}.knowledge", knowledge, f"{board} has {has}, and lists the attack")


def refuse_impossible(params: Params) -> None:
    """Ask every entrant's operating points whether its scenario's model can have them.

    Raises:
        ParamsError: one cannot; the key, its value and what is allowed are named.
    """
    from benchmark.defenses.base import build

    for scenario, board in params.scenarios.items():
        model = _model(board.federation)
        for defense, point in board.points:
            built = build(defense, board.entrants[defense][point])
            field, rule = built.impossible(model) or (None, "")
            where = f"on the model {board.federation.model!r} of scenarios.{scenario}"
            if field:
                key = f"defenses.{defense}.points.{point}.{field}"
                raise wrong(key, getattr(built, field), f"{where} it {rule}")
            if rule:
                raise wrong(f"scenarios.{scenario}.entrants", defense, f"{where}, {rule}")


def _model(federation: Federation) -> VictimModel:
    from benchmark.models.base import build, reads
    from benchmark.models.parts.imprint import imprinted

    if reads(federation.model) == "text":
        return build(federation.model, SENTENCE, 2, 100)
    model = build(federation.model, IMAGE, 10)
    if federation.server == "malicious":
        model = imprinted(model, 3 * 32 * 32, (0.0, 1.0))
    return model
