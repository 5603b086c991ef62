"""Where the pipeline's artifacts lie. Nothing here decides a number."""

from __future__ import annotations

from pathlib import Path

RESULTS = Path("leaderboard/results")
CELLS = Path(".leakboard/cells")
RUNS = Path(".leakboard/runs")


def artifact(scenario: str, kind: str = "", defense: str = "") -> Path:
    """The folder of one kind of artifact: public, train, private, models, transcripts, truth,
    guesses or scores; those between private and scores have one folder per defense."""
    return Path("artifacts") / scenario / kind / defense
