"""What is computed again after a change: what depends on it, and nothing else.

The tests change one board, one after the other; each begins with everything up to date.
"""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from benchmark.records import read_table

ROOT = Path(__file__).resolve().parents[2]
ATTACK = '''
"""IG with another objective, to be computed beside the others."""

from __future__ import annotations

from dataclasses import replace

from benchmark.attacks.base import register
from benchmark.attacks.ig import INVERTING_GRADIENTS
from benchmark.attacks.objectives import SquaredError
from benchmark.attacks.optimisation import OptimisationAttack
from benchmark.attacks.optimisers import SignedAdam
from benchmark.attacks.labels import Given

SHORT = register(
    OptimisationAttack(
        name="short",
        title="A short attack",
        objective=SquaredError(),
        optimiser=SignedAdam(lr=0.1),
        labels=Given(),
        box=True,
        iterations=5,
    )
)
'''


@pytest.fixture(autouse=True)
def _up_to_date(request):
    yield
    if "computed" in request.fixturenames:
        board = request.getfixturevalue("computed")
        assert board.changes() == []


def _results(board, scenario="digits", table="cells.csv"):
    return read_table(board / "leaderboard/results" / scenario / table)


def test_one_defenses_parameters_concern_its_own_stages(computed):
    params, cells = computed.params, computed.cells()
    kept = computed.snapshot("artifacts/digits-fedavg", "artifacts/digits/guesses/none")
    old = _results(computed)
    params["defenses"]["dgp"]["points"]["paper"]["drop_smallest"] = 0.5
    computed.params = params
    assert computed.repro() == [
        "check", "train@digits-dgp", "defend@digits-dgp", "attack@digits-dgp", "score@digits",
        "publish",
    ]  # fmt: skip
    assert computed.snapshot("artifacts/digits-fedavg", "artifacts/digits/guesses/none") == kept
    assert cells.items() <= computed.cells().items()
    new = _results(computed)
    columns = [name for name in new if name not in ("seconds",)]
    for name, changed in (("none", False), ("dgp", True)):
        left, right = (t[t["defense"] == name][columns].reset_index(drop=True) for t in (old, new))
        assert left.equals(right) is not changed


def test_another_attack_computes_its_own_cells_only_and_an_entrant_leaves(computed):
    """The attack joins the first scenario, fedrep leaves the second."""
    params, before, old = computed.params, computed.cells(), _results(computed)
    (computed / "benchmark/attacks/short.py").write_text(ATTACK.lstrip(), encoding="utf-8")
    params["attacks"]["short"] = {"checkpoints": ["init"]}
    params["scenarios"]["digits"]["attacks"].append("short")
    params["entrants"]["digits-fedavg"].remove("fedrep")
    computed.params = params
    ran = computed.repro()
    assert not [stage for stage in ran if stage.startswith(("train", "defend"))]
    assert "attack@digits-none" in ran and "attack@digits-dgp" in ran
    after, new = computed.cells(), _results(computed)
    assert before.items() <= after.items()
    added = new[new["attack"] == "short"]
    assert len(after) - len(before) == (added["status"] == "ok").sum() > 0
    assert set(added["checkpoint"]) == {"init"}
    assert set(added["defense"]) == {"none", "dgp"}
    rest = new[new["attack"] != "short"].reset_index(drop=True)
    assert rest.equals(old)  # measured columns too: nothing was computed again

    for table in ("cells.csv", "ranking.csv", "training.csv", "victims.csv", "checkpoints.csv"):
        assert set(_results(computed, "digits-fedavg", table)["defense"]) == {"none"}
    page = (computed / "leaderboard/site/index.html").read_text(encoding="utf-8")
    assert "A short attack" in page and "FedRep" not in page
    tables = computed / "leaderboard/tables"
    assert not any("FedRep" in p.read_text(encoding="utf-8") for p in tables.iterdir())


def test_a_defense_in_one_file_joins(computed):
    """README's own example."""
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    name, source = re.findall(
        r"^```python\n# benchmark/defenses/(\w+)\.py\n(.*?)^```$", readme, re.M | re.S
    )[0]
    (computed / f"benchmark/defenses/{name}.py").write_text(source, encoding="utf-8")
    params, before = computed.params, computed.cells()
    params["defenses"][name] = {}
    params["entrants"]["digits"].append(name)
    computed.params = params
    ran = computed.repro()
    own = [f"{stage}@digits-{name}" for stage in ("train", "defend", "attack")]
    assert ran == ["check", *own, "score@digits", "publish"]
    assert before.items() <= computed.cells().items()

    cells, ranking = _results(computed), _results(computed, table="ranking.csv")
    readings = set(cells[cells["defense"] == name]["evidence"])
    assert "oblivious" in readings and len(readings) > 1  # adaptive ones, for free
    assert set(cells[cells["defense"] == name]["attack"]) == {"ig", "short"}
    flags = ranking[ranking["defense"] == name]["flags"].str.split(";")
    assert len(flags) == 2 and all("generic-only" in words for words in flags)
    others = ranking[ranking["defense"] != name]["flags"].str.split(";")
    assert not any("generic-only" in words for words in others)
    page = (computed / "leaderboard/site/index.html").read_text(encoding="utf-8")
    title = re.search(r'title = "(.*)"', source)
    assert title and title.group(1) in page
