"""The published tables: what is written comes back, and what does not fit is refused."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from benchmark.results.columns import (
    CELL_KEY,
    CELLS,
    MEASURED,
    TABLES,
    RecordError,
    read_table,
    write_json,
    write_table,
)

TEXT = {"scenario", "defense", "point", "checkpoint", "attack", "evidence", "knowledge", "labels",
        "status", "reason", "verdict", "strategy", "commit", "machine", "flags", "adversary",
        "privacy_unit", "threat", "settings", "strongest_attack", "strongest_evidence",
        "extra_data_attack", "extra_data_evidence"}  # fmt: skip
WORDS = {"status": "ok", "knowledge": "adaptive", "verdict": "ok", "point": "0.10", "reason": "",
         "settings": "board"}  # fmt: skip
OTHER = {"settings": "published"}


def row_of(name: str, **changes: Any) -> dict[str, Any]:
    """A row of the table ``name`` that fits."""
    row = {column: WORDS.get(column, "text") if column in TEXT else 0.5 for column in TABLES[name]}
    return {**row, **changes}


@pytest.mark.parametrize("name", TABLES)
def test_tables_round_trip(name: str, tmp_path: Path) -> None:
    numbers = [c for c in TABLES[name] if c not in TEXT]
    awkward = [1 / 3, 1e-300, 123456789.123456789, -0.1, 3]
    rows = [
        row_of(name, scenario=f"s{index}", **dict.fromkeys(numbers, value))
        for index, value in enumerate(awkward)
    ]
    write_table(tmp_path / name, rows)
    table = read_table(tmp_path / name)
    assert tuple(table.columns) == TABLES[name]
    for index, row in enumerate(rows):
        for column, value in row.items():
            assert table[column][index] == value, column
        assert table["scenario"][index] == f"s{index}"
    if "point" in TABLES[name]:
        assert table["point"][0] == "0.10", "a point's name is text, also where it looks like 0.1"


@pytest.mark.parametrize(
    ("value", "field"),
    [
        (None, ""), (math.nan, ""), (np.nan, ""), (math.inf, "inf"), (0.1, "0.1"),
        (np.float64(0.1), "0.1"), (np.float32(0.5), "0.5"), (np.int64(3), "3"), (7, "7"),
        (True, "1"), (np.bool_(False), "0"),
    ],
    ids=repr,
)  # fmt: skip
def test_numbers_are_written_as_numbers(value: Any, field: str, tmp_path: Path) -> None:
    write_table(tmp_path / "checkpoints.csv", [row_of("checkpoints.csv", loss=value)])
    lines = (tmp_path / "checkpoints.csv").read_text(encoding="utf-8").splitlines()
    assert lines[1].split(",")[TABLES["checkpoints.csv"].index("loss")] == field
    back = read_table(tmp_path / "checkpoints.csv")["loss"][0]
    assert pd.isna(back) if field == "" else back == float(value)


def test_text_survives_commas_quotes_and_words_for_nothing(tmp_path: Path) -> None:
    for reason in ('RuntimeError: a, "b"', "nan", "None", "NA"):
        write_table(tmp_path / "cells.csv", [row_of("cells.csv", reason=reason)])
        assert read_table(tmp_path / "cells.csv")["reason"][0] == reason


def test_rows_that_do_not_fit_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "cells.csv"
    with pytest.raises(RecordError, match="psnr_guess"):
        write_table(path, [row_of("cells.csv", psnr_guess=1.0)])
    short = row_of("cells.csv")
    del short["verdict"]
    with pytest.raises(RecordError, match="verdict"):
        write_table(path, [short])
    assert list(tmp_path.iterdir()) == [], "nothing is left of a table that was refused"


@pytest.mark.parametrize(
    ("column", "value"),
    [
        ("status", "fine"),
        ("status", ""),
        ("knowledge", "omniscient"),
        ("verdict", "unclear"),
        ("settings", "ours"),
    ],
)
def test_words_outside_the_vocabulary_are_refused(column: str, value: str, tmp_path: Path) -> None:
    write_table(tmp_path / "cells.csv", [row_of("cells.csv", **{column: value})])
    with pytest.raises(RecordError, match=f"{column} must be one of"):
        read_table(tmp_path / "cells.csv")


@pytest.mark.parametrize("verdict", ["not-applicable", "missed", "inconclusive"])
def test_closed_forms_and_rows_have_verdicts_of_their_own(verdict: str, tmp_path: Path) -> None:
    write_table(tmp_path / "cells.csv", [row_of("cells.csv", verdict=verdict)])
    assert read_table(tmp_path / "cells.csv")["verdict"][0] == verdict


def test_an_unscored_cell_has_no_verdict(tmp_path: Path) -> None:
    blank = dict.fromkeys(CELLS)
    named = {"status": "failed", "knowledge": "adaptive", "settings": "board", "verdict": ""}
    write_table(tmp_path / "cells.csv", [{**blank, **named}])
    row = read_table(tmp_path / "cells.csv").iloc[0]
    assert row["verdict"] == "" and pd.isna(row["psnr_median"])


def test_a_cells_key_is_unique(tmp_path: Path) -> None:
    one = row_of("cells.csv")
    write_table(tmp_path / "cells.csv", [one, one])
    with pytest.raises(RecordError, match="two rows describe the same cell"):
        read_table(tmp_path / "cells.csv")
    for column in CELL_KEY:
        other = {**one, column: OTHER.get(column, "other") if column in TEXT else 9}
        write_table(tmp_path / "cells.csv", [one, other])
        assert len(read_table(tmp_path / "cells.csv")) == 2, column


def test_other_columns_and_missing_files_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "checkpoints.csv"
    with pytest.raises(RecordError, match="no such file"):
        read_table(path)
    write_table(path, [row_of("checkpoints.csv")])
    table = pd.read_csv(path)
    table.drop(columns="loss").to_csv(path, index=False)
    with pytest.raises(RecordError, match="loss"):
        read_table(path)
    table[list(reversed(table.columns))].to_csv(path, index=False)
    with pytest.raises(RecordError, match="order"):
        read_table(path)


def test_measured_columns_come_last() -> None:
    for columns in TABLES.values():
        clocks = [c for c in columns if c in MEASURED]
        assert list(columns[len(columns) - len(clocks) :]) == clocks
        assert len(set(columns)) == len(columns)


def test_json_has_no_words_that_json_lacks(tmp_path: Path) -> None:
    with pytest.raises(ValueError):
        write_json(tmp_path / "catalog.json", {"epsilon": math.inf})
    assert list(tmp_path.iterdir()) == []
