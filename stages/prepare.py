"""Read a scenario's data and divide it into public, training and private folders."""

from __future__ import annotations

from contextlib import ExitStack

from benchmark.config.schema import load_params
from benchmark.runtime.files import fresh_folder, locked
from benchmark.runtime.paths import artifact
from benchmark.runtime.session import main
from benchmark.runtime.tracking import tracked


def prepare(scenario: str) -> None:
    """Write ``public/``, ``train/`` and ``private/`` of one scenario."""
    from benchmark.data.preparation import prepare as write

    board = load_params().board(scenario)
    with locked(f"prepare/{scenario}"), tracked(scenario, "prepare"), ExitStack() as stack:
        folders = [
            stack.enter_context(fresh_folder(artifact(scenario, kind)))
            for kind in ("public", "train", "private")
        ]
        write(scenario, board, *folders)


if __name__ == "__main__":
    main(prepare)
