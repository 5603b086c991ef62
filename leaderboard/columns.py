"""The ranking as rows and columns, the one source of the page's and the tables' ranking."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import pandas as pd

from benchmark.results.columns import CONTROL, RANKING
from leaderboard import display
from leaderboard.board import Scenario
from leaderboard.saturation import Step, steps

FLAGS: Mapping[str, str] = {
    "probe": "attacked with one private example per message, the easiest case for an attacker",
    "no-adaptive": "no attack ran on evidence that knows the defense, so there is no figure and no"
    " rank: what an attacker who ignores the defense finds says nothing of one who does not",
    "generic-only": "no evidence of this defense's own was attacked here, only the generic kind"
    " that every defense has, so low leakage is not evidence of safety",
    "inconclusive": "more than a tenth of the private examples were not recovered although the"
    " audit does not credit the defense with it: a search failed, or no evidence describes the"
    " messages",
    "weak-control": "even without a defense the attacks recover less than four fifths here, so"
    " nobody is ranked",
    "broken-control": "even without a defense the truth does not explain a message here: the"
    " attacks are broken, so nobody is ranked",
    "no-headroom": "even without a defense no more is recovered here than without the messages, as"
    " far as the interval tells, so nobody is ranked",
    "chance-accuracy": "the model is not significantly more accurate than naming the largest class"
    " every time, so it has no use that a defense could keep, and no rank",
    "no-own-control": "there is no control of its own kind, shared model or clients' own models, to"
    " compare its accuracy with, so it is in no accuracy class and has no rank",
    "missing-cells": "some attacks on it ended without a result, so it is not ranked",
    "randomised": "the client draws random numbers that the attacker does not know: they are"
    " unknowns of the attack, and another draw may leak more or less",
    "budget-hit": "a larger budget than the board's found more, another victim or a decibel in the"
    " median, so the leakage shown is too low",
}
# Flags with which no row is called protected, however little was recovered.
DOUBTS = frozenset((
    "no-adaptive", "generic-only", "inconclusive", "weak-control", "broken-control", "no-headroom",
    "chance-accuracy", "missing-cells", "budget-hit",
))  # fmt: skip
VERDICTS: Mapping[str, str] = {
    "ok": "the private example came back, so there is no failure to explain",
    "evidence-exhausted": "not recovered, and the guess explains what was observed at least as well"
    " as the truth does: the only failure credited to a defense",
    "optimiser-failed": "not recovered, but the truth would explain what was observed better than"
    " the guess: the attack's optimiser failed, no credit to the defense",
    "broken-attack": "the attack's own objective is large at the truth although nothing was"
    " protected: the attack is broken, no credit to the defense",
    "not-applicable": "a closed form, which minimises nothing: what it assumes of the message does"
    " not hold here, as the attack says itself, so it tells nothing of the defense",
    "missed": "a closed form whose assumption holds, and which found nothing all the same: no"
    " credit to the defense",
    "inconclusive": "of a whole row: more than a tenth of its private examples were not recovered,"
    " and the audit does not credit the defense with them",
}
PROVEN = "at the no-attack baseline, proven"
STATUSES: Mapping[str, str] = {
    "ok": "the attack ran and its guess was scored",
    "failed": "the attack ended with an error",
    "timeout": "the attack reached its time limit; its last guess is scored where there is one",
    "oom": "the attack ran out of memory",
    "unsupported": "not run: the attack cannot use this evidence, and says why",
}
KNOWLEDGE: Mapping[str, str] = {
    "oblivious": "the message is taken as if there were no defense; without one there is nothing"
    " else to know",
    "paper": "the strongest evidence that the defense's own paper considered",
    "adaptive": "everything that follows from knowing the defense and its parameters, but not the"
    " client's randomness",
}
THREATS: Mapping[str, str] = {
    "curious": "an honest-but-curious server: it follows the protocol and keeps what it sees. The"
    " ranks suppose no more than this",
    "auxiliary": "the attacker has also learned from auxiliary data, which are nobody's victims:"
    " such attacks have a column of their own and never count in another figure or in a rank",
    "malicious": "the server departs from the protocol and sends crafted weights: a scenario of its"
    " own, whose rows are not comparable with those of the others",
}
_SCOPE = {"per": "privacy_unit", "vs": "adversary"}
_PRIVACY = {"unit": "privacy_unit", "adversary": "adversary"}
_BRACKETS = re.compile(r".*\S\s*\(([^()]+)\)")
SETTINGS: Mapping[str, str] = {
    "board": "our budget",
    "published": "published settings, on no defense",
}
# A figure of a row: its share and the quality of its guesses, as columns of ranking.csv.
_FIGURES = {
    "recovered": ("recovered", "psnr_median", "exact_tokens"),
    "oblivious": ("oblivious", "oblivious_psnr_median", "oblivious_tokens"),
    "selected": ("selected_success", "selected_psnr_median", "selected_tokens"),
    "learned": ("learned_success", "learned_psnr_median", "learned_tokens"),
}


@dataclass(frozen=True, kw_only=True)
class Entry:
    """One row of a ranking: an operating point of a defense at one checkpoint."""

    values: Mapping[str, Any]
    title: str
    personalised: bool
    evidence_summary: str
    privacy: tuple[str, ...]  # what epsilon protects, from whom, and its delta
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

    def share(self, figure: str) -> Any:
        """One of the figures: ``recovered``, ``oblivious``, ``selected`` or ``learned``."""
        return self[_FIGURES[figure][0]]

    def quality(self, figure: str) -> str:
        """How good a figure's guesses are, with its unit: in dB, or in right words."""
        _, psnr, tokens = _FIGURES[figure]
        return display.quality(self[psnr if self.measure == "psnr" else tokens], self.measure)

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
            and self["recovered"] <= self["floor_success"]
            and self["share_inconclusive"] == 0
            and not DOUBTS & set(self.flags)
        )

    @property
    def flags(self) -> list[str]:
        return [flag for flag in str(self["flags"] or "").split(";") if flag]

    @property
    def own_flags(self) -> list[str]:
        """The flags that tell this row from the others of its ranking."""
        return [flag for flag in self.flags if flag not in self.common]


@dataclass(frozen=True, kw_only=True)
class Column:
    """One column of the ranking.

    ``text`` renders an entry's rounded value; ``exact`` names the field that holds the number
    itself, empty for columns of words.
    """

    key: str
    title: str
    short: str
    group: str
    text: Callable[[Entry], str]
    exact: str = ""
    unit: str = ""
    better: bool | None = None  # whether higher is better for the defender
    summary: str = ""
    paper: bool = True  # whether a printed table has room for it
    empty: Callable[[Entry], bool] = lambda entry: False


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


def columns(scenario: Scenario, ranking: Ranking) -> list[Column]:
    """The columns that hold something in this ranking, in reading order; those of ranks wherever
    entries are to be ranked."""
    metrics = scenario.catalog["metrics"]
    return [
        _described(column, metrics)
        for column in _COLUMNS
        if (
            ranking.headline if column.key in RANKS else not all(map(column.empty, ranking.entries))
        )
    ]


def verdict(name: str) -> str:
    """A verdict as a reader's word: ``ok`` alone would read as good news for the defense."""
    return {"": display.MISSING, "ok": "recovered"}.get(name, display.words(name))


def _described(column: Column, metrics: Mapping[str, Any]) -> Column:
    about = metrics.get(column.key)
    if not about:
        return column
    return replace(column, better=about.get("higher_is_better", column.better),
                   summary=column.summary or str(about.get("summary") or ""))  # fmt: skip


def _entry(scenario: Scenario, row: Mapping[str, Any]) -> Entry:
    card = scenario.defense(row["defense"])
    name = f"{row['defense']}/{row['strongest_evidence']}"
    evidence = scenario.catalog["evidence"].get(name) or {}
    training = scenario.tables["training.csv"]
    run = training[(training["defense"] == row["defense"]) & (training["point"] == row["point"])]
    facts: dict[str, Any] = {"privacy_unit": "", "adversary": "", "delta": None,
                             "target_accuracy": None}  # fmt: skip
    if not run.empty:
        facts = {name: run.iloc[0][name] for name in facts}
    privacy = [f"{label} {facts[name]}" for label, name in _PRIVACY.items() if facts[name]]
    if not display.missing(facts["delta"]):
        privacy.append(f"δ={display.plain(facts['delta'])}")
    return Entry(values={**row, **facts, "knowledge": evidence.get("knowledge", "")},
                 title=card["title"], personalised=bool(card.get("personalised")),
                 evidence_summary=str(evidence.get("summary") or ""),
                 privacy=tuple(privacy), measure=scenario.measure,
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


def _field(name: str, render: Callable[[Any], str], entry: Entry) -> str:
    return render(entry[name])


def _blank(name: str, entry: Entry) -> bool:
    return display.missing(entry[name])


def _number(key: str, title: str, short: str, group: str, render: Callable[[Any], str],
            unit: str, better: bool | None, summary: str = "", **more: Any) -> Column:  # fmt: skip
    return Column(key=key, title=title, short=short, group=group, text=partial(_field, key, render),
                  exact=key, unit=unit, better=better, summary=summary,
                  empty=partial(_blank, key), **more)  # fmt: skip


def _interval(key: str, low: str, high: str, entry: Entry) -> str:
    """A share with its interval: ``25% (12–43)``."""
    if display.missing(entry[low]):
        return display.share(entry[key])
    return f"{display.share(entry[key])} ({display.interval(entry[low], entry[high])})"


def _estimate(key: str, title: str, short: str, interval: str, summary: str,
              group: str = "Leakage", always: bool = False) -> Column:  # fmt: skip
    low, high = f"{interval}_lo", f"{interval}_hi"
    return Column(key=key, title=title, short=short, group=group, exact=key, better=False,
                  text=partial(_interval, key, low, high), summary=summary,
                  empty=partial(_blank, "defense" if always else key))  # fmt: skip


def _rank(points: int) -> Column:
    key = f"rank{points}"
    return Column(key=key, title=f"Rank within {points} points of accuracy",
                  short=f"Rank, {points} points", group="", exact=f"{key}_hi",
                  text=lambda entry: display.ranks(entry[f"{key}_lo"], entry[f"{key}_hi"]),
                  summary="the ranks that are possible among defenses that lose at most"
                  f" {points} points of accuracy against their own kind of control; 1 leaks"
                  " least")  # fmt: skip


def _impersonal(entry: Entry) -> bool:
    """Personalised entrants are compared with the control; alone it says nothing."""
    return entry["defense"] == CONTROL or display.missing(entry["accuracy_personal"])


def _strongest(entry: Entry) -> str:
    parts = [str(entry[f"strongest_{name}"]) for name in ("attack", "evidence")]
    return " · ".join(part for part in parts if part) or display.MISSING


def _flags(entry: Entry) -> str:
    words = [display.words(flag) for flag in entry.own_flags]
    return ", ".join([PROVEN] * entry.proven + words)


def _epsilon(entry: Entry) -> str:
    value = entry["epsilon"]
    text = display.epsilon(value)
    words = [f"{word} {entry[name]}" for word, name in _SCOPE.items() if entry[name]]
    bounded = words and text not in ("∞", display.MISSING)
    return f"{text} ({', '.join(words)})" if bounded else text


def _target(entry: Entry) -> str:
    value = entry["bytes_to_target"]
    return "not reached" if display.missing(value) else display.bytes_(value)


RANKS = ("rank2", "rank5")
_COLUMNS: Sequence[Column] = (
    _rank(2), _rank(5),
    Column(key="defense", title="Defense", short="Defense", group="",
           text=lambda entry: entry.title),
    Column(key="point", title="Operating point", short="Point", group="",
           text=lambda entry: str(entry["point"])),
    _estimate("recovered", "Recovered", "Recovered", "recovered",
              "share of private examples that any attack on any evidence recovered: per example the"
              " best guess in hindsight", always=True),
    _estimate("recovered_or_inconclusive", "Recovered or inconclusive",
              "Recovered or inconclusive", "recovered_or_inconclusive",
              "with those that were not recovered although the audit does not credit the defense;"
              " ranks compare this share of one defense with what is recovered of another"),
    _number("floor_success", "No-attack baseline", "Baseline", "Leakage", display.share, "", None,
            "share recovered by the same maximum over guesses that were made without the message"),
    _estimate("oblivious", "Oblivious", "Oblivious", "oblivious",
              "the same maximum where the attacker takes the message as if there were no defense:"
              " same attacks, same budget on each evidence, so that knowledge alone makes the"
              " difference"),
    _number("share_exhausted", "Evidence exhausted", "Exhausted", "Leakage", display.share, "",
            None, "not recovered, and credited to the defense"),
    _number("share_inconclusive", "Inconclusive", "Inconclusive", "Leakage", display.share, "",
            None, "not recovered, and not credited to the defense"),
    Column(key="verdict", title="Verdict", short="Verdict", group="Leakage",
           text=lambda entry: verdict(entry["verdict"]),
           empty=partial(_blank, "verdict"), summary="why the rest was not recovered"),
    Column(key="flags", title="Flags", short="Flags", group="Leakage", text=_flags,
           empty=lambda entry: not entry.own_flags),
    Column(key="strongest", title="Strongest single attack and its evidence",
           short="Strongest", group="Leakage", text=_strongest,
           empty=lambda entry: not entry["strongest_attack"],
           summary="the one attack and evidence that recover most; others add to the share"),
    _number("psnr_median", "Median PSNR", "PSNR", "Leakage", display.decibel, "dB", False,
            "median over private images of the best guess's PSNR"),
    _number("exact_tokens", "Right words", "Right words", "Leakage", display.share, "", False,
            "mean share of a sentence's places that hold the right word, in the best guess"),
    _estimate("selected_success", "The attacker's own pick", "Own pick", "selected",
              "share recovered where the attacker must choose one guess per example by a rule that"
              " needs no truth"),
    _estimate("learned_success", "Uses extra data", "Extra data", "learned",
              "share recovered by attacks that learned from auxiliary data: another threat, in no"
              " other figure and in no rank", group="Auxiliary"),
    _number("accuracy_global", "Accuracy of the shared model", "Global", "Accuracy",
            display.accuracy, "", True, "one model for everybody, on the common test set"),
    Column(key="accuracy_personal", title="Accuracy of the clients' models", short="Personal",
           group="Accuracy", text=partial(_field, "accuracy_personal", display.accuracy),
           exact="accuracy_personal", better=True, empty=_impersonal,
           summary="on each client's own mix of classes: a client's own model, or without a"
           " defense the shared one"),
    _number("accuracy_lost", "Accuracy lost", "Lost, points", "Accuracy", display.points, "", False,
            "points of accuracy below the control of its own kind: shared with shared, personal"
            " with personal"),
    Column(key="epsilon", title="Differential-privacy epsilon", short="Epsilon", group="Cost",
           text=_epsilon, exact="epsilon", better=False, empty=partial(_blank, "epsilon"),
           summary="with the unit it protects and the adversary it holds against"),
    _number("uplink_bytes", "Upload per client and round", "Up", "Cost", display.bytes_, "bytes",
            False),
    _number("downlink_bytes", "Download per client and round", "Down", "Cost", display.bytes_,
            "bytes", False),
    Column(key="bytes_to_target", title="Bytes to reach the target accuracy", short="To target",
           group="Cost", text=_target, exact="bytes_to_target", unit="bytes", better=False,
           empty=partial(_blank, "bytes_to_target"), paper=False,
           summary="all uploads and downloads of all clients until the target is reached"),
    _number("client_seconds", "Client seconds per round", "Client time", "Cost", display.seconds,
            "s", False, paper=False),
)  # fmt: skip


def frame(scenario: Scenario) -> pd.DataFrame:
    """The ranking with exact numbers, one row per entry: what the CSV beside the tables holds."""
    extra = ("delta", "privacy_unit", "adversary", "target_accuracy", "knowledge")
    rows = [
        {**{name: entry[name] for name in RANKING}, "title": entry.title,
         "kind": scenario.facts.get("kind", "demo"), "round": ranking.round,
         "headline": ranking.headline, **{name: entry[name] for name in extra}}
        for ranking in rankings(scenario)
        for entry in ranking.entries
    ]  # fmt: skip
    table = pd.DataFrame(rows)
    whole = (
        "round",
        "n",
        "n_victims",
        *(f"{rank}_{end}" for rank in RANKS for end in ("lo", "hi")),
    )
    for name in whole:
        table[name] = table[name].astype("Int64")  # whole numbers that may be absent
    return table
