"""How often the rank rule errs, how often the intervals cover, and what gaps the rule can see.

Boards are simulated: every example of every entry is recovered or not by a coin of the entry's
rate, moved on the logit scale by a normal draw for each trained model (an entry and a seed). The
board's own functions judge them.

    python -m benchmarks.calibration

prints the tables of benchmarks/README.md and writes leaderboard/calibration.json, for the page.
"""

from __future__ import annotations

import argparse
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from scipy.special import expit, logit

from benchmark.metrics.stats import LEVEL, rank_ranges, rate_interval
from benchmark.runtime.files import write_json

README = Path(__file__).with_name("README.md")
RESULTS = Path(__file__).parents[1] / "leaderboard/calibration.json"
LAYOUTS = ((3, 8), (4, 16), (8, 16))
"""Seeds, and victims of each."""
SPREADS = (0.0, 0.5, 1.0)
FAMILIES = (1, 18)
GAPS = (0.1, 0.2, 0.3, 0.4, 0.5)
RATES = (0.1, 0.5)
SIMULATIONS = {1: 10_000, 18: 2000}
"""Boards behind each number, by the number of defenses."""

Rows = list[dict[str, Any]]


@dataclass(frozen=True)
class Simulated:
    """Boards of one layout; ``spread`` is the standard deviation between models, in logits."""

    seeds: int
    victims: int
    defenses: int
    spread: float

    def draw(self, rates: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        """Recovered or not, [entries, seeds * victims]."""
        models = logit(rates)[:, None] + self.spread * rng.normal(size=(len(rates), self.seeds))
        chances = np.repeat(expit(models), self.victims, axis=1)
        return (rng.random(chances.shape) < chances).astype(int)

    def ranges(self, leaked: np.ndarray) -> list[tuple[int, int]]:
        """The ranks of all entries, compared as one family."""
        names = [str(entry) for entry in range(len(leaked))]
        bounds = {name: (row, row) for name, row in zip(names, leaked, strict=True)}
        seeds = np.repeat(np.arange(self.seeds), self.victims).tolist()
        return list(rank_ranges(bounds, seeds, [names])[0].values())


def size(board: Simulated, simulations: int) -> float:
    """How often anybody is placed before anybody, defenses and control all leaking one half."""
    rng, entries = np.random.default_rng(0), board.defenses + 1
    rates = np.full(entries, 0.5)
    wrong = (
        any(found != (1, entries) for found in board.ranges(board.draw(rates, rng)))
        for _ in range(simulations)
    )
    return sum(wrong) / simulations


def power(board: Simulated, gap: float, simulations: int) -> float:
    """Share of the other entries before which the one that leaks less by ``gap`` is placed."""
    rng, entries = np.random.default_rng(1), board.defenses + 1
    rates = np.full(entries, 0.5 + gap / 2)
    rates[0] = 0.5 - gap / 2
    behind = (entries - board.ranges(board.draw(rates, rng))[0][1] for _ in range(simulations))
    return sum(behind) / simulations / board.defenses


def coverage(board: Simulated, rate: float, simulations: int) -> float:
    """How often an interval holds the rate that trainings have on average."""
    nodes, weights = np.polynomial.hermite_e.hermegauss(60)
    true = float(weights @ expit(logit(rate) + board.spread * nodes) / weights.sum())
    rng = np.random.default_rng(2)
    outcomes = board.draw(np.full(simulations, rate), rng)
    n = outcomes.shape[1]
    intervals = [rate_interval([1] * k + [0] * (n - k)) for k in range(n + 1)]
    found = (intervals[total] for total in outcomes.sum(axis=1))
    return sum(each.lo <= true <= each.hi for each in found) / simulations


def measure() -> Rows:
    """One row for each layout and spread."""
    rows = []
    for seeds, victims in LAYOUTS:
        for spread in SPREADS:
            row: dict[str, Any] = {"seeds": seeds, "victims": victims, "spread": spread}
            for defenses in FAMILIES:
                board = Simulated(seeds, victims, defenses, spread)
                count = SIMULATIONS[defenses]
                row[f"size_{defenses}"] = size(board, count)
                if spread == 0:
                    row[f"power_{defenses}"] = [power(board, gap, count // 5) for gap in GAPS]
            row["coverage"] = [coverage(board, rate, 20_000) for rate in RATES]
            rows.append(row)
    return rows


def read() -> Rows:
    """What the last run wrote."""
    rows: Rows = json.loads(RESULTS.read_text(encoding="utf-8"))
    return rows


def table(rows: Rows) -> str:
    """Markdown."""
    gaps = [f"{gap:.0%}".rstrip("%") for gap in GAPS]
    errors = [
        "| n | seeds x victims | spread | any wrong placement, one pair | 18 defenses and control "
        f"| {' | '.join(f'coverage at {rate:.0%}' for rate in RATES)} |",
        "| --- | --- | --- | --- | --- | --- | --- |",
    ]
    powers = [
        f"| n | entries | {' | '.join(f'gap of {gap} points' for gap in gaps)} |",
        "| --- | --- | --- | --- | --- | --- | --- |",
    ]
    for row in rows:
        n = row["seeds"] * row["victims"]
        shares = [*(row[f"size_{defenses}"] for defenses in FAMILIES), *row["coverage"]]
        errors.append(
            f"| {n} | {row['seeds']} x {row['victims']} | {row['spread']:g} "
            f"| {' | '.join(f'{share:.3f}' for share in shares)} |"
        )
        for defenses in FAMILIES if row["spread"] == 0 else ():
            name = "one pair" if defenses == 1 else f"{defenses} defenses and control"
            shown = " | ".join(f"{share:.0%}" for share in row[f"power_{defenses}"])
            powers.append(f"| {n} | {name} | {shown} |")
    return "\n".join(errors) + "\n\n" + "\n".join(powers) + "\n"


def main() -> None:
    """Measure, print, and keep."""
    argparse.ArgumentParser(description=__doc__.splitlines()[0]).parse_args()
    rows = measure()
    write_json(RESULTS, rows)
    print(f"nominal: {1 - LEVEL:.2f} and {LEVEL:.2f}; simulations: {SIMULATIONS}\n")
    print(table(rows))


if __name__ == "__main__":
    main()
