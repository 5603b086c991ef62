"""Where a build may write: only into folders that it made, and never into one another."""

from __future__ import annotations

from pathlib import Path

import pytest

from benchmark.results.io import RecordError
from leaderboard.build import MARK, build


def _everything(folder: Path) -> dict[str, bytes]:
    return {str(p.relative_to(folder)): p.read_bytes() for p in folder.rglob("*") if p.is_file()}


@pytest.mark.parametrize(
    "files",
    [
        {".git/HEAD": "ref", "CNAME": "example.org", "index.html": "mine"},
        {"thesis.tex": "mine"},
        {"data.csv": "a,b", "notes.md": "mine"},
        {"thesis.docx": ""},
    ],
    ids=lambda files: "+".join(files),
)
@pytest.mark.parametrize("option", ["site", "tables"])
def test_what_was_not_built_here_stays(board, tmp_path, files, option):
    home = tmp_path / "home"
    for name, text in files.items():
        (home / name).parent.mkdir(parents=True, exist_ok=True)
        (home / name).write_text(text)
    before = _everything(home)
    targets = {"site": tmp_path / "site", "tables": tmp_path / "tables", option: home}
    with pytest.raises(RecordError, match="not built here"):
        build(board["results"], **targets)
    assert _everything(home) == before
    assert [path.name for path in tmp_path.iterdir()] == ["home"]


@pytest.mark.parametrize(
    ("site", "tables"),
    [("out", "out"), ("out", "out/tables"), ("out/site", "out"), ("results/site", "tables"),
     ("site", "results"), (".", "tables"), ("link/site", "tables")],
)  # fmt: skip
def test_targets_in_one_another_or_in_the_results_are_refused(board, tmp_path, site, tables):
    import shutil

    shutil.copytree(board["results"], tmp_path / "results")
    (tmp_path / "link").symlink_to(tmp_path / "results")
    before = _everything(tmp_path)
    with pytest.raises(RecordError, match="choose a folder of its own"):
        build(tmp_path / "results", tmp_path / site, tmp_path / tables)
    assert _everything(tmp_path) == before


def test_a_link_is_followed_and_stays_a_link(board, tmp_path):
    real = tmp_path / "elsewhere" / "site"
    real.mkdir(parents=True)
    (tmp_path / "site").symlink_to(real)
    for _ in range(2):
        build(board["results"], tmp_path / "site", tmp_path / "tables")
        assert (tmp_path / "site").is_symlink() and (real / "index.html").is_file()
        assert (real / MARK).is_file()
