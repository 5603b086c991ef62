"""Attacking transcripts: computed once, failures as rows, keyed by what guesses depend on."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from benchmark.attacks import base
from benchmark.attacks.base import Attack, Guess
from benchmark.config.schema import Saturation, load_params
from benchmark.data.preparation import read_private
from benchmark.federated.transcript import read
from benchmark.pipeline import attack as campaign
from benchmark.pipeline.attack import (
    attack_transcripts,
    cell_digest,
    leftover,
    listed,
    readable,
    saturation,
)
from benchmark.pipeline.observe import observe, read_truth
from benchmark.pipeline.train import Run
from benchmark.runtime.parallel import Failure
from benchmark.runtime.paths import guesses_file
from benchmark.runtime.session import Defects
from benchmark.runtime.sources import source_digest
from benchmark.runtime.store import place
from tests import board


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> Iterator[board.Board]:
    torch.set_num_threads(1)
    made = board.make(tmp_path_factory.mktemp("small"))
    made.defend("none")
    made.defend("ppp", {"width": 8})
    yield made


@dataclass(frozen=True, kw_only=True)
class Toy(Attack):
    """Guesses grey; may refuse evidence, run out of memory, fail, or kill its process."""

    name: str = "toy"
    level: float = 0.5
    refuses: str = ""
    fails: str = ""
    oom: str = ""
    kills: str = ""
    diary: str = ""

    def supports(self, evidence: Any) -> str | None:
        return "not for toys" if evidence.name == self.refuses else None

    def reconstruct(
        self, evidences: Any, public: Any, seeds: Any, deadline: float | None
    ) -> list[Guess]:
        name = evidences[0].name
        if self.diary:
            with open(self.diary, "a", encoding="utf-8") as file:
                file.write(f"{name} {list(seeds)}\n")
        if name == self.fails:
            raise RuntimeError("the toy\nbroke")
        if name == self.oom:
            raise MemoryError
        if name == self.kills:
            os._exit(9)
        setting = evidences[0].setting
        grey = torch.full((setting.images, *setting.shape), self.level)
        labels = torch.zeros(setting.images, dtype=torch.long)
        return [Guess(grey, labels, None, loss=0.25, evaluations=7) for _ in evidences]

    def measure(self, evidences: Any, images: Any, soft: Any, hidden: Any) -> list[float]:
        return [0.5 for _ in evidences]


@pytest.fixture(autouse=True)
def toy(monkeypatch: pytest.MonkeyPatch) -> None:
    """Registered without a file of its own, which a digest would be of."""
    monkeypatch.setitem(base._REGISTRY, "toy", Toy())
    monkeypatch.setattr(
        campaign, "source_digest", lambda roots: source_digest(set(roots) - {"attacks.toy"})
    )


def by_evidence(records: list[dict[str, Any]]) -> dict[str, dict[str, Any]]:
    found = {record["evidence"]: record for record in records}
    assert len(found) == len(records)
    return found


def test_a_second_run_computes_nothing(small: board.Board, tmp_path: Path) -> None:
    diary = tmp_path / "diary"
    task = small.task("ppp", "toy", diary=str(diary))
    first = attack_transcripts(task)
    names = [line.split()[0] for line in diary.read_text().splitlines()]
    assert sorted(names) == sorted(r["evidence"] for r in first) and len(names) >= 4
    assert all(record["status"] == "ok" for record in first)
    second = attack_transcripts(task)
    assert len(diary.read_text().splitlines()) == len(names)
    assert second == first
    assert all(Path(record["cell"]).parent == task.store for record in first)


def test_larger_budgets_attack_what_an_attacker_would_believe(small: board.Board) -> None:
    """Three victims of the first seed, one reading, with the evaluations that were asked for."""
    chosen = (
        load_params()
        .board("digits")
        .model_copy(
            update={"seeds": (board.SEED,), "saturation": Saturation(victims=3, budgets=(3, 10))}
        )
    )
    task = small.task("ppp", "auto", sharp=16, robust=8)
    records = attack_transcripts(task)
    more = saturation(chosen, [task], records)
    assert [t.fields["budget"] for t in more] == [3, 10]
    for each, times in zip(more, (3, 10), strict=True):
        (record,) = attack_transcripts(each)
        assert record["budget"] == times and record["evidence"] == each.only
        assert record["evaluations"] <= times * 24
        images = load_file(Path(record["cell"]) / "guesses.safetensors")["images"]
        assert len(images) == 3
    assert saturation(chosen.model_copy(update={"saturation": None}), [task], records) == []
    other = chosen.model_copy(update={"seeds": (board.SEED + 1,)})
    assert saturation(other, [task], records) == []


def test_records_carry_what_the_board_needs(small: board.Board) -> None:
    task = small.task("ppp", "toy")
    costs = {name: found[0].cost for name, found in readable(read(task.transcripts)).items()}
    assert set(costs.values()) > {1}, "some reading draws noise several times"
    for record in attack_transcripts(task):
        assert all(record[k] == v for k, v in task.key.items())
        assert record["knowledge"] in ("oblivious", "paper", "adaptive")
        assert record["observations"] > 0 and record["unknowns"] >= 64
        assert record["evaluations"] == 7 * costs[record["evidence"]]
        assert record["seconds"] >= 0 and record["commit"] == "abc"
        tensors = load_file(Path(record["cell"]) / "guesses.safetensors")
        images = tensors["images"]
        assert images.shape == (board.VICTIMS, 1, 1, 8, 8) and bool((images == 0.5).all())
        assert tensors["evaluations"].dtype == torch.int64
        assert tensors["evaluations"].tolist() == [record["evaluations"]] * board.VICTIMS
        assert "applicable" not in tensors


def test_closed_forms_store_where_they_apply(
    small: board.Board, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(base._REGISTRY, "toy", Toy(closed_form=True))
    task = small.task("none", "toy", level=0.125)
    for record in attack_transcripts(task):
        met = load_file(Path(record["cell"]) / "guesses.safetensors")["applicable"]
        assert met.shape == (board.VICTIMS, 1) and met.dtype == torch.bool and bool(met.all())


def test_one_failing_cell_is_a_row_with_its_reason(small: board.Board) -> None:
    task = small.task("ppp", "toy", fails="ignore", oom="features", refuses="joint")
    found = by_evidence(attack_transcripts(task))
    assert found["ignore"]["status"] == "failed"
    assert found["ignore"]["reason"] == "RuntimeError: the toy broke"
    assert found["features"]["status"] == "oom"
    assert (found["joint"]["status"], found["joint"]["reason"]) == ("unsupported", "not for toys")
    assert found["oblivious"]["status"] == "ok"
    for name in ("ignore", "features", "joint"):
        assert "cell" not in found[name] and found[name]["observations"] > 0


def test_a_failed_cell_is_tried_again_and_nothing_of_it_is_kept(small: board.Board) -> None:
    diary = small.root / "tries"
    toy = small.task("none", "toy", fails="oblivious", diary=str(diary))
    task = replace(toy, only="oblivious")
    before = set((small.root / "cells").rglob("*")) if (small.root / "cells").exists() else set()
    for tries in (1, 2):
        assert attack_transcripts(task)[0]["status"] == "failed"
        assert len(diary.read_text().splitlines()) == tries
    after = {p for p in (small.root / "cells").rglob("*") if p.name != "unfinished"}
    assert after <= before


def test_where_training_diverged_there_is_a_row_that_says_when(
    small: board.Board, tmp_path: Path
) -> None:
    """Nothing was sent, which is a result and no defect; `observe` leaves word in its place."""
    states = tmp_path / "states"
    states.mkdir()
    for file in small.states("none", {}).iterdir():
        if file.stem != "late":
            (states / file.name).write_bytes(file.read_bytes())
    record = json.loads((states / "record.json").read_text()) | {"diverged": 2}
    (states / "record.json").write_text(json.dumps(record))
    folders = [tmp_path / "transcripts", tmp_path / "truth"]
    observe(
        Run(board.NAME, "none", "default", board.SEED), small.scenario, small.setting("none", {}),
        read_private(small.artifacts / "private"), 0, states, *folders,
    )  # fmt: skip
    early, late = (small.task("none", "toy", checkpoint) for checkpoint in ("init", "late"))
    home = small.artifacts / "transcripts/none"
    early, late = (
        replace(task, transcripts=folders[0] / task.transcripts.relative_to(home))
        for task in (early, late)
    )
    assert {record["status"] for record in attack_transcripts(early)} == {"ok"}
    (record,) = attack_transcripts(late)
    assert (record["status"], record["reason"]) == (
        "unsupported", "training diverged in round 2",
    )  # fmt: skip
    assert record["evidence"] == "oblivious" and record["defense"] == "none"
    campaign.refuse_failed([record])


def test_transcripts_that_are_missing_are_no_divergence(small: board.Board) -> None:
    task = replace(small.task("none", "toy"), transcripts=small.root / "never.safetensors")
    with pytest.raises(FileNotFoundError):
        attack_transcripts(task)
    (record,) = leftover(task, Failure("failed", "FileNotFoundError: never"))
    assert (record["status"], record["reason"]) == ("failed", "FileNotFoundError: never")


def test_a_missing_checkpoint_is_no_divergence(small: board.Board, tmp_path: Path) -> None:
    """A run that lost a file has diverged nowhere; nothing may be published of it."""
    states = tmp_path / "run"
    states.mkdir()
    (states / "record.json").write_text('{"diverged": null}', encoding="utf-8")
    run = Run(board.NAME, "none", "default", board.SEED)
    private = read_private(small.artifacts / "private")
    with pytest.raises(FileNotFoundError, match="checkpoint"):
        observe(run, small.scenario, small.setting("none", {}), private, 0, states,
                tmp_path / "transcripts", tmp_path / "truth")  # fmt: skip
    assert not (tmp_path / "transcripts").exists()


def test_failed_cells_are_named_with_their_reasons(small: board.Board) -> None:
    records = attack_transcripts(small.task("ppp", "toy", fails="ignore", oom="features"))
    with pytest.raises(Defects) as caught:
        campaign.refuse_failed(records)
    assert caught.value.lines == [
        "small/ppp/default/0--init--b1--toy--ignore--board failed: RuntimeError: the toy broke"
    ]
    campaign.refuse_failed([r for r in records if r["status"] != "failed"])


def test_what_kills_its_worker_costs_one_reading(
    small: board.Board, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Every reading is tried in a worker of its own, never in the stage's process."""
    plugin = tmp_path / "lethal.py"
    plugin.write_text(LETHAL, encoding="utf-8")
    monkeypatch.setenv("PYTHONPATH", f"{tmp_path}{os.pathsep}{Path.cwd()}")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setattr(campaign, "attack_transcripts", __import__("lethal").attack)
    found = by_evidence(leftover(small.task("ppp", "toy"), Failure("failed", "worker died")))
    assert found["ignore"]["status"] == "failed" and "died" in found["ignore"]["reason"]
    assert found["ignore"]["knowledge"] == "paper" and found["ignore"]["observations"] > 0
    others = [record["status"] for name, record in found.items() if name != "ignore"]
    assert len(others) >= 3 and set(others) == {"ok"}


LETHAL = '''
"""Stands for an attack that takes its process along."""

import os


def attack(task):
    if task.only == "ignore":
        os._exit(9)
    return [{**task.key, "evidence": task.only, "status": "ok"}]
'''


def digest(task: Any, evidence: str = "oblivious") -> str:
    chosen = base.get(task.key["attack"]).configured(**task.fields)
    return cell_digest(task, chosen, readable(read(task.transcripts))[evidence][0])


def test_a_cells_digest_is_of_what_its_guesses_depend_on(small: board.Board) -> None:
    task = small.task("none", "ig", iterations=5)
    same = digest(task)
    assert digest(small.task("none", "ig", iterations=5)) == same
    assert digest(replace(task, provenance={"commit": "other"})) == same
    assert digest(replace(task, store=Path("elsewhere"), only="oblivious", limit=3.0)) == same
    others = [
        digest(small.task("none", "ig", iterations=6)),
        digest(small.task("none", "ig", iterations=5, restarts=2)),
        digest(small.task("none", "dlg", iterations=5)),
        digest(small.task("none", "ig", checkpoint="late", iterations=5)),
        digest(small.task("ppp", "ig", iterations=5)),
        digest(small.task("ppp", "ig", iterations=5), "ignore"),
    ]
    assert len({same, *others}) == 1 + len(others)


def test_starts_are_the_same_under_every_defense(small: board.Board, tmp_path: Path) -> None:
    """Comparisons are paired: a victim's start depends on scenario, seed, attack and victim."""
    diary = tmp_path / "starts"
    for name in ("none", "ppp"):
        for checkpoint in ("init", "late"):
            attack_transcripts(small.task(name, "toy", checkpoint, diary=str(diary), level=0.25))
    starts = {line.split(" ", 1)[1] for line in diary.read_text().splitlines()}
    assert len(starts) == 1
    assert len(set(json.loads(starts.pop()))) == board.VICTIMS


def test_published_settings_run_on_the_control_beside_the_boards() -> None:
    """Once as declared, on the whole message, where the board's settings are others."""
    digits = load_params().board("digits")
    tasks = campaign.plan("digits", digits, Path(), None)
    found = [t for t in tasks if t.key["settings"] == "published"]
    assert {t.key["defense"] for t in found} == {"none"}
    assert {t.key["attack"] for t in found} == {"ig", "dlg"}
    assert all(t.fields == {} and t.only == "oblivious" for t in found)
    assert {t.key["seed"] for t in found} == {digits.seeds[0]}
    names = [tuple(t.key.values()) for t in tasks]
    assert len(set(names)) == len(names)
    for task in found:
        twin = {**task.key, "settings": "board"}
        assert [t.fields for t in tasks if t.key == twin] == [
            digits.attacks[task.key["attack"]].fields
        ]


def test_the_control_is_attacked_by_the_ensemble_on_whatever_it_shows(small: board.Board) -> None:
    """Also where its evidence needs no knowledge of a defense, as all of it does under FedAvg."""
    params = load_params()
    for scenario in ("digits", "digits-fedavg"):
        tasks = [t for t in campaign.plan(scenario, params.board(scenario), Path(), None)
                 if (t.key["attack"], t.key["defense"]) == ("auto", "none")]  # fmt: skip
        assert tasks and all(t.knowledge is None for t in tasks)
    task = replace(small.task("none", "toy"), knowledge=params.attacks["auto"].knowledge)
    assert "oblivious" in by_evidence(attack_transcripts(task))


def test_starts_do_not_depend_on_the_settings(small: board.Board, tmp_path: Path) -> None:
    diary = tmp_path / "starts"
    for settings, level in (("board", 0.25), ("published", 0.75)):
        task = small.task("none", "toy", diary=str(diary), level=level)
        attack_transcripts(replace(task, key={**task.key, "settings": settings}, only="oblivious"))
    lines = diary.read_text().splitlines()
    assert len(lines) == 2 and lines[0] == lines[1]


def test_settings_are_part_of_a_files_name() -> None:
    about = {"point": "p", "seed": 0, "checkpoint": "init", "batch_size": 1, "attack": "ig",
             "evidence": "oblivious", "settings": "board"}  # fmt: skip
    other = {**about, "settings": "published"}
    assert "board" in guesses_file(about).name and guesses_file(about) != guesses_file(other)


@dataclass(frozen=True, kw_only=True)
class Learner(Toy):
    """Three predictions, the last victim four, and ten gradients of simulated messages."""

    def reconstruct(
        self, evidences: Any, public: Any, seeds: Any, deadline: float | None
    ) -> list[Guess]:
        guesses = super().reconstruct(evidences, public, seeds, deadline)
        counted = [replace(g, evaluations=3, simulated=10) for g in guesses]
        return [*counted[:-1], replace(counted[-1], evaluations=4)]


def test_evaluations_are_gradients_of_the_client_per_victim(
    small: board.Board, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(base._REGISTRY, "toy", Learner())
    task = small.task("ppp", "toy", level=0.125)
    costs = {name: found[0].cost for name, found in readable(read(task.transcripts)).items()}
    for record in attack_transcripts(task):
        spent = load_file(Path(record["cell"]) / "guesses.safetensors")["evaluations"]
        cost = costs[record["evidence"]]
        assert spent.dtype == torch.int64
        assert spent.tolist() == [3 * cost + 10] * (board.VICTIMS - 1) + [4 * cost + 10]
        assert record["evaluations"] == 4 * cost + 10


def test_guesses_are_an_entry_of_the_out_and_the_list_says_which(
    small: board.Board, tmp_path: Path
) -> None:
    (record, *_) = attack_transcripts(small.task("none", "toy"))
    place([Path(record["cell"])], tmp_path)
    kept = listed(record)
    assert "cell" not in kept and kept["name"] == str(guesses_file(record))
    assert (tmp_path / kept["file"]).is_file()
    del record["cell"]
    assert "file" not in listed(record)


def test_a_look_computes_nothing_and_tells_what_is_there(
    small: board.Board, tmp_path: Path
) -> None:
    task = replace(small.task("none", "toy"), store=tmp_path / "cells")
    assert {r["status"] for r in attack_transcripts(replace(task, look=True))} == {"absent"}
    made = attack_transcripts(task)
    assert attack_transcripts(replace(task, look=True)) == made


def test_an_attack_needs_no_truth(small: board.Board, tmp_path: Path) -> None:
    """Transcripts and public data, moved to where nothing else is, give the same guesses."""
    task = small.task("none", "ig", iterations=3)
    alone = tmp_path / "alone"
    for path in (task.transcripts, *task.public.iterdir()):
        target = alone / path.relative_to(small.root)
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_bytes(path.read_bytes())
    moved = replace(
        task,
        transcripts=alone / task.transcripts.relative_to(small.root),
        public=alone / task.public.relative_to(small.root),
        store=alone / "cells",
    )
    (here, *_), (there, *_) = attack_transcripts(task), attack_transcripts(moved)
    ours, theirs = (load_file(Path(r["cell"]) / "guesses.safetensors") for r in (here, there))
    assert torch.allclose(ours["images"], theirs["images"], atol=1e-4)
    assert Path(here["cell"]).name == Path(there["cell"]).name
    assert not read_truth(small.file("truth", "none"))[0]["pixels"].equal(ours["images"][0])
