"""catalog.json and provenance.json: what a board says about itself, and where it comes from."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from benchmark.config.registry import DATASETS
from benchmark.results.columns import BOARD, PUBLISHED, SCHEMA, described

if TYPE_CHECKING:
    from benchmark.attacks.base import Attack
    from benchmark.config.schema import Attack as Overrides
    from benchmark.config.schema import Params

Name = Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$")]
Address = Annotated[str, Field(pattern=r"^(https?://\S+)?$")]
"""What stands in a link comes from a file: only addresses of the web may."""
Count = Annotated[int, Field(ge=0)]
Share = Annotated[float, Field(ge=0, le=1)]


class Card(BaseModel):
    """A part of a catalog; what else it holds is kept."""

    model_config = ConfigDict(strict=True, extra="allow", allow_inf_nan=False)


class Headline(Card):
    checkpoint: Name
    batch_size: Annotated[int, Field(ge=1)]


class ScenarioCard(Card):
    """Setting and facts of a scenario; ``tau`` is in dB, of texts a share of words."""

    name: Name
    title: str = ""
    kind: Literal["demo", "ranked"] = "demo"
    description: str = ""
    measure: Literal["psnr", "exact_tokens"] = "psnr"
    server: str = "curious"
    local_steps: Annotated[int, Field(ge=1)] = 1
    checkpoints: dict[Name, Count]
    headline: Headline
    seeds: list[Count] = []
    tau: float | None = None
    chance: Share | None = None
    chance_personal: Share | None = None
    test_examples: Count | None = None


class Scoring(Card):
    confidence: Annotated[float, Field(gt=0, lt=1)]


class DefenseCard(Card):
    title: Annotated[str, Field(min_length=1)]
    cite: str = ""
    url: Address = ""
    summary: str = ""
    note: str = ""
    personalised: bool = False
    randomised: bool = False
    points: dict[Name, dict[str, Any]]


class AttackCard(Card):
    title: Annotated[str, Field(min_length=1)]
    cite: str = ""
    url: Address = ""
    summary: str = ""
    note: str = ""
    threat: Literal["curious", "auxiliary", "malicious"] = "curious"
    parameters: dict[str, Any] = {}
    settings: dict[Literal["board", "published"], dict[str, Any]] = {}


class EvidenceCard(Card):
    knowledge: Literal["oblivious", "paper", "adaptive"]
    summary: str = ""
    own: bool = False


class Catalog(Card):
    """catalog.json; evidence is called ``defense/evidence``."""

    scenario: ScenarioCard
    scoring: Scoring
    defenses: dict[Name, DefenseCard]
    attacks: dict[Name, AttackCard]
    evidence: dict[Annotated[str, Field(pattern=r"^[^/]+/[^/]+$")], EvidenceCard]
    metrics: dict[str, dict[str, Any]]


class Provenance(Card):
    """provenance.json."""

    commit: str = ""
    dirty: bool = False
    created: str = ""
    command: str = ""
    params_digest: str = ""
    data: dict[str, Any] = {}
    machine: dict[str, Any] = {}
    versions: dict[str, str] = {}
    commits: list[str] = []
    cells: dict[str, Count] = {}
    files: dict[str, str] = {}


def catalog(
    name: str,
    params: Params,
    tau: float,
    test_labels: Sequence[int],
    client_labels: Sequence[Sequence[int]],
) -> dict[str, Any]:
    """catalog.json of one scenario, with the labels of its test set and of each client."""
    from benchmark.attacks.base import get as attack
    from benchmark.defenses.base import get as defense
    from benchmark.evidence.base import registered_evidence

    scenario = params.board(name)
    federation, observation = scenario.federation, scenario.observation
    defenses, known = {}, {}
    for entrant, points in scenario.entrants.items():
        cls = defense(entrant)
        defenses[entrant] = {
            **{each: getattr(cls, each) for each in ("cite", "url", "summary", "note")},
            "title": cls.title or entrant,
            "randomised": cls.randomised,
            "personalised": cls.personalised(),
            "points": points,
        }
        for entry in registered_evidence(entrant):
            known[f"{entrant}/{entry.name}"] = {
                "knowledge": entry.knowledge,
                "summary": entry.summary,
                "own": entry.defense == entrant,
            }
    return {
        "schema": SCHEMA,
        "scenario": {
            "name": name,
            **scenario.model_dump(include={"title", "kind", "description", "data"}),
            "measure": "exact_tokens" if DATASETS[scenario.data].kind == "text" else "psnr",
            **federation.model_dump(),
            **observation.model_dump(include={"victims", "split", "batch_sizes", "side"}),
            "batch_sizes": list(observation.batch_sizes),
            "checkpoints": dict(federation.checkpoints),
            "seeds": list(scenario.seeds),
            "tau": tau,
            "headline": scenario.headline.model_dump(),
            "chance": _largest(test_labels),
            "chance_personal": sum(map(_largest, client_labels)) / len(client_labels),
            "test_examples": len(test_labels),
        },
        "scoring": params.scoring.model_dump(),
        "defenses": defenses,
        "attacks": {
            each: _card(attack(each), chosen, federation.checkpoints)
            for each, chosen in scenario.attacks.items()
        },
        "evidence": known,
        "metrics": described(),
    }


def _card(attack: Attack, chosen: Overrides, checkpoints: Iterable[str]) -> dict[str, Any]:
    """What a board says about an attack; its parameters as the board has them, and as published."""
    board = attack.configured(**chosen.fields).parameters()
    return {
        **{each: getattr(attack, each) for each in ("cite", "url", "summary", "threat")},
        "title": attack.title or attack.name,
        "parameters": board,
        "settings": {BOARD: board, PUBLISHED: attack.parameters()},
        "checkpoints": list(chosen.checkpoints or checkpoints),
    }


def _largest(labels: Sequence[int]) -> float:
    """The largest class's share."""
    return max(Counter(labels).values()) / len(labels)
