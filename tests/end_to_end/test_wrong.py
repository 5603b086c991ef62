"""What is wrong is said in one line, and what was there stays as it was."""

from __future__ import annotations

import copy
import shutil
from typing import Any

import pytest

RESULTS = ("leaderboard/results", "leaderboard/site", "leaderboard/tables")


def _set(params: dict[str, Any], key: str, value: Any) -> dict[str, Any]:
    changed = copy.deepcopy(params)
    *parents, last = key.split(".")
    at: Any = changed
    for part in parents:
        at = at[part]
    at[last] = value
    return changed


@pytest.fixture(scope="module")
def board(first, computed):
    yield computed
    computed.params = first.board.params


WRONG = [
        ("train", "defenses.dgp.points.paper.drop_larges", 0.1,
         ["defenses.dgp", "'drop_larges'", "allowed: drop_largest, drop_smallest"]),
        ("train", "scenarios.digits.entrants", ["none", "dgpp"],
         ["scenarios.digits.entrants", "'dgpp'", "did you mean dgp?", "hyperfl"]),
        ("train", "defenses.dgp.points.paper.drop_largest", 1.5,
         ["dgp.drop_largest", "[0, 1)", "1.5"]),
        ("train", "scenarios.digits.federation.checkpoints.early", 5,
         ["scenarios.digits.federation.checkpoints.early", "5", "round 4"]),
        ("attack", "scenarios.digits.attacks", ["igg"],
         ["scenarios.digits.attacks", "'igg'", "dlg", "ig"]),
        ("attack", "attacks.ig.iterations", 0, ["attacks.ig.iterations", "at least 1", "0"]),
        ("defend", "seeds", "all", ["seeds", "'all'"]),
    ]  # fmt: skip


@pytest.fixture(scope="module")
def refusals(first, board):
    """What the stages said, one after the other, of each value that is not allowed."""
    before = board.snapshot("artifacts", "leaderboard")
    steps: list[Any] = []
    for stage, key, value, _ in WRONG:
        steps += [_set(first.board.params, key, value), f"{stage} digits"]
    done = board.together(*steps, first.board.params)
    assert board.snapshot("artifacts", "leaderboard") == before
    return done


@pytest.mark.parametrize("number", range(len(WRONG)))
def test_a_stage_names_the_key_and_what_is_allowed(refusals, number):
    stage, _, _, says = WRONG[number]
    code, said = refusals[number]
    assert code == 2
    assert said.count("\n") == 1 and said.startswith(f"python -m stages.{stage}: "), said
    assert all(words in said for words in says), said


@pytest.mark.parametrize(
    ("name", "value", "says"),
    [
        ("LEAKBOARD_DEVICE", "abacus", "LEAKBOARD_DEVICE"),
        ("LEAKBOARD_CELL_SECONDS", "0", "LEAKBOARD_CELL_SECONDS: '0' is not allowed"),
        ("LEAKBOARD_EXECUTOR", "slurm", "executor 'slurm' is unknown"),
    ],
)
def test_an_environment_that_cannot_be_had_is_refused_by_every_stage_that_computes(
    board, name, value, says
):
    """Before anything is computed, stored or replaced."""
    before = board.snapshot("artifacts", "leaderboard", ".leakboard/cells", ".leakboard/runs")
    stages = ("train", "defend", "attack", "score")
    done = board.together(*(f"{stage} digits" for stage in stages), **{name: value})
    for stage, (code, said) in zip(stages, done, strict=True):
        assert code == 2 and said.startswith(f"python -m stages.{stage}: "), said
        assert said.count("\n") == 1 and says in said, said
    after = board.snapshot("artifacts", "leaderboard", ".leakboard/cells", ".leakboard/runs")
    assert after == before


def test_dvc_stops_there_and_nothing_is_lost(first, board):
    cells, results = board.cells(), board.snapshot(*RESULTS)
    board.params = _set(first.board.params, "scenarios.digits.entrants", ["none", "dgpp"])
    code, said = board.call("dvc", "repro")
    assert code != 0 and "Traceback" not in said
    own = [line for line in said.splitlines() if line.startswith("python -m stages.")]
    assert len(own) == 1 and "scenarios.digits.entrants: 'dgpp'" in own[0], said
    assert board.snapshot(*RESULTS) == results
    # mended: DVC has what it took away, nothing is computed again
    board.params = first.board.params
    assert board.repro() == ["publish"]
    assert board.cells() == cells
    assert board.snapshot(*RESULTS) == results


def test_scores_that_fail_leave_the_last_ones(board):
    guesses = next((board / "artifacts/digits/guesses").rglob("*.safetensors"))
    whole = guesses.read_bytes()
    guesses.unlink()  # a link to what is in the store
    guesses.write_bytes(whole[: len(whole) // 2])
    before = board.snapshot("artifacts/scores/digits", *RESULTS)
    code, said = board.call("stages.score", "digits")
    named = [line for line in said.splitlines() if line.startswith("python -m stages.score: ")]
    assert code == 1 and len(named) == 1 and "Traceback" not in said, said
    assert board.snapshot("artifacts/scores/digits", *RESULTS) == before
    assert not list((board / ".leakboard/drafts").iterdir())
    guesses.write_bytes(whole)


@pytest.mark.parametrize(
    ("file", "defense", "says"),
    [
        ("quant", "quant", "evidence 'levels' is of 'quant', and no defense is called so"),
        ("more", "dgp", "evidence 'levels' of 'dgp' must stand in benchmark/evidence/dgp.py"),
    ],
)
def test_check_refuses_evidence_that_no_digest_would_cover(board, file, defense, says):
    """An orphan, whose defense was renamed, and evidence in a file of another name."""
    stray = board / f"benchmark/evidence/{file}.py"
    stray.write_text(
        "from benchmark.evidence.base import evidence_of\n\n\n"
        f'@evidence_of("{defense}")\ndef levels(transcript):\n    """Nothing."""\n    return None\n'
    )
    code, said = board.call("stages.check")
    stray.unlink()
    assert code == 2 and said.count("\n") == 1 and says in said, said


def test_check_refuses_what_the_scenarios_model_cannot_have(first, board):
    """Two private layers on LeNet would be one, under the name of two."""
    params = _set(first.board.params, "defenses.fedrep.points", {"two": {"private_layers": 2}})
    board.params = _set(params, "scenarios.digits-fedavg.federation.model", "lenet")
    code, said = board.call("stages.check")
    board.params = first.board.params
    assert code == 2 and said.count("\n") == 1, said
    assert "defenses.fedrep.points.two.private_layers: 2 is not allowed" in said
    assert "scenarios.digits-fedavg" in said and "1 at most" in said


FAILS = '''
"""An attack with a fault of its own: it fails on what was sent, and is grey elsewhere."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from benchmark.attacks.base import Attack, Guess, register


@dataclass(frozen=True, kw_only=True)
class Faulty(Attack):
    """Fails on one evidence."""

    def reconstruct(self, evidences, public, seeds, deadline):
        if evidences[0].name == "nonzero-entries":
            raise RuntimeError("the attack\\nbroke")
        setting = evidences[0].setting
        grey = torch.full((setting.images, *setting.shape), 0.5)
        return [Guess(grey, None, None, loss=0.25) for _ in evidences]

    def measure(self, evidences, images, soft, hidden):
        return [0.5 for _ in evidences]


FAULTY = register(Faulty(name="faulty", title="Faulty"))
'''


def test_a_failed_cell_stops_the_board_after_the_other_cells(first, board):
    """It is named, the others are kept, nothing is published, and it is tried again next time."""
    params = copy.deepcopy(first.board.params)
    params["attacks"]["faulty"] = {"checkpoints": ["init"]}
    params["scenarios"]["digits"]["attacks"] = ["faulty", "ig"]
    board.params = params
    (board / "benchmark/attacks/faulty.py").write_text(FAILS.lstrip(), encoding="utf-8")
    cells, results = board.cells(), board.snapshot(*RESULTS)
    for _ in range(2):
        code, said = board.call("stages.attack", "digits")
        named = [line for line in said.splitlines() if line.startswith("python -m stages.attack: ")]
        assert code == 1 and len(named) == len(params["seeds"]) and "Traceback" not in said, said
        why = "--faulty--nonzero-entries--board failed: RuntimeError: the attack broke"
        assert all(why in line for line in named)
        assert len(board.cells()) > len(cells) and cells.items() <= board.cells().items()
        assert board.snapshot(*RESULTS) == results
    listed = board / "artifacts/digits/guesses/cells.json"
    assert "faulty" not in listed.read_text(), "what is there is the last whole list"
    # a list with a failure, from wherever, is not scored either
    whole = listed.read_text()
    listed.write_text(whole.replace('"status": "ok"', '"status": "failed"', 1))
    code, said = board.call("stages.score", "digits")
    assert code == 1 and said.count("\n") == 1 and "failed:" in said, said
    assert board.snapshot(*RESULTS) == results
    listed.write_text(whole)
    (board / "benchmark/attacks/faulty.py").unlink()
    board.params = first.board.params


def test_scores_that_break_the_schema_are_not_published(board, tmp_path):
    """The second scenario's are broken: the first one's must not be copied either."""
    digits, fedavg = (board / f"artifacts/scores/{name}" for name in ("digits", "digits-fedavg"))
    shutil.copytree(digits, tmp_path / "digits")
    shutil.copytree(fedavg, tmp_path / "fedavg")
    catalog = digits / "catalog.json"
    catalog.write_text(catalog.read_text().replace("Handwritten digits", "Changed digits"))
    cells = fedavg / "cells.csv"
    cells.write_text(cells.read_text().replace("psnr_median", "psnr_middle", 1))
    before = board.snapshot(*RESULTS)
    code, said = board.call("stages.publish")
    assert code == 2 and said.count("\n") == 1 and "cells.csv" in said, said
    assert board.snapshot(*RESULTS) == before
    for target, kept in ((digits, "digits"), (fedavg, "fedavg")):
        shutil.rmtree(target)
        shutil.copytree(tmp_path / kept, target)


def test_results_equal_the_scores_after_every_run_and_other_boards_stay(board, tmp_path):
    results = board / "leaderboard/results"
    results.rename(tmp_path / "elsewhere")  # a link to them is followed, and stays
    results.symlink_to(tmp_path / "elsewhere")
    other = results / "another/notes.txt"
    other.parent.mkdir()
    other.write_text("a board that this pipeline does not compute\n")
    shutil.rmtree(results / "digits-fedavg")
    edited = results / "digits/ranking.csv"
    whole = edited.read_bytes()
    edited.write_bytes(whole.replace(b"none", b"nune"))
    assert board.repro() == ["publish"]
    assert edited.read_bytes() == whole
    assert (results / "digits-fedavg/cells.csv").is_file() and other.is_file()
    shutil.rmtree(other.parent)
    assert results.is_symlink()
