"""params.yaml as validated, frozen types.

Reading takes no torch (light stages stay light), so the parameters of defenses and attacks are
checked against what their files declare: names and types here, ranges when the class is built.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field, create_model

from benchmark.config.declared import PACKAGE, Declared, attacks, defenses
from benchmark.config.errors import ParamsError, Section, choose, unique, validated, wrong

__all__ = ["Attack", "Defense", "Params", "ParamsError", "Scenario", "Scoring", "load_params"]

NAME = r"^[a-z][a-z0-9-]*$"
POINT = r"^[a-z0-9][a-z0-9.-]*$"
DEFAULT_POINT = "default"
DATASETS = ("digits", "fashion-mnist", "cifar10", "docstrings", "next-word", "cola")
TEXTS = ("docstrings", "next-word", "cola")
"""The data sets whose examples are sentences."""
TEXT_MODELS = ("transformer",)
IMAGES_ONLY = ("dpsgd", "fedrep", "hyperfl")
"""Defenses that stand on layers which models of texts do not have."""
RUN_ON = ("checkpoints", "knowledge", "batch_sizes", "settings")
"""Keys of an attack that say where it is run; the others are its parameters."""
SPLITS = ("client", "test", "auxiliary", "tuning", "report")

Name = Annotated[str, Field(pattern=NAME)]
Count = Annotated[int, Field(gt=0, le=10**9)]
Rate = Annotated[float, Field(gt=0)]
Seed = Annotated[int, Field(ge=0, lt=2**32)]
Points = dict[str, dict[str, Any]]
"""Operating points in the order of the file: name -> all parameters."""


class Side(Section):
    """What the server is granted beyond messages."""

    labels: bool
    """The labels behind each message."""
    order: bool = False
    """With several local steps, also which labels belong to which step."""


class Federation(Section):
    """How a scenario's model is trained."""

    model: Name
    clients: Count
    partition: Literal["iid", "dirichlet", "dominant"]
    alpha: Rate | None = None
    """Dirichlet concentration; dominant: the share of each class dealt to all; iid: none."""
    algorithm: Literal["fedsgd", "fedavg"]
    local_steps: Count = 1
    batch_size: Count
    """Training examples per local step."""
    rounds: Count
    learning_rate: Rate
    """Of the server's optimiser."""
    momentum: Annotated[float, Field(ge=0, lt=1)] = 0.0
    local_learning_rate: Rate | None = None
    """Of the clients' local steps; fedavg only."""
    private_learning_rate: Rate = 0.1
    """Of the parameters that never leave their client."""
    server: Literal["curious", "malicious"] = "curious"
    """A malicious server puts an imprint block in front of the model, weights included."""
    target_accuracy: Annotated[float, Field(gt=0, le=1)]
    """Test accuracy up to which bytes are counted."""
    checkpoints: dict[Name, Annotated[int, Field(ge=0)]] = Field(min_length=1)
    """Name -> finished rounds when the server looks (0: the untrained model)."""


class Observation(Section):
    """What the server is shown at each checkpoint."""

    victims: Count
    """Per seed."""
    batch_sizes: tuple[Count, ...] = Field(min_length=1)
    """Images per local step of the attacked messages."""
    side: Side
    split: Literal["report", "tuning"] = "report"
    """Whose images are attacked: ``tuning`` is for choosing priors and rules, never published."""
    window: Annotated[int, Field(ge=0, le=10**6)] = 0
    """Earlier messages of a victim's client that the server kept, where its defense holds anything
    back from round to round: those say what it holds."""


class Headline(Section):
    """Where the entries of a scenario are ranked; elsewhere there are intervals and no ranks."""

    checkpoint: Name
    batch_size: Count
    """Of the attacked messages."""


class Defense(Section):
    """Operating points of one defense, in the order of the file: name -> all its parameters."""

    points: Points = Field(min_length=1)


class Attack(Section):
    """Overrides of one attack's declaration, and what it is run on (None: everything)."""

    checkpoints: tuple[Name, ...] | None = None
    knowledge: tuple[Literal["oblivious", "paper", "adaptive"], ...] | None = None
    """Of the evidence attacked."""
    batch_sizes: tuple[Count, ...] | None = None
    """Of the attacked messages."""
    settings: tuple[Literal["board", "published"], ...] = ("board", "published")
    """With the overrides here, and as the attack's file declares it; the latter on the control
    alone, for the first seed, and where it is something else."""
    fields: dict[str, Any]


class Saturation(Section):
    """Whether more evaluations would have helped: larger budgets for a few victims."""

    victims: Count
    """Of the first seed, per operating point and checkpoint."""
    budgets: tuple[Literal[3, 10], ...] = Field(min_length=1)
    """Multiples of the budget that the attack ``auto`` has on the board."""


class Scenario(Section):
    """One board: data, victim model, federated setting, who enters and who attacks.

    In the file ``entrants`` and ``attacks`` may be lists of names, or mappings of names to some of
    a defense's points, or to further overrides of an attack; ``seeds`` and ``saturation`` that a
    scenario leaves out are those of the whole file.
    """

    title: str
    description: str
    kind: Literal["demo", "ranked"]
    data: Name
    splits: dict[Name, Count]
    """Images of client, test, auxiliary, tuning and report; no image is in two of them."""
    federation: Federation
    observation: Observation
    headline: Headline
    seeds: tuple[Seed, ...] = Field(min_length=1)
    entrants: dict[Name, Points] = Field(min_length=1)
    """Defense -> its operating points on this board."""
    attacks: dict[Name, Attack] = Field(min_length=1)
    saturation: Saturation | None = None
    """None: not measured."""

    @property
    def points(self) -> list[tuple[str, str]]:
        """Every entrant's every operating point, in the order of the file."""
        return [(name, point) for name, points in self.entrants.items() for point in points]


class Scoring(Section):
    """How reconstructions become numbers."""

    confidence: Annotated[float, Field(gt=0, lt=1)] = 0.95
    psnr_tau_min: Annotated[float, Field(ge=0, lt=60)] = 20.0
    """Least PSNR in dB that counts as recovered."""
    candidates: Annotated[int, Field(ge=2, le=10**6)] = 100
    """Images that an identified victim is told apart from, itself included."""


class Params(Section):
    """The whole of params.yaml."""

    boards: tuple[Name, ...] = Field(min_length=1)
    """The scenarios that the pipeline computes."""
    seeds: tuple[Seed, ...] = Field(min_length=1)
    scenarios: dict[Name, Scenario] = Field(min_length=1)
    defenses: dict[Name, Defense] = Field(min_length=1)
    attacks: dict[Name, Attack]
    scoring: Scoring = Scoring()
    saturation: Saturation | None = None

    def board(self, name: str) -> Scenario:
        """The scenario of one of the boards.

        Raises:
            ParamsError: the pipeline does not compute it.
        """
        choose("boards", name, self.boards)
        return self.scenarios[name]


def load_params(path: Path | str = "params.yaml", package: Path = PACKAGE) -> Params:
    """Read and check a params file against the plug-ins of ``package``.

    Raises:
        ParamsError: anything at all is wrong with it.
    """
    data = _read(Path(path))
    try:
        known_defenses, known_attacks = defenses(package), attacks(package)
    except SyntaxError as error:
        raise ParamsError(f"the plug-ins cannot be read: {error}") from None
    for key, known, reader in (
        ("defenses", known_defenses, _points),
        ("attacks", known_attacks, _overrides),
    ):
        if key in data:
            data[key] = _section(key, data[key], known, reader)
    if isinstance(data.get("scenarios"), dict):
        shared = {name: data.get(name, {}) for name in ("defenses", "attacks")}
        data["scenarios"] = {
            name: _in_full(f"scenarios.{name}", entry, data, shared, known_attacks)
            for name, entry in data["scenarios"].items()
        }
    params = validated(Params, data)
    _cross_check(params)
    return params


def _read(path: Path) -> dict[str, Any]:
    """The file's content, parsed as DVC does (1e-4 is a number there), lists as tuples."""
    from ruamel.yaml import YAML, YAMLError

    try:
        data = _tuples(YAML(typ="safe").load(path.read_text(encoding="utf-8")))
    except OSError as error:
        raise ParamsError(f"{path}: {error.strerror}") from None
    except RecursionError:
        raise ParamsError(f"{path}: nested too deeply, or in itself") from None
    except YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        place = f"line {mark.line + 1}: " if mark else ""
        raise ParamsError(f"{path}: {place}{getattr(error, 'problem', None) or error}") from None
    except Exception as error:  # whatever a tag's constructor makes of a bad value: !!int x
        raise ParamsError(f"{path}: not YAML: {error or type(error).__name__}") from None
    if not isinstance(data, dict):
        raise wrong(str(path), data, f"must be a mapping of {', '.join(Params.model_fields)}")
    return data


def _tuples(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _tuples(item) for key, item in value.items()}
    return tuple(map(_tuples, value)) if isinstance(value, list) else value


def _section(
    key: str,
    section: Any,
    known: dict[str, Declared],
    reader: Callable[[str, dict[str, Any], Declared], dict[str, Any]],
) -> dict[str, Any]:
    """Each entry of ``defenses`` or ``attacks``, read against its declaration."""
    if not isinstance(section, dict):
        raise wrong(key, section, "must be a mapping of names to mappings")
    read = {}
    for name, entry in section.items():
        choose(key, name, known)
        if not isinstance(entry, dict):
            raise wrong(f"{key}.{name}", entry, "must be a mapping, {} at least")
        read[name] = reader(f"{key}.{name}", entry, known[name])
    return read


def _points(key: str, entry: dict[str, Any], declared: Declared) -> dict[str, Any]:
    """``{common fields, points: {name: fields}}`` with the common fields in every point."""
    common = {name: value for name, value in entry.items() if name != "points"}
    _keys(key, common, [*declared.fields, "points"])
    if "points" not in entry:
        return {"points": {DEFAULT_POINT: _fields(key, common, declared)}}
    points = entry["points"]
    if not isinstance(points, dict) or not points:
        raise wrong(f"{key}.points", points, "must name at least one point")
    read = {}
    for name, fields in points.items():
        if not isinstance(name, str) or not re.fullmatch(POINT[1:-1], name):
            raise wrong(
                f"{key}.points", name, "a name is of lower-case letters, digits, hyphens, dots"
            )
        if not isinstance(fields, dict):
            raise wrong(f"{key}.points.{name}", fields, "must be a mapping, {} at least")
        read[name] = _fields(f"{key}.points.{name}", common | fields, declared)
    return {"points": read}


def _overrides(key: str, entry: dict[str, Any], declared: Declared) -> dict[str, Any]:
    where = {name: value for name, value in entry.items() if name in RUN_ON}
    fields = {name: value for name, value in entry.items() if name not in RUN_ON}
    _keys(key, fields, [*declared.fields, *sorted(declared.parts), *RUN_ON])
    parts = {name: fields.pop(name) for name in [*fields] if name in declared.parts}
    for name, changes in parts.items():
        if not isinstance(changes, dict):
            raise wrong(f"{key}.{name}", changes, "must be a mapping of its own parameters")
    optional = Declared(declared.name, declared.file, declared.fields)
    return {"fields": _fields(key, fields, optional) | parts, **where}


def _in_full(
    key: str,
    scenario: Any,
    data: dict[str, Any],
    shared: dict[str, dict[str, Any]],
    declared: dict[str, Declared],
) -> Any:
    """A scenario with the operating points of its entrants, its attacks' overrides, its seeds."""
    if not isinstance(scenario, dict):
        return scenario
    inherited: dict[str, Any] = {n: data[n] for n in ("seeds", "saturation") if n in data}
    full = inherited | scenario
    if "entrants" in full:
        full["entrants"] = {
            name: _chosen(f"{key}.entrants.{name}", points, shared["defenses"][name]["points"])
            for name, points in _named(
                f"{key}.entrants", full["entrants"], shared["defenses"], tuple, "defenses"
            )
        }
    if "attacks" in full:
        full["attacks"] = {
            name: _merged(
                shared["attacks"][name], _overrides(f"{key}.attacks.{name}", own, declared[name])
            )
            for name, own in _named(
                f"{key}.attacks", full["attacks"], shared["attacks"], dict, "attacks"
            )
        }
    return full


def _named(
    key: str, entry: Any, known: dict[str, Any], kind: type[tuple] | type[dict], section: str
) -> list[tuple[str, Any]]:
    """The pairs of a mapping to values of one kind, or a list's names beside empty ones."""
    if isinstance(entry, tuple):
        unique(key, entry)
        for name in entry:
            choose(key, name, known, f"has no entry under {section}")
        entry = {name: kind() for name in entry}
    if not isinstance(entry, dict):
        raise wrong(key, entry, "must be a list of names, or a mapping of them")
    for name, own in entry.items():
        choose(key, name, known, f"has no entry under {section}")
        if not isinstance(own, kind):
            what = "a list of its points" if kind is tuple else "a mapping, {} at least"
            raise wrong(f"{key}.{name}", own, f"must be {what}")
    return list(entry.items())


def _chosen(key: str, wanted: Any, points: dict[str, Any]) -> dict[str, Any]:
    """Some of a defense's points, all of them where none is named."""
    if not wanted:
        return points
    unique(key, wanted)
    for name in wanted:
        choose(key, name, points, "is no operating point")
    return {name: points[name] for name in wanted}


def _merged(shared: dict[str, Any], own: dict[str, Any]) -> dict[str, Any]:
    """An attack's overrides of the whole file, and a scenario's own over them."""
    return {**shared, **own, "fields": _over(shared["fields"], own["fields"])}


def _over(below: dict[str, Any], above: dict[str, Any]) -> dict[str, Any]:
    """Nested mappings merged; a part that is exchanged for another (``is``) replaces all of it."""
    merged = dict(below)
    for name, value in above.items():
        known = merged.get(name)
        if isinstance(value, dict) and isinstance(known, dict) and "is" not in value:
            value = _over(known, value)
        merged[name] = value
    return merged


def _fields(key: str, values: dict[str, Any], declared: Declared) -> dict[str, Any]:
    """The given values as the declared types: an int given for a float becomes one."""
    _keys(key, values, declared.fields)
    types: dict[str, Any] = {
        name: (kind, ... if name in declared.required else None)
        for name, kind in declared.fields.items()
    }
    model = create_model(declared.name, __base__=Section, **types)
    return validated(model, values, key).model_dump(exclude_unset=True)


def _keys(key: str, values: Iterable[Any], allowed: Iterable[str]) -> None:
    for name in values:
        choose(key, name, allowed, "is no key here")


def _cross_check(params: Params) -> None:
    """What no single section can know."""
    unique("boards", params.boards)
    for name in params.boards:
        choose("boards", name, params.scenarios, "has no entry under scenarios")
    for name, scenario in params.scenarios.items():
        _check_scenario(f"scenarios.{name}", scenario)
    everywhere = sorted({c for s in params.scenarios.values() for c in s.federation.checkpoints})
    for name, attack in params.attacks.items():
        for checkpoint in attack.checkpoints or ():
            choose(f"attacks.{name}.checkpoints", checkpoint, everywhere)
    for name, scenario in params.scenarios.items():
        for listed, own in scenario.attacks.items():
            _check_narrowed(f"attacks.{listed}", own, f"scenarios.{name}", scenario)


def _check_scenario(key: str, scenario: Scenario) -> None:
    choose(f"{key}.data", scenario.data, DATASETS)
    for part in SPLITS:
        if part not in scenario.splits:
            raise wrong(f"{key}.splits", scenario.splits, f"must have {', '.join(SPLITS)}")
    for part in scenario.splits:
        choose(f"{key}.splits", part, SPLITS)
    unique(f"{key}.seeds", scenario.seeds)
    unique(f"{key}.observation.batch_sizes", scenario.observation.batch_sizes)
    for entrant in scenario.entrants:
        if entrant in IMAGES_ONLY and scenario.data in TEXTS:
            raise wrong(f"{key}.entrants", entrant, "it defends models of images only")
    if "none" not in scenario.entrants:
        raise wrong(
            f"{key}.entrants", tuple(scenario.entrants), "must have 'none', the undefended run"
        )
    choose(f"{key}.federation.model", scenario.federation.model, _models(scenario.data in TEXTS))
    if scenario.data in TEXTS and scenario.federation.server == "malicious":
        raise wrong(f"{key}.federation.server", "malicious", "the imprint block reads images only")
    _check_federation(f"{key}.federation", scenario.federation)
    choose(f"{key}.headline.checkpoint", scenario.headline.checkpoint,
           scenario.federation.checkpoints)  # fmt: skip
    if scenario.headline.batch_size not in scenario.observation.batch_sizes:
        allowed = ", ".join(map(str, scenario.observation.batch_sizes))
        raise wrong(f"{key}.headline.batch_size", scenario.headline.batch_size,
                    f"must be one of observation.batch_sizes: {allowed}")  # fmt: skip


def _check_narrowed(key: str, attack: Attack, board: str, scenario: Scenario) -> None:
    """An attack that a scenario lists must have something there that it is run on."""
    for field, listed, there in (
        ("checkpoints", attack.checkpoints, tuple(scenario.federation.checkpoints)),
        ("batch_sizes", attack.batch_sizes, scenario.observation.batch_sizes),
    ):
        if listed is not None and not {*listed} & {*there}:
            has = ", ".join(map(str, there))
            raise wrong(f"{key}.{field}", listed, f"{board} has {has}, and lists the attack")


def _check_federation(key: str, federation: Federation) -> None:
    for checkpoint, number in federation.checkpoints.items():
        if number > federation.rounds:
            rule = f"training ends after round {federation.rounds}"
            raise wrong(f"{key}.checkpoints.{checkpoint}", number, rule)
    alpha, step = federation.alpha, federation.local_learning_rate
    if federation.partition == "iid" and alpha is not None:
        raise wrong(f"{key}.alpha", alpha, "an iid partition has none")
    if federation.partition == "dirichlet" and alpha is None:
        raise wrong(f"{key}.alpha", alpha, "a dirichlet partition needs a positive number")
    if federation.partition == "dominant" and not (alpha is not None and alpha <= 1):
        raise wrong(f"{key}.alpha", alpha, "a dominant partition needs a share in (0, 1]")
    if federation.algorithm == "fedsgd" and federation.local_steps != 1:
        raise wrong(f"{key}.local_steps", federation.local_steps, "fedsgd has 1")
    if federation.algorithm == "fedsgd" and step is not None:
        raise wrong(f"{key}.local_learning_rate", step, "fedsgd has none")
    if federation.algorithm == "fedavg" and step is None:
        raise wrong(f"{key}.local_learning_rate", step, "fedavg needs a positive number")


def _models(text: bool) -> list[str]:
    """The victim models that read texts, or those that read images."""
    files = (path.stem for path in (PACKAGE / "models").glob("[a-z]*.py"))
    return sorted(name for name in files if name != "base" and (name in TEXT_MODELS) == text)
