"""Build the site and the tables from the published results: ``python -m leaderboard.build``.

Both are built whole in folders beside their targets and swapped in at the end, so results that
cannot be read leave the last good board as it was.
"""

from __future__ import annotations

import argparse
import os
import re
import shutil
import sys
from collections.abc import Sequence
from itertools import permutations
from pathlib import Path

from benchmark.runtime.files import is_alive, swap

HERE = Path(__file__).resolve().parent
MARK = ".built-by-leakboard"
"""What a folder holds that a build may replace."""


def build(results: Path, site: Path, tables: Path) -> None:
    """Read ``results`` and replace the folders ``site`` and ``tables``.

    Raises:
        RecordError: the results are missing or do not fit their schema; nothing was written.
    """
    # matplotlib takes a second to import: a wrong option or broken results need not wait for it.
    from leaderboard.board import load

    scenarios = load(results)

    from leaderboard.page import write_site
    from leaderboard.tables import write_tables

    tables, site = _checked((tables, site), results)
    fresh = [_staging(target) for target in (tables, site)]
    try:
        write_tables(scenarios, fresh[0])
        write_site(scenarios, fresh[0], fresh[1])
        for folder, target in zip(fresh, (tables, site), strict=True):
            (folder / MARK).write_text("Built by LeakBoard; replaced whole by the next build.\n")
            swap(folder, target, target.parent / f".{target.name}.{os.getpid()}.old")
    finally:
        for folder in fresh:
            shutil.rmtree(folder, ignore_errors=True)


def main(arguments: Sequence[str] | None = None) -> int:
    """The command line; returns the exit status."""
    parser = argparse.ArgumentParser(prog="leaderboard.build", description=__doc__)
    parser.add_argument(
        "--results",
        type=Path,
        default=HERE / "results",
        metavar="DIR",
        help="published results, a folder per scenario (default: %(default)s)",
    )
    parser.add_argument(
        "--site",
        type=Path,
        default=HERE / "site",
        metavar="DIR",
        help="folder to write the page into (default: %(default)s)",
    )
    parser.add_argument("--tables", type=Path, default=HERE / "tables", metavar="DIR",
                        help="folder to write the tables into (default: %(default)s)")  # fmt: skip
    options = parser.parse_args(arguments)

    from benchmark.results.io import RecordError

    try:
        build(options.results, options.site, options.tables)
    except (RecordError, OSError) as error:
        print(f"leaderboard: {' '.join(str(error).split())}", file=sys.stderr)
        return 1
    print(f"leaderboard: {options.site / 'index.html'}")
    return 0


def _checked(targets: Sequence[Path], results: Path) -> list[Path]:
    """Where the folders really lie. A target is replaced whole, so it must be ours: absent, empty,
    or marked as built here; and none may hold another one, or the results, or lie in them."""
    from benchmark.results.io import RecordError

    places = [target.resolve() for target in targets]
    apart = [*zip(targets, places, strict=True), (results, results.resolve())]
    for (name, place), (other, taken) in permutations(apart, 2):
        if place == taken or taken in place.parents:
            raise RecordError(f"{name}: is or lies in {other}; choose a folder of its own")
    for target, place in zip(targets, places, strict=True):
        if place.is_dir() and (not any(place.iterdir()) or (place / MARK).is_file()):
            continue
        if place.exists():
            raise RecordError(f"{target}: exists and was not built here; choose another folder")
    return places


def _staging(target: Path) -> Path:
    """An empty folder beside ``target``; what builds that were killed left there is removed."""
    target.parent.mkdir(parents=True, exist_ok=True)
    for path in target.parent.glob(f".{target.name}.*"):
        owner = re.fullmatch(rf"\.{re.escape(target.name)}\.(\d+)\.(?:new|old)", path.name)
        if owner and (int(owner[1]) == os.getpid() or not is_alive(int(owner[1]))):
            shutil.rmtree(path, ignore_errors=True)
    folder = target.parent / f".{target.name}.{os.getpid()}.new"
    folder.mkdir()
    return folder


if __name__ == "__main__":
    raise SystemExit(main())
