"""A unit's digest covers the code that it really imports, and neither words nor other plug-ins."""

from __future__ import annotations

import ast
import json
import os
import pickle
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from ruamel.yaml import YAML

from benchmark.attacks.base import get
from benchmark.federated.transcript import read
from benchmark.pipeline import attack as campaign
from benchmark.pipeline import train as training
from benchmark.pipeline.train import Run
from benchmark.runtime.sources import EXCEPTED, PACKAGE, closure, source_digest
from benchmark.runtime.store import Store
from tests import board

ROOT = Path(__file__).parents[2]
SAYS = """
import json, pickle, sys
function, arguments = pickle.load(open(sys.argv[1], "rb"))
function(*arguments)
print(json.dumps([name.partition(".")[2] for name in sys.modules if name.startswith("benchmark.")]))
"""


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> Iterator[board.Board]:
    torch.set_num_threads(1)
    made = board.make(tmp_path_factory.mktemp("small"))
    made.defend("ppp", {"width": 8})
    yield made


def imported(folder: Path, function: Callable[..., object], *arguments: object) -> set[str]:
    """The package's modules that a fresh process has after that call."""
    (folder / "call").write_bytes(pickle.dumps((function, arguments)))
    done = subprocess.run(
        [sys.executable, "-c", SAYS, folder / "call"], cwd=ROOT, capture_output=True, text=True,
        env=os.environ | {"OMP_NUM_THREADS": "1"}, timeout=300, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return set(json.loads(done.stdout.splitlines()[-1]))


def excused() -> set[str]:
    """The excepted modules, and what is imported through them."""
    return set(closure(EXCEPTED, excepted=()))


def test_a_cells_digest_covers_what_computing_it_imports(
    small: board.Board, tmp_path: Path
) -> None:
    task = replace(small.task("ppp", "dlg", iterations=2), store=tmp_path / "cells")
    setting = read(task.transcripts)[0].setting
    covered = set(closure(campaign.roots(get("dlg"), "ppp", setting.model)))
    loaded = imported(tmp_path, campaign.attacked, [task])
    assert len(list((tmp_path / "cells").glob("*/cell.json"))) >= 4
    assert loaded - covered <= excused()
    assert {"attacks.dlg", "evidence.ppp", "defenses.ppp", "models.elu"} <= loaded & covered
    plugins = {name for name in covered if name.split(".")[0] in ("attacks", "evidence")}
    # what functions import late and this cell did not need; other plug-ins are not among it
    assert not plugins - loaded
    assert not {"attacks.ig", "evidence.dgp", "evidence.hyperfl", "models.mlp"} & covered


def test_a_runs_digest_covers_what_training_it_imports(small: board.Board, tmp_path: Path) -> None:
    fields = {"width": 8}
    setting = small.setting("ppp", fields)
    run = Run(board.NAME, "ppp", "default", 7)
    # the scenario is pickled, and its class is of a module that is excepted
    scenario = small.scenario.model_copy(update={"entrants": {"ppp": {"default": fields}}})
    (key,) = training.digests([run], scenario, small.artifacts).values()
    store = Store(tmp_path / "runs")
    loaded = imported(tmp_path, training.compute, run, scenario, small.artifacts, store, key)
    covered = set(closure(training.roots(setting)))
    assert loaded - covered <= excused()
    assert {"defenses.ppp", "models.elu", "federated.simulation"} <= loaded & covered
    assert not {name for name in covered if name.split(".")[0] in ("attacks", "evidence")}


def test_every_exception_is_a_module_with_a_reason() -> None:
    for name, reason in EXCEPTED.items():
        assert closure([name], excepted=()), name
        assert reason


@pytest.mark.parametrize(("stage", "unit"), [("train", "training of dgp"), ("attack", "ig on dgp")])
def test_a_stage_runs_again_when_a_module_of_its_units_changes(stage: str, unit: str) -> None:
    """Packages' own files say nothing but what they are for."""
    stages = YAML(typ="safe").load(ROOT / "dvc.yaml")["stages"]
    deps = stages[stage].get("do", stages[stage])["deps"]
    places = [ROOT / dep.replace("${item.defense}", "dgp") for dep in deps]
    found = closure(UNITS[unit])
    assert len(found) > 15
    for name, path in found.items():
        said = path.name == "__init__.py" and len(ast.parse(path.read_text()).body) <= 1
        assert said or any(path.is_relative_to(place) for place in places), name


# ----------------------------------------------------------------- edits of a copy of the package


@pytest.fixture
def copy(tmp_path: Path) -> Path:
    shutil.copytree(PACKAGE, tmp_path / "benchmark", ignore=shutil.ignore_patterns("__pycache__"))
    return tmp_path / "benchmark"


UNITS = {
    "ig on dgp": ["pipeline.attack", "attacks.ig", "defenses.dgp", "models.elu",
                  "evidence.generic", "evidence.first_linear", "evidence.dgp"],
    "auto on ppp": ["pipeline.attack", "attacks.auto", "defenses.ppp", "models.elu",
                    "evidence.generic", "evidence.first_linear", "evidence.ppp"],
    "training of dgp": ["pipeline.train", "defenses.dgp", "models.elu"],
    "training of dpsgd": ["pipeline.train", "defenses.dpsgd", "models.mlp"],
}  # fmt: skip


def digests(package: Path) -> dict[str, str]:
    return {unit: source_digest(roots, package) for unit, roots in UNITS.items()}


def moved(package: Path, file: str, edit: Callable[[str], str]) -> set[str]:
    """The units whose digest an edit changes."""
    before, path = digests(package), package / file
    path.write_text(edit(path.read_text(encoding="utf-8")), encoding="utf-8")
    return {unit for unit, digest in digests(package).items() if digest != before[unit]}


ATTACKS = {"ig on dgp", "auto on ppp"}


@pytest.mark.parametrize(
    ("file", "units"),
    [
        ("attacks/ig.py", {"ig on dgp"}),
        ("attacks/dlg.py", set()),
        ("attacks/engine/batch.py", ATTACKS),
        ("metrics/selection.py", ATTACKS),
        ("evidence/pruning.py", {"ig on dgp"}),  # what dgp's evidence is made of
        ("evidence/precode.py", {"auto on ppp"}),
        ("evidence/hyperfl.py", set()),
        ("evidence/generic.py", ATTACKS),
        ("evidence/__init__.py", ATTACKS),
        ("defenses/dgp.py", {"ig on dgp", "training of dgp"}),
        ("defenses/parts/accounting.py", {"training of dpsgd"}),  # which is imported in a function
        ("models/mlp.py", {"training of dpsgd"}),
        ("federated/evaluation.py", {"training of dgp", "training of dpsgd"}),
        ("federated/wire.py", set(UNITS)),
        ("runtime/randomness.py", set(UNITS)),
        ("config/schema.py", set()),
        ("pipeline/rank.py", set()),
    ],
)
def test_an_edit_concerns_the_units_that_use_the_module(
    copy: Path, file: str, units: set[str]
) -> None:
    assert moved(copy, file, lambda text: text + "\nADDED = 1\n") == units


def test_comments_docstrings_and_layout_concern_nobody(copy: Path) -> None:
    def mended(text: str) -> str:
        return "# a comment\n" + text.replace('"""', '"""Put otherwise: ', 1).replace(
            "import ", "import  ", 1
        )

    for file in (
        "attacks/engine/batch.py",
        "evidence/generic.py",
        "defenses/dgp.py",
        "runtime/randomness.py",
    ):
        assert moved(copy, file, mended) == set(), file
    described = "\n\n\ndef documented():\n    {}return 1\n"
    assert moved(copy, "runtime/randomness.py", lambda text: text + described.format("")) == set(
        UNITS
    )
    assert moved(
        copy, "runtime/randomness.py",
        lambda text: text.replace("    return 1\n", '    """One."""\n    return 1\n'),
    ) == set()  # fmt: skip


def test_a_number_in_a_function_is_code(copy: Path) -> None:
    assert moved(copy, "attacks/ig.py", lambda text: text.replace("4800", "4801")) == {"ig on dgp"}


def test_what_only_a_type_checker_imports_is_not_followed(copy: Path) -> None:
    (copy / "attacks" / "new.py").write_text(
        "from typing import TYPE_CHECKING\nfrom .parts import words\n"
        "from ..runtime import randomness\n"
        "if TYPE_CHECKING:\n    from benchmark.attacks import dlg\n"
        "def late():\n    import benchmark.federated.wire\n"
    )
    found = closure(["attacks.new"], copy)
    assert {"attacks.parts.words", "runtime.randomness", "federated.wire"} <= set(found)
    assert "attacks.dlg" not in found


def test_a_root_without_a_file_is_refused() -> None:
    with pytest.raises(ValueError, match="benchmark.attacks.nobody has no file"):
        source_digest(["pipeline.attack", "attacks.nobody"])
