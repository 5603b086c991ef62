"""The published results of every scenario, read and checked before anything is drawn.

The page and the tables are a pure function of what :func:`load` returns, so a result that does not
fit its schema ends the build here, with one line that names file, row and column.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd

from benchmark.results import columns
from benchmark.results.catalog import Catalog, Provenance
from benchmark.results.columns import CONTROL, FILES
from benchmark.results.io import NAME, RecordError, read_model, read_table
from benchmark.results.provenance import file_digests
from leaderboard.gallery import Strip, read_strips

ROUNDING = 1e-6


@dataclass(frozen=True)
class Scenario:
    """Everything published about one scenario; the catalog and the provenance as plain values."""

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
        return str(self.facts["title"] or self.name)

    @property
    def demo(self) -> bool:
        """Whether ranks are indicative only."""
        return self.facts["kind"] != "ranked"

    @property
    def malicious(self) -> bool:
        """Whether the server sent crafted weights instead of following the protocol."""
        return self.facts["server"] == "malicious"

    @property
    def measure(self) -> str:
        """The column that decides about recovery: ``psnr``, or ``exact_tokens`` of texts."""
        return str(self.facts["measure"])

    @property
    def private(self) -> str:
        """What the clients keep, in the plural."""
        return "sentences" if self.measure == "exact_tokens" else "images"

    @property
    def interval(self) -> str:
        """What to call an interval: by its level."""
        return f"{100 * self.catalog['scoring']['confidence']:g}% interval"

    @property
    def headline(self) -> tuple[str, int]:
        """Checkpoint and attacked batch size at which entries are ranked."""
        return self.facts["headline"]["checkpoint"], self.facts["headline"]["batch_size"]

    @property
    def checkpoints(self) -> dict[str, int | None]:
        """Checkpoint names in the order of their rounds, with the round."""
        declared = self.facts["checkpoints"]
        seen = set(self.tables["ranking.csv"]["checkpoint"]) - set(declared)
        return {n: declared.get(n) for n in (*sorted(declared, key=declared.get), *sorted(seen))}

    @property
    def entrants(self) -> dict[str, list[str]]:
        """Operating points by defense, in the order in which they were trained.

        The catalog cannot give that order (JSON objects have none); it adds what has no result.
        """
        order: dict[str, list[str]] = {}
        runs = self.tables["training.csv"][["defense", "point"]].itertuples(index=False)
        cards = self.catalog["defenses"].items()
        for name, point in (*runs, *((name, point) for name, card in cards
                                     for point in card["points"])):  # fmt: skip
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
        RecordError: the folder is missing or empty, or one of its files does not fit the schema.
    """
    if not results.is_dir():
        raise RecordError(f"{results}: no such folder; publish a scenario first")
    folders = sorted(
        path for path in results.iterdir() if path.is_dir() and not path.name.startswith(".")
    )
    if not folders:
        raise RecordError(f"{results}: holds no scenario; publish one first")
    scenarios = [_scenario(folder) for folder in folders]
    return sorted(scenarios, key=lambda found: (found.malicious, found.demo, found.name))


def _scenario(folder: Path) -> Scenario:
    try:
        if not NAME.fullmatch(folder.name):
            raise RecordError("not a scenario's name")
        # They carry the schema, which says more than a column that is missing.
        catalog = read_model(folder / "catalog.json", Catalog).model_dump()
        provenance = read_model(folder / "provenance.json", Provenance).model_dump()
        tables = {name: read_table(folder / name) for name in FILES}
        found = Scenario(folder.name, folder, tables, catalog, provenance, read_strips(folder))
        _agree(found)
        _unchanged(folder, provenance["files"])
        return found
    except RecordError as error:
        raise RecordError(f"{folder.name}/{error}") from None


def _unchanged(folder: Path, published: Mapping[str, str]) -> None:
    """Results are as they were scored: what was edited by hand since is named."""
    found = file_digests(folder) if published else {}
    for name in sorted(published.keys() | found):
        if published.get(name) != found.get(name):
            raise RecordError(f"{name}: is not what was scored; `dvc repro` publishes it again")


def _agree(scenario: Scenario) -> None:
    """What the files say must fit together."""
    catalog = scenario.catalog
    if scenario.facts["name"] != scenario.name:
        raise RecordError(f"catalog.json, scenario.name: {scenario.facts['name']!r} is another")
    if scenario.headline[0] not in scenario.facts["checkpoints"]:
        raise RecordError("catalog.json, scenario.headline: names no checkpoint")
    for strip in scenario.strips:
        if strip.defense not in catalog["defenses"]:
            raise RecordError(f"gallery/index.json: defense {strip.defense!r} is not in"
                              " catalog.json")  # fmt: skip
    for file, table in scenario.tables.items():
        for name, known in (
            ("scenario", {scenario.name}), ("defense", catalog["defenses"]),
            ("attack", catalog["attacks"]), ("strongest_attack", catalog["attacks"]),
            ("extra_data_attack", catalog["attacks"]),
        ):  # fmt: skip
            if name in table:
                where = "another scenario" if name == "scenario" else "not in catalog.json"
                _refuse(file, table, name, ~table[name].isin([*known, ""]), f"is {where}")
        _ordered(file, table)
    if scenario.tables["ranking.csv"].empty:
        raise RecordError("ranking.csv: no rows")
    _add_up(scenario.tables["ranking.csv"], scenario.headline)


def _refuse(file: str, table: pd.DataFrame, column: str, wrong: pd.Series, says: str) -> None:
    """One line about the first row that is wrong."""
    if wrong.any():
        row = int(wrong.to_numpy().argmax())
        value = table[column].tolist()[row]
        raise RecordError(f"{file}, row {row + 1}, {column}: {value!r} {says}")


def _ordered(file: str, table: pd.DataFrame) -> None:
    """Intervals have both ends or none, in their order, and hold what they are of."""
    for column in columns.COLUMNS:
        name = column.name
        if file.removesuffix(".csv") not in column.interval.split():
            continue
        low, high = table[f"{name}_lo"], table[f"{name}_hi"]
        wrong = (low.isna() != high.isna()) | (low > high)
        _refuse(file, table, f"{name}_lo", wrong, f"and {name}_hi are no interval")
        if name in table:
            outside = (table[name] < low - ROUNDING) | (table[name] > high + ROUNDING)
            outside |= table[name].isna() != low.isna()
            _refuse(file, table, name, outside, "lies outside its interval")


def _add_up(ranking: pd.DataFrame, headline: tuple[str, int]) -> None:
    """A row's shares must be what their names say; comparisons with an empty field are false."""
    recovered, inconclusive = ranking["recovered"], ranking["share_inconclusive"]
    known, lost = recovered.notna(), ranking["share_exhausted"] + inconclusive
    here = (ranking["checkpoint"] == headline[0]) & (ranking["batch_size"] == headline[1])
    both = (ranking["recovered_or_inconclusive"] - recovered - inconclusive).abs()
    gap = (recovered - ranking["oblivious"]).abs()
    rows = ranking.groupby(["checkpoint", "batch_size"])["n"].transform("size")
    for column, wrong, says in (
        ("recovered", known & ~((recovered + lost - 1).abs() < ROUNDING),
         "share_exhausted and share_inconclusive do not add up to 1"),
        ("recovered_or_inconclusive", known & ~(both < ROUNDING),
         "is not recovered and share_inconclusive"),
        ("oblivious", (ranking["defense"] == CONTROL) & (gap > ROUNDING),
         "without a defense there is nothing to know, but oblivious and recovered differ"),
        ("recovered", ~known & (ranking["reason"] == ""), "is empty without a reason"),
        ("recovered", known & ((ranking["n"] < 1) | (ranking["n_victims"] < 1)),
         "stands without private examples"),
        ("baseline_success", known & ranking["baseline_success"].isna(), "must not be empty"),
        *((f"{rank}_hi", ranking[f"{rank}_hi"] > rows, "is more than there are rows")
          for rank in ("rank2", "rank5")),
        *((f"{rank}_lo", ranking[f"{rank}_lo"].notna() & ~here,
           "stands outside of the headline's checkpoint and batch size")
          for rank in ("rank2", "rank5")),
    ):  # fmt: skip
        _refuse("ranking.csv", ranking, column, wrong, says)
