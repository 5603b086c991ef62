"""A params file becomes checked types, or one line that says what is wrong with it."""

from __future__ import annotations

import copy
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from ruamel.yaml import YAML

from benchmark.config.schema import Params, ParamsError, load_params
from benchmark.defenses.base import build
from benchmark.pipeline.check import check

ROOT = Path(__file__).parents[2]

BOARD: dict[str, Any] = {
    "boards": ["digits"],
    "seeds": [0, 1],
    "scenarios": {
        "digits": {
            "title": "Digits",
            "description": "Small.",
            "kind": "demo",
            "data": "digits",
            "splits": {"client": 100, "test": 20, "auxiliary": 20, "tuning": 10, "report": 40},
            "federation": {
                "model": "elu",
                "clients": 10,
                "partition": "dirichlet",
                "alpha": 0.5,
                "algorithm": "fedsgd",
                "batch_size": 8,
                "rounds": 150,
                "learning_rate": 0.1,
                "target_accuracy": 0.8,
                "checkpoints": {"init": 0, "early": 50},
            },
            "observation": {"victims": 8, "batch_sizes": [1], "side": {"labels": True}},
            "headline": {"checkpoint": "early", "batch_size": 1},
            "entrants": ["none", "dgp"],
            "attacks": ["ig"],
        }
    },
    "defenses": {
        "none": {},
        "dgp": {"drop_largest": 0.05, "points": {"paper": {}, "weak": {"drop_smallest": 0.1}}},
    },
    "attacks": {"ig": {"iterations": 10, "checkpoints": ["init"]}},
    "scoring": {},
    "saturation": None,
}


def _write(path: Path, content: Any) -> Path:
    if isinstance(content, str):
        path.write_text(content, encoding="utf-8")
    else:
        YAML(typ="safe").dump(content, path)
    return path


def _changed(key: str, value: Any) -> dict[str, Any]:
    """BOARD with one dotted key set, or removed where the value is ``...``."""
    board = copy.deepcopy(BOARD)
    at: Any = board
    *parents, last = key.split(".")
    for part in parents:
        at = at[part]
    if value is ...:
        del at[last]
    else:
        at[last] = value
    return board


def test_the_committed_params_are_valid():
    load_params(ROOT / "params.yaml")


def test_common_fields_stand_in_every_point_and_nothing_means_one_default_point(tmp_path):
    params = load_params(_write(tmp_path / "p.yaml", BOARD))
    assert params.defenses["dgp"].points == {
        "paper": {"drop_largest": 0.05},
        "weak": {"drop_largest": 0.05, "drop_smallest": 0.1},
    }
    assert params.defenses["none"].points == {"default": {}}
    assert params.attacks["ig"].fields == {"iterations": 10}
    assert params.attacks["ig"].checkpoints == ("init",)


def test_a_scenario_has_its_own_points_overrides_and_seeds(tmp_path):
    board = _changed("scenarios.digits.entrants", {"none": [], "dgp": ["weak"]})
    board["scenarios"]["digits"] |= {"attacks": {"ig": {"restarts": 2}}, "seeds": [5]}
    params = load_params(_write(tmp_path / "p.yaml", board))
    scenario = params.board("digits")
    assert sorted(scenario.points) == [("dgp", "weak"), ("none", "default")]
    assert scenario.attacks["ig"].fields == {"iterations": 10, "restarts": 2}
    assert scenario.attacks["ig"].checkpoints == ("init",)
    assert scenario.seeds == (5,) and params.seeds == (0, 1)


def test_a_boards_override_of_one_part_leaves_the_rest_of_it(tmp_path):
    board = _changed("attacks.ig", {"optimiser": {"lr": 0.2}})
    board["scenarios"]["digits"]["attacks"] = {"ig": {"optimiser": {"decay": 0.5}}}
    fields = load_params(_write(tmp_path / "p.yaml", board)).board("digits").attacks["ig"].fields
    assert fields == {"optimiser": {"lr": 0.2, "decay": 0.5}}


def test_what_a_scenario_leaves_out_is_everybodys(tmp_path):
    scenario = load_params(_write(tmp_path / "p.yaml", BOARD)).board("digits")
    assert scenario.points == [("none", "default"), ("dgp", "paper"), ("dgp", "weak")]
    assert scenario.attacks["ig"].fields == {"iterations": 10}
    assert scenario.seeds == (0, 1) and scenario.saturation is None


def test_numbers_are_read_as_dvc_reads_them_and_become_the_declared_type(tmp_path):
    path = _write(tmp_path / "p.yaml", BOARD)
    path.write_text(path.read_text().replace("learning_rate: 0.1", "learning_rate: 1e-4"))
    params = load_params(path)
    assert params.scenarios["digits"].federation.learning_rate == 1e-4
    assert type(build("dgp", {"drop_largest": 0}).drop_largest) is float


F = "scenarios.digits.federation"


@pytest.mark.parametrize(
    ("key", "value", "says"),
    [
        ("seed", [0], ["'seed'", "did you mean seeds?", "scoring"]),
        ("seeds", [], ["seeds:"]),
        ("seeds", [0, -1], ["seeds.1:", "-1"]),
        ("seeds", [3, 3], ["seeds: (3, 3)", "3 stands there twice"]),
        ("seeds", [True], ["seeds.0:", "True"]),
        ("seeds", ..., ["seeds: missing"]),
        ("scenarios.digits.entrants", ["dgp"], ["digits.entrants", "'none'"]),
        ("scenarios.digits.entrants", ["none", "none"], ["digits.entrants", "twice"]),
        (
            "scenarios.digits.entrants",
            ["none", "dpg"],
            ["digits.entrants: 'dpg'", "dgp?", "dgp, none"],
        ),
        (
            "scenarios.digits.entrants",
            {"none": [], "dgp": ["weaker"]},
            ["scenarios.digits.entrants.dgp: 'weaker'", "did you mean weak?", "paper, weak"],
        ),
        (
            "scenarios.digits.entrants",
            {"none": {}},
            ["digits.entrants.none: {}", "list of its points"],
        ),
        ("scenarios.digits.entrants", "none", ["digits.entrants: 'none'", "list of names"]),
        ("scenarios.digits.entrants", [["none"]], ["digits.entrants: ('none',)"]),
        ("scenarios.digits.attacks", {"ig": {"iteration": 3}}, ["digits.attacks.ig: 'iteration'"]),
        ("scenarios.digits.attacks", {"ig": []}, ["digits.attacks.ig: ()", "mapping"]),
        ("scenarios.digits.seeds", [1, 1], ["scenarios.digits.seeds: (1, 1)", "twice"]),
        ("boards", ["cifar"], ["boards: 'cifar'", "allowed: digits"]),
        ("boards", ["digits", "digits"], ["boards: ('digits', 'digits')", "twice"]),
        ("boards", [], ["boards:"]),
        ("scenarios.digits.kind", "big", ["scenarios.digits.kind: 'big'", "demo", "ranked"]),
        ("scenarios.digits.data", "digit", ["scenarios.digits.data", "did you mean digits?"]),
        (
            "scenarios.digits.data",
            "cola",
            [f"{F}.model: 'elu'", "models that read it: transformer"],
        ),
        ("scenarios.digits.attacks", ["gi"], ["scenarios.digits.attacks: 'gi'", "allowed: ig"]),
        ("scenarios.digits.splits.client", 0, ["scenarios.digits.splits.client: 0", "greater"]),
        ("scenarios.Digits", {}, ["Digits"]),
        (f"{F}.model", "elo", [f"{F}.model: 'elo'", "elu"]),
        (f"{F}.round", 3, [F, "'round'", "did you mean rounds?", "momentum"]),
        (f"{F}.rounds", ..., [f"{F}.rounds: missing"]),
        (f"{F}.rounds", "many", [f"{F}.rounds: 'many'", "integer"]),
        (f"{F}.learning_rate", -0.1, [f"{F}.learning_rate: -0.1", "greater than 0"]),
        (f"{F}.learning_rate", float("nan"), [f"{F}.learning_rate: nan"]),
        (f"{F}.learning_rate", float("inf"), [f"{F}.learning_rate: inf"]),
        (f"{F}.checkpoints", {"late": 151}, [f"{F}.checkpoints.late: 151", "150"]),
        (f"{F}.partition", "iid", [f"{F}.alpha: 0.5", "iid"]),
        (f"{F}.alpha", ..., [f"{F}.alpha: None", "dirichlet"]),
        (f"{F}.local_steps", 4, [f"{F}.local_steps: 4", "fedsgd"]),
        (f"{F}.algorithm", "fedavg", [f"{F}.local_learning_rate", "fedavg"]),
        ("defenses.dgpp", {}, ["defenses: 'dgpp'", "did you mean dgp?", "hyperfl"]),
        ("defenses.dgp.drop", 0.1, ["defenses.dgp: 'drop'", "drop_largest, drop_smallest, points"]),
        ("defenses.dgp.points.weak.x", 1, ["defenses.dgp.points.weak: 'x'", "drop_largest"]),
        ("defenses.dgp.points.weak.drop_smallest", "a", ["points.weak.drop_smallest: 'a'"]),
        ("defenses.dgp.points", {}, ["defenses.dgp.points: {}"]),
        ("defenses.dgp.points", {"A b": {}}, ["defenses.dgp.points: 'A b'"]),
        ("defenses.none", None, ["defenses.none: None", "{}"]),
        ("defenses", [1], ["defenses:", "mapping"]),
        ("attacks.igg", {}, ["attacks: 'igg'", "did you mean ig?"]),
        ("attacks.ig.iteration", 5, ["attacks.ig: 'iteration'", "did you mean iterations?"]),
        ("attacks.ig.iterations", 1.5, ["attacks.ig.iterations: 1.5", "integer"]),
        ("attacks.ig.optimiser", 0.2, ["attacks.ig.optimiser: 0.2", "mapping"]),
        ("attacks.ig.settings", ["paper"], ["attacks.ig.settings", "board", "published"]),
        ("attacks.ig.checkpoints", ["late"], ["attacks.ig.checkpoints: 'late'", "early, init"]),
        ("scoring", {"candidates": 1}, ["scoring.candidates: 1"]),
        ("scoring", {"bootstrap": 100}, ["scoring: 'bootstrap'", "confidence"]),
        ("scenarios.digits.headline", ..., ["scenarios.digits.headline: missing"]),
        (
            "scenarios.digits.headline.checkpoint",
            "late",
            ["scenarios.digits.headline.checkpoint: 'late'", "early, init"],
        ),
        (
            "scenarios.digits.headline.batch_size",
            4,
            ["scenarios.digits.headline.batch_size: 4", "observation.batch_sizes: 1"],
        ),
        (
            "attacks.ig.batch_sizes",
            [2, 4],
            ["attacks.ig.batch_sizes: 2", "allowed: 1"],
        ),
        ("scoring", ..., ["scoring: missing", "`scoring: {}`"]),
        ("saturation", ..., ["saturation: missing", "`saturation: null`"]),
        ("saturation", {"victims": 2, "budgets": [3, 3]}, ["saturation.budgets: (3, 3)", "twice"]),
        ("saturation", {"victims": 2, "budgets": []}, ["saturation.budgets: ()", "not be empty"]),
        ("attacks.ig.knowledge", [], ["attacks.ig.knowledge: ()", "must not be empty"]),
        ("attacks.ig.settings", [], ["attacks.ig.settings: ()", "must not be empty"]),
        ("attacks.ig.checkpoints", [], ["attacks.ig.checkpoints: ()", "must not be empty"]),
        ("attacks.ig.batch_sizes", [], ["attacks.ig.batch_sizes: ()", "must not be empty"]),
        ("attacks.ig.batch_sizes", [7], ["attacks.ig.batch_sizes: 7", "allowed: 1"]),
        ("attacks.ig.batch_sizes", [1, 1], ["attacks.ig.batch_sizes: (1, 1)", "twice"]),
        ("attacks.ig", {"settings": ["published"]}, ["attacks.ig.settings", "changes nothing"]),
        (
            "attacks.ig.knowledge",
            ["paper"],
            ["attacks.ig.knowledge: ('paper',)", "scenarios.digits has adaptive, oblivious"],
        ),
        (
            "scenarios.digits.attacks",
            {"ig": {"checkpoints": ["init", "lat"]}},
            ["scenarios.digits.attacks.ig.checkpoints: 'lat'", "early, init"],
        ),
        ("scenarios.digits.observation.batch_sizes", [1, 1], ["batch_sizes: (1, 1)", "twice"]),
        ("scenarios.digits.observation.victims", 100, ["splits.report: 40", "100 victims", "200"]),
        ("scenarios.digits.splits.client", 79, ["splits.client: 79", "10 clients", "need 80"]),
        ("scenarios.digits.splits.report", ..., ["scenarios.digits.splits.report: missing"]),
        ("scenarios.digits.title", "", ["scenarios.digits.title: ''", "must not be empty"]),
        ("scenarios.digits.title", "a\0b", ["scenarios.digits.title: 'a\\x00b'", "control"]),
        ("scenarios.scores", BOARD["scenarios"]["digits"], ["scenarios: 'scores'", "artifacts"]),
        ("scenarios.checked", BOARD["scenarios"]["digits"], ["scenarios: 'checked'", "artifacts"]),
        ("scenarios.a--b", BOARD["scenarios"]["digits"], ["scenarios: 'a--b'", "words"]),
        ("scenarios." + "a" * 41, BOARD["scenarios"]["digits"], ["at most 40 characters"]),
        (f"{F}.checkpoints", {"early": 1, "b" * 41: 0}, ["at most 40 characters"]),
        ("defenses.dgp.points", {"p" * 41: {}}, ["defenses.dgp.points: 'ppp", "at most 40"]),
        ("defenses.dgp.points", {"a.": {}}, ["defenses.dgp.points: 'a.'"]),
        (f"{F}.alpha", 1e400, [f"{F}.alpha: inf"]),
        (f"{F}.partition", "uneven", [f"{F}.partition: 'uneven'", "dirichlet, dominant, iid"]),
        ("attacks.ig.iterations", -1, ["attacks.ig.iterations: -1", "must be at least 1"]),
        ("attacks.ig.iterations", 0, ["attacks.ig.iterations: 0", "must be at least 1"]),
        ("attacks.ig.iterations", 10**10, ["attacks.ig.iterations: 10000000000", "at most"]),
        ("attacks.ig.restarts", True, ["attacks.ig.restarts: True", "integer"]),
        ("attacks.ig.optimiser", {"lr": -1}, ["attacks.ig.optimiser.lr: -1", "not be negative"]),
        ("attacks.ig.optimiser", {"milestones": [0.5, -1]}, ["optimiser.milestones", "negative"]),
        ("attacks.ig.optimiser", {"warmup": -1}, ["attacks.ig.optimiser.warmup: -1", "negative"]),
        ("attacks.ig.optimiser", {"fall": "step"}, ["ig.optimiser.fall: 'step'", "'linear'"]),
        ("attacks.ig.optimiser", {"is": "Adam"}, ["optimiser.is: 'Adam'", "LBFGS, SignedAdam"]),
        ("attacks.ig.optimiser", {"is": []}, ["attacks.ig.optimiser.is: ()", "LBFGS"]),
        ("attacks.ig.priors", [], ["attacks.ig: 'priors' is no key here", "optimiser"]),
        ("attacks.ig.title", "IG", ["attacks.ig: 'title' is no key here"]),
        ("attacks.lti", {"epochs": -1}, ["attacks.lti.epochs: -1", "must be at least 1"]),
        ("attacks.dager", {"width": -1}, ["attacks.dager.width: -1", "must be at least 1"]),
        (
            "attacks.auto",
            {"adam_evaluations": -1},
            ["attacks.auto.adam_evaluations: -1", "must be at least 1"],
        ),
        ("defenses.dp", {"noise": -1, "clip": 1.0}, ["defenses.dp", "noise", "-1"]),
    ],
)
def test_what_is_wrong_is_named_in_one_line(tmp_path, key, value, says):
    with pytest.raises(ParamsError) as caught:
        check(load_params(_write(tmp_path / "p.yaml", _changed(key, value))))
    message = str(caught.value)
    assert len(message.splitlines()) == 1
    for part in says:
        assert part in message


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("seeds: [0", "line"),
        ("seeds: [0]\nseeds: [1]", "duplicate key"),
        ("", "must be a mapping"),
        ("- 1", "must be a mapping"),
        ("a: &a [*a]", "in itself"),
        ("a: !!int x", "not YAML"),
        ("a: !!python/object/apply:os.system [echo]", "line 1"),
        ("1: 2", "unknown"),
        ("boards: [a]\nseeds: [0x" + "f" * 5000 + "]", "seeds.0"),
        ("a: \x00", "p.yaml"),
    ],
)
def test_broken_yaml_is_one_line(tmp_path, text, says):
    with pytest.raises(ParamsError) as caught:
        load_params(_write(tmp_path / "p.yaml", text))
    assert says in str(caught.value) or says == "unknown"
    assert len(str(caught.value).splitlines()) == 1


def test_no_file_a_folder_and_bytes_that_are_no_text(tmp_path):
    (tmp_path / "bytes.yaml").write_bytes(b"\xff\xfe\xff")
    for path in (tmp_path / "missing.yaml", tmp_path, tmp_path / "bytes.yaml"):
        with pytest.raises(ParamsError):
            load_params(path)


near = st.sampled_from(
    [-1, 0, 1, 2, 7, 10**9, 10**30, -0.5, 0.0, 0.3, 1.0, 1e-300, 1e39, 1e308, float("nan"), [], {},
     [1], [1, 1], [7], ["init"], ["late"], ["none"], ["dgp", "none"], ["board"], ["published"],
     ["paper"], [3, 3], {"is": "LBFGS"}, {"is": []}, {"lr": -1}, {"dgp": ["weak"], "none": []},
     "none", "fedavg", "iid", "dominant", "docstrings", "transformer", "resnet18", "malicious",
     "a" * 300, "scores", "A", "a--b", "\x00", "\ud800", True, None]
).map(copy.deepcopy)  # fmt: skip
junk = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner),
    max_leaves=6,
)
more = ["fit", "local_learning_rate", "points", "alpha", "optimiser", "saturation", "seeds"]


@st.composite
def mutated(draw: st.DrawFn) -> dict[str, Any]:
    """BOARD with some of its values replaced, removed, added to or given other names."""
    board: Any = copy.deepcopy(BOARD)
    for _ in range(draw(st.integers(1, 3))):
        at, inside = board, [board]
        while inside and draw(st.integers(0, 9)):
            at = draw(st.sampled_from(inside))
            held = at.values() if isinstance(at, dict) else at
            inside = [each for each in held if isinstance(each, dict | list) and each]
        if not at:
            continue
        keys = list(at) if isinstance(at, dict) else range(len(at))
        key, kind = draw(st.sampled_from(keys)), draw(st.integers(0, 9))
        if kind == 0:
            del at[key]
        elif kind == 1 and isinstance(at, dict):
            at[draw(st.sampled_from([*more, "a" * 300, "scores", "late"]) | st.text())] = at.pop(
                key
            )
        elif kind == 2 and isinstance(at, dict):
            at[draw(st.sampled_from(more))] = draw(near | near | junk)
        elif kind == 3 and isinstance(at, list):
            at.append(draw(st.sampled_from(at)))
        else:
            at[key] = draw(near | near | junk)
    return board


def _loads_or_complains(path: Path) -> None:
    try:
        params = load_params(path)
        assert isinstance(params, Params)
        check(params)
    except ParamsError as error:
        assert len(str(error).splitlines()) == 1


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow])
@given(board=mutated())
def test_a_mutated_file_is_params_or_a_complaint(tmp_path, board):
    with open(tmp_path / "p.yaml", "w", encoding="utf-8", errors="replace") as file:
        YAML(typ="safe").dump(board, file)
    _loads_or_complains(tmp_path / "p.yaml")


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(text=st.text(max_size=60) | st.text("{}[]:,&*!|>-?# \n\ta1.'\"", max_size=40))
def test_any_text_is_params_or_a_complaint(tmp_path, text):
    (tmp_path / "p.yaml").write_text(text, encoding="utf-8", errors="replace")
    _loads_or_complains(tmp_path / "p.yaml")


def test_reading_params_imports_no_torch():
    code = (
        "import sys; from benchmark.config.schema import load_params; load_params();"
        "assert not {'torch', 'mlflow', 'pandas'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=True, timeout=60)


def test_defenses_of_image_models_do_not_enter_scenarios_of_texts(tmp_path: Path) -> None:
    content = copy.deepcopy(BOARD)
    content["scenarios"]["digits"]["data"] = "docstrings"
    content["scenarios"]["digits"]["federation"]["model"] = "transformer"
    check(load_params(_write(tmp_path / "params.yaml", content)))
    content["defenses"]["hyperfl"] = {}
    content["scenarios"]["digits"]["entrants"].append("hyperfl")
    with pytest.raises(ParamsError, match="digits.entrants: 'hyperfl'.*images only"):
        check(load_params(_write(tmp_path / "params.yaml", content)))
