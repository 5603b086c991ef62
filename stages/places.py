"""Where results, stores and the mark of checked parameters lie."""

from __future__ import annotations

from pathlib import Path

RESULTS = Path("leaderboard/results")
CHECKED = Path("artifacts/checked")
PUBLISHED = Path("artifacts/published.json")
