"""An entry is there whole or not at all, under the digest of what it depends on.

Entries travel with an out: linked from the store, and taken over where the store lacks them.
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from benchmark.runtime.files import draft, locked
from benchmark.runtime.store import (
    LIST,
    Store,
    digest,
    entry_path,
    gc,
    library_versions,
    place,
    plan_line,
)

ROOT = Path(__file__).parents[2]
ONE, TWO = digest(1), digest(2)


def _write(text: str):
    return lambda folder: (folder / "a.json").write_text(text)


values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
    max_leaves=8,
)


@settings(max_examples=50)
@given(st.dictionaries(st.text(), values))
def test_the_order_of_keys_does_not_matter(mapping):
    assert digest(mapping) == digest(dict(reversed(mapping.items())))


@settings(max_examples=50)
@given(st.lists(values, min_size=1, max_size=4))
def test_parts_are_told_apart_from_their_concatenation(parts):
    assert digest(*parts) != digest(parts)
    assert digest(*parts) != digest(*parts, None)
    assert digest(*parts) == digest(*parts)


def test_values_that_look_alike_differ():
    alike = [1, 1.0, "1", True, b"1", [1], {"1": 1}, None, "None"]
    assert len({digest(value) for value in alike}) == len(alike)
    assert digest((1, 2)) == digest([1, 2])


@pytest.mark.parametrize("value", [{1: 2}, object(), {1}, [{"a": {2: 3}}]])
def test_what_json_cannot_say_exactly_is_refused(value):
    with pytest.raises(TypeError):
        digest(value)


def test_folders_count_by_names_and_contents_not_by_place(tmp_path):
    for home in ("here", "there"):
        (tmp_path / home / "sub").mkdir(parents=True)
        (tmp_path / home / "sub" / "x").write_text("1")
    here, there = tmp_path / "here", tmp_path / "there"
    assert digest(here) == digest(there)
    (there / "sub" / "x").rename(there / "x")
    assert digest(here) != digest(there)
    (here / "sub" / "x").rename(here / "x")
    (here / "x").write_text("2")
    assert digest(here) != digest(there)


def test_versions_are_known_without_importing():
    versions = library_versions(["numpy", "no-such-library"])
    assert versions["numpy"] and versions["python"] and versions["no-such-library"] == ""


def test_what_is_put_can_be_got(tmp_path):
    store = Store(tmp_path / "cells")
    assert store.get(ONE) is None
    assert store.put(ONE, _write("1")) == store.get(ONE)
    assert (store.get(ONE) / "a.json").read_text() == "1"
    assert store.get(TWO) is None


def test_the_first_writer_wins_and_nothing_is_left_of_the_second(tmp_path):
    store = Store(tmp_path)
    store.put(ONE, _write("first"))
    store.put(ONE, _write("second"))
    assert (store.get(ONE) / "a.json").read_text() == "first"
    assert list((tmp_path / "unfinished").iterdir()) == []


def test_a_writer_that_fails_leaves_nothing(tmp_path):
    store = Store(tmp_path)

    def half(folder):
        (folder / "a.json").write_text("half")
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        store.put(ONE, half)
    assert store.get(ONE) is None
    assert list((tmp_path / "unfinished").iterdir()) == []


def test_pickles_are_refused(tmp_path):
    store = Store(tmp_path)
    with pytest.raises(ValueError, match="a.pkl"):
        store.put(ONE, lambda folder: (folder / "a.pkl").write_bytes(b""))
    assert store.get(ONE) is None


@pytest.mark.parametrize("name", ["", "abc", "../" + ONE[3:], ONE.upper() + "g"])
def test_only_digests_are_names(tmp_path, name):
    with pytest.raises(ValueError, match="SHA-256"):
        Store(tmp_path).get(name)


WRITER = """
import sys, time
from pathlib import Path
from benchmark.runtime.store import Store
def writer(folder):
    (folder / "a.json").write_text("half")
    print("writing", flush=True)
    time.sleep(60)
Store(sys.argv[1]).put(sys.argv[2], writer)
"""

RACER = """
import sys, time
from benchmark.runtime.store import Store, digest
store, start = Store(sys.argv[1]), float(sys.argv[2])
time.sleep(max(0.0, start - time.time()))
for number in range(50):
    path = store.put(digest(number), lambda f: (f / "a.json").write_text(str(number) * 1000))
    assert (path / "a.json").read_text() == str(number) * 1000
"""


def test_a_killed_writer_leaves_no_cell_and_its_rest_is_swept(tmp_path):
    process = subprocess.Popen(
        [sys.executable, "-c", WRITER, tmp_path, ONE], cwd=ROOT, stdout=subprocess.PIPE
    )
    assert process.stdout is not None
    assert process.stdout.readline() == b"writing\n"
    (half,) = (tmp_path / "unfinished").iterdir()
    assert Store(tmp_path).get(ONE) is None
    assert half.exists()  # its writer is alive
    process.send_signal(signal.SIGKILL)
    process.wait()
    process.stdout.close()
    store = Store(tmp_path)
    assert store.get(ONE) is None
    store.put(ONE, _write("whole"))
    assert not half.exists()
    assert (store.get(ONE) / "a.json").read_text() == "whole"


def test_what_is_older_than_a_day_is_swept_wherever_it_came_from(tmp_path):
    mine = tmp_path / "unfinished" / f"elsewhere~{os.getpid()}~x"
    mine.mkdir(parents=True)
    Store(tmp_path).put(ONE, _write("1"))
    assert mine.exists()
    os.utime(mine, (time.time() - 2 * 24 * 3600,) * 2)
    Store(tmp_path).put(TWO, _write("2"))
    assert not mine.exists()


def test_concurrent_writers_of_the_same_cells_agree(tmp_path):
    start = str(time.time() + 1.0)
    command = [sys.executable, "-c", RACER, tmp_path, start]
    racers = [subprocess.Popen(command, cwd=ROOT) for _ in range(3)]
    assert [racer.wait(timeout=60) for racer in racers] == [0, 0, 0]
    assert len([p for p in tmp_path.iterdir() if p.name != "unfinished"]) == 50
    assert list((tmp_path / "unfinished").iterdir()) == []


def test_a_store_that_was_removed_is_made_again(tmp_path):
    store = Store(tmp_path / "cells")
    store.put(ONE, _write("1"))
    shutil.rmtree(tmp_path / "cells")
    store.put(ONE, _write("1"))
    assert store.get(ONE)


def _made(store: Store, number: int) -> Path:
    def write(folder: Path) -> None:
        (folder / "cell.json").write_text(f"{number}")

    return store.put(digest(number), write)


def test_what_one_store_placed_another_adopts(tmp_path):
    ours, theirs = Store(tmp_path / "ours"), Store(tmp_path / "theirs")
    folders = [_made(ours, number) for number in (1, 2)]
    place([*folders, folders[0]], tmp_path / "out")
    before = _made(theirs, 2).stat().st_ino
    theirs.adopt(tmp_path / "out")
    for folder in folders:
        found = theirs.get(folder.name)
        assert found is not None
        assert (found / "cell.json").read_text() == (folder / "cell.json").read_text()
        assert entry_path(tmp_path / "out", folder.name).is_dir()
    assert theirs.path(digest(2)).stat().st_ino == before  # its own stays
    theirs.adopt(tmp_path / "nothing there")


def test_an_out_that_is_removed_leaves_the_store_whole(tmp_path):
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
        store.adopt(tmp_path / "out")
    assert store.get(digest("x")) is None


@pytest.mark.parametrize(
    ("total", "missing", "known", "line"),
    [
        (0, 0, [], "0 cells: all there"),
        (51, 3, [], "51 cells: 48 there, 3 to compute, time unknown yet"),
        (51, 3, [10.0, 40.0, 50.0], "51 cells: 48 there, 3 to compute, about 01:00"),
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
    assert sorted(store.seconds("cell.json")) == [1.5, 2.5]
    assert Store(tmp_path / "empty").seconds("cell.json") == []


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
    theirs.adopt(out)
    assert [theirs.get(folder.name) is not None for folder in folders] == [False, False, True]
    (out / LIST).unlink()
    Store(tmp_path / "others").adopt(out)
    assert Store(tmp_path / "others").get(folders[2].name) is None


def test_records_without_a_clock_tell_nothing(tmp_path):
    store = Store(tmp_path / "store")
    store.put(digest("old"), lambda folder: (folder / "record.json").write_text("{}"))
    assert store.seconds("record.json") == []


def test_gc_keeps_what_an_out_lists_and_nothing_else(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    cells, runs = Store(".leakboard/cells"), Store(".leakboard/runs")
    folders = [_made(store, number) for store in (cells, runs) for number in (1, 2)]
    with pytest.raises(ValueError, match="artifacts/ lists no entries"):
        gc()
    place([folders[0]], Path("artifacts/a/guesses"))
    with pytest.raises(ValueError, match="artifacts/a/models/entries.json lists no entries"):
        gc()  # the board is not whole yet: its runs could be wanted
    place([folders[3]], Path("artifacts/a/models"))
    with locked("attack/a"), draft(cells.root / "unfinished"):
        environment = os.environ | {"PYTHONPATH": str(ROOT)}
        busy = subprocess.run(
            [sys.executable, "-m", "benchmark.runtime.store", "gc"],
            env=environment, capture_output=True, text=True, check=False, timeout=60,
        )  # fmt: skip
    assert busy.returncode == 1 and "another run" in busy.stderr
    assert len(list(cells.root.iterdir())) == 3
    # an entry of either store is kept where any out lists it
    assert gc() == "0 of 4 entries removed, 4 kept"
    place([folders[0]], Path("artifacts/a/models"))
    assert gc() == "2 of 4 entries removed, 2 kept"
    assert cells.get(digest(1)) and runs.get(digest(1))
