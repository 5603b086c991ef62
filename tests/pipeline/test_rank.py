"""Ranks on tables made by hand: who leaks more, who ties, who is not ranked and why."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from scipy import stats as scipy_stats

from benchmark.config.schema import load_params
from benchmark.pipeline.rank import Facts, rank
from benchmark.results.catalog import catalog
from benchmark.results.columns import names
from benchmark.results.io import write_table

SEEDS = (0, 1)
EACH = 12  # victims per seed
FACTS = Facts(
    scenario="s", seeds=SEEDS, checkpoint="init", batch_size=1, local_steps=1, confidence=0.95,
    chance=0.1, chance_personal=0.3, test_examples=280,
)  # fmt: skip


class Tables:
    """Grows a scenario's tables, one operating point's cell at a time."""

    def __init__(self) -> None:
        self.cells: list[dict[str, Any]] = []
        self.victims: list[dict[str, Any]] = []
        self.training: list[dict[str, Any]] = []
        self.saturation: list[dict[str, Any]] = []

    def cell(
        self, defense: str, success: float | Sequence[int] = 1.0, *, attack: str = "ig",
        evidence: str | None = None, point: str = "p", settings: str = "board",
        verdict: str = "evidence-exhausted", status: str = "ok",
        floor: float = 0.0, seeds: Sequence[int] = SEEDS, checkpoint: str = "init",
        batch_size: int = 1, psnr: float = 5.0, images: int = 1, each: int = EACH,
        accurate: int = 1, threat: str = "curious", selected: bool = True, reason: str = "",
    ) -> Tables:  # fmt: skip
        """``success``: a share of recovered victims, or 0 and 1 per victim of every seed.
        ``verdict`` is that of those not recovered; ``psnr`` theirs. Evidence of a defense is
        adaptive unless it is called oblivious; all evidence of no defense is oblivious."""
        evidence = evidence or ("oblivious" if defense == "none" else "sent")
        key = {"defense": defense, "point": point, "checkpoint": checkpoint, "attack": attack,
               "evidence": evidence, "settings": settings, "batch_size": batch_size}  # fmt: skip
        blind = defense == "none" or evidence == "oblivious"
        knowledge = "oblivious" if blind else "adaptive"
        for seed in seeds:
            self.cells.append({**key, "seed": seed, "status": status, "reason": reason})
            if status not in ("ok", "timeout"):
                continue
            for victim in range(each):
                if isinstance(success, Sequence):
                    won = bool(success[victim])
                else:
                    won = victim < success * each
                for image in range(images):
                    self.victims.append(
                        {**key, "knowledge": knowledge, "seed": seed, "victim": victim,
                         "image": image, "success": int(won), "psnr": 40.0 if won else psnr,
                         "verdict": "ok" if won else verdict, "baseline_psnr": 9.0,
                         "baseline_success": floor, "accurate": accurate, "threat": threat,
                         "picked": int(selected), "exact_tokens": None}
                    )  # fmt: skip
        return self

    def run(self, defense: str, accuracy: Any = 0.9, point: str = "p", **facts: Any) -> Tables:
        """What training measured; lists hold one value per seed."""
        for place, seed in enumerate(SEEDS):
            row = {
                "defense": defense, "point": point, "seed": seed, "accuracy_global": accuracy,
                "accuracy_personal": None, "epsilon": float("inf"), "uplink_bytes": 10.0,
                "downlink_bytes": 20.0, "bytes_to_target": 1e3, "client_seconds": 0.1, **facts,
            }  # fmt: skip
            self.training.append(
                {k: v[place] if isinstance(v, list) else v for k, v in row.items()}
            )
        return self

    def saturated(
        self, rates: Sequence[float], psnr: Sequence[float] = (5, 5, 5), defense: str = "dgp",
        evidence: str = "sent",
    ) -> Tables:  # fmt: skip
        """Success and median PSNR at 1, 3 and 10 times the budget."""
        for budget, rate, median in zip((1, 3, 10), rates, psnr, strict=True):
            self.saturation.append(
                {"defense": defense, "point": "p", "checkpoint": "init", "batch_size": 1,
                 "seed": 0, "attack": "auto", "evidence": evidence, "budget": budget,
                 "success_rate": rate, "psnr_median": median}
            )  # fmt: skip
        return self

    def rows(self, **facts: Any) -> list[dict[str, Any]]:
        """All rows; a defense that no ``run`` was told of has the control's accuracy."""
        trained = {(row["defense"], row["point"]) for row in self.training}
        for cell in list(self.cells):
            if (cell["defense"], cell["point"]) not in trained:
                self.run(cell["defense"], point=cell["point"])
                trained.add((cell["defense"], cell["point"]))
        return rank(
            pd.DataFrame(self.cells), pd.DataFrame(self.victims),
            pd.DataFrame(self.training, columns=[*names("training.csv")]),
            pd.DataFrame(self.saturation, columns=[*names("saturation.csv")]),
            replace(FACTS, **facts),
        )  # fmt: skip

    def ranks(self, **facts: Any) -> dict[Any, dict[str, Any]]:
        """Rows by defense."""
        rows = self.rows(**facts)
        found = {row["defense"]: row for row in rows}
        assert len(found) == len(rows)
        return found


def place(row: dict[str, Any], points: int = 2) -> tuple[Any, Any]:
    return row[f"rank{points}_lo"], row[f"rank{points}_hi"]


def flags(row: dict[str, Any]) -> set[str]:
    return set(row["flags"].split(";")) - {""}


# -------------------------------------------------------------------------------- what leaked


def test_the_worst_case_is_counted_per_example_over_all_attacks() -> None:
    """Two attacks that recover different halves recover everything together."""
    first, second = [1] * 8 + [0] * 4, [0] * 6 + [1] * 6
    tables = Tables().cell("none").cell("x", first, selected=False)
    tables.cell("x", second, evidence="body", attack="dlg", floor=0.25)
    row = tables.ranks()["x"]
    assert row["recovered"] == 1.0 and row["n"] == row["n_victims"] == 24
    assert (row["strongest_attack"], row["strongest_evidence"]) == ("ig", "sent")
    assert row["own_pick"] == pytest.approx(6 / 12)
    assert row["baseline_success"] == 0.25, "the same maximum over guesses without the message"
    assert row["psnr_median"] == 40.0


def test_the_strongest_attack_is_the_one_that_recovers_most_then_comes_nearest() -> None:
    tables = Tables().cell("none").cell("x", 0.0, psnr=5.0)
    tables.cell("x", 0.0, psnr=15.0, evidence="better")
    row = tables.ranks()["x"]
    assert row["strongest_evidence"] == "better" and row["psnr_median"] == 15.0
    tables.cell("x", 0.25, evidence="rare", psnr=1.0)
    assert tables.ranks()["x"]["strongest_evidence"] == "rare"


def test_three_shares_make_a_whole_and_the_second_bound_adds_the_inconclusive() -> None:
    tables = Tables().cell("none")
    tables.cell("x", [1] * 3 + [0] * 9)
    tables.cell("y", [1] * 3 + [0] * 9, verdict="optimiser-failed")
    for name, exhausted, inconclusive in (("x", 0.75, 0.0), ("y", 0.0, 0.75)):
        row = tables.ranks()[name]
        assert (row["share_exhausted"], row["share_inconclusive"]) == (exhausted, inconclusive)
        assert row["recovered"] + exhausted + inconclusive == 1
        assert row["recovered_or_inconclusive"] == row["recovered"] + inconclusive
        exact = scipy_stats.binomtest(6, 24).proportion_ci(0.95, "exact")
        assert (row["recovered_lo"], row["recovered_hi"]) == pytest.approx((exact.low, exact.high))
    rows = tables.ranks()
    assert rows["x"]["verdict"] == "evidence-exhausted" and rows["y"]["verdict"] == "inconclusive"
    assert "inconclusive" in flags(rows["y"]) and "inconclusive" not in flags(rows["x"])
    assert rows["y"]["recovered_or_inconclusive_hi"] == 1.0


def test_an_undefended_row_loses_nothing_to_an_attacker_who_knows_that() -> None:
    tables = Tables().cell("none", [1] * 6 + [0] * 6)
    tables.cell("none", [0] * 2 + [1] * 10, attack="auto", evidence="rows")
    tables.cell("none", [0] * 1 + [1] * 11, attack="dlg", settings="published")
    row = tables.ranks()["none"]
    for part in ("", "_lo", "_hi"):
        assert row[f"oblivious{part}"] == row[f"recovered{part}"]
    assert row["oblivious_psnr_median"] == row["psnr_median"]
    assert row["recovered"] == 1.0


def test_oblivious_guesses_count_for_the_worst_case_too() -> None:
    tables = Tables().cell("none").cell("dgp", 1.0, evidence="oblivious").cell("dgp", 0.0)
    row = tables.ranks()["dgp"]
    assert row["recovered"] == row["oblivious"] == 1.0
    weaker = Tables().cell("none").cell("dgp", 0.0, evidence="oblivious").cell("dgp", 1.0)
    row = weaker.ranks()["dgp"]
    assert (row["recovered"], row["oblivious"]) == (1.0, 0.0)
    assert (row["psnr_median"], row["oblivious_psnr_median"]) == (40.0, 5.0)


@pytest.mark.parametrize("status", [None, "oom", "unsupported"])
def test_without_an_adaptive_attack_there_is_no_adaptive_figure(status: str | None) -> None:
    """A defense that only blind attacks were run on used to be ranked on them."""
    tables = Tables().cell("none").cell("x", 0.0, evidence="oblivious").cell("y", 0.0)
    if status:
        tables.cell("x", status=status)
    row = tables.ranks()["x"]
    for column in ("recovered", "recovered_lo", "recovered_or_inconclusive", "psnr_median",
                   "share_exhausted", "share_inconclusive"):  # fmt: skip
        assert row[column] is None, column
    assert row["strongest_attack"] == row["verdict"] == "" and row["oblivious"] == 0.0
    assert "no-adaptive" in flags(row) and "knows the defense" in row["reason"]
    assert place(row) == place(row, 5) == (None, None)
    assert place(tables.ranks()["y"]) == (1, 1)


def test_an_attack_that_learned_is_another_threat() -> None:
    tables = Tables().cell("none").cell("x", 0.0)
    alone = tables.ranks()["x"]
    tables.cell("x", 1.0, attack="lti", threat="auxiliary", selected=False)
    row = tables.ranks()["x"]
    assert row["extra_data"] == 1.0 and row["extra_data_attack"] == "lti"
    assert row["recovered"] == alone["recovered"] == 0.0
    assert place(row) == place(alone)
    assert alone["extra_data"] is None and alone["extra_data_attack"] == ""
    blind = Tables().cell("none").cell("x", 0.0, attack="lti", threat="auxiliary")
    assert "no-adaptive" in flags(blind.ranks()["x"])


def test_images_of_a_batch_stand_or_fall_together() -> None:
    one = Tables().cell("none").cell("x", 0.5).ranks()["x"]
    many = Tables().cell("none", images=5).cell("x", 0.5, images=5).ranks()["x"]
    for part in ("recovered", "recovered_lo", "recovered_hi"):
        assert many[part] == one[part], "more images a victim are no more victims"
    assert (many["n"], many["n_victims"]) == (120, 24)


# -------------------------------------------------------------------------------------- ranks


def test_less_leakage_is_a_better_rank_and_ties_share() -> None:
    tables = Tables().cell("none").cell("good", 0.0).cell("twin", 0.0).cell("half", 0.5)
    rows = tables.ranks()
    assert place(rows["good"]) == place(rows["twin"]) == (1, 2)
    assert place(rows["half"]) == (3, 3)
    assert place(rows["none"]) == (4, 4)
    assert all(place(row) == place(row, 5) for row in rows.values())
    assert list(rows) == ["good", "twin", "half", "none"]


def test_a_difference_of_one_victim_is_a_tie() -> None:
    rows = Tables().cell("none").cell("a", 0.0).cell("b", 1 / EACH).ranks()
    assert place(rows["a"]) == place(rows["b"]) == (1, 2)


def test_what_neither_leaked_nor_was_protected_ranks_nobody_up_or_down() -> None:
    """A defense that recovered nothing, inconclusively, was once ranked as if it had leaked."""
    tables = Tables().cell("none").cell("proven", 0.0)
    tables.cell("unsure", 0.0, verdict="optimiser-failed")
    rows = tables.ranks()
    assert place(rows["proven"]) == (1, 2), "nothing of the unsure one is known to have leaked"
    assert place(rows["unsure"]) == (1, 3), "and nothing of it is known to be protected"
    assert place(rows["none"]) == (2, 3)
    assert rows["unsure"]["recovered"] == 0.0, "what was measured stays what it was"


def test_both_classes_correct_for_their_pairs_together() -> None:
    """Eight of 24 differ: p = 2 ** -7. Behind the pairs with the control Holm multiplies it by 3
    where one class has a, b and c, and by 10 where the other class adds d and e."""
    some = [1] * 4 + [0] * 8
    tables = Tables().cell("none").cell("a", 0.0).cell("b", some).cell("c", some)
    assert place(tables.ranks()["a"]) == (1, 1)
    for name in "de":
        tables.cell(name, some).run(name, 0.86)  # within 5 points only
    rows = tables.ranks()
    assert place(rows["d"]) == (None, None)
    assert place(rows["a"]) == (1, 3) and place(rows["a"], 5) == (1, 5)


def test_each_class_has_the_strongest_point_that_fits_by_accuracy_alone() -> None:
    tables = Tables().cell("none").run("none", 0.9)
    for point, accuracy, success in (
        ("weak", 0.895, 0.0), ("middle", 0.89, 1.0), ("equal", 0.89, 1.0),
        ("strong", 0.855, 0.0), ("useless", 0.5, 0.0),
    ):  # fmt: skip
        tables.cell("x", success, point=point).run("x", accuracy, point)
    rows = {row["point"]: row for row in tables.rows() if row["defense"] == "x"}
    assert {p for p, row in rows.items() if place(row)[0]} == {"equal"}, "the later of equals"
    assert {p for p, row in rows.items() if place(row, 5)[0]} == {"strong"}
    assert place(rows["equal"]) == (1, 2) and place(rows["strong"], 5) == (1, 1)
    assert "another point" in rows["weak"]["reason"] and not rows["strong"]["reason"]
    assert "more accuracy" in rows["useless"]["reason"]
    assert rows["useless"]["accuracy_lost"] == pytest.approx(0.4)


def test_the_limits_of_the_classes_belong_to_them() -> None:
    tables = Tables().cell("none").run("none", 0.9).cell("two", 0.0).run("two", 0.88)
    tables.cell("five", 0.0).run("five", 0.85).cell("six", 0.0).run("six", 0.84)
    rows = tables.ranks()
    assert {n for n, row in rows.items() if place(row)[0]} == {"none", "two"}
    assert {n for n, row in rows.items() if place(row, 5)[0]} == {"none", "two", "five"}


def test_personalised_accuracy_is_compared_with_the_controls_own() -> None:
    tables = Tables().cell("none").run("none", 0.9, accuracy_personal=0.95)
    tables.cell("fedrep", 0.0).run("fedrep", None, accuracy_personal=0.91)
    row = tables.ranks(personalised=frozenset({"fedrep"}))["fedrep"]
    assert row["accuracy_lost"] == pytest.approx(0.04)
    assert place(row) == (None, None) and place(row, 5) == (1, 1)
    alone = Tables().cell("none").run("none", 0.9).cell("fedrep", 0.0)
    alone.run("fedrep", None, accuracy_personal=0.91)
    row = alone.ranks(personalised=frozenset({"fedrep"}))["fedrep"]
    assert "no-own-control" in flags(row) and row["accuracy_lost"] is None
    assert place(row, 5) == (None, None) and "control" in row["reason"]


def test_a_model_at_chance_protects_nothing_worth_ranking() -> None:
    """10.7% of ten classes, on 280 examples that all seeds share, is not above 10%; 14% is."""
    tables = Tables().cell("none").run("none", 0.14).cell("x", 0.0).run("x", 0.107)
    row = tables.ranks()["x"]
    assert "chance-accuracy" in flags(row) and place(row, 5) == (None, None)
    assert "chance" in row["reason"]
    tables = Tables().cell("none").run("none", 0.14).cell("x", 0.0).run("x", 0.14)
    assert "chance-accuracy" not in flags(tables.ranks()["x"])
    test = scipy_stats.binomtest(round(0.107 * 280), 280, 0.1, alternative="greater")
    assert test.pvalue > 0.05 > scipy_stats.binomtest(39, 280, 0.1, alternative="greater").pvalue
    lost = Tables().cell("none").run("none", 0.107).cell("x", 0.0).run("x", 0.14).ranks()
    assert all(place(row, 5) == (None, None) and "control" in row["reason"]
               for row in lost.values())  # fmt: skip


def test_only_the_headline_is_ranked_and_it_comes_first() -> None:
    tables = Tables().cell("none").cell("x", 0.0)
    tables.cell("none", checkpoint="late").cell("x", 0.5, checkpoint="late")
    tables.cell("none", batch_size=4, images=4).cell("x", 0.0, batch_size=4, images=4)
    rows = tables.rows(checkpoint="late")
    ranked = {(r["checkpoint"], r["batch_size"]) for r in rows if place(r)[0] is not None}
    assert ranked == {("late", 1)}
    order = [(r["checkpoint"], r["batch_size"]) for r in rows]
    assert order == [("late", 1)] * 2 + [("init", 1)] * 2 + [("init", 4)] * 2
    assert not any(r["reason"] for r in rows), "elsewhere nobody asks for a rank"
    assert all(r["recovered_lo"] is not None for r in rows)


# ------------------------------------------------------------------------------ not ranked, why


@pytest.mark.parametrize("status", ["failed", "oom"])
def test_a_missing_cell_is_not_ranked_and_says_so(status: str) -> None:
    tables = Tables().cell("none").cell("good", 0.0)
    tables.cell("gone", 0.0).cell("gone", evidence="band", status=status)
    rows = tables.ranks()
    assert place(rows["gone"]) == (None, None) and rows["gone"]["status"] == "failed"
    assert "missing-cells" in flags(rows["gone"]) and "missing" in rows["gone"]["reason"]
    assert rows["gone"]["recovered"] == 0.0, "what there is, is shown"
    assert place(rows["good"]) == (1, 1) and place(rows["none"]) == (2, 2)
    assert list(rows)[-1] == "gone", "unranked rows come last"


def test_without_its_oblivious_cell_a_row_still_stands() -> None:
    tables = Tables().cell("none").cell("x", evidence="oblivious", status="failed").cell("x", 0.0)
    row = tables.ranks()["x"]
    assert row["oblivious"] is None and row["oblivious_psnr_median"] is None
    assert row["recovered"] == 0.0 and "missing-cells" in flags(row)


def test_a_row_without_any_guess_stands_empty() -> None:
    row = Tables().cell("none").cell("gone", status="failed").ranks()["gone"]
    assert row["n"] == row["n_victims"] == 0 and row["recovered"] is None and row["verdict"] == ""
    assert {"missing-cells", "no-adaptive"} <= flags(row)


def test_a_seed_without_cells_is_missing() -> None:
    rows = Tables().cell("none").cell("half", 0.0, seeds=(0,)).ranks()
    assert place(rows["half"]) == (None, None) and "missing-cells" in flags(rows["half"])


def test_fewer_victims_than_the_others_is_missing_too() -> None:
    rows = Tables().cell("none").cell("good", 0.0).cell("few", 0.0, each=4).ranks()
    assert place(rows["few"]) == (None, None) and "missing-cells" in flags(rows["few"])
    assert place(rows["good"]) == (1, 1) and place(rows["none"]) == (2, 2)


@pytest.mark.parametrize("status", ["timeout", "unsupported"])
def test_a_timeout_is_scored_and_an_unsupported_cell_has_its_reason(status: str) -> None:
    tables = Tables().cell("none").cell("x", 0.0).cell("x", 0.0, evidence="band", status=status)
    row = tables.ranks()["x"]
    assert place(row) == (1, 1) and row["status"] == "ok"


@pytest.mark.parametrize(
    ("control", "flag"),
    [
        ({"success": 9 / 12}, "weak-control"),
        ({"success": 0.9, "verdict": "broken-attack"}, "broken-control"),
        ({"success": 1.0, "floor": 0.9}, "no-headroom"),
    ],
)
def test_where_the_control_does_not_work_nobody_is_ranked(
    control: dict[str, Any], flag: str
) -> None:
    """A defense was once rank 1, verdict and all, where undefended images were not recovered."""
    rows = Tables().cell("none", **control).cell("x", 0.0).ranks()
    for row in rows.values():
        assert place(row) == place(row, 5) == (None, None)
        assert flag in flags(row) and "without a defense" in row["reason"]
        assert len(flags(row) & {"weak-control", "broken-control", "no-headroom"}) == 1
    works = Tables().cell("none", 10 / 12).cell("x", 0.0).ranks()
    assert place(works["x"]) == (1, 1) and works["x"]["reason"] == ""


def test_a_control_that_is_missing_or_lacks_cells_ranks_nobody() -> None:
    for tables in (Tables(), Tables().cell("none").cell("none", attack="auto", status="oom")):
        rows = tables.cell("x", 0.0).cell("y", 1.0).ranks()
        assert all(place(row, 5) == (None, None) for row in rows.values())
        assert "control" in rows["x"]["reason"]


def test_only_readings_that_describe_the_message_earn_credit() -> None:
    """An exhausted description that the truth itself does not fit proves nothing."""
    tables = Tables().cell("none").cell("proven", 0.0)
    tables.cell("misread", 0.0, accurate=0)
    tables.cell("read", 0.0, accurate=0).cell("read", 0.0, evidence="band")
    tables.cell("stuck", 0.0).cell("stuck", 0.0, evidence="band", verdict="optimiser-failed")
    tables.cell("tried", 0.0, verdict="optimiser-failed").cell("tried", 0.0, attack="dlg")
    rows = tables.ranks()
    unsure = {name for name, row in rows.items() if "inconclusive" in flags(row)}
    assert unsure == {"misread", "stuck"}
    assert all(rows[name]["share_inconclusive"] == float(name in unsure) for name in rows)


def test_a_closed_form_that_does_not_apply_says_nothing_and_one_that_missed_is_no_credit() -> None:
    tables = Tables().cell("none").cell("searched", 0.0)
    tables.cell("searched", 0.0, attack="spear", evidence="layer", verdict="not-applicable")
    tables.cell("missed", 0.0).cell("missed", 0.0, attack="spear", evidence="layer",
                                    verdict="missed")  # fmt: skip
    tables.cell("only", 0.0, attack="dager", verdict="not-applicable")
    rows = tables.ranks()
    assert rows["searched"]["share_exhausted"] == 1.0
    assert rows["missed"]["share_inconclusive"] == rows["only"]["share_inconclusive"] == 1.0


# -------------------------------------------------------------------------------------- flags


def test_flags_say_what_a_row_rests_on() -> None:
    rows = Tables().cell("none").cell("dgp", 0.0).ranks(randomised=frozenset({"dgp"}))
    assert flags(rows["none"]) == {"probe"}
    assert flags(rows["dgp"]) == {"probe", "randomised", "generic-only"}
    larger = Tables().cell("none", batch_size=4, images=4).ranks()["none"]
    assert larger["flags"] == "" and larger["n"] == 24 * 4


@pytest.mark.parametrize(
    ("status", "generic"), [("ok", False), ("timeout", False), ("unsupported", True)]
)
def test_generic_only_goes_where_own_evidence_was_attacked(status: str, generic: bool) -> None:
    """That it was written somewhere is not enough."""
    own = {"dgp": frozenset({"band"})}
    tables = Tables().cell("none").cell("dgp", 0.0).cell("dgp", 0.0, evidence="band", status=status)
    assert ("generic-only" in flags(tables.ranks(own_evidence=own)["dgp"])) is generic


@pytest.mark.parametrize(
    ("rates", "psnr", "hit"),
    [
        ((0, 0, 0), (5, 5, 5), False),
        ((0, 0.25, 0.25), (5, 5, 5), True),
        ((0.75, 1, 1), (30, 40, 40), True),
        ((0.5, 1, 1), (20, 40, 40), True),
        ((0, 0.25, 0), (5, 5, 5), True),
        ((0, 0, 0), (5, 6.5, 5), True),
        ((0, 0, 0), (5, 5.9, 5.9), False),
        ((1, 1, 1), (30, 40, 50), False),
    ],
)
def test_any_larger_budget_that_finds_more_than_the_published_is_a_hit(
    rates: Sequence[float], psnr: Sequence[float], hit: bool
) -> None:
    tables = Tables().cell("none").cell("dgp", 0.0).saturated(rates, psnr)
    rows = tables.ranks()
    assert ("budget-hit" in flags(rows["dgp"])) is hit
    assert "budget-hit" not in flags(rows["none"])


def test_budgets_are_compared_on_the_same_evidence() -> None:
    tables = Tables().cell("none").cell("dgp", 0.0)
    tables.saturated((0.5, 0.5, 0.5)).saturated((0.75, 0.75, 0.75), evidence="band")
    assert "budget-hit" not in flags(tables.ranks()["dgp"])


# ------------------------------------------------------------------------------------- tables


def test_costs_are_means_over_seeds_and_the_largest_epsilon() -> None:
    tables = Tables().cell("none").cell("dp", 0.0)
    tables.run("dp", [0.8, 0.6], epsilon=[3.0, 4.0], bytes_to_target=[1e3, None])
    rows = tables.ranks()
    assert rows["dp"]["accuracy_global"] == pytest.approx(0.7)
    assert rows["dp"]["accuracy_personal"] is None
    assert rows["dp"]["epsilon"] == 4.0 and rows["none"]["epsilon"] == float("inf")
    assert rows["dp"]["bytes_to_target"] is None, "a mean over those that arrived would flatter"
    assert rows["none"]["bytes_to_target"] == 1e3


def test_every_row_fits_the_schema(tmp_path: Path) -> None:
    tables = Tables().cell("none").cell("gone", status="failed").cell("x", 0.0)
    tables.cell("blind", 0.0, evidence="oblivious")
    write_table(tmp_path / "ranking.csv", tables.ranks().values())
    assert set(tables.ranks()["x"]) == set(names("ranking.csv"))


def test_the_catalog_has_all_that_ranks_depend_on() -> None:
    about = catalog("digits", load_params(), 20.0, [0] * 30 + [1] * 70, [[0, 0, 0, 1], [1]])
    facts = Facts.of(about)
    assert (facts.checkpoint, facts.batch_size, facts.seeds) == ("early", 1, [0, 1, 2])
    assert (facts.chance, facts.test_examples, facts.confidence) == (0.7, 100, 0.95)
    assert facts.chance_personal == (0.75 + 1) / 2
    assert facts.personalised == {"hyperfl", "fedrep"}
    assert "dp" in facts.randomised and "none" not in facts.randomised
    assert facts.own_evidence["dgp"] and "oblivious" not in facts.own_evidence["dgp"]
    published = about["attacks"]["ig"]["settings"]["published"]
    assert published.keys() == about["attacks"]["ig"]["settings"]["board"].keys()
    assert about["attacks"]["ig"]["settings"]["board"]["iterations"] == 180


def test_published_settings_attack_the_control_alone_and_count_in_no_figure() -> None:
    """With them the control would be attacked harder than the defenses."""
    tables = Tables().run("none").run("x")
    tables.cell("none", 0.75).cell("x", 0.5)
    before = tables.ranks()["none"]
    tables.cell("none", 1.0, settings="published", seeds=SEEDS[:1])
    after = tables.ranks()["none"]
    assert before["recovered"] == after["recovered"] == 0.75
    assert before["flags"] == after["flags"]


def test_training_that_diverged_is_said_and_is_no_failure() -> None:
    tables = Tables().run("none").run("x").cell("none").cell("x", seeds=SEEDS[1:])
    tables.cell("x", seeds=SEEDS[:1], status="unsupported", reason="training diverged in round 3")
    tables.victims = [v for v in tables.victims if (v["defense"], v["seed"]) != ("x", SEEDS[0])]
    row = tables.ranks()["x"]
    assert (row["status"], row["reason"]) == ("unsupported", "training diverged in round 3")
    assert "missing-cells" in flags(row) and place(row) == (None, None)


def test_a_figure_that_knows_the_defense_knows_it_for_every_message() -> None:
    tables = Tables().run("none").run("x").cell("none").cell("x", 0.0, evidence="oblivious")
    tables.cell("x", 1.0, evidence="sent", seeds=SEEDS[:1])
    row = tables.ranks()["x"]
    assert "no-adaptive" in flags(row) and row["recovered"] is None
