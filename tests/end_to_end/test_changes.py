"""What is computed again after a change: what depends on it, and nothing else.

The tests change one board, one after the other.
"""

from __future__ import annotations

import json
import re
from pathlib import Path

from benchmark.results.io import read_table
from tests.end_to_end.toy import copied

ROOT = Path(__file__).resolve().parents[2]
ATTACK = '''
"""IG with another objective, to be computed beside the others."""

from __future__ import annotations

from dataclasses import replace

from benchmark.attacks.base import register
from benchmark.attacks.ig import INVERTING_GRADIENTS
from benchmark.attacks.parts.objectives import SquaredError
from benchmark.attacks.parts.optimisation import OptimisationAttack
from benchmark.attacks.engine.adam import SignedAdam
from benchmark.attacks.parts.labels import Given

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


def _results(board, scenario="digits", table="cells.csv"):
    return read_table(board / "leaderboard/results" / scenario / table)


def _contents(board, folder: str) -> dict[str, bytes]:
    return {name: content for name, (_, content) in board.snapshot(folder).items()}


def _repro(board, *arguments: str) -> str:
    """What DVC and its stages say; everything is up to date afterwards."""
    code, said = board.call("dvc", "repro", *arguments)
    assert code == 0, said
    if not arguments:
        assert board.changes() == []
    return said


def _page(board) -> str:
    code, said = board.call("leaderboard.build")
    assert code == 0, said
    return (board / "leaderboard/site/index.html").read_text(encoding="utf-8")


ALL = ("train", "defend", "attack", "score")


def test_one_defenses_parameters_concern_its_own_runs_and_cells(computed):
    params, cells, runs = computed.params, computed.cells(), computed.cells("runs")
    kept = _contents(computed, "artifacts/digits-fedavg")
    old = _results(computed)
    params["defenses"]["dgp"]["points"]["paper"]["drop_smallest"] = 0.5
    computed.params = params
    said = _repro(computed)
    assert "train digits: 4 runs: 2 there, 2 to compute" in said, said
    assert "train digits-fedavg: 4 runs: all there" in said
    assert _contents(computed, "artifacts/digits-fedavg") == kept
    assert cells.items() <= computed.cells().items()
    assert runs.items() <= computed.cells("runs").items()
    assert len(computed.cells("runs")) == len(runs) + 2
    new = _results(computed)
    columns = [name for name in new if name not in ("seconds",)]
    for name, changed in (("none", False), ("dgp", True)):
        left, right = (t[t["defense"] == name][columns].reset_index(drop=True) for t in (old, new))
        assert left.equals(right) is not changed


def _all_there(said: str) -> None:
    """The store keeps the first of equal entries: only the stage knows that it computed nothing."""
    plans = re.findall(r"^(?:train|attack) .*: \d+ (?:runs|cells): (.*)$", said, re.M)
    assert plans and set(plans) == {"all there"}, said


def test_parameters_that_come_back_cost_nothing(first, computed):
    """A, B, A: nothing is computed, and the results are A's again, cell by cell."""
    params, later = computed.params, _results(computed)
    before = computed.cells(), computed.cells("runs")
    params["defenses"]["dgp"]["points"]["paper"]["drop_smallest"] = 0.75
    params["boards"] = ["digits"]  # from here on; what the other has published stays
    computed.params = params
    _all_there(_repro(computed))
    assert (computed.cells(), computed.cells("runs")) == before
    assert _results(computed).equals(_results(first.board))
    assert not _results(computed).equals(later)
    assert "Handwritten digits, FedAvg" in _site(computed)


def _site(board) -> str:
    return (board / "leaderboard/site/index.html").read_text(encoding="utf-8")


def test_what_editors_and_systems_leave_behind_changes_nothing(computed):
    strays = [
        computed / folder / name
        for folder in ("benchmark/defenses", "artifacts/digits/public", "leaderboard/static")
        for name in (".DS_Store", "._dp.py", ".#dp.py", "dp.py~", ".dp.py.swp")
    ]
    for stray in strays:
        stray.write_text("not ours")
    assert computed.changes() == []
    for stray in strays:
        stray.unlink()


def test_another_attack_computes_its_own_cells_only(computed):
    params, before, old = computed.params, computed.cells(), _results(computed)
    runs = computed.cells("runs")
    (computed / "benchmark/attacks/short.py").write_text(ATTACK.lstrip(), encoding="utf-8")
    params["attacks"]["short"] = {"checkpoints": ["init"]}
    params["scenarios"]["digits"]["attacks"].append("short")
    computed.params = params
    _repro(computed)
    assert computed.cells("runs") == runs
    after, new = computed.cells(), _results(computed)
    assert before.items() <= after.items()
    added = new[new["attack"] == "short"]
    listed = json.loads((computed / "artifacts/digits/guesses/cells.json").read_text())
    own = {Path(c["file"]).parts[1] for c in listed if c["attack"] == "short" and "file" in c}
    assert after.keys() - before.keys() == own and own  # equal evidence is one cell
    assert set(added["checkpoint"]) == {"init"}
    assert set(added["defense"]) == {"none", "dgp"}
    rest = new[new["attack"] != "short"].reset_index(drop=True)
    assert rest.equals(old)  # measured columns too: nothing was computed again
    assert "A short attack" in _site(computed)


def test_what_was_pulled_is_not_computed_again(computed, tmp_path):
    """A fresh clone with lock file and remote: only a defense that joins there is computed."""
    remote = tmp_path / "remote"
    for arguments in (("remote", "add", "-d", "-f", "local", str(remote)), ("push",)):
        code, said = computed.call("dvc", *arguments)
        assert code == 0, said
    clone = copied(tmp_path / "clone", computed.folder)
    code, said = clone.call("dvc", "pull")
    assert code == 0, said
    params = clone.params
    params["defenses"]["pruning"]["points"] = {"keep-10": {"keep": 0.1}}
    params["scenarios"]["digits"]["entrants"].append("pruning")
    clone.params = params
    said = _repro(clone, "attack@digits")
    assert "train digits: 6 runs: 4 there, 2 to compute" in said, said
    made = clone.cells().keys() - computed.cells().keys()
    listed = json.loads((clone / "artifacts/digits/guesses/cells.json").read_text())
    own = [c for c in listed if c["defense"] == "pruning" and "file" in c]
    plan = re.search(r"attack digits: (\d+) cells: (\d+) there, (\d+) to compute", said)
    assert plan and int(plan[3]) == sum(c["defense"] == "pruning" and "file" in c for c in listed)
    assert made == {Path(c["file"]).parts[1] for c in own}


# ----------------------------------------- from here on the stages decide, without DVC around them


def test_a_title_or_a_comment_computes_nothing(computed):
    before = computed.cells(), computed.cells("runs")
    params = computed.params
    params["scenarios"]["digits"]["title"] = "Digits with another title"
    computed.params = params
    for path in ("attacks/ig.py", "defenses/dgp.py", "federated/client.py"):
        file = computed / f"benchmark/{path}"
        file.write_text(file.read_text() + "\n# one comment more\n")
    _all_there(computed.computed("digits", *ALL))
    assert (computed.cells(), computed.cells("runs")) == before
    assert "Digits with another title" in _page(computed)


def test_a_defense_in_one_file_joins(computed):
    """README's own example."""
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    name, source = re.findall(
        r"^```python\n# benchmark/defenses/(\w+)\.py\n(.*?)^```$", readme, re.M | re.S
    )[0]
    (computed / f"benchmark/defenses/{name}.py").write_text(source, encoding="utf-8")
    params, before = computed.params, computed.cells()
    params["defenses"][name] = {}
    params["scenarios"]["digits"]["entrants"].append(name)
    computed.params = params
    said = computed.computed("digits", *ALL)
    assert "train digits: 6 runs: 4 there, 2 to compute" in said
    assert before.items() <= computed.cells().items()

    cells, ranking = _results(computed), _results(computed, table="ranking.csv")
    readings = set(cells[cells["defense"] == name]["evidence"])
    assert "oblivious" in readings and len(readings) > 1  # adaptive ones, for free
    assert set(cells[cells["defense"] == name]["attack"]) == {"ig", "short"}
    flags = ranking[ranking["defense"] == name]["flags"].str.split(";")
    assert len(flags) == 2 and all("generic-only" in words for words in flags)
    others = ranking[ranking["defense"] != name]["flags"].str.split(";")
    assert not any("generic-only" in words for words in others)
    title = re.search(r'title = "(.*)"', source)
    assert title and title.group(1) in _page(computed)


def test_an_entrant_leaves_and_nothing_is_computed(computed):
    params, before = computed.params, (computed.cells(), computed.cells("runs"))
    params["boards"] = ["digits-fedavg"]
    params["scenarios"]["digits-fedavg"]["entrants"].remove("fedrep")
    computed.params = params
    _all_there(computed.computed("digits-fedavg", *ALL))
    assert (computed.cells(), computed.cells("runs")) == before
    for table in ("cells.csv", "ranking.csv", "training.csv", "victims.csv", "checkpoints.csv"):
        assert set(_results(computed, "digits-fedavg", table)["defense"]) == {"none"}
    assert "FedRep" not in _page(computed)
    tables = computed / "leaderboard/tables"
    assert not any("FedRep" in p.read_text(encoding="utf-8") for p in tables.iterdir())


def _all_there(said: str) -> None:
    """The store keeps the first of equal entries: only the stage knows that it computed nothing."""
    plans = re.findall(r"^(?:train|attack) .*: \d+ (?:runs|cells): (.*)$", said, re.M)
    assert plans and set(plans) == {"all there"}, said
