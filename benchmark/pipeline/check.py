"""Operating points that a scenario's model cannot have: refused before anything is trained."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from benchmark.config.errors import ParamsError, wrong

if TYPE_CHECKING:
    from benchmark.config.schema import Params
    from benchmark.models.base import VictimModel

IMAGE = (3, 32, 32)
"""The shape of the images that a model is built for here; which layers it has does not follow."""
SENTENCE = (10,)


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
            if found := built.impossible(model):
                raise _complaint(scenario, board.federation.model, defense, point, built, *found)


def _complaint(
    scenario: str, model: str, defense: str, point: str, built: Any, field: str, rule: str
) -> ParamsError:
    where = f"on the model {model!r} of scenarios.{scenario}"
    if not field:
        return wrong(f"scenarios.{scenario}.entrants", defense, f"{where}, {rule}")
    key = f"defenses.{defense}.points.{point}.{field}"
    return wrong(key, getattr(built, field), f"{where} it {rule}")


def _model(federation: Any) -> VictimModel:
    from benchmark.models.base import TEXT, build
    from benchmark.models.parts.imprint import imprinted

    if federation.model in TEXT:
        return build(federation.model, SENTENCE, 2, 100)
    model = build(federation.model, IMAGE, 10)
    if federation.server == "malicious":
        model = imprinted(model, 3 * 32 * 32, (0.0, 1.0))
    return model
