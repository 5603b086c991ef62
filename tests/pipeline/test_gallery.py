"""The strips show what the row's figures say: no learned attack, and the strongest by name."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from safetensors.numpy import save_file

from benchmark.metrics.measures import Measures
from benchmark.pipeline.gallery import write_gallery

SEED, VICTIMS = 0, 3
ROW = {"defense": "dgp", "point": "paper", "checkpoint": "early", "batch_size": 1}
PSNR = {  # attack, evidence, settings, knowledge, threat -> PSNR of every victim
    ("lti", "oblivious", "board", "oblivious", "auxiliary"): 40.0,
    ("ig", "oblivious", "board", "oblivious", "curious"): 15.0,
    ("auto", "oblivious", "board", "oblivious", "curious"): 12.0,
    ("auto", "sent", "board", "adaptive", "curious"): 30.0,
}


def strips(tmp_path: Path, scored: dict[tuple[str, ...], float], **row: Any) -> list[dict]:
    """The rows of the one strip that the attacks in ``scored`` leave."""
    draw = np.random.default_rng(0)
    images = draw.random((VICTIMS, 1, 1, 8, 8)).astype(np.float32)
    files = {"truth": tmp_path / "truth.safetensors"}
    save_file({"images": images}, files["truth"])
    victims = []
    for attack, evidence, settings, knowledge, threat in scored:
        name = f"{attack}/{evidence}/{settings}"
        files[name] = tmp_path / f"{name.replace('/', '-')}.safetensors"
        save_file({"images": images}, files[name])
        for seed in (SEED, 1):
            for victim in range(VICTIMS):
                psnr = scored[attack, evidence, settings, knowledge, threat]
                victims.append({
                    **ROW, "attack": attack, "evidence": evidence, "settings": settings,
                    "knowledge": knowledge, "threat": threat, "seed": seed, "victim": victim,
                    "image": 0, "psnr": psnr, "success": float(psnr > 20),
                })  # fmt: skip
    (entry,) = write_gallery(
        [{**ROW, "strongest_attack": "auto", "strongest_evidence": "sent", **row}],
        pd.DataFrame(victims), SEED, {tuple(ROW.values()): files}, tmp_path / "gallery",
        Measures("images"),
    )  # fmt: skip
    return entry["rows"]


def test_a_learned_attack_is_never_shown_as_oblivious(tmp_path: Path) -> None:
    truth, oblivious, strongest = strips(tmp_path, PSNR)
    assert (truth["label"], truth["attack"]) == ("truth", "")
    assert (oblivious["label"], oblivious["attack"]) == ("oblivious", "ig")
    assert oblivious["psnr"] == [15.0] * VICTIMS
    assert (strongest["label"], strongest["attack"]) == ("strongest", "auto")
    assert (strongest["evidence"], strongest["psnr"]) == ("sent", [30.0] * VICTIMS)


@pytest.mark.parametrize("published", [35.0, 25.0])
def test_strips_show_what_figures_count_and_no_published_settings(
    tmp_path: Path, published: float
) -> None:
    extra = ("auto", "sent", "published", "oblivious", "curious")
    *_, strongest = strips(tmp_path, {**PSNR, extra: published})
    assert strongest["settings"] == "board"
    assert strongest["psnr"] == [30.0] * VICTIMS


def test_a_row_without_a_figure_has_no_strongest_attack(tmp_path: Path) -> None:
    only = {key: value for key, value in PSNR.items() if key[3] == "oblivious"}
    found = strips(tmp_path, only, strongest_attack="", strongest_evidence="")
    assert [row["label"] for row in found] == ["truth", "oblivious"]
