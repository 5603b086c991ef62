"""Guesses against the sealed truth: every number of a cell against a hand computation."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from benchmark.attacks import base
from benchmark.config.registry import ATTACKS
from benchmark.data.preparation import read_public, read_training
from benchmark.metrics.baseline import without_attack
from benchmark.pipeline.attack import attacked
from benchmark.pipeline.observe import read_truth
from benchmark.pipeline.score import curve, score_point, threshold
from benchmark.results.columns import key, names
from benchmark.results.io import read_table, write_table
from tests import board

Rows = list[dict[str, Any]]


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> Iterator[board.Board]:
    torch.set_num_threads(1)
    chosen = board.scenario(victims=4, batch_sizes=(1, 3))
    made = board.make(tmp_path_factory.mktemp("small"), chosen)
    made.defend("none")
    made.defend("dgp")
    made.defend("ppp", {"width": 8, "noise": 0.1})
    yield made


def scored(
    small: board.Board,
    defense: str,
    guesses: torch.Tensor | None = None,
    size: int = 1,
    without: tuple[str, ...] = (),
    **tensors: torch.Tensor,
) -> tuple[Rows, Rows]:
    """An attack of three steps; cells and victims. Other ``guesses`` stand in the first cell's
    place, which is then the only one; ``without`` some of its tensors, with others."""
    cells = small.attacked(defense, size=size, iterations=3)
    if guesses is not None:
        cells = cells[:1]
        rewrite(small, cells[0], without, images=guesses, **tensors)
    task = small.scoring(defense, cells, iterations=3)
    task = type(task)(**{**vars(task), "key": small.key(defense, size=size),
                           "transcripts": small.file("transcripts", defense, size=size),
                           "truth": small.file("truth", defense, size=size)})  # fmt: skip
    cells, victims, _ = score_point([task])[0]
    return cells, victims


def rewrite(
    small: board.Board, cell: dict[str, Any], without: tuple[str, ...] = (), **tensors: torch.Tensor
) -> None:
    """Other tensors in a cell's file, or none."""
    path = small.scoring(cell["defense"], []).guesses / cell["file"]
    kept = {name: tensor for name, tensor in load_file(path).items() if name not in without}
    path.unlink()  # it may be a link into the store
    save_file({**kept, **{name: tensor.contiguous() for name, tensor in tensors.items()}}, path)


def truth(small: board.Board, size: int = 1) -> tuple[torch.Tensor, torch.Tensor]:
    """Private pixels [V, N, C, H, W] and labels [V, N]."""
    victims = read_truth(small.file("truth", "none", size=size))
    return torch.stack([v["pixels"] for v in victims]), torch.stack([v["labels"] for v in victims])


def test_the_truth_as_guess_is_recovered(small: board.Board) -> None:
    cells, victims = scored(small, "none", truth(small)[0])
    (cell,) = cells
    assert cell["verdict"] == "ok" and cell["success_rate"] == 1.0 and cell["n"] == 4
    assert cell["psnr_mean"] == cell["psnr_max"] == 60.0 and cell["mse_mean"] == 0.0
    assert cell["ssim_mean"] == pytest.approx(1, abs=1e-6)
    assert cell["identification_rate"] == 1.0
    assert cell["loss_truth_max"] < 1e-6 and cell["loss_guess_median"] < 1e-6
    assert cell["success_rate_lo"] < 0.7 and cell["success_rate_hi"] == 1.0
    assert all(v["success"] == 1 and v["verdict"] == "ok" for v in victims)


def test_a_cell_says_what_its_images_say(small: board.Board) -> None:
    """Graded guesses: two near, two far, every column by hand."""
    images, labels = truth(small)
    shift = torch.tensor([0.0, 0.02, 0.3, 0.5]).view(4, 1, 1, 1, 1)
    guesses = torch.where(images > 0.5, images - shift, images + shift)
    (cell,), victims = scored(small, "none", guesses)
    mse = ((guesses.double() - images.double()) ** 2).mean((1, 2, 3, 4)).numpy()
    psnr = np.minimum(60.0, -10 * np.log10(np.maximum(mse, 1e-300)))
    tau = small.scoring("none", []).tau
    success = psnr > tau
    assert success.tolist() == [True, True, False, False]
    assert [v["psnr"] for v in victims] == pytest.approx(psnr.tolist(), rel=1e-5)
    assert [v["success"] for v in victims] == [1, 1, 0, 0]
    assert [(v["victim"], v["image"]) for v in victims] == [(i, 0) for i in range(4)]
    expected = {
        "n": 4,
        "success_rate": 0.5,
        "psnr_mean": psnr.mean(),
        "psnr_median": np.median(psnr),
        "psnr_q10": np.quantile(psnr, 0.1),
        "psnr_q90": np.quantile(psnr, 0.9),
        "psnr_max": psnr.max(),
        "mse_mean": mse.mean(),
        "ssim_mean": np.mean([v["ssim"] for v in victims]),
        "baseline_psnr": np.median([v["baseline_psnr"] for v in victims]),
        "baseline_success_rate": np.mean([v["baseline_psnr"] > tau for v in victims]),
        "identification_rate": np.mean([v["identified"] for v in victims]),
        "loss_guess_median": np.median([v["loss_guess"] for v in victims]),
        "loss_truth_max": max(v["loss_truth"] for v in victims),
        "share_ok": 0.5,
        "share_failed": 0.5,
        "share_exhausted": 0.0,
    }
    for name, value in expected.items():
        assert cell[name] == pytest.approx(float(value), rel=1e-5), name
    assert cell["success_rate_lo"] <= 0.5 <= cell["success_rate_hi"]
    assert cell["verdict"] == "optimiser-failed", "the truth would have explained more"
    public = read_public(small.artifacts / "public")
    baselines = without_attack(images.flatten(0, 1), labels.flatten(), public.images, public.labels)
    for row, baseline in zip(victims, baselines, strict=True):
        assert row["baseline_psnr"] >= baseline - 1e-9
        assert row["baseline_success"] == int(row["baseline_psnr"] > tau)


def test_nothing_that_an_attack_says_of_itself_counts(small: board.Board) -> None:
    """Guesses outside the range of pixels, or no numbers, are scored as what they show."""
    images, _ = truth(small)
    wild = images.clone()
    wild[0] = torch.nan
    wild[1] = images[1] * 1e3
    wild[2] = images[2] - 5.0
    (cell,), victims = scored(small, "none", wild)
    assert cell["n"] == 4 and victims[3]["psnr"] == 60.0
    black = ((images[2].double()) ** 2).mean()
    assert victims[2]["psnr"] == pytest.approx(float(-10 * torch.log10(black)), rel=1e-6)
    assert victims[0]["verdict"] != "ok"


def test_images_of_a_batch_are_matched_one_to_one(small: board.Board) -> None:
    images, _ = truth(small, 3)
    shuffled = torch.stack([victim[torch.randperm(3)] for victim in images])
    (cell,), victims = scored(small, "none", shuffled, size=3)
    assert cell["psnr_median"] == 60.0 and cell["n"] == 12
    twice = images[:, [0, 0, 2]]
    (cell,), victims = scored(small, "none", twice, size=3)
    recovered = [sum(v["psnr"] == 60.0 for v in victims if v["victim"] == n) for n in range(4)]
    assert recovered == [2] * 4, "one guess is not two recoveries"
    assert [(v["victim"], v["image"]) for v in victims] == [(i, j) for i in range(4) for j in
                                                           range(3)]  # fmt: skip


def test_batches_without_labels_are_audited_in_the_order_of_their_guesses(
    small: board.Board,
) -> None:
    """Undefended and recovered whole, they explain the message, whatever their order."""
    images, labels = truth(small, 3)
    assert any(len(set(own)) > 1 for own in labels.tolist()), "order matters to the message"
    for order in ([1, 2, 0], [2, 1, 0]):
        (cell,), victims = scored(
            small, "none", images[:, order], size=3, without=("labels", "soft")
        )
        assert cell["success_rate"] == 1.0 and cell["verdict"] == "ok"
        assert max(v["loss_guess"] for v in victims) < 1e-6
        assert [v["loss_guess"] for v in victims] == pytest.approx(
            [v["loss_truth"] for v in victims], abs=1e-9
        )


def test_closed_forms_miss_or_do_not_apply_image_by_image(
    small: board.Board, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What is said of a guess goes with it to the true image that it stands beside."""
    images, _ = truth(small, 3)
    said = torch.tensor([[True, False, True]]).expand(4, 3)
    guesses = images[:, [1, 2, 0]].clone()
    guesses[:, :2] = 0.5 * guesses[:, :2] + 0.25  # two of three, of images 1 and 2, are missed
    solver = replace(base.get("ig"), closed_form=True)
    monkeypatch.setitem(ATTACKS, "ig", solver)
    (cell,), victims = scored(small, "none", guesses, size=3, applicable=said)
    assert [v["success"] for v in victims] == [1, 0, 0] * 4
    assert [v["verdict"] for v in victims] == ["ok", "missed", "not-applicable"] * 4
    assert cell["verdict"] == "missed" and cell["share_exhausted"] == 0.0
    assert cell["share_failed"] == 0.0, "a closed form does not search"
    for name in ("share_missed", "share_not_applicable", "share_ok"):
        assert cell[name] == pytest.approx(1 / 3)


def test_an_attackers_pick_is_of_the_boards_settings(small: board.Board) -> None:
    """Guesses at published settings are scored at them, and never the attacker's own pick."""
    board_cell, *_ = small.attacked("none", iterations=3)
    published = {**board_cell, "settings": "published"}
    task = small.scoring("none", [board_cell, published], iterations=3)
    cells, victims, _ = score_point([task])[0]
    assert [c["settings"] for c in cells] == ["board", "published"]
    picked = {v["settings"]: v["picked"] for v in victims}
    assert picked == {"board": 1, "published": 0} and len(victims) == 8
    odd = replace(task, cells=[published], attacks={"ig": {"nonesuch": 1}})
    _, victims, _ = score_point([odd])[0]
    assert len(victims) == 4 and not any(v["picked"] for v in victims)


def saturated(small: board.Board, **tensors: torch.Tensor) -> tuple[Rows, Rows]:
    """Rows of victims.csv and saturation.csv of `auto` on ``none``, whose budget of three holds
    the very guesses of the standard one about two victims, and other ``tensors``."""
    fields = {"lbfgs_evaluations": 3, "adam_evaluations": 3}
    cells = small.attacked("none", attack="auto", **fields)
    task = small.task("none", "auto", **fields)
    more = replace(
        task, key={**task.key, "budget": 3}, fields={**fields, "budget": 3},
        only=cells[0]["evidence"], first=2,
    )  # fmt: skip
    (larger,) = small.kept(attacked([more]))
    rewrite(small, cells[0], evaluations=torch.tensor([10, 20, 1000, 1000]))
    standard = load_file(small.scoring("none", []).guesses / cells[0]["file"])
    rewrite(small, larger, **{name: tensor[:2] for name, tensor in standard.items()} | tensors)
    task = replace(small.scoring("none", cells), saturation=[larger], attacks={"auto": fields})
    _, victims, rows = score_point([task])[0]
    return victims, rows


def test_all_budgets_have_one_judge_and_the_same_victims(small: board.Board) -> None:
    """Equal guesses are equal rows, whatever the larger budget's attack says of its loss."""
    victims, (once, thrice) = saturated(
        small, loss=torch.full((2,), 123.0), evaluations=torch.tensor([30, 70])
    )
    first = [v for v in victims if v["victim"] < 2 and v["evidence"] == once["evidence"]]
    assert (once["budget"], thrice["budget"]) == (1, 3)
    assert once["evaluations"] == 15.0 and thrice["evaluations"] == 50.0
    assert once["n"] == thrice["n"] == len(first) == 2
    assert once["loss_median"] == pytest.approx(np.median([v["loss_guess"] for v in first]))
    for name in ("success_rate", "psnr_median", "loss_median"):
        assert once[name] == pytest.approx(thrice[name], rel=1e-6), name
    assert once["exact_tokens"] is None and set(once) == set(names("saturation.csv")) == set(thrice)


def test_larger_budgets_on_sentences_are_measured_in_words() -> None:
    """Success is the judge's, and there is no PSNR of words."""
    images = [
        {"psnr": None, "exact_tokens": share, "success": won, "loss_guess": 0.5}
        for share, won in ((1.0, 1), (0.5, 0), (0.0, 0))
    ]
    found = curve(images, torch.tensor([7, 8, 9]))
    assert found == {
        "n": 3, "success_rate": pytest.approx(1 / 3), "psnr_median": None, "exact_tokens": 0.5,
        "loss_median": 0.5, "evaluations": 8.0,
    }  # fmt: skip


def test_another_victims_guess_is_the_baseline(small: board.Board) -> None:
    """What is scored against the truth of a victim that shares its label earns nothing."""
    images, labels = truth(small)
    assert int((labels[0] == labels[1]).all()), "victims come in pairs of a label"
    (cell,), victims = scored(small, "none", images[[1, 0, 3, 2]])
    for row, guess, true in zip(victims, images, images[[1, 0, 3, 2]], strict=True):
        assert row["baseline_psnr"] == 60.0, "the other's guess happens to be this truth"
        assert row["psnr"] == pytest.approx(
            float(-10 * torch.log10(((guess - true).double() ** 2).mean())), rel=1e-5
        )
    assert cell["baseline_success_rate"] == 1.0 and cell["success_rate"] == 0.0


def test_every_evidence_is_audited_at_its_own_truth(small: board.Board) -> None:
    cells, victims = scored(small, "dgp")
    loss = {c["evidence"]: c["loss_truth_max"] for c in cells}
    assert max(loss["nonzero-entries"], loss["pruning-thresholds"]) < 1e-6
    assert loss["oblivious"] > 0.01
    cells, _ = scored(small, "ppp")
    loss = {c["evidence"]: c["loss_truth_max"] for c in cells}
    assert loss["bottleneck-features"] < 1e-6, "the noise does not reach the features"
    assert loss["features-and-gradient"] > 1e-6
    assert loss["joint-noise"] < loss["oblivious"], "the sealed draws are used"


def test_tables_hold_every_cell_and_image_once(small: board.Board, tmp_path: Path) -> None:
    cells, victims = [], []
    for name in ("none", "dgp", "ppp"):
        own, images = scored(small, name)
        cells += own
        victims += images
    assert all(set(row) == set(names("cells.csv")) for row in cells)
    assert all(set(row) == set(names("victims.csv")) for row in victims)
    keys = [tuple(row[k] for k in key("cells.csv")) for row in cells]
    assert len(set(keys)) == len(keys)
    write_table(tmp_path / "cells.csv", cells)
    write_table(tmp_path / "victims.csv", victims)
    table, images = read_table(tmp_path / "cells.csv"), read_table(tmp_path / "victims.csv")
    assert len(images) == 4 * len(table)
    again = images.groupby(["defense", "evidence"])["psnr"].median()
    for _, row in table.iterrows():
        assert row["psnr_median"] == pytest.approx(again[row["defense"], row["evidence"]])


@pytest.mark.parametrize("status", ["failed", "oom", "unsupported"])
def test_a_cell_without_guesses_is_a_row_without_numbers(small: board.Board, status: str) -> None:
    (record, *_) = attacked([small.task("none", iterations=3)])
    del record["cell"]
    record |= {"status": status, "reason": "because", "file": "nowhere.safetensors"}
    (cell,), victims, _ = score_point([small.scoring("none", [record], iterations=3)])[0]
    assert victims == [] and set(cell) == set(names("cells.csv"))
    assert (cell["status"], cell["reason"], cell["n"]) == (status, "because", 0)
    assert cell["psnr_median"] is None and not cell["verdict"]


def test_tau_is_what_guessing_does_not_reach(small: board.Board) -> None:
    public, train = small.artifacts / "public", small.artifacts / "train"
    known, data = read_public(public), read_training(train)
    best = without_attack(data.test_images, data.test_labels, known.images, known.labels)
    assert threshold(public, train, 3.0) == pytest.approx(float(np.quantile(best, 0.99)))
    assert threshold(public, train, 50.0) == 50.0


def test_files_of_a_point_are_scored_together_as_they_are_alone(small: board.Board) -> None:
    """One audit for all of them, and every row is that of its own file."""
    tasks = []
    for size in (1, 3):
        cells = small.attacked("dgp", size=size, iterations=3)
        task = small.scoring("dgp", cells, iterations=3)
        files = {k: small.file(k, "dgp", size=size) for k in ("transcripts", "truth")}
        tasks.append(replace(task, key=small.key("dgp", size=size), **files))
    together = score_point([*tasks, tasks[0]])
    for task, rows in zip((*tasks, tasks[0]), together, strict=True):
        for own, alone in zip(rows, score_point([task])[0], strict=True):
            assert len(own) == len(alone)
            for row, other in zip(own, alone, strict=True):
                for name, value in row.items():
                    if isinstance(value, float):
                        value = pytest.approx(value, rel=1e-4, abs=1e-7)
                    assert other[name] == value, name


def test_evaluations_are_a_mean_over_victims(small: board.Board) -> None:
    cells = small.attacked("none", iterations=3)[:1]
    rewrite(small, cells[0], evaluations=torch.tensor([1, 2, 3, 10]))
    ((row,), _, _) = score_point([small.scoring("none", cells, iterations=3)])[0]
    assert row["evaluations"] == 4.0
