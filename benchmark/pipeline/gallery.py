"""Reconstructions to look at: what the attacks saw, as strips of images, or as quoted sentences.

Rows are the truth, the best attack that knows nothing of the defense, and the strongest of all;
columns are the first seed's victims, the same for every defense. Attacks that learned from
auxiliary data suppose more of the attacker and are never shown. A strip has one tile per private
image, at native size.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from PIL import Image

from benchmark.metrics.measures import Measures
from benchmark.metrics.tokens import said
from benchmark.results.columns import BOARD

PLACE = ("defense", "point", "checkpoint", "batch_size")
SOURCE = ("attack", "evidence", "settings")
GAP = 1
LIMIT = 16
"""Tiles per row at most."""


def strip(rows: Sequence[np.ndarray], path: Path) -> None:
    """Write rows of images [n, C, H, W] in [0, 1] (C is 1 or 3) as one PNG, gaps transparent."""
    count, channels, height, width = rows[0].shape
    canvas = np.zeros((len(rows) * (height + GAP) - GAP, count * (width + GAP) - GAP, 4), np.uint8)
    for line, images in enumerate(rows):
        for column, image in enumerate(images):
            pixels = np.round(np.clip(image, 0, 1) * 255).astype(np.uint8)
            top, left = line * (height + GAP), column * (width + GAP)
            tile = canvas[top : top + height, left : left + width]
            tile[..., :3] = np.moveaxis(pixels, 0, -1) if channels == 3 else pixels[0][..., None]
            tile[..., 3] = 255
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(canvas, "RGBA").save(path, optimize=True)


def write_gallery(
    ranking: Sequence[Mapping[str, Any]],
    victims: pd.DataFrame,
    seed: int,
    sources: Mapping[tuple[Any, ...], Mapping[str, Path]],
    folder: Path,
    measures: Measures,
) -> list[dict[str, Any]]:
    """Write the strips of all ranked points and return their index; sentences stand in the index.

    Args:
        ranking: rows of ranking.csv.
        victims: victims.csv.
        seed: whose victims are shown.
        sources: (defense, point, checkpoint, batch size) -> the files of truth and guesses:
            ``truth``, and ``attack/evidence/settings`` for each cell.
        folder: where the PNGs go.
        measures: pair guesses with truths, and tell images from texts.
    """
    from safetensors.numpy import load_file

    index = []
    at = dict(list(victims.groupby(list(PLACE))))
    for row in ranking:
        place = {name: row[name] for name in PLACE}
        files = sources.get(tuple(place.values()), {})
        if "truth" not in files:
            continue
        truth = load_file(files["truth"])["images"]
        own = at.get(tuple(place.values()), victims[:0])
        scored = own[(own["threat"] != "auxiliary") & (own["settings"] == BOARD)]
        rows = [truth.reshape(-1, *truth.shape[2:])]
        measure = measures.first
        labels: list[dict[str, Any]] = [
            {"label": "truth", "attack": "", "evidence": "", "settings": "", measure: []}
        ]
        for label, chosen in _shown(row, scored, measure).items():
            if chosen is None or "/".join(chosen) not in files:
                continue
            guesses = load_file(files["/".join(chosen)])["images"]
            matched = [g[measures.match(g, t)] for g, t in zip(guesses, truth, strict=True)]
            rows.append(np.concatenate(matched))
            figures = scored[(scored[["seed", *SOURCE]] == [seed, *chosen]).all(axis=1)]
            found = figures.sort_values(["victim", "image"])[measure].round(2).tolist()[:LIMIT]
            labels.append({"label": label, **dict(zip(SOURCE, chosen, strict=True)),
                           measure: found})  # fmt: skip
        count = min(LIMIT, len(rows[0]))
        if measures.data == "texts":
            for line, sentences in zip(labels, rows, strict=True):
                line["texts"] = [said(words, measures.vocabulary) for words in sentences[:LIMIT]]
            shown: dict[str, Any] = {}
        else:
            size = "" if row["batch_size"] == 1 else f"--b{row['batch_size']}"
            name = f"{row['defense']}--{row['point']}--{row['checkpoint']}{size}.png"
            strip([images[:LIMIT] for images in rows], folder / name)
            shown = {"file": name, "tile": list(truth.shape[-2:]), "gap": GAP}
        index.append(
            {
                **shown,
                **place,
                "rows": labels,
                "victims": [f"{seed}/{i // truth.shape[1]}" for i in range(count)],
            }
        )
    return index


def _shown(
    row: Mapping[str, Any], scored: pd.DataFrame, measure: str
) -> dict[str, tuple[str, ...] | None]:
    """What stands below the truth, as attack, evidence and settings; None where there is none.

    Both are the best over all seeds, so that the strips show what the row's figures say.
    """
    strongest = (row["strongest_attack"], row["strongest_evidence"])
    return {
        "oblivious": _best(scored[scored["knowledge"] == "oblivious"], measure),
        "strongest": _best(
            scored[(scored[["attack", "evidence"]] == list(strongest)).all(axis=1)], measure
        ),
    }


def _best(scored: pd.DataFrame, measure: str) -> tuple[str, ...] | None:
    """The attack, evidence and settings with most recovered, then the highest median measure."""
    if scored.empty:
        return None
    means = scored.groupby(list(SOURCE)).agg(
        success=("success", "mean"), median=(measure, "median")
    )
    return tuple(map(str, means.sort_values(["success", "median"]).index[-1]))
