"""Committed results that somebody edited: one line and a non-zero exit, or a correct page."""

from __future__ import annotations

import json
import math
import re
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from benchmark.results.columns import FILES
from benchmark.results.io import RecordError
from benchmark.results.provenance import file_digests
from leaderboard.board import load
from leaderboard.build import main
from leaderboard.page import render
from leaderboard.tables import write_tables
from tests.leaderboard.test_build import Page

Capture = pytest.CaptureFixture[str]
TEXTS = st.sampled_from([
    "", "0", "-1", "1.5", "nan", "inf", "-inf", "1e400", "9" * 400, "0x1", "1_0", "١", "x", "ok",
    "none", "toy", "init", "=1+1", "'=1", "-x", "\0", "\ud800", "数据", "🙂", "<b>", "a b", "../x",
    '"', ",", "\n", "probe;probe", "a" * 5000, ";", "true",
])  # fmt: skip
VALUES: st.SearchStrategy[Any] = st.sampled_from([
    None, True, 0, -1, 1.5, 10**30, math.nan, math.inf, "", "x", "<script>", "\0", "\ud800", [], {},
    [1], {"x": 1}, [[]], "javascript:alert(1)", "9" * 30, "none", "../../x",
])  # fmt: skip


@pytest.fixture(scope="module")
def small(
    tmp_path_factory: pytest.TempPathFactory, make_results: Callable[..., Path]
) -> Iterator[Path]:
    """Results of one scenario with three entries."""
    root = tmp_path_factory.mktemp("broken")
    few = {
        "none": {"title": "No defense", "points": {"default": {}}},
        "dgp": {"title": "Pruning", "points": {"paper": {"drop": 0.75}, "harsh": {"drop": 0.9}}},
    }
    make_results(root / "good", checkpoints={"init": 0}, defenses=few)
    yield root


def _mutated_table(draw: Callable[..., Any], text: str) -> str:
    """A CSV with a few cells, rows or columns changed."""
    rows = [line.split(",") for line in text.splitlines()]
    for _ in range(draw(st.integers(1, 3))):
        row = draw(st.integers(0, len(rows) - 1))
        place = draw(st.integers(0, max(0, len(rows[row]) - 1)))
        kind = draw(st.sampled_from(["cell", "cell", "cell", "copy", "twice", "drop", "short"]))
        if kind == "cell" and rows[row]:
            rows[row][place] = draw(TEXTS)
        elif kind == "copy":  # from another row of the same column
            other = rows[draw(st.integers(0, len(rows) - 1))]
            if place < min(len(other), len(rows[row])):
                rows[row][place] = other[place]
        elif kind == "twice":
            rows.insert(row, list(rows[row]))
        elif kind == "drop" and len(rows) > 1:
            del rows[row]
        elif rows[row]:
            del rows[row][place]
    return "\n".join(",".join(row) for row in rows) + "\n"


def _mutated_json(draw: Callable[..., Any], content: Any) -> Any:
    """A JSON value with one part replaced, removed or added, wherever it lies."""
    if not isinstance(content, dict | list) or not content or draw(st.integers(0, 5)) == 0:
        return draw(VALUES)
    keys = list(content) if isinstance(content, dict) else list(range(len(content)))
    key = draw(st.sampled_from(keys))
    if draw(st.integers(0, 4)) == 0:
        if isinstance(content, dict) and draw(st.booleans()):
            content[draw(st.sampled_from(["x", "", "a b", "<b>", "none/x", "\0"]))] = draw(VALUES)
        else:
            del content[key]
    else:
        content[key] = _mutated_json(draw, content[key])
    return content


@st.composite
def harms(draw: Any) -> tuple[str, Callable[[Path], None]]:
    """A file's name and what is done to it."""
    others = ("catalog.json", "catalog.json", "provenance.json", "gallery/index.json",
              "gallery/none--default--init.png")  # fmt: skip
    name = draw(st.sampled_from([*FILES, *others]))
    kind = draw(st.sampled_from(["content"] * 8 + ["bytes", "cut", "gone"]))
    if name.endswith(".png") and kind == "content":
        kind = "bytes"
    place, size, byte = draw(st.floats(0, 1)), draw(st.integers(1, 9)), draw(st.binary(max_size=3))

    def harm(path: Path) -> None:
        data = path.read_bytes()
        at = int(place * len(data))
        if kind == "gone":
            path.unlink()
        elif kind == "cut":
            path.write_bytes(data[:at])
        elif kind == "bytes":
            path.write_bytes(data[:at] + byte + data[at + size :])
        elif name.endswith(".csv"):
            text = _mutated_table(draw, data.decode())
            path.write_bytes(text.encode("utf-8", "surrogatepass"))
        else:
            path.write_text(json.dumps(_mutated_json(draw, json.loads(data))))

    return name, harm


@settings(deadline=None, suppress_health_check=list(HealthCheck))
@given(data=st.data())
def test_edited_results_are_one_line_or_a_correct_page(small: Path, data: st.DataObject) -> None:
    results, tables = small / "results", small / "tables"
    for folder in (results, tables):
        shutil.rmtree(folder, ignore_errors=True)
    shutil.copytree(small / "good", results)
    tables.mkdir()
    name, harm = data.draw(harms())
    harm(results / "toy" / name)
    try:
        scenarios = load(results)
        write_tables(scenarios, tables)
        html = render(scenarios)
    except RecordError as error:
        assert "\n" not in str(error) and "\0" not in str(error) and str(error).isprintable()
        assert name.split("/")[0] in str(error) or "anchor" in str(error), error
        return
    page = Page(html)
    assert [name for name, count in page.ids.items() if count > 1] == []
    text = " ".join(page.text)
    assert not re.search(r"\bnan\b|\bNaN\b|<NA>|\bNone\b", text)
    assert "<script>alert" not in html and "javascript:" not in re.sub(r">[^<]*<", "><", html)
    for path in tables.iterdir():
        assert "\0" not in path.read_text(encoding="utf-8")


def build(results: Path, folder: Path, capsys: Capture) -> tuple[int, str]:
    status = main(["--results", str(results), "--site", str(folder / "site"),
                   "--tables", str(folder / "tables")])  # fmt: skip
    return status, capsys.readouterr().err


@pytest.mark.parametrize(
    ("first", "other"),
    [
        (("a", "b-init"), ("a-b", "init")),  # the same heading of a ranking
        (("toy", "init"), ("toy-cells", "init")),  # a section of the other scenario
        (("attacks", "init"), ("toy", "init")),  # a section of the page
    ],
)
def test_anchors_that_collide_are_one_line_and_nothing_is_written(
    first: tuple[str, str], other: tuple[str, str], tmp_path: Path, capsys: Capture,
    make_results: Callable[..., Path],
) -> None:  # fmt: skip
    few = {"none": {"title": "No defense", "points": {"default": {}}}}
    for name, checkpoint in (first, other):
        make_results(tmp_path / "results", name, checkpoints={checkpoint: 0}, defenses=few)
    status, error = build(tmp_path / "results", tmp_path, capsys)
    assert status != 0 and error.count("\n") == 1 and "anchor" in error, error
    assert [path.name for path in tmp_path.iterdir()] == ["results"]


def test_letters_that_latex_lacks_are_said_in_the_file(
    tmp_path: Path, make_results: Callable[..., Path]
) -> None:
    few = {"none": {"title": "数据 🙂 Čapek", "points": {"default": {}}}}
    make_results(tmp_path / "results", checkpoints={"init": 0}, defenses=few)
    write_tables(load(tmp_path / "results"), tmp_path)
    latex = (tmp_path / "toy.tex").read_text(encoding="utf-8")
    assert latex.startswith(
        "% LaTeX's standard font lacks these letters, which stand as ?: 据数🙂\n"
    )
    assert "?? ? Čapek" in latex
    assert "数据 🙂 Čapek" in (tmp_path / "toy.md").read_text(encoding="utf-8")


def test_no_cell_of_the_downloads_is_a_formula(
    tmp_path: Path, make_results: Callable[..., Path]
) -> None:
    few = {"none": {"title": '=HYPERLINK("http://x")', "points": {"default": {}}}}
    make_results(tmp_path / "results", checkpoints={"init": 0}, defenses=few)
    write_tables(load(tmp_path / "results"), tmp_path)
    assert '"\'=HYPERLINK(""http://x"")"' in (tmp_path / "toy.csv").read_text(encoding="utf-8")


@pytest.mark.parametrize("file", ["cells.csv", "catalog.json", "extra.csv"])
def test_what_was_edited_by_hand_is_named(
    small: Path, tmp_path: Path, file: str, capsys: Capture
) -> None:
    """The scored files' digests stand in provenance.json; an edit that fits the schema shows."""
    results = tmp_path / "results"
    shutil.copytree(small / "good", results)
    folder = next(results.iterdir())
    origin = json.loads((folder / "provenance.json").read_text(encoding="utf-8"))
    origin["files"] = file_digests(folder)
    (folder / "provenance.json").write_text(json.dumps(origin), encoding="utf-8")
    paths = [f"--{name}={tmp_path / name}" for name in ("results", "site", "tables")]
    assert main(paths) == 0
    with open(folder / file, "a", encoding="utf-8") as opened:
        opened.write("\n" if file == "catalog.json" else "")
    if file == "cells.csv":
        text = (folder / file).read_text(encoding="utf-8")
        (folder / file).write_text(text.replace(",test,", ",other,", 1), encoding="utf-8")
    capsys.readouterr()
    assert main(paths) == 1
    assert f"{folder.name}/{file}: is not what was scored" in capsys.readouterr().err
