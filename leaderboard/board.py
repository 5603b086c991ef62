"""The published results of every scenario, read and checked before anything is drawn.

The page and the tables are a pure function of what :func:`load` returns, so a result that does not
fit its schema ends the build here, with one line that names the file.
"""

from __future__ import annotations

import json
import re
import struct
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd

from benchmark.records import SCHEMA, TABLES, RecordError, read_table

TEXT = frozenset((
    "scenario", "defense", "point", "checkpoint", "attack", "evidence", "knowledge",
    "labels", "status", "reason", "verdict", "flags", "strategy", "commit", "dirty",
    "machine", "privacy_unit", "adversary", "adaptive_attack", "adaptive_evidence",
    "victim", "image",
))  # fmt: skip
SHARES = frozenset((
    "success_rate", "success_lo", "success_hi", "label_accuracy", "identification_rate",
    "floor_success_rate", "share_ok", "share_exhausted", "share_failed",
    "oblivious_success", "oblivious_lo", "oblivious_hi", "adaptive_success", "adaptive_lo",
    "adaptive_hi", "floor_success", "accuracy", "accuracy_global", "accuracy_personal",
    "target_accuracy", "success",
))  # fmt: skip
# What a card may leave out, and what it then says.
_OPTIONAL: Mapping[str, Mapping[str, Any]] = {
    "defenses": {"cite": "", "url": "", "summary": "", "note": "", "personalised": False},
    "attacks": {"cite": "", "url": "", "summary": "", "note": "", "parameters": {}},
    "evidence": {"knowledge": "", "summary": ""},
    "metrics": {"title": "", "unit": "", "higher_is_better": None, "low": None, "high": None,
                "summary": ""},
}  # fmt: skip
RANKING_KEY = ["defense", "point", "checkpoint", "batch_size"]
SAFE_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*")


class BoardError(ValueError):
    """Published results that no page can be built from; the message is one line."""


@dataclass(frozen=True)
class StripRow:
    """One row of a reconstruction strip: what it shows and the PSNR (dB) of each image."""

    label: str
    attack: str
    evidence: str
    psnr: tuple[float | None, ...]


@dataclass(frozen=True)
class Strip:
    """One reconstruction picture: ``rows`` of equal tiles, ``gap`` pixels apart."""

    file: str
    defense: str
    point: str
    checkpoint: str
    tile: tuple[int, int]  # height, width in pixels
    gap: int
    edge: int  # pixels around the outermost tiles
    size: tuple[int, int]  # width, height of the file in pixels
    rows: tuple[StripRow, ...]
    victims: tuple[Any, ...]
    batch_size: int


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
    def interval(self) -> str:
        """What to call an interval: by its level, where the catalog gives one."""
        level = (self.catalog.get("scoring") or {}).get("confidence")
        return f"{100 * level:g}% interval" if level else "interval"

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
    """Read every scenario under ``results``: ranked ones first, then by name.

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
    return sorted(scenarios, key=lambda scenario: (scenario.demo, scenario.name))


def _scenario(folder: Path) -> Scenario:
    try:
        if not SAFE_NAME.fullmatch(folder.name):
            raise BoardError("not a scenario's name")
        tables = {name: _table(folder, name) for name in TABLES}
        catalog = _catalog(folder)
        provenance = {"commit": "", "dirty": False, **_json(folder / "provenance.json")}
        _agree(tables, catalog)
        return Scenario(folder.name, folder, tables, catalog, provenance, _strips(folder, catalog))
    except BoardError as error:
        raise BoardError(f"{folder.name}: {error}") from None


def _table(folder: Path, name: str) -> pd.DataFrame:
    try:
        table = read_table(folder / name)
    except RecordError as error:
        raise BoardError(str(error)) from None
    except (ValueError, OSError) as error:  # pandas: not a table at all, or not text
        raise BoardError(f"{name}: {_line(error)}") from None
    odd = set(table["scenario"]) - {folder.name}
    if odd:
        raise BoardError(f"{name}: rows of another scenario, {', '.join(map(str, sorted(odd)))}")
    for column in table.columns:
        if column in TEXT:
            continue
        try:
            values = pd.to_numeric(table[column])
        except (ValueError, TypeError) as error:
            raise BoardError(f"{name}: {column} holds something that is no number: {_line(error)}"
                             ) from None  # fmt: skip
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
        raise BoardError(f"{path.name}: not JSON: {_line(error)}") from None
    if not isinstance(content, dict):
        raise BoardError(f"{path.name}: must hold an object")
    if content.get("schema") != SCHEMA:
        raise BoardError(
            f"{path.name}: schema {content.get('schema')!r}, this board reads {SCHEMA}"
        )
    return content


def _catalog(folder: Path) -> dict[str, Any]:
    catalog = _json(folder / "catalog.json")
    for part in ("scenario", "defenses", "attacks", "evidence", "metrics"):
        if not isinstance(catalog.get(part), dict):
            raise BoardError(f"catalog.json: {part} is missing")
    catalog["scenario"] = {"description": "", **catalog["scenario"]}
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
    for name, table in tables.items():
        for column, part in (("defense", "defenses"), ("attack", "attacks")):
            if column in table.columns:
                unknown = sorted(set(table[column]) - set(catalog[part]))
                if unknown:
                    raise BoardError(f"{name}: {column} {unknown[0]!r} is not in catalog.json")


def _strips(folder: Path, catalog: Mapping[str, Any]) -> tuple[Strip, ...]:
    index = folder / "gallery" / "index.json"
    try:
        entries = json.loads(index.read_text(encoding="utf-8"))
    except OSError:
        raise BoardError("gallery/index.json: no such file") from None
    except ValueError as error:
        raise BoardError(f"gallery/index.json: not JSON: {_line(error)}") from None
    try:
        return tuple(_strip(folder / "gallery", entry, catalog) for entry in entries)
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        if isinstance(error, BoardError):
            raise
        raise BoardError(f"gallery/index.json: an entry lacks or breaks {_line(error)}") from None


def _strip(gallery: Path, entry: Mapping[str, Any], catalog: Mapping[str, Any]) -> Strip:
    file = str(entry["file"])
    if not SAFE_NAME.fullmatch(file):
        raise BoardError(f"gallery/index.json: {file!r} is no file name")
    if entry["defense"] not in catalog["defenses"]:
        raise BoardError(f"gallery/index.json: defense {entry['defense']!r} is not in catalog.json")
    height, width = (int(side) for side in entry["tile"])
    gap = int(entry["gap"])
    rows = tuple(
        StripRow(str(row["label"]), str(row.get("attack") or ""), str(row.get("evidence") or ""),
                 tuple(None if value is None else float(value) for value in row.get("psnr") or ()))
        for row in entry["rows"]
    )  # fmt: skip
    victims = tuple(entry["victims"])
    size = _png_size(gallery / file)
    inner = (
        len(victims) * width + (len(victims) - 1) * gap,
        len(rows) * height + (len(rows) - 1) * gap,
    )
    # Tiles are cut out of the picture by these numbers, so they must describe it.
    edge = next(
        (edge for edge in (0, gap) if size == (inner[0] + 2 * edge, inner[1] + 2 * edge)), None
    )
    if edge is None:
        raise BoardError(f"gallery/{file}: {size[0]}x{size[1]} pixels do not hold its tiles")
    return Strip(file, entry["defense"], str(entry["point"]), str(entry["checkpoint"]),
                 (height, width), gap, edge, size, rows, victims,
                 int(entry.get("batch_size") or 1))  # fmt: skip


def _png_size(path: Path) -> tuple[int, int]:
    """Width and height of a PNG from its header (ISO/IEC 15948, section 11.2.1)."""
    try:
        with path.open("rb") as file:
            head = file.read(24)
    except OSError:
        raise BoardError(f"gallery/{path.name}: no such file") from None
    if len(head) < 24 or head[:8] != b"\x89PNG\r\n\x1a\n":
        raise BoardError(f"gallery/{path.name}: not a PNG")
    return struct.unpack(">II", head[16:24])


def _line(error: BaseException) -> str:
    """The first line of an error's message, for one that spreads over several."""
    return (str(error).strip().splitlines() or [type(error).__name__])[0]
