"""Folders and files are there whole or not at all, and links on the way to them stay links."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import pytest

from benchmark.runtime.files import fresh_folder, write_text


@pytest.fixture(autouse=True)
def _workplace(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


def test_a_fresh_folder_replaces_what_was_there_only_when_done():
    with fresh_folder("out/x") as draft:
        (draft / "one").touch()
    with pytest.raises(RuntimeError), fresh_folder("out/x") as draft:
        (draft / "two").touch()
        raise RuntimeError
    assert [p.name for p in Path("out/x").iterdir()] == ["one"]
    with fresh_folder("out/x") as draft:
        assert [p.name for p in Path("out/x").iterdir()] == ["one"]
        (draft / "three").touch()
    assert [p.name for p in Path("out/x").iterdir()] == ["three"]
    assert [p.name for p in Path("out").iterdir()] == ["x"]
    assert list(Path(".leakboard/drafts").iterdir()) == []


@pytest.mark.skipif(not os.path.isdir("/dev/shm"), reason="no second file system here")
def test_a_fresh_folder_on_another_disk_is_drafted_there():
    home = Path(f"/dev/shm/leakboard-test-{os.getpid()}")
    try:
        with fresh_folder(home / "x") as draft:
            assert draft.stat().st_dev == home.stat().st_dev
            (draft / "one").touch()
        assert (home / "x" / "one").exists()
        assert [p.name for p in home.iterdir()] == ["x"]
    finally:
        shutil.rmtree(home, ignore_errors=True)


def _shared_memory() -> list[Path]:
    return [Path(f"/dev/shm/leakboard-test-{os.getpid()}")] if os.path.isdir("/dev/shm") else []


def _kind(home: Path) -> str:
    """The same in every process that collects."""
    return "another disk" if home.is_absolute() else "here"


@pytest.mark.parametrize("home", [Path("elsewhere"), *_shared_memory()], ids=_kind)
@pytest.mark.parametrize("linked", ["out", "out/x"])
def test_links_are_followed_and_stay(home, linked):
    """A folder of results that a user has put on another disk, or outside the checkout."""
    try:
        home.mkdir()
        Path(linked).parent.mkdir(exist_ok=True)
        Path(linked).symlink_to(home.absolute())
        for name in ("one", "two"):
            with fresh_folder("out/x") as draft:
                (draft / name).touch()
        assert Path(linked).is_symlink()
        real = home / "x" if linked == "out" else home
        assert [p.name for p in real.iterdir()] == ["two"]
        write_text(Path("out/x/text"), "1")
        assert (real / "text").read_text() == "1" and Path(linked).is_symlink()
    finally:
        shutil.rmtree(home, ignore_errors=True)


def test_a_link_to_nothing_is_followed_too():
    Path("x").symlink_to(Path("elsewhere/x").absolute())
    with fresh_folder("x") as draft:
        (draft / "one").touch()
    assert Path("x").is_symlink() and Path("elsewhere/x/one").exists()


def test_a_file_that_cannot_be_written_leaves_the_last_one():
    write_text(Path("a/b"), "1")
    with pytest.raises(UnicodeEncodeError):
        write_text(Path("a/b"), "\ud800")
    assert Path("a/b").read_text() == "1" and len(list(Path("a").iterdir())) == 1
