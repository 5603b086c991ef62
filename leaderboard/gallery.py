"""The published reconstructions: pictures in strips, or sentences, with their quality.

``gallery/index.json`` has an entry per operating point and checkpoint. An entry with a ``file`` is
a PNG of equal tiles, one without it quotes sentences.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Literal

from PIL import Image
from pydantic import Field, RootModel

from benchmark.results.catalog import Card, Name
from benchmark.results.io import RecordError, read_model

LABELS = {
    "truth": "truth",
    "oblivious": "best oblivious attack",
    "strongest": "strongest attack",
}
Positive = Annotated[int, Field(ge=1, le=10_000)]


class Row(Card):
    """What one attack made of the victims, or the truth; one quality for each victim."""

    label: Literal["truth", "oblivious", "strongest"]
    attack: str | None = ""
    evidence: str | None = ""
    settings: str | None = ""
    psnr: list[float | None] = []
    exact_tokens: list[float | None] = []
    texts: list[str] = []


class Strip(Card):
    """The reconstructions of one operating point at one checkpoint; sentences have no file.

    A picture is cut into equal tiles [height, width], ``gap`` pixels apart, and ``edge`` pixels
    from the rim; ``size`` is its width and height.
    """

    defense: Name
    point: Name
    checkpoint: Name
    batch_size: Positive = 1
    victims: Annotated[list[Any], Field(min_length=1)]
    rows: Annotated[list[Row], Field(min_length=1)]
    file: Name | None = None
    tile: Annotated[list[Positive], Field(min_length=2, max_length=2)] = [1, 1]
    gap: Annotated[int, Field(ge=0, le=1000)] = 0
    edge: int = 0
    size: tuple[int, int] = (0, 0)


class Index(RootModel[list[Strip]]):
    """gallery/index.json."""


def read_strips(folder: Path) -> tuple[Strip, ...]:
    """The entries of ``folder/gallery/index.json``, in their order.

    Raises:
        RecordError: the index or a picture is missing, or does not fit.
    """
    try:
        strips = read_model(folder / "gallery" / "index.json", Index, schema=False).root
        return tuple(_measured(strip, folder / "gallery") for strip in strips)
    except RecordError as error:
        raise RecordError(f"gallery/{error}") from None


def _measured(strip: Strip, gallery: Path) -> Strip:
    """A strip with its picture's size and edge: it is cut by these numbers, so they must fit."""
    if strip.file is None:
        return strip
    (height, width), gap = strip.tile, strip.gap
    size = _png_size(gallery / strip.file)
    count, rows = len(strip.victims), len(strip.rows)
    inner = (count * (width + gap) - gap, rows * (height + gap) - gap)
    for edge in (0, gap):
        if size == (inner[0] + 2 * edge, inner[1] + 2 * edge):
            return strip.model_copy(update={"edge": edge, "size": size})
    raise RecordError(f"{strip.file}: {size[0]}x{size[1]} pixels do not hold its tiles")


def _png_size(path: Path) -> tuple[int, int]:
    """Width and height of a PNG that is whole."""
    if not path.is_file():
        raise RecordError(f"{path.name}: no such file")
    try:
        with Image.open(path, formats=["PNG"]) as picture:
            picture.verify()
            return picture.size
    except Exception:  # whatever Pillow makes of what is no picture
        raise RecordError(f"{path.name}: not a PNG, or not whole") from None
