"""params.yaml as validated, frozen types.

Reading imports no plug-in, and so no torch (light stages stay light): names are held against the
files that there are. Parameters of defenses and attacks are held against their classes by
:mod:`benchmark.pipeline.check`, and again when the classes are built.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar

from pydantic import AfterValidator, Field, model_validator
from pydantic_core import PydanticCustomError

from benchmark.config.errors import ParamsError, Section, choose, validated, wrong
from benchmark.config.registry import ATTACKS, DATASETS, DEFENSES, MODELS, NAME, PARTITIONS

__all__ = ["Attack", "Defense", "Params", "ParamsError", "Scenario", "Scoring", "load_params"]

LONGEST = 40
"""Characters of a name: files are called after several of them."""
DEFAULT_POINT = "default"
RUN_ON = ("checkpoints", "knowledge", "batch_sizes", "settings")
"""Keys of an attack that say where it is run; the others are its parameters."""
RESERVED = ("checked", "scores")
"""Names in the folder of artifacts that are no scenario's."""

T = TypeVar("T")


def _each_once(values: tuple[T, ...]) -> tuple[T, ...]:
    for value in values:
        if values.count(value) > 1:
            raise PydanticCustomError("twice", "{value} stands there twice", {"value": repr(value)})
    return values


def _printable(text: str) -> str:
    if any(ord(letter) in (*range(10), *range(11, 32), 127) for letter in text):
        raise PydanticCustomError("control", "must have no control characters")
    return text


Name = Annotated[str, Field(pattern=NAME, max_length=LONGEST)]
Text = Annotated[str, Field(min_length=1), AfterValidator(_printable)]
Count = Annotated[int, Field(gt=0, le=10**9)]
Rate = Annotated[float, Field(gt=0)]
Seed = Annotated[int, Field(ge=0, lt=2**32)]
Unique = Annotated[tuple[T, ...], AfterValidator(_each_once)]
Some = Annotated[Unique[T], Field(min_length=1)]
"""At least one, none of them twice."""
Point = Annotated[str, Field(pattern=r"^[a-z0-9]+([.-][a-z0-9]+)*$", max_length=LONGEST)]
Points = Annotated[dict[Point, dict[str, Any]], Field(min_length=1)]
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
    partition: Name
    alpha: Annotated[float, Field(gt=0, le=10**6)] | None = None
    """Dirichlet concentration; dominant: the share of each class for its own clients; iid: none."""
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
    batch_sizes: Some[Count]
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


class Splits(Section):
    """Numbers of examples; no example is in two of them."""

    client: Count
    """Those that the clients train on."""
    test: Count
    auxiliary: Count
    """What attacks that learn, and the no-attack baseline, may see."""
    tuning: Count
    """What attacks are tuned on."""
    report: Count
    """Those that are attacked and reported."""


class Defense(Section):
    """Operating points of one defense, in the order of the file: name -> all its parameters."""

    common: dict[str, Any]
    """What the file gives to all points at once; it stands in each of them too."""
    points: Points

    @model_validator(mode="before")
    @classmethod
    def _apart(cls, entry: Any) -> Any:
        """``{common fields, points: {name: fields}}`` with the common fields in every point."""
        if not isinstance(entry, dict):
            return entry
        common = {name: value for name, value in entry.items() if name != "points"}
        points = entry.get("points", {DEFAULT_POINT: {}})
        if isinstance(points, dict):
            points = {
                n: common | own if isinstance(own, dict) else own for n, own in points.items()
            }
        return {"common": common, "points": points}


class Attack(Section):
    """Overrides of one attack's declaration, and what it is run on (None: everything)."""

    checkpoints: Some[Name] | None = None
    knowledge: Some[Literal["oblivious", "paper", "adaptive"]] | None = None
    """Of the evidence."""
    batch_sizes: Some[Count] | None = None
    """Of the attacked messages."""
    settings: Some[Literal["board", "published"]] = ("board", "published")
    """With the overrides here, and as the attack's file declares it; the latter on the control
    alone, for the first seed, and where it is something else."""
    fields: dict[str, Any]

    @model_validator(mode="before")
    @classmethod
    def _apart(cls, entry: Any) -> Any:
        """Its parameters as ``fields``, beside the keys that say where it is run."""
        if not isinstance(entry, dict):
            return entry
        where = {name: value for name, value in entry.items() if name in RUN_ON}
        return {"fields": {n: v for n, v in entry.items() if n not in RUN_ON}, **where}


class Saturation(Section):
    """Whether more evaluations would have helped: larger budgets for a few victims."""

    victims: Count
    """Of the first seed, per operating point and checkpoint."""
    budgets: Some[Literal[3, 10]]
    """Multiples of the budget that the attack ``auto`` has on the board."""


class Scenario(Section):
    """One board: data, victim model, federated setting, who enters and who attacks.

    In the file ``entrants`` and ``attacks`` may be lists of names, or mappings of names to some of
    a defense's points, or to further overrides of an attack; ``seeds`` and ``saturation`` that a
    scenario leaves out are those of the whole file.
    """

    title: Text
    description: Text
    kind: Literal["demo", "ranked"]
    data: Name
    splits: Splits
    federation: Federation
    observation: Observation
    headline: Headline
    seeds: Some[Seed]
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

    boards: Some[Name]
    """The scenarios that the pipeline computes."""
    seeds: Some[Seed]
    scenarios: dict[Name, Scenario] = Field(min_length=1)
    defenses: dict[Name, Defense] = Field(min_length=1)
    attacks: dict[Name, Attack]
    scoring: Scoring = Scoring()
    saturation: Saturation | None = None
    """Of every scenario that has none of its own; null: not measured."""

    def board(self, name: str) -> Scenario:
        """The scenario of one of the boards.

        Raises:
            ParamsError: the pipeline does not compute it.
        """
        choose("boards", name, self.boards)
        return self.scenarios[name]


def load_params(path: Path | str = "params.yaml") -> Params:
    """Read a params file and check all of it but the parameters of plug-ins.

    Raises:
        ParamsError: something is wrong with it.
    """
    data = _read(Path(path))
    overrides = data.get("attacks")
    for key, registry, kind in (("defenses", DEFENSES, Defense), ("attacks", ATTACKS, Attack)):
        for name in data[key] if isinstance(data.get(key), dict) else ():
            choose(key, name, registry.names())
        if key in data:
            data[key] = validated(dict[str, kind], data[key], key)  # type: ignore[valid-type]
    if isinstance(data.get("scenarios"), dict):
        data["scenarios"] = {
            name: _in_full(f"scenarios.{name}", entry, data, overrides or {})
            for name, entry in data["scenarios"].items()
        }
    params: Params = validated(Params, data)
    for key, empty in (("scoring", "{}"), ("saturation", "null")):
        if key not in data:  # stages depend on them by name
            raise ParamsError(f"{key}: missing; write `{key}: {empty}` to do without")
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


def _in_full(
    key: str, scenario: Any, data: dict[str, Any], overrides: dict[str, dict[str, Any]]
) -> Any:
    """A scenario with the operating points of its entrants, its attacks' overrides, its seeds."""
    if not isinstance(scenario, dict):
        return scenario
    inherited: dict[str, Any] = {n: data[n] for n in ("seeds", "saturation") if n in data}
    full = inherited | scenario
    if "entrants" in full:
        at, known = f"{key}.entrants", data.get("defenses", {})
        listed = _named(at, full["entrants"], known, tuple, "defenses")
        full["entrants"] = {n: _chosen(f"{at}.{n}", own, known[n].points) for n, own in listed}
    if "attacks" in full:
        listed = _named(f"{key}.attacks", full["attacks"], overrides, dict, "attacks")
        full["attacks"] = {name: _over(overrides[name], own) for name, own in listed}
    return full


def _named(
    key: str, entry: Any, known: dict[str, Any], kind: type[tuple] | type[dict], section: str
) -> list[tuple[str, Any]]:
    """The pairs of a mapping to values of one kind, or a list's names beside empty ones."""
    if isinstance(entry, tuple):
        for name in validated(Unique[Any], entry, key):
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
    for name in validated(Unique[Any], wanted, key):
        choose(key, name, points, "is no operating point")
    return {name: points[name] for name in wanted}


def _over(below: dict[str, Any], above: dict[str, Any]) -> dict[str, Any]:
    """Nested mappings merged; a part that is exchanged for another (``is``) replaces all of it."""
    merged = dict(below)
    for name, value in above.items():
        known = merged.get(name)
        if isinstance(value, dict) and isinstance(known, dict) and "is" not in value:
            value = _over(known, value)
        merged[name] = value
    return merged


def _cross_check(params: Params) -> None:
    """What no single section can know."""
    for name in params.boards:
        choose("boards", name, params.scenarios, "has no entry under scenarios")
    for name, scenario in params.scenarios.items():
        if name in RESERVED:
            raise wrong("scenarios", name, f"{', '.join(RESERVED)} are folders of artifacts")
        _check_scenario(f"scenarios.{name}", scenario)
    boards = params.scenarios.values()
    checkpoints = sorted({each for board in boards for each in board.federation.checkpoints})
    sizes = sorted({each for board in boards for each in board.observation.batch_sizes})
    _check_listed("attacks", params.attacks, checkpoints, sizes)
    for name, scenario in params.scenarios.items():
        _check_listed(f"scenarios.{name}.attacks", scenario.attacks, checkpoints, sizes)
        for listed, attack in scenario.attacks.items():
            _check_narrowed(f"attacks.{listed}", attack, f"scenarios.{name}", scenario)


def _check_listed(
    key: str, attacks: dict[str, Attack], checkpoints: list[str], sizes: list[int]
) -> None:
    """What an attack is run on must be found on some board."""
    for name, attack in attacks.items():
        for checkpoint in attack.checkpoints or ():
            choose(f"{key}.{name}.checkpoints", checkpoint, checkpoints)
        for size in attack.batch_sizes or ():
            choose(f"{key}.{name}.batch_sizes", size, sizes)


def _check_scenario(key: str, scenario: Scenario) -> None:
    federation, observation = scenario.federation, scenario.observation
    choose(f"{key}.data", scenario.data, DATASETS.names())
    choose(f"{key}.federation.model", federation.model, MODELS.names())
    choose(f"{key}.federation.partition", federation.partition, PARTITIONS.names())
    if "none" not in scenario.entrants:
        rule = "must have 'none', the undefended run"
        raise wrong(f"{key}.entrants", tuple(scenario.entrants), rule)
    _check_federation(f"{key}.federation", federation)
    _check_sizes(f"{key}.splits", scenario)
    headline = scenario.headline
    choose(f"{key}.headline.checkpoint", headline.checkpoint, federation.checkpoints)
    if headline.batch_size not in observation.batch_sizes:
        allowed = ", ".join(map(str, observation.batch_sizes))
        rule = f"must be one of observation.batch_sizes: {allowed}"
        raise wrong(f"{key}.headline.batch_size", headline.batch_size, rule)


def _check_sizes(key: str, scenario: Scenario) -> None:
    """A batch for every client, and other images for every victim of every seed."""
    federation, observation = scenario.federation, scenario.observation
    needed = federation.clients * federation.batch_size
    if scenario.splits.client < needed:
        rule = f"{federation.clients} clients with batches of {federation.batch_size} need {needed}"
        raise wrong(f"{key}.client", scenario.splits.client, rule)
    each = max(observation.batch_sizes) * federation.local_steps
    needed = len(scenario.seeds) * observation.victims * each
    if getattr(scenario.splits, observation.split) < needed:
        rule = f"{observation.victims} victims of {len(scenario.seeds)} seeds need {needed}"
        raise wrong(f"{key}.{observation.split}", getattr(scenario.splits, observation.split), rule)


def _check_narrowed(key: str, attack: Attack, board: str, scenario: Scenario) -> None:
    """An attack that a scenario lists must have something there that it is run on."""
    for field, listed, there in (
        ("checkpoints", attack.checkpoints, tuple(scenario.federation.checkpoints)),
        ("batch_sizes", attack.batch_sizes, scenario.observation.batch_sizes),
    ):
        if listed is not None and not {*listed} & {*there}:
            has = ", ".join(map(str, there))
            raise wrong(f"{key}.{field}", listed, f"{board} has {has}, and lists the attack")
    if attack.settings == ("published",) and not attack.fields:
        rule = f"{board} changes nothing of the attack, so its settings are the board's"
        raise wrong(f"{key}.settings", attack.settings, rule)


def _check_federation(key: str, federation: Federation) -> None:
    for checkpoint, number in federation.checkpoints.items():
        if number > federation.rounds:
            rule = f"training ends after round {federation.rounds}"
            raise wrong(f"{key}.checkpoints.{checkpoint}", number, rule)
    step = federation.local_learning_rate
    if federation.algorithm == "fedsgd" and federation.local_steps != 1:
        raise wrong(f"{key}.local_steps", federation.local_steps, "must be 1 for fedsgd")
    if federation.algorithm == "fedsgd" and step is not None:
        raise wrong(f"{key}.local_learning_rate", step, "must be left out for fedsgd")
    if federation.algorithm == "fedavg" and step is None:
        raise wrong(f"{key}.local_learning_rate", step, "must be a positive number for fedavg")
