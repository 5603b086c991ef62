"""Reading and writing what is published: whole files, checked against the table of columns.

Whatever does not fit is refused in one line that names file, row and column; rows are counted from
1, below the heading.
"""

from __future__ import annotations

import csv
import io
import json
import math
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from benchmark.results.columns import SCHEMA, Column, columns, key, names
from benchmark.runtime.files import write_text

if TYPE_CHECKING:
    import pandas as pd
    from pydantic import BaseModel

NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*")
"""What names of scenarios, defenses, points and files are made of."""
_NUMBER = re.compile(r"[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d+)?|[+-]?inf", re.ASCII)
_FORMULA = re.compile(r"[=+\-@\t\r]")
"""What a spreadsheet takes for the beginning of a formula."""
_UNPRINTABLE = re.compile(r"[\x00-\x08\x0b-\x1f\x7f\ud800-\udfff]")
LARGEST = 10**15
"""Whole numbers in JSON are at most this large."""

Model = TypeVar("Model", bound="BaseModel")


class RecordError(ValueError):
    """A published file does not fit; the message is one line."""

    def __init__(self, message: str) -> None:
        line = " ".join(_UNPRINTABLE.sub("?", message).split())
        super().__init__(line if len(line) <= 300 else f"{line[:297]}...")


def write_table(path: Path, rows: Iterable[Mapping[str, Any]]) -> None:
    """Write ``rows`` as the CSV that ``path.name`` stands for, whole or not at all.

    Raises:
        RecordError: a row has a column that the schema lacks, or lacks one.
    """
    known, text = names(path.name), io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(known)
    for row in rows:
        if odd := sorted(set(row) ^ set(known)):
            raise RecordError(f"{path.name}: columns {odd} do not fit the schema")
        writer.writerow([field(row[name]) for name in known])
    write_text(path, text.getvalue())


def field(value: Any) -> Any:
    """One CSV field: nothing for None and NaN, every digit of a float; an apostrophe before text
    that a spreadsheet would compute, and a question mark for what cannot be printed."""
    if hasattr(value, "item"):  # numpy's scalars print their type, or as words
        value = value.item()
    if value is None or value != value:
        return ""
    if isinstance(value, float):
        return repr(value)
    if isinstance(value, bool):
        return int(value)
    if isinstance(value, str):
        text = _UNPRINTABLE.sub("?", value)
        return f"'{text}" if _FORMULA.match(text) else text
    return value


def read_table(path: Path) -> pd.DataFrame:
    """Read and check one published table; numbers come back as numbers, text as text.

    Raises:
        RecordError: it is missing, is no CSV, or a cell or a row does not fit the schema.
    """
    import pandas as pd

    file = path.name
    heading, *rows = _rows(path)
    if tuple(heading) != names(file):
        odd = sorted(set(heading) ^ set(names(file))) or "their order"
        raise RecordError(f"{file}: columns {odd} do not fit the schema")
    for number, row in enumerate(rows, start=1):
        if len(row) != len(heading):
            raise RecordError(f"{file}, row {number}: {len(row)} fields, not {len(heading)}")
    cells = zip(*rows, strict=True) if rows else ([] for _ in heading)
    table = pd.DataFrame(
        {
            column.name: _converted(file, column, found)
            for column, found in zip(columns(file), cells, strict=True)
        }
    )
    if (twice := table.duplicated(key(file))).any():
        where = int(twice.to_numpy().argmax())
        same = (table[key(file)] == table.loc[where, key(file)]).all(axis=1).to_numpy().argmax()
        raise RecordError(
            f"{file}, row {where + 1}: has the same {', '.join(key(file))} as row {same + 1}"
        )
    return table


def _rows(path: Path) -> list[list[str]]:
    """The fields of a CSV as text."""
    try:
        text = path.read_bytes().decode("utf-8")
        rows = list(csv.reader(io.StringIO(text, newline=""), strict=True))
    except OSError:
        raise RecordError(f"{path.name}: no such file in {path.parent}") from None
    except UnicodeDecodeError as error:
        raise RecordError(f"{path.name}: byte {error.start + 1} is not UTF-8") from None
    except csv.Error as error:
        raise RecordError(f"{path.name}: not CSV: {error}") from None
    if not rows:
        raise RecordError(f"{path.name}: is empty")
    return rows


def _converted(file: str, column: Column, cells: Sequence[str]) -> Any:
    """A column's cells as numbers or as text."""
    import numpy as np

    for number, cell in enumerate(cells, start=1):
        if wrong := _wrong(file, column, cell):
            raise RecordError(f"{file}, row {number}, {column.name}: {cell!r} {wrong}")
    if not column.numeric:
        return np.array([cell.removeprefix("'") for cell in cells], dtype=object)
    values = np.array([float(cell) if cell else math.nan for cell in cells])
    return values.astype(np.int64) if column.type == "whole" and all(cells) else values


def _wrong(file: str, column: Column, cell: str) -> str:
    """Why a cell does not fit its column; empty where it does."""
    if not cell:
        return "must not be empty" if column.needed or column.names_rows_of(file) else ""
    if column.numeric:
        return _misfit(column, cell)
    if column.words:
        chosen = cell.split(";") if column.type == "flags" else [cell]
        known = all(word in column.words for word in chosen)
        return "" if known else f"must be one of {', '.join(column.words)}"
    if column.type == "name":
        return "" if NAME.fullmatch(cell) else f"is no name of a {column.name}"
    if _UNPRINTABLE.search(cell):
        return "holds what cannot be printed"
    return "would be computed by a spreadsheet" if _FORMULA.match(cell) else ""


def _misfit(column: Column, cell: str) -> str:
    if not _NUMBER.fullmatch(cell):
        return "is no number"
    value = float(cell)
    low, high = column.bounds
    if math.isinf(value) and (not column.infinite or value < 0):
        return "must be finite"
    if column.type == "whole" and (value != round(value) or abs(value) > LARGEST):
        return "must be a whole number"
    if low is not None and high is not None and not low <= value <= high:
        return f"must lie between {low:g} and {high:g}"
    return f"must be {low:g} or more" if low is not None and value < low else ""


def read_json(path: Path) -> Any:
    """The content of a JSON file without NaN, infinity, huge numbers and unprintable text.

    Raises:
        RecordError: it is missing, or is no such file.
    """

    def refused(text: str) -> Any:
        raise ValueError(f"{text[:20]} is no number here")

    def finite(text: str) -> float:
        return float(text) if math.isfinite(float(text)) else refused(text)

    def moderate(text: str) -> int:
        return int(text) if len(text) <= len(str(LARGEST)) else refused(text)

    try:
        content = json.loads(path.read_bytes().decode("utf-8"), parse_constant=refused,
                             parse_float=finite, parse_int=moderate)  # fmt: skip
        if _holds(content, _UNPRINTABLE.search):
            raise ValueError("holds text that cannot be printed")
        return content
    except OSError:
        raise RecordError(f"{path.name}: no such file in {path.parent}") from None
    except (ValueError, RecursionError) as error:
        raise RecordError(f"{path.name}: not JSON: {error}") from None


def _holds(content: Any, search: Callable[[str], Any]) -> bool:
    """Whether any text in it, keys included, is found."""
    if isinstance(content, str):
        return bool(search(content))
    if isinstance(content, dict):
        content = [*content, *content.values()]
    return isinstance(content, list) and any(_holds(each, search) for each in content)


def read_model(path: Path, model: type[Model], schema: bool = True) -> Model:
    """A JSON file as a model; ``schema``: it states the version that it was written in.

    Raises:
        RecordError: the file cannot be read or does not fit.
    """
    content = read_json(path)
    if schema and not (isinstance(content, dict) and content.get("schema") == SCHEMA):
        found = content.get("schema") if isinstance(content, dict) else None
        raise RecordError(f"{path.name}: written in schema {found!r}, this board reads schema"
                          f" {SCHEMA}: score the scenario again")  # fmt: skip
    return fitted(path.name, model, content)


def fitted(file: str, model: type[Model], content: Any) -> Model:
    """``content`` as a model.

    Raises:
        RecordError: it does not fit; the first misfit is named.
    """
    from pydantic import ValidationError

    try:
        return model.model_validate(content)
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
    where = ".".join(map(str, first["loc"]))
    what = first["msg"].removeprefix("Value error, ").replace("Input should", "must")
    raise RecordError(f"{file}, {where}: {what}")
