"""The published tables: what is written comes back, and what does not fit is refused."""

from __future__ import annotations

import csv
import math
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from benchmark.results import columns as table
from benchmark.results.columns import FILES, clocks, columns, key, names
from benchmark.results.io import RecordError, read_json, read_table, write_table
from benchmark.runtime.files import write_json

TABLES = list(FILES)
OTHER = {"settings": "published"}


def row_of(name: str, **changes: Any) -> dict[str, Any]:
    """A row of the table ``name`` that fits."""
    row: dict[str, Any] = {}
    for column in columns(name):
        text = next(iter(column.words), "" if column.name == "reason" else "text")
        row[column.name] = text if not column.numeric else 1
    return {**row, **({"point": "0.10"} if "point" in row else {}), **changes}


@pytest.mark.parametrize("name", TABLES)
def test_tables_round_trip(name: str, tmp_path: Path) -> None:
    numbers = [column.name for column in columns(name) if column.type in ("number", "share")]
    awkward = [1, 1 / 3 + 2 / 3, 0.1 + 0.9, 1.0000000000000002 - 2**-52]
    rows = [
        row_of(name, scenario=f"s{index}", **dict.fromkeys(numbers, value))
        for index, value in enumerate(awkward)
    ]
    write_table(tmp_path / name, rows)
    found = read_table(tmp_path / name)
    assert tuple(found.columns) == names(name)
    for index, row in enumerate(rows):
        for column, value in row.items():
            assert found[column][index] == value, column
    if "point" in rows[0]:
        assert found["point"][0] == "0.10", "a point's name is text, also where it looks like 0.1"


@pytest.mark.parametrize("value", [1 / 3, 1e-300, 123456789.123456789, 5e-324, 2.0**60])
def test_every_digit_of_a_number_comes_back(value: float, tmp_path: Path) -> None:
    write_table(tmp_path / "checkpoints.csv", [row_of("checkpoints.csv", loss=value)])
    assert read_table(tmp_path / "checkpoints.csv")["loss"][0] == value


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
    assert lines[1].split(",")[names("checkpoints.csv").index("loss")] == field
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
    with pytest.raises(RecordError, match=f"{column}: .* must (be one of|not be empty)"):
        read_table(tmp_path / "cells.csv")


@pytest.mark.parametrize("verdict", ["not-applicable", "missed", "inconclusive"])
def test_closed_forms_and_rows_have_verdicts_of_their_own(verdict: str, tmp_path: Path) -> None:
    write_table(tmp_path / "cells.csv", [row_of("cells.csv", verdict=verdict)])
    assert read_table(tmp_path / "cells.csv")["verdict"][0] == verdict


def test_an_unscored_cell_has_no_verdict(tmp_path: Path) -> None:
    row = row_of("cells.csv", status="failed", verdict="", psnr_median=None)
    write_table(tmp_path / "cells.csv", [row])
    found = read_table(tmp_path / "cells.csv").iloc[0]
    assert found["verdict"] == "" and pd.isna(found["psnr_median"])


@pytest.mark.parametrize("name", TABLES)
def test_the_key_of_a_row_is_unique(name: str, tmp_path: Path) -> None:
    one = row_of(name)
    write_table(tmp_path / name, [row_of(name, scenario="other"), one, one])
    with pytest.raises(RecordError, match=f"{name}, row 3: has the same .* as row 2"):
        read_table(tmp_path / name)
    kinds = {column.name: column for column in columns(name)}
    for column in key(name):
        other = OTHER.get(column, 9 if kinds[column].numeric else "other")
        write_table(tmp_path / name, [one, {**one, column: other}])
        assert len(read_table(tmp_path / name)) == 2, column


def test_other_columns_and_missing_files_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "checkpoints.csv"
    with pytest.raises(RecordError, match="no such file"):
        read_table(path)
    write_table(path, [row_of("checkpoints.csv")])
    found = pd.read_csv(path)
    found.drop(columns="loss").to_csv(path, index=False)
    with pytest.raises(RecordError, match="loss"):
        read_table(path)
    found[list(reversed(found.columns))].to_csv(path, index=False)
    with pytest.raises(RecordError, match="order"):
        read_table(path)


@pytest.mark.parametrize(
    ("name", "column", "text", "says"),
    [
        ("ranking.csv", "rank2_lo", "1.5", "whole number"),
        ("ranking.csv", "rank2_hi", "0", "1 or more"),
        ("ranking.csv", "rank5_hi", "-1", "1 or more"),
        ("ranking.csv", "recovered", "1.01", "between 0 and 1"),
        ("ranking.csv", "recovered_lo", "-0.1", "between 0 and 1"),
        ("ranking.csv", "uplink_bytes", "0", "1 or more"),
        ("ranking.csv", "uplink_bytes", "-5", "1 or more"),
        ("ranking.csv", "downlink_bytes", "inf", "finite"),
        ("ranking.csv", "epsilon", "-inf", "finite"),
        ("ranking.csv", "epsilon", "nan", "no number"),
        ("ranking.csv", "n", "1e300", "whole number"),
        ("ranking.csv", "n", "١", "no number"),
        ("ranking.csv", "n", "1_0", "no number"),
        ("ranking.csv", "batch_size", "", "must not be empty"),
        ("ranking.csv", "defense", "../up", "no name of a defense"),
        ("ranking.csv", "flags", "probe;great", "one of probe"),
        ("ranking.csv", "reason", "=1+1", "computed by a spreadsheet"),
        ("ranking.csv", "reason", "@SUM(A1)", "computed by a spreadsheet"),
        ("ranking.csv", "reason", "a\0b", "cannot be printed"),
        ("training.csv", "seed", "0x1", "no number"),
        ("victims.csv", "psnr", "61", "between 0 and 60"),
        ("victims.csv", "success", "2", "between 0 and 1"),
    ],
)
def test_a_cell_that_does_not_fit_is_named(
    name: str, column: str, text: str, says: str, tmp_path: Path
) -> None:
    write_table(tmp_path / name, [row_of(name, scenario="first"), row_of(name)])
    rows = list(csv.reader((tmp_path / name).read_text(encoding="utf-8").splitlines()))
    rows[2][names(name).index(column)] = text
    with (tmp_path / name).open("w", encoding="utf-8", newline="") as file:
        csv.writer(file).writerows(rows)
    with pytest.raises(RecordError, match=says) as refused:
        read_table(tmp_path / name)
    assert str(refused.value).startswith(f"{name}, row 2, {column}: ")
    assert "\n" not in str(refused.value) and "\0" not in str(refused.value)


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (b"", "is empty"),
        (b"\xff\xfe", "byte 1 is not UTF-8"),
        (b'a,"b\n', "not CSV"),
    ],
)
def test_what_is_no_table_is_one_line(content: bytes, says: str, tmp_path: Path) -> None:
    (tmp_path / "cells.csv").write_bytes(content)
    with pytest.raises(RecordError, match=f"cells.csv: .*{says}|cells.csv: {says}"):
        read_table(tmp_path / "cells.csv")


def test_a_row_of_another_length_is_named(tmp_path: Path) -> None:
    write_table(tmp_path / "training.csv", [row_of("training.csv")])
    with (tmp_path / "training.csv").open("a") as file:
        file.write("a,b\n")
    with pytest.raises(RecordError, match="training.csv, row 2: 2 fields, not 16"):
        read_table(tmp_path / "training.csv")


@pytest.mark.parametrize("text", ["=1+1", "+1", "-1", "@x", "\tx", "\rx"])
def test_no_text_is_written_that_a_spreadsheet_computes(text: str, tmp_path: Path) -> None:
    write_table(tmp_path / "cells.csv", [row_of("cells.csv", reason=text)])
    with (tmp_path / "cells.csv").open(newline="", encoding="utf-8") as file:
        (row,) = csv.DictReader(file)
    assert row["reason"][0] in "'?"
    assert read_table(tmp_path / "cells.csv")["reason"][0] == text.replace("\r", "?").strip("'")


def test_what_cannot_be_printed_is_a_question_mark(tmp_path: Path) -> None:
    write_table(tmp_path / "cells.csv", [row_of("cells.csv", reason="a\0b\x1bc")])
    assert read_table(tmp_path / "cells.csv")["reason"][0] == "a?b?c"


def test_clock_readings_come_last() -> None:
    for file in FILES:
        own = [name for name in names(file) if name in clocks()]
        assert list(names(file)[len(names(file)) - len(own) :]) == own
        assert len(set(names(file))) == len(names(file))


def test_the_table_names_no_column_twice_in_a_file_and_nothing_that_is_not_there() -> None:
    for column in table.COLUMNS:
        assert column.title and column.files
        for file in column.files.replace("*", "").split():
            assert f"{file}.csv" in FILES, column.name
        if column.within:
            assert any(other.name == column.within and other.page for other in table.COLUMNS)
        if column.page:
            assert column.head, column.name
        if column.of and not column.of.startswith("share "):
            assert column.of.split()[1] in names("victims.csv"), column.name


def test_json_has_no_words_that_json_lacks(tmp_path: Path) -> None:
    with pytest.raises(ValueError):
        write_json(tmp_path / "catalog.json", {"epsilon": math.inf})
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    "text",
    [
        "NaN",
        "[Infinity]",
        "1e999",
        "9" * 5000,
        '{"a": "\\u0000"}',
        '"\\ud800"',
        "[" * 100_000,
        "{",
        "",
    ],
    ids=lambda text: text[:12],
)
def test_json_that_could_not_be_shown_is_one_line(text: str, tmp_path: Path) -> None:
    (tmp_path / "catalog.json").write_text(text)
    with pytest.raises(RecordError, match=r"^catalog\.json: not JSON: .{1,120}$"):
        read_json(tmp_path / "catalog.json")
