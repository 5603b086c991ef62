"""The published results of every scenario, read and checked before anything is drawn.

The page and the tables are a pure function of what :func:`load` returns, so a result that does not
fit its schema ends the build here, with one line that names the file.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pandas as pd

from benchmark.results.columns import CONTROL, SCHEMA, TABLES, RecordError, read_table
from leaderboard.errors import BoardError, first_line
from leaderboard.gallery import SAFE_NAME, Strip, read_strips

TEXT = frozenset((
    "scenario", "defense", "point", "checkpoint", "attack", "evidence", "knowledge",
    "labels", "status", "reason", "verdict", "flags", "strategy", "commit", "dirty",
    "machine", "privacy_unit", "adversary", "settings", "strongest_attack",
    "strongest_evidence", "learned_attack", "learned_evidence", "threat", "victim", "image",
))  # fmt: skip
SHARES = frozenset((
    "success_rate", "success_lo", "success_hi", "label_accuracy", "identification_rate",
    "floor_success_rate", "share_ok", "share_exhausted", "share_failed", "share_inconclusive",
    "floor_success", "accuracy", "accuracy_global", "accuracy_personal", "target_accuracy",
    "success", "selected", "exact_tokens", "floor_tokens", "rouge1", "rouge2", "rougeL",
    "oblivious_tokens", "selected_tokens", "learned_tokens",
    *(f"{figure}{end}" for figure in ("recovered", "recovered_or_inconclusive", "oblivious")
      for end in ("", "_lo", "_hi")),
    *(f"{figure}_{end}" for figure in ("selected", "learned") for end in ("success", "lo", "hi")),
))  # fmt: skip
# Figures of a row: the share, and what its interval's columns begin with.
FIGURES = {"recovered": "recovered", "recovered_or_inconclusive": "recovered_or_inconclusive",
           "oblivious": "oblivious", "selected_success": "selected",
           "learned_success": "learned"}  # fmt: skip
ROUNDING = 1e-6
# What a card may leave out, and what it then says.
_OPTIONAL: Mapping[str, Mapping[str, Any]] = {
    "defenses": {"cite": "", "url": "", "summary": "", "note": "", "personalised": False},
    "attacks": {"cite": "", "url": "", "summary": "", "note": "", "parameters": {},
                "settings": {}, "threat": "curious"},
    "evidence": {"knowledge": "", "summary": ""},
    "metrics": {"title": "", "unit": "", "higher_is_better": None, "low": None, "high": None,
                "summary": ""},
}  # fmt: skip
RANKING_KEY = ["defense", "point", "checkpoint", "batch_size"]


@dataclass(frozen=True)
class Scenario:
    """Everything published about one scenario."""

    name: str
    folder: Path
    tables: Mapping[str, pd.DataFrame]
    catalog: Mapping[str, Any]
    provenance: Mapping[str, Any]
    strips: tuple[Strip, ...]

    @property
    def facts(self) -> Mapping[str, Any]:
        """The scenario's own entry in the catalog."""
        return self.catalog["scenario"]

    @property
    def title(self) -> str:
        return str(self.facts.get("title") or self.name)

    @property
    def demo(self) -> bool:
        """Whether ranks are indicative only."""
        return self.facts.get("kind") != "ranked"

    @property
    def malicious(self) -> bool:
        """Whether the server sent crafted weights instead of following the protocol."""
        return self.facts.get("server") == "malicious"

    @property
    def measure(self) -> str:
        """The column that decides about recovery: ``psnr``, or ``exact_tokens`` of texts."""
        return str(self.facts.get("measure") or "psnr")

    @property
    def private(self) -> str:
        """What the clients keep, in the plural."""
        return "sentences" if self.measure == "exact_tokens" else "images"

    @property
    def interval(self) -> str:
        """What to call an interval: by its level, where the catalog gives one."""
        level = (self.catalog.get("scoring") or {}).get("confidence")
        return f"{100 * level:g}% interval" if level else "interval"

    @property
    def headline(self) -> tuple[str, int]:
        """Checkpoint and attacked batch size at which entries are ranked."""
        where = self.facts["headline"]
        return str(where["checkpoint"]), int(where["batch_size"])

    @property
    def checkpoints(self) -> dict[str, int | None]:
        """Checkpoint names in the order of their rounds, with the round."""
        declared = dict(self.facts.get("checkpoints") or {})
        seen = self.tables["ranking.csv"]["checkpoint"].unique()
        known = sorted((name for name in declared), key=lambda name: declared[name])
        return {name: declared.get(name) for name in (*known, *sorted(set(seen) - set(known)))}

    @property
    def entrants(self) -> dict[str, list[str]]:
        """Operating points by defense, in the order in which they were trained.

        The catalog cannot give that order (JSON objects have none); it adds what has no result.
        """
        order: dict[str, list[str]] = {}
        runs = self.tables["training.csv"][["defense", "point"]].itertuples(index=False)
        declared = (
            (name, point)
            for name, card in self.catalog["defenses"].items()
            for point in (card.get("points") or {})
        )
        for name, point in (*runs, *declared):
            points = order.setdefault(name, [])
            if point not in points:
                points.append(point)
        return order

    def defense(self, name: str) -> Mapping[str, Any]:
        """A defense's card: title, cite, url, summary, note, points."""
        return self.catalog["defenses"][name]


def load(results: Path) -> list[Scenario]:
    """Read every scenario under ``results``: honest servers first, then ranked ones, then by name.

    Raises:
        BoardError: the folder is missing or empty, or one of its files does not fit the schema.
    """
    if not results.is_dir():
        raise BoardError(f"{results}: no such folder; publish a scenario first")
    folders = sorted(
        path for path in results.iterdir() if path.is_dir() and not path.name.startswith(".")
    )
    if not folders:
        raise BoardError(f"{results}: holds no scenario; publish one first")
    scenarios = [_scenario(folder) for folder in folders]
    return sorted(scenarios, key=_precedence)


def _precedence(scenario: Scenario) -> tuple[bool, bool, str]:
    return scenario.malicious, scenario.demo, scenario.name


def _scenario(folder: Path) -> Scenario:
    try:
        if not SAFE_NAME.fullmatch(folder.name):
            raise BoardError("not a scenario's name")
        # They carry the schema, which says more than a column that is missing.
        catalog = _catalog(folder)
        provenance = {"commit": "", "dirty": False, **_json(folder / "provenance.json")}
        tables = {name: _table(folder, name) for name in TABLES}
        _agree(tables, catalog)
        found = Scenario(folder.name, folder, tables, catalog, provenance, ())
        return replace(found, strips=read_strips(folder, found.measure, catalog["defenses"]))
    except BoardError as error:
        raise BoardError(f"{folder.name}: {error}") from None


def _table(folder: Path, name: str) -> pd.DataFrame:
    try:
        table = read_table(folder / name)
    except RecordError as error:
        raise BoardError(str(error)) from None
    except (ValueError, OSError) as error:  # pandas: not a table at all, or not text
        raise BoardError(f"{name}: {first_line(error)}") from None
    odd = set(table["scenario"]) - {folder.name}
    if odd:
        raise BoardError(f"{name}: rows of another scenario, {', '.join(map(str, sorted(odd)))}")
    for column in table.columns:
        if column in TEXT:
            continue
        try:
            values = pd.to_numeric(table[column])
        except (ValueError, TypeError) as error:
            wrong = f"{column} holds something that is no number: {first_line(error)}"
            raise BoardError(f"{name}: {wrong}") from None
        if column in SHARES and ((values < 0) | (values > 1)).any():
            raise BoardError(f"{name}: {column} must lie between 0 and 1")
        table[column] = values
    return table


def _json(path: Path) -> dict[str, Any]:
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except OSError:
        raise BoardError(f"{path.name}: no such file in {path.parent}") from None
    except ValueError as error:
        raise BoardError(f"{path.name}: not JSON: {first_line(error)}") from None
    if not isinstance(content, dict):
        raise BoardError(f"{path.name}: must hold an object")
    if content.get("schema") != SCHEMA:
        raise BoardError(
            f"{path.name}: written in schema {content.get('schema')!r}, this board reads schema"
            f" {SCHEMA}: score the scenario again"
        )
    return content


def _catalog(folder: Path) -> dict[str, Any]:
    catalog = _json(folder / "catalog.json")
    for part in ("scenario", "defenses", "attacks", "evidence", "metrics"):
        if not isinstance(catalog.get(part), dict):
            raise BoardError(f"catalog.json: {part} is missing")
    catalog["scenario"] = {"description": "", **catalog["scenario"]}
    headline = catalog["scenario"].get("headline")
    if not isinstance(headline, dict) or set(headline) != {"checkpoint", "batch_size"}:
        raise BoardError("catalog.json: scenario.headline must name a checkpoint and a batch_size")
    for part, optional in _OPTIONAL.items():
        for name, card in catalog[part].items():
            if not isinstance(card, dict):
                raise BoardError(f"catalog.json: {part}.{name} is no object")
            catalog[part][name] = {**optional, **card}
    for part in ("defenses", "attacks"):
        for name, card in catalog[part].items():
            if not card.get("title"):
                raise BoardError(f"catalog.json: {part}.{name} has no title")
            url = card.get("url") or ""
            # What stands in a link comes from a file: only addresses of the web may.
            if url and not re.match(r"https?://", url):
                raise BoardError(f"catalog.json: {part}.{name} has an address that is not http(s)")
    return catalog


def _agree(tables: Mapping[str, pd.DataFrame], catalog: Mapping[str, Any]) -> None:
    """What the tables name must be in the catalog, and a ranking has one row per entry."""
    ranking = tables["ranking.csv"]
    if ranking.empty:
        raise BoardError("ranking.csv: no rows")
    if ranking.duplicated(RANKING_KEY).any():
        raise BoardError("ranking.csv: two rows describe the same entry")
    for column in ("defense", "point", "checkpoint"):
        # They name anchors, files and labels.
        odd = [name for name in ranking[column].unique() if not SAFE_NAME.fullmatch(name)]
        if odd:
            raise BoardError(f"ranking.csv: {odd[0]!r} is no name of a {column}")
    _add_up(ranking, catalog["scenario"]["headline"])
    for name, table in tables.items():
        for column, part in (
            ("defense", "defenses"), ("attack", "attacks"),
            ("strongest_attack", "attacks"), ("learned_attack", "attacks"),
        ):  # fmt: skip
            if column in table.columns:
                unknown = sorted(set(table[column]) - set(catalog[part]) - {""})
                if unknown:
                    raise BoardError(f"{name}: {column} {unknown[0]!r} is not in catalog.json")


def _add_up(ranking: pd.DataFrame, headline: Mapping[str, Any]) -> None:
    """A row's shares must be what their names say; comparisons with an empty field are false."""
    known = ranking["recovered"].notna()
    parts = ranking["recovered"] + ranking["share_exhausted"] + ranking["share_inconclusive"]
    leaked = ranking["recovered"] + ranking["share_inconclusive"]
    gap = (ranking["recovered"] - ranking["oblivious"]).abs()
    here = (ranking["checkpoint"] == headline["checkpoint"]) & (
        ranking["batch_size"] == headline["batch_size"]
    )
    wrong = {
        "recovered, share_exhausted and share_inconclusive do not add up to 1":
            known & ~((parts - 1).abs() < ROUNDING),
        "recovered_or_inconclusive is not recovered and share_inconclusive":
            known & ~((ranking["recovered_or_inconclusive"] - leaked).abs() < ROUNDING),
        "without a defense there is nothing to know, but oblivious and recovered differ":
            (ranking["defense"] == CONTROL) & (gap > ROUNDING),
        "recovered is empty without a reason": ~known & (ranking["reason"] == ""),
    }  # fmt: skip
    for name, interval in FIGURES.items():
        low, high = ranking[f"{interval}_lo"], ranking[f"{interval}_hi"]
        outside = (ranking[name] < low - ROUNDING) | (ranking[name] > high + ROUNDING)
        wrong[f"{name} lies outside its interval"] = outside
    for name in ("rank2", "rank5"):
        low, high = ranking[f"{name}_lo"], ranking[f"{name}_hi"]
        wrong[f"{name} is no range of ranks"] = (
            (low.isna() != high.isna()) | (low > high) | (low < 1)
        )
        wrong[f"{name} stands outside of the headline's checkpoint and batch size"] = (
            low.notna() & ~here
        )
    for says, rows in wrong.items():
        if rows.any():
            row = ranking[rows].iloc[0]
            raise BoardError(
                f"ranking.csv: {says}: {row['defense']}, {row['point']}, {row['checkpoint']}"
            )
