"""Entries travel with an out: linked from the store, and taken over where the store lacks them."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from benchmark.runtime.entries import LIST, adopt, entry_path, measured, place, plan_line
from benchmark.runtime.store import Store, digest


def _made(store: Store, number: int) -> Path:
    def write(folder: Path) -> None:
        (folder / "cell.json").write_text(f"{number}")

    return store.put(digest(number), write)


def test_what_one_store_placed_another_adopts(tmp_path):
    ours, theirs = Store(tmp_path / "ours"), Store(tmp_path / "theirs")
    folders = [_made(ours, number) for number in (1, 2)]
    place([*folders, folders[0]], tmp_path / "out")
    before = _made(theirs, 2).stat().st_ino
    adopt(tmp_path / "out", theirs)
    for folder in folders:
        found = theirs.get(folder.name)
        assert found is not None
        assert (found / "cell.json").read_text() == (folder / "cell.json").read_text()
        assert entry_path(tmp_path / "out", folder.name).is_dir()
    assert theirs.path(digest(2)).stat().st_ino == before  # its own stays
    adopt(tmp_path / "nothing there", theirs)


def test_an_out_that_is_removed_leaves_the_store_whole(tmp_path):
    import shutil

    store = Store(tmp_path / "store")
    folder = _made(store, 1)
    place([folder], tmp_path / "out")
    shutil.rmtree(tmp_path / "out")
    assert (folder / "cell.json").read_text() == "1"


def test_what_is_neither_tensors_nor_json_is_not_adopted(tmp_path):
    strange = entry_path(tmp_path / "out", digest("x"))
    strange.mkdir(parents=True)
    (strange / "code.pkl").write_bytes(b"")
    (tmp_path / "out" / LIST).write_text(json.dumps({strange.name: {"code.pkl": 0}}))
    store = Store(tmp_path / "store")
    with pytest.raises(ValueError, match="not code.pkl"):
        adopt(tmp_path / "out", store)
    assert store.get(digest("x")) is None


@pytest.mark.parametrize(
    ("total", "missing", "known", "line"),
    [
        (0, 0, [], "0 cells: all there"),
        (51, 3, [], "51 cells: 48 there, 3 to compute, time unknown yet"),
        (51, 3, [10.0, 40.0, 50.0], "51 cells: 48 there, 3 to compute, about 1:00"),
    ],
)
def test_the_plan_is_said_in_numbers(total, missing, known, line):
    assert plan_line("cells", total, missing, known, 2) == line


def test_how_long_entries_took_is_read_from_the_latest(tmp_path):
    store = Store(tmp_path / "store")
    for number in (1, 2):
        store.put(
            digest(number),
            lambda folder, n=number: (folder / "cell.json").write_text(f'{{"seconds": {n}.5}}'),
        )
    assert sorted(measured(store, "cell.json")) == [1.5, 2.5]
    assert measured(Store(tmp_path / "empty"), "cell.json") == []


def test_half_an_entry_is_not_adopted(tmp_path):
    """A checkout makes all folders first: killed, it leaves empty ones and half their files."""
    ours, theirs = Store(tmp_path / "ours"), Store(tmp_path / "theirs")
    folders = [_made(ours, number) for number in (1, 2, 3)]
    out = tmp_path / "out"
    place(folders, out)
    (entry_path(out, folders[0].name) / "cell.json").unlink()
    cut = entry_path(out, folders[1].name) / "cell.json"
    cut.unlink()
    cut.write_text("")
    adopt(out, theirs)
    assert [theirs.get(folder.name) is not None for folder in folders] == [False, False, True]
    (out / LIST).unlink()
    adopt(out, Store(tmp_path / "others"))
    assert Store(tmp_path / "others").get(folders[2].name) is None


def test_records_without_a_clock_tell_nothing(tmp_path):
    store = Store(tmp_path / "store")
    store.put(digest("old"), lambda folder: (folder / "record.json").write_text("{}"))
    assert measured(store, "record.json") == []
