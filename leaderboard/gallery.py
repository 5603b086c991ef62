"""The published reconstructions: pictures in strips, or sentences, with their quality.

``gallery/index.json`` has an entry per operating point and checkpoint. An entry with a ``file`` is
a PNG of equal tiles, one without it quotes sentences.
"""

from __future__ import annotations

import json
import re
import struct
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from leaderboard.errors import BoardError, first_line

LABELS = {
    "truth": "truth",
    "oblivious": "best oblivious attack",
    "strongest": "strongest attack",
}
SAFE_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*")


@dataclass(frozen=True)
class Row:
    """What one attack made of the victims, or the truth; one quality for each victim."""

    label: str
    attack: str
    evidence: str
    settings: str
    quality: tuple[float | None, ...]
    texts: tuple[str, ...] = ()


@dataclass(frozen=True)
class Tiles:
    """How a picture is cut: equal tiles, ``gap`` pixels apart, ``edge`` pixels from the rim."""

    file: str
    height: int
    width: int
    gap: int
    edge: int
    size: tuple[int, int]  # width, height of the file in pixels


@dataclass(frozen=True)
class Strip:
    """The reconstructions of one operating point at one checkpoint; sentences have no tiles."""

    defense: str
    point: str
    checkpoint: str
    batch_size: int
    victims: tuple[Any, ...]
    rows: tuple[Row, ...]
    tiles: Tiles | None


def read_strips(folder: Path, measure: str, defenses: Mapping[str, Any]) -> tuple[Strip, ...]:
    """The entries of ``folder/gallery/index.json``, in their order.

    Args:
        measure: the field of a row that holds its qualities.
        defenses: the catalog's cards; an entry of another defense is refused.

    Raises:
        BoardError: the index or a picture is missing, or does not fit.
    """
    index = folder / "gallery" / "index.json"
    try:
        entries = json.loads(index.read_text(encoding="utf-8"))
    except OSError:
        raise BoardError("gallery/index.json: no such file") from None
    except ValueError as error:
        raise BoardError(f"gallery/index.json: not JSON: {first_line(error)}") from None
    try:
        return tuple(_strip(folder / "gallery", entry, measure, defenses) for entry in entries)
    except BoardError:
        raise
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise BoardError(
            f"gallery/index.json: an entry lacks or breaks {first_line(error)}"
        ) from None


def _strip(
    gallery: Path, entry: Mapping[str, Any], measure: str, defenses: Mapping[str, Any]
) -> Strip:
    if entry["defense"] not in defenses:
        raise BoardError(f"gallery/index.json: defense {entry['defense']!r} is not in catalog.json")
    rows = tuple(_row(row, measure) for row in entry["rows"])
    victims = tuple(entry["victims"])
    return Strip(
        defense=entry["defense"],
        point=str(entry["point"]),
        checkpoint=str(entry["checkpoint"]),
        batch_size=int(entry.get("batch_size") or 1),
        victims=victims,
        rows=rows,
        tiles=_tiles(gallery, entry, len(rows), len(victims)) if "file" in entry else None,
    )


def _row(row: Mapping[str, Any], measure: str) -> Row:
    if row["label"] not in LABELS:
        raise BoardError(f"gallery/index.json: label must be one of {', '.join(LABELS)}")
    quality = row.get(measure) or ()
    return Row(
        label=LABELS[row["label"]],
        attack=str(row.get("attack") or ""),
        evidence=str(row.get("evidence") or ""),
        settings=str(row.get("settings") or ""),
        quality=tuple(None if value is None else float(value) for value in quality),
        texts=tuple(map(str, row.get("texts") or ())),
    )


def _tiles(gallery: Path, entry: Mapping[str, Any], rows: int, victims: int) -> Tiles:
    file = str(entry["file"])
    if not SAFE_NAME.fullmatch(file):
        raise BoardError(f"gallery/index.json: {file!r} is no file name")
    height, width = (int(side) for side in entry["tile"])
    gap = int(entry["gap"])
    size = _png_size(gallery / file)
    inner = (victims * width + (victims - 1) * gap, rows * height + (rows - 1) * gap)
    # Tiles are cut out of the picture by these numbers, so they must describe it.
    edge = next(
        (edge for edge in (0, gap) if size == (inner[0] + 2 * edge, inner[1] + 2 * edge)), None
    )
    if edge is None:
        raise BoardError(f"gallery/{file}: {size[0]}x{size[1]} pixels do not hold its tiles")
    return Tiles(file=file, height=height, width=width, gap=gap, edge=edge, size=size)


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
