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

from benchmark.attacks.base import Attack, Guess
from benchmark.config.registry import ATTACKS
from benchmark.config.schema import Saturation, load_params
from benchmark.data.preparation import read_private
from benchmark.defenses.base import Defense
from benchmark.federated.transcript import read
from benchmark.pipeline import attack as campaign
from benchmark.pipeline.attack import (
    Cell,
    Job,
    alone,
    attacked,
    jobs_of,
    listed,
    readable,
    saturation,
    signature,
    surveyed,
)
from benchmark.pipeline.observe import observe, read_truth
from benchmark.pipeline.train import Run
from benchmark.runtime.parallel import Failure
from benchmark.runtime.paths import guesses_file
from benchmark.runtime.session import Defects
from benchmark.runtime.sources import source_digest
from benchmark.runtime.store import place
from tests import board, tiny


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
    monkeypatch.setitem(ATTACKS, "toy", Toy())
    monkeypatch.setenv("LEAKBOARD_EXECUTOR", "serial")  # where the toy is known
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
    first = attacked([task])
    names = [line.split()[0] for line in diary.read_text().splitlines()]
    assert sorted(names) == sorted(r["evidence"] for r in first) and len(names) >= 4
    assert all(record["status"] == "ok" for record in first)
    second = attacked([task])
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
    task = small.task("ppp", "auto", lbfgs_evaluations=16, adam_evaluations=8)
    records = attacked([task])
    more = saturation(chosen, [task], records)
    assert [t.fields["budget"] for t in more] == [3, 10]
    for each, times in zip(more, (3, 10), strict=True):
        (record,) = attacked([each])
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
    for record in attacked([task]):
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
    monkeypatch.setitem(ATTACKS, "toy", Toy(closed_form=True))
    task = small.task("none", "toy", level=0.125)
    for record in attacked([task]):
        met = load_file(Path(record["cell"]) / "guesses.safetensors")["applicable"]
        assert met.shape == (board.VICTIMS, 1) and met.dtype == torch.bool and bool(met.all())


def test_one_failing_cell_is_a_row_with_its_reason(small: board.Board) -> None:
    failing = {"fails": "before-bottleneck", "oom": "bottleneck-features"}
    task = small.task("ppp", "toy", refuses="features-and-gradient", **failing)
    found = by_evidence(attacked([task]))
    assert found["before-bottleneck"]["status"] == "failed"
    assert found["before-bottleneck"]["reason"] == "RuntimeError: the toy broke"
    assert found["bottleneck-features"]["status"] == "oom"
    refused = found["features-and-gradient"]
    assert (refused["status"], refused["reason"]) == ("unsupported", "not for toys")
    assert found["oblivious"]["status"] == "ok"
    for name in ("before-bottleneck", "bottleneck-features", "features-and-gradient"):
        assert "cell" not in found[name] and found[name]["observations"] > 0


def test_a_failed_cell_is_tried_again_and_nothing_of_it_is_kept(small: board.Board) -> None:
    diary = small.root / "tries"
    toy = small.task("none", "toy", fails="oblivious", diary=str(diary))
    task = replace(toy, only="oblivious")
    before = set((small.root / "cells").rglob("cell.json"))
    for tries in (1, 2):
        assert attacked([task])[0]["status"] == "failed"
        assert len(diary.read_text().splitlines()) == tries
    assert set((small.root / "cells").rglob("cell.json")) == before


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
    assert {record["status"] for record in attacked([early])} == {"ok"}
    (record,) = attacked([late])
    assert (record["status"], record["reason"]) == (
        "unsupported", "training diverged in round 2",
    )  # fmt: skip
    assert record["evidence"] == "oblivious" and record["defense"] == "none"
    campaign.refuse_failed([record])


def test_transcripts_that_are_missing_are_no_divergence(small: board.Board) -> None:
    task = replace(small.task("none", "toy"), transcripts=small.root / "never.safetensors")
    with pytest.raises(FileNotFoundError):
        attacked([task])


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
    task = small.task("ppp", "toy", fails="before-bottleneck", oom="bottleneck-features")
    records = attacked([task])
    with pytest.raises(Defects) as caught:
        campaign.refuse_failed(records)
    assert caught.value.lines == [
        "small/ppp/default/0--init--b1--toy--before-bottleneck--board failed: "
        "RuntimeError: the toy broke"
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
    monkeypatch.setattr(campaign, "attack_together", __import__("lethal").attack)
    ((task, cells),) = surveyed([small.task("ppp", "toy")])
    job = Job(tuple(Cell(task, found) for found in cells))
    monkeypatch.delenv("LEAKBOARD_EXECUTOR")
    found = by_evidence(alone(job, Failure("failed", "worker died")))
    killer = found.pop("before-bottleneck")
    assert killer["status"] == "failed" and "died" in killer["reason"]
    assert killer["knowledge"] == "paper" and killer["observations"] > 0
    others = [record["status"] for record in found.values()]
    assert len(others) >= 3 and set(others) == {"ok"}


LETHAL = '''
"""Stands for an attack that takes its process along."""

import os


def attack(job):
    (cell,) = job.cells
    if cell.found["evidence"] == "before-bottleneck":
        os._exit(9)
    return [{**cell.task.key, "evidence": cell.found["evidence"], "status": "ok"}]
'''


def digest(task: Any, evidence: str = "oblivious") -> str:
    ((_, cells),) = surveyed([task])
    return next(found["digest"] for found in cells if found["evidence"] == evidence)


def test_a_cells_digest_is_of_what_its_guesses_depend_on(small: board.Board) -> None:
    task = small.task("none", "ig", iterations=5)
    same = digest(task)
    assert digest(small.task("none", "ig", iterations=5)) == same
    assert digest(replace(task, provenance={"commit": "other"})) == same
    assert digest(replace(task, store=small.root / "elsewhere", limit=3.0)) == same
    others = [
        digest(small.task("none", "ig", iterations=6)),
        digest(small.task("none", "ig", iterations=5, restarts=2)),
        digest(small.task("none", "dlg", iterations=5)),
        digest(small.task("none", "ig", checkpoint="late", iterations=5)),
        digest(small.task("ppp", "ig", iterations=5)),
        digest(small.task("ppp", "ig", iterations=5), "before-bottleneck"),
    ]
    assert len({same, *others}) == 1 + len(others)


def test_starts_are_the_same_under_every_defense(small: board.Board, tmp_path: Path) -> None:
    """Comparisons are paired: a victim's start depends on scenario, seed, attack and victim."""
    diary = tmp_path / "starts"
    for name in ("none", "ppp"):
        for checkpoint in ("init", "late"):
            attacked([small.task(name, "toy", checkpoint, diary=str(diary), level=0.25)])
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
    assert "oblivious" in by_evidence(attacked([task]))


def test_starts_do_not_depend_on_the_settings(small: board.Board, tmp_path: Path) -> None:
    diary = tmp_path / "starts"
    for settings, level in (("board", 0.25), ("published", 0.75)):
        task = small.task("none", "toy", diary=str(diary), level=level)
        attacked([replace(task, key={**task.key, "settings": settings}, only="oblivious")])
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
    monkeypatch.setitem(ATTACKS, "toy", Learner())
    task = small.task("ppp", "toy", level=0.125)
    costs = {name: found[0].cost for name, found in readable(read(task.transcripts)).items()}
    for record in attacked([task]):
        spent = load_file(Path(record["cell"]) / "guesses.safetensors")["evaluations"]
        cost = costs[record["evidence"]]
        assert spent.dtype == torch.int64
        assert spent.tolist() == [3 * cost + 10] * (board.VICTIMS - 1) + [4 * cost + 10]
        assert record["evaluations"] == 4 * cost + 10


def test_guesses_are_an_entry_of_the_out_and_the_list_says_which(
    small: board.Board, tmp_path: Path
) -> None:
    (record, *_) = attacked([small.task("none", "toy")])
    place([Path(record["cell"])], tmp_path)
    kept = listed(record)
    assert "cell" not in kept and kept["name"] == str(guesses_file(record))
    assert (tmp_path / kept["file"]).is_file()
    del record["cell"]
    assert "file" not in listed(record)


def test_a_survey_computes_nothing_and_is_made_once(
    small: board.Board, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    diary = tmp_path / "diary"
    task = replace(small.task("ppp", "toy", diary=str(diary)), store=tmp_path / "cells")
    first = surveyed([task])
    assert not diary.exists() and len(first[0][1]) >= 4
    monkeypatch.setattr(campaign, "readable", lambda transcripts: 1 / 0)
    assert surveyed([task]) == first
    assert {record["status"] for record in attacked([task])} == {"ok"}


def test_what_shows_the_same_is_one_cell_under_both_names(
    small: board.Board, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = campaign.readable

    def twice(transcripts: Any) -> dict[str, list[Any]]:
        found = real(transcripts)
        return {**found, "again": [replace(e, name="again") for e in found["oblivious"]]}

    monkeypatch.setattr(campaign, "readable", twice)
    diary = tmp_path / "diary"
    task = replace(small.task("none", "toy", diary=str(diary)), store=tmp_path / "cells")
    found = by_evidence(attacked([task]))
    assert found["again"]["cell"] == found["oblivious"]["cell"]
    assert len({record["cell"] for record in found.values()}) == len(found) - 1
    assert len(diary.read_text().splitlines()) == len(found) - 1


def test_two_orders_of_running_give_equal_bits(small: board.Board, tmp_path: Path) -> None:
    """Two defenses' cells in one job, one after the other, and half of them found in the store."""
    tasks = [small.task(d, "auto", c, lbfgs_evaluations=12, adam_evaluations=8)
             for d in ("none", "ppp") for c in ("init", "late")]  # fmt: skip

    def images(store: str, orders: list[list[int]]) -> dict[str, torch.Tensor]:
        found = []
        for order in orders:
            found += attacked([replace(tasks[k], store=tmp_path / store) for k in order])
        return {
            f"{r['defense']} {r['checkpoint']} {r['evidence']}": load_file(
                Path(r["cell"]) / "guesses.safetensors"
            )["images"]
            for r in found
        }

    together = images("a", [[0, 1, 2, 3]])
    for other in (images("b", [[3], [1], [0], [2]]), images("c", [[2, 0], [0, 1, 2, 3]])):
        assert set(other) == set(together)
        for name, found in together.items():
            assert torch.equal(found, other[name]), name


def test_cells_of_equal_structure_share_a_job(small: board.Board) -> None:
    tasks = [small.task(defense, attack, checkpoint, iterations=2)
             for defense in ("none", "ppp") for checkpoint in ("init", "late")
             for attack in ("ig", "dlg")]  # fmt: skip
    cells = [Cell(task, found) for task, some in surveyed(tasks) for found in some]
    jobs = jobs_of(cells)
    assert sorted(map(id, cells)) == sorted(id(cell) for job in jobs for cell in job.cells)
    for job in jobs:
        assert len({cell.task.key["attack"] for cell in job.cells}) == 1
        assert len({cell.found["structure"] for cell in job.cells}) == 1
    shared = [{cell.task.key["checkpoint"] for cell in job.cells} for job in jobs]
    assert all(checkpoints == {"init", "late"} for checkpoints in shared)


def test_plain_updates_are_of_one_structure_under_every_defense() -> None:
    def of(defense: str, evidence: str = "oblivious") -> str:
        transcript = tiny.observe(tiny.setting_of(defense))[0].transcript
        return signature(readable([transcript])[evidence][0])

    assert of("none") == of("dp") == of("pruning")
    assert of("pruning", "nonzero-entries") == of("dgp", "nonzero-entries") != of("pruning")
    assert of("pruning", "bpda-eot") != of("dgp", "bpda-eot")
    assert of("none") != of("precode")


@pytest.mark.parametrize("defense", tiny.points(), ids=repr)
def test_all_evidence_can_be_grouped(defense: Defense) -> None:
    """Asking a prediction what it uses of its setting fails for none; equal victims go together."""
    one, two = (victim.transcript for victim in tiny.observe(tiny.setting_of(defense), 2))
    found = readable([one, two])
    assert found
    for evidences in found.values():
        assert signature(evidences[0]) == signature(evidences[1])


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
    (here, *_), (there, *_) = attacked([task]), attacked([moved])
    ours, theirs = (load_file(Path(r["cell"]) / "guesses.safetensors") for r in (here, there))
    assert torch.allclose(ours["images"], theirs["images"], atol=1e-4)
    assert Path(here["cell"]).name == Path(there["cell"]).name
    assert not read_truth(small.file("truth", "none"))[0]["pixels"].equal(ours["images"][0])
