"""Copy checked scores into the committed results, of the boards that the pipeline computes.

It looks at every `dvc repro`: results that were removed or changed by hand are scores again
afterwards. What other boards have published stays.
"""

from __future__ import annotations

import shutil

from benchmark.config.schema import load_params
from benchmark.results.columns import FILES
from benchmark.results.io import read_table
from benchmark.runtime.files import fresh_folder, locked, write_json
from benchmark.runtime.paths import artifact
from benchmark.runtime.session import StageError, main
from benchmark.runtime.store import digest
from benchmark.runtime.tracking import deliver
from stages.places import PUBLISHED, RESULTS


def publish() -> None:
    """Make leaderboard/results/<board> equal to the scores, and note what is published."""
    params = load_params()
    for name in params.boards:
        if params.scenarios[name].observation.split != "report":
            raise StageError(f"scenarios.{name}.observation.split: only 'report' is published")
    with locked("publish"):
        changed = [name for name in params.boards if not _published(name)]
        for name in changed:
            for table in FILES:
                read_table(artifact(name, "scores") / table)
        for name in changed:
            with fresh_folder(RESULTS / name) as folder:
                shutil.copytree(artifact(name, "scores"), folder, dirs_exist_ok=True)
        boards = sorted(path for path in RESULTS.iterdir() if (path / "catalog.json").is_file())
        write_json(PUBLISHED, {path.name: digest(path) for path in boards})
    deliver()


def _published(name: str) -> bool:
    target = RESULTS / name
    return target.is_dir() and digest(target) == digest(artifact(name, "scores"))


if __name__ == "__main__":
    main(publish)
