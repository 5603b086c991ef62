"""The ranking as rows, the one source of the page's and the printed tables' ranking."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import groupby
from typing import Any

import pandas as pd

from benchmark.results.columns import CONTROL, Column, names, shown
from benchmark.results.words import DOUBTS
from leaderboard import display
from leaderboard.board import Scenario
from leaderboard.saturation import Step, steps

PROVEN = "at the no-attack baseline, proven"
_TRAINING = ("delta", "privacy_unit", "adversary", "target_accuracy")
"""What an entry tells of its training that the ranking does not hold."""
_BRACKETS = re.compile(r".*\S\s*\(([^()]+)\)")


@dataclass(frozen=True, kw_only=True)
class Entry:
    """One row of a ranking: an operating point of a defense at one checkpoint."""

    values: Mapping[str, Any]
    title: str
    personalised: bool
    evidence_summary: str
    measure: str  # the quality of a guess: psnr, or exact_tokens
    steps: tuple[Step, ...]  # what larger budgets found
    common: frozenset[str] = frozenset()  # flags of every row beside it, said once above them

    def __getitem__(self, name: str) -> Any:
        return self.values[name]

    @property
    def name(self) -> str:
        """The title without what it says in brackets at its end."""
        return self.title.removesuffix(f"({self.qualifier})").rstrip()

    @property
    def qualifier(self) -> str:
        """What the title says in brackets at its end, or nothing."""
        found = _BRACKETS.fullmatch(self.title)
        return found.group(1) if found else ""

    @property
    def privacy(self) -> tuple[str, ...]:
        """What epsilon protects, from whom, and its delta."""
        parts = {"unit": "privacy_unit", "adversary": "adversary"}
        said = [f"{word} {self[name]}" for word, name in parts.items() if self[name]]
        if not display.missing(self["delta"]):
            said.append(f"delta {display.plain(self['delta'])}")
        return tuple(said)

    def quality(self, figure: str) -> str:
        """How good the guesses of ``recovered``, ``oblivious``, ``own_pick`` or ``extra_data`` are,
        with the unit: in dB, or in right words."""
        column = "psnr_median" if self.measure == "psnr" else "exact_tokens"
        value = self[column if figure == "recovered" else f"{figure}_{column}"]
        return display.quality(value, self.measure)

    @property
    def ranked(self) -> bool:
        """Whether it stands for its defense in one of the accuracy classes at least."""
        return not (display.missing(self["rank2_hi"]) and display.missing(self["rank5_hi"]))

    @property
    def proven(self) -> bool:
        """Whether it is shown to protect: no more is recovered than without the message, the
        audit credits the defense with all the rest, and no flag gives reason to doubt it."""
        return (
            not display.missing(self["recovered"])
            and self["recovered"] <= self["baseline_success"]
            and self["share_inconclusive"] == 0
            and not DOUBTS & set(self.flags)
        )

    @property
    def flags(self) -> list[str]:
        return [flag for flag in self["flags"].split(";") if flag]

    @property
    def own_flags(self) -> list[str]:
        """The flags that tell this row from the others of its ranking."""
        return [flag for flag in self.flags if flag not in self.common]


@dataclass(frozen=True, kw_only=True)
class Ranking:
    """The rows of one checkpoint and attacked batch size, best protected first."""

    scenario: str
    checkpoint: str
    round: int | None
    batch_size: int
    headline: bool  # whether entries are ranked here; elsewhere there are intervals alone
    entries: tuple[Entry, ...]
    absent: tuple[tuple[str, str], ...]  # (title, point) an entrant without a row

    @property
    def ranked(self) -> int:
        return sum(entry.ranked for entry in self.entries)

    @property
    def unranked(self) -> str:
        """Why nobody is ranked where ranks are due; empty where somebody is, or none are due."""
        if not self.headline or self.ranked:
            return ""
        control = [entry for entry in self.entries if entry["defense"] == CONTROL]
        return str((control or self.entries)[0]["reason"]) or "nothing can be compared"

    @property
    def slug(self) -> str:
        return f"{self.scenario}-{self.checkpoint}-b{self.batch_size}"

    @property
    def common_flags(self) -> list[str]:
        """Flags that every row carries, which are said once above the table."""
        return [flag for flag in self.entries[0].flags if flag in self.entries[0].common]


def rankings(scenario: Scenario) -> list[Ranking]:
    """Every ranking of a scenario: the headline's first, then by round and by batch size."""
    table = scenario.tables["ranking.csv"]
    found = []
    for checkpoint, at in scenario.checkpoints.items():
        here = table[table["checkpoint"] == checkpoint]
        for batch_size in sorted(here["batch_size"].unique()):
            rows = here[here["batch_size"] == batch_size].to_dict("records")
            entries = sorted((_entry(scenario, row) for row in rows), key=_order)
            if len(entries) > 1:
                common = frozenset.intersection(*(frozenset(entry.flags) for entry in entries))
                entries = [replace(entry, common=common) for entry in entries]
            present = {(entry["defense"], entry["point"]) for entry in entries}
            absent = tuple(
                (scenario.defense(name)["title"], point)
                for name, points in scenario.entrants.items()
                for point in points
                if (name, point) not in present
            )
            found.append(Ranking(scenario=scenario.name, checkpoint=checkpoint, round=at,
                                 batch_size=int(batch_size), entries=tuple(entries),
                                 headline=(checkpoint, batch_size) == scenario.headline,
                                 absent=absent))  # fmt: skip
    return sorted(found, key=lambda ranking: not ranking.headline)


def _entry(scenario: Scenario, row: dict[str, Any]) -> Entry:
    runs = scenario.tables["training.csv"]
    own = runs[(runs["defense"] == row["defense"]) & (runs["point"] == row["point"])]
    told = own.iloc[0] if len(own) else {}
    card = scenario.defense(row["defense"])
    evidence = scenario.catalog["evidence"].get(f"{row['defense']}/{row['strongest_evidence']}", {})
    return Entry(values={**row, **{name: told.get(name) for name in _TRAINING},
                         "knowledge": evidence.get("knowledge", "")},
                 title=card["title"], personalised=card["personalised"],
                 evidence_summary=evidence.get("summary", ""), measure=scenario.measure,
                 steps=steps(scenario.tables["saturation.csv"], row))  # fmt: skip


def _order(entry: Entry) -> tuple:
    """By rank, then by what may have leaked; names settle what is left, and what has no figure
    comes last."""
    ranks = (entry[name] for name in ("rank2_hi", "rank2_lo", "rank5_hi", "rank5_lo"))
    leaked = (entry[name] for name in ("recovered_or_inconclusive", "recovered"))
    return (
        *(float("inf") if display.missing(value) else value for value in (*ranks, *leaked)),
        entry["defense"],
        entry["point"],
    )


def columns(ranking: Ranking) -> list[Column]:
    """The columns that hold something in this ranking, in reading order; those of ranks wherever
    entries are to be ranked."""
    return [
        column
        for column in shown("ranking")
        if (
            ranking.headline
            if column.form == "ranks"
            else column.name == "recovered"  # without a figure its cell says why
            or not all(_blank(column, entry) for entry in ranking.entries)
        )
    ]


def groups(columns: Sequence[Column]) -> list[tuple[str, int]]:
    """What is written above neighbours, and above how many."""
    together = groupby(columns, key=lambda column: column.group)
    return [(name, len(list(those))) for name, those in together]


def _blank(column: Column, entry: Entry) -> bool:
    if column.name == "flags":
        return not entry.own_flags
    # Personalised entrants are compared with the control; alone it says nothing.
    alone = column.name == "accuracy_personal" and entry["defense"] == CONTROL
    return alone or display.missing(entry[column.name])


def text(column: Column, entry: Entry) -> str:
    """An entry's rounded value as it stands in a table."""
    if column.name in _TEXTS:
        return _TEXTS[column.name](entry)
    if column.form == "ranks":
        return display.ranks(entry[f"{column.name}_lo"], entry[f"{column.name}_hi"])
    said = display.render(column, entry[column.name])
    if column.interval and not display.missing(entry[f"{column.name}_lo"]):
        ends = display.interval(entry[f"{column.name}_lo"], entry[f"{column.name}_hi"])
        return f"{said} ({ends})"
    return said


def verdict(name: str) -> str:
    """A verdict as a reader's word: ``ok`` alone would read as good news for the defense."""
    return {"": display.MISSING, "ok": "recovered"}.get(name, display.words(name))


def _flags(entry: Entry) -> str:
    return ", ".join([PROVEN] * entry.proven + [display.words(flag) for flag in entry.own_flags])


def _strongest(entry: Entry) -> str:
    parts = [entry["strongest_attack"], entry["strongest_evidence"]]
    return " · ".join(part for part in parts if part) or display.MISSING


def _epsilon(entry: Entry) -> str:
    said = display.epsilon(entry["epsilon"])
    scope = {"per": "privacy_unit", "vs": "adversary"}
    words = [f"{word} {entry[name]}" for word, name in scope.items() if entry[name]]
    return f"{said} ({', '.join(words)})" if words and said not in ("∞", display.MISSING) else said


def _target(entry: Entry) -> str:
    size = entry["bytes_to_target"]
    return "not reached" if display.missing(size) else display.bytes_(size)


_TEXTS: Mapping[str, Callable[[Entry], str]] = {
    "defense": lambda entry: entry.title,
    "verdict": lambda entry: verdict(entry["verdict"]),
    "flags": _flags,
    "strongest_attack": _strongest,
    "epsilon": _epsilon,
    "bytes_to_target": _target,
}
"""Columns that say more than their number."""


def frame(scenario: Scenario) -> pd.DataFrame:
    """The ranking with exact numbers, one row per entry: what the CSV beside the tables holds."""
    rows = [
        {**{name: entry[name] for name in names("ranking.csv")}, "title": entry.title,
         "kind": scenario.facts["kind"], "round": ranking.round, "headline": ranking.headline,
         **{name: entry[name] for name in (*_TRAINING, "knowledge")}}
        for ranking in rankings(scenario)
        for entry in ranking.entries
    ]  # fmt: skip
    table = pd.DataFrame(rows)
    ends = (f"{rank}_{end}" for rank in ("rank2", "rank5") for end in ("lo", "hi"))
    for name in ("round", "n", "n_victims", *ends):
        table[name] = table[name].astype("Int64")  # whole numbers that may be absent
    return table
