"""Reconstructions to look at: what the attacks saw, as strips of images, or as quoted sentences.

Rows are the truth, the best reading that knows nothing of the defense, and the strongest of all;
columns are the first seed's victims, the same for every defense. A strip has one tile per private
image, at native size.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from PIL import Image

from benchmark.metrics.judges import Judge, Texts
from benchmark.metrics.tokens import said

CELL = ["attack", "evidence", "settings"]
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


def hang(
    ranking: Sequence[Mapping[str, Any]],
    victims: pd.DataFrame,
    seed: int,
    sources: Mapping[tuple[Any, ...], Mapping[str, Path]],
    folder: Path,
    judge: Judge,
) -> list[dict[str, Any]]:
    """Write the strips of all ranked points and return their index; sentences stand in the index.

    Args:
        ranking: rows of ranking.csv.
        victims: victims.csv.
        seed: whose victims are shown.
        sources: (defense, point, checkpoint, batch size) -> the files of truth and guesses:
            ``truth``, and ``attack/evidence/settings`` for each cell.
        folder: where the PNGs go.
        judge: pairs guesses with truths, and tells images from texts.
    """
    from safetensors.numpy import load_file

    index = []
    for row in ranking:
        place = (row["defense"], row["point"], row["checkpoint"], row["batch_size"])
        files = sources.get(place, {})
        if "truth" not in files:
            continue
        truth = load_file(files["truth"])["images"]
        scored = victims[
            (victims["seed"] == seed)
            & (victims["defense"] == row["defense"])
            & (victims["point"] == row["point"])
            & (victims["checkpoint"] == row["checkpoint"])
            & (victims["batch_size"] == row["batch_size"])
            & (victims["threat"] != "auxiliary")
        ]
        rows = [truth.reshape(-1, *truth.shape[2:])]
        measure = judge.measures[0]
        labels: list[dict[str, Any]] = [
            {"label": "truth", "attack": "", "evidence": "", measure: []}
        ]
        strongest = scored[
            (scored["attack"] == row["strongest_attack"])
            & (scored["evidence"] == row["strongest_evidence"])
        ]
        for label, candidates in (
            ("oblivious", scored[scored["knowledge"] == "oblivious"]),
            ("adaptive", strongest),
        ):
            own = _best(candidates, measure)
            if own.empty:
                continue
            attack, evidence, settings = own.iloc[0][CELL]
            guesses = load_file(files[f"{attack}/{evidence}/{settings}"])["images"]
            matched = [g[judge.match(g, t)] for g, t in zip(guesses, truth, strict=True)]
            rows.append(np.concatenate(matched))
            found = own.sort_values(["victim", "image"])[measure].round(2).tolist()[:LIMIT]
            labels.append({"label": label, "attack": attack, "evidence": evidence, measure: found})
        count = min(LIMIT, len(rows[0]))
        if isinstance(judge, Texts):
            for line, sentences in zip(labels, rows, strict=True):
                line["texts"] = [said(words, judge.vocabulary) for words in sentences[:LIMIT]]
            shown: dict[str, Any] = {}
        else:
            size = "" if row["batch_size"] == 1 else f"--b{row['batch_size']}"
            name = f"{row['defense']}--{row['point']}--{row['checkpoint']}{size}.png"
            strip([images[:LIMIT] for images in rows], folder / name)
            shown = {"file": name, "tile": list(truth.shape[-2:]), "gap": GAP}
        index.append(
            {
                **shown,
                "defense": row["defense"],
                "point": row["point"],
                "checkpoint": row["checkpoint"],
                "batch_size": row["batch_size"],
                "rows": labels,
                "victims": [f"{seed}/{i // truth.shape[1]}" for i in range(count)],
            }
        )
    return index


def _best(scored: pd.DataFrame, measure: str) -> pd.DataFrame:
    """The rows of the cell with most recovered examples, then the highest median measure."""
    if scored.empty:
        return scored
    means = scored.groupby(CELL).agg(success=("success", "mean"), median=(measure, "median"))
    best = means.sort_values(["success", "median"]).index[-1]
    return scored[(scored[CELL] == list(best)).all(axis=1)]
