"""From scored guesses to ranks: the worst case of every operating point, and ties as ties.

What is recovered is counted per private example, whichever attack on whichever evidence found it.
What is not recovered is either credited to the defense by the audit, or inconclusive. A defense is
placed before another only if it leaks less even where all its own inconclusive examples are
counted as leaked and none of the other's. Nothing is read here but the published tables and
:class:`Facts`, which the published catalog has, so that ranks can be computed again from the files.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeAlias

import pandas as pd

from benchmark.metrics import audit
from benchmark.metrics.stats import exceeds, per_victim, rank_ranges, rate_interval
from benchmark.results.columns import BOARD, CONTROL

POINT = ["defense", "point"]
ENTRY = [*POINT, "checkpoint", "batch_size"]
IMAGE = ["seed", "victim", "image"]
SCORED = ("ok", "timeout", "unsupported")
"""Statuses that do not hold a ranking back: an unsupported cell has its reason."""
ATTACKED = ("ok", "timeout")
"""Statuses of cells that have guesses."""
INCONCLUSIVE = "inconclusive"
"""A row's verdict where neither recovery nor protection is shown for many of its examples."""
CLASSES = {"rank2": 0.02, "rank5": 0.05}
"""Budget classes: columns of ranks -> the share of accuracy that an entry may lose at most."""
WORKING = 0.8
"""Share that the attacks must recover without a defense before anybody is ranked."""
RULINGS = {
    "weak-control": "without a defense too little is recovered",
    "broken-control": "without a defense the truth does not explain the messages",
    "no-headroom": "without a defense no more is recovered than without the messages",
}


@dataclass(frozen=True)
class Facts:
    """What ranks depend on beside the tables."""

    scenario: str
    seeds: Sequence[int]
    checkpoint: str
    batch_size: int
    """Checkpoint and attacked batch size at which entries are ranked: the headline."""
    local_steps: int
    """Batches behind one message."""
    confidence: float
    chance: float
    """The largest class's share of the test set."""
    chance_personal: float
    """The mean over clients of their largest class's share of their own examples."""
    test_examples: int
    personalised: frozenset[str] = frozenset()
    """Defenses whose accuracy is that of clients' own models."""
    randomised: frozenset[str] = frozenset()
    own_evidence: Mapping[str, frozenset[str]] = field(default_factory=dict)
    """Defense -> the names of evidence that was written for it."""

    @classmethod
    def of(cls, catalog: Mapping[str, Any]) -> Facts:
        """As a catalog.json states them."""
        about, defenses = catalog["scenario"], catalog["defenses"]
        own: dict[str, set[str]] = {name: set() for name in defenses}
        for key, evidence in catalog["evidence"].items():
            defense, name = key.split("/")
            if evidence["own"]:
                own[defense].add(name)
        return cls(
            scenario=about["name"],
            seeds=about["seeds"],
            checkpoint=about["headline"]["checkpoint"],
            batch_size=about["headline"]["batch_size"],
            local_steps=about["local_steps"],
            confidence=catalog["scoring"]["confidence"],
            chance=about["chance"],
            chance_personal=about["chance_personal"],
            test_examples=about["test_examples"],
            personalised=frozenset(n for n, each in defenses.items() if each["personalised"]),
            randomised=frozenset(n for n, each in defenses.items() if each["randomised"]),
            own_evidence={name: frozenset(found) for name, found in own.items()},
        )


Row = dict[str, Any]
Place = tuple[Any, ...]
Bounds: TypeAlias = pd.DataFrame
"""Per (seed, victim): ``low`` examples recovered, and ``high`` with the inconclusive ones."""
FIGURES = ("recovered", "oblivious", "own_pick", "extra_data")


def rank(
    cells: pd.DataFrame,
    victims: pd.DataFrame,
    training: pd.DataFrame,
    saturation: pd.DataFrame,
    facts: Facts,
) -> list[Row]:
    """Rows of ranking.csv: the headline's first, the best ranks first; then place by place.

    Points are in the order of ``cells``, which is that of params.yaml.
    """
    leaked, runs = _Leaked(victims, facts), _by(training, POINT)
    budgets = _by(saturation, ENTRY)
    control = training[training["defense"] == CONTROL]
    groups: dict[Place, list[tuple[Row, Bounds | None]]] = {}
    for place, own in cells.groupby(ENTRY, sort=False):
        row, bounds = _row(place, own, leaked, facts)
        row |= {"scenario": facts.scenario, **dict(zip(ENTRY, place, strict=True))}
        row |= _utility(runs.get(place[:2], training[:0]), control, row["defense"], facts)
        row["flags"] += _flags(row, own, budgets.get(place, saturation[:0]), facts)
        groups.setdefault(place[2:], []).append((row, bounds))
    ranked: list[Row] = []
    headline = (facts.checkpoint, facts.batch_size)
    for where in sorted(groups, key=lambda where: where != headline):
        group, bounds_of = map(list, zip(*groups[where], strict=True))
        _judge(group, bounds_of, where == headline, facts)
        ranked += sorted(group, key=_order)
    return [{**row, "flags": ";".join(row["flags"])} for row in ranked]


def _by(table: pd.DataFrame, names: list[str]) -> dict[Place, pd.DataFrame]:
    return dict(list(table.groupby(names, sort=False)))


class _Leaked:
    """What the guesses at every entry's operating point and place recovered.

    Published settings run on the control alone, with which it would be attacked harder: they count
    in no figure. Neither do attacks that learned, but in their own.
    """

    def __init__(self, victims: pd.DataFrame, facts: Facts) -> None:
        self.facts = facts
        board = victims[victims["settings"] == BOARD]
        board = board.assign(  # the first measure: of images PSNR, of sentences right words
            quality=board["psnr"].fillna(board["exact_tokens"]),
            clean=board["verdict"] == audit.OK,
        )
        learned = board["threat"] == "auxiliary"
        images = board[~learned]
        knowing = images[images["knowledge"].isin(("paper", "adaptive"))]
        best = _best(images)
        credit = audit.credit(images, tuple(ENTRY))
        credit = credit.loc[pd.MultiIndex.from_frame(best[[*ENTRY, *IMAGE]])].to_numpy()
        lost = best["success"] == 0
        best = best.assign(
            exhausted=lost & credit,
            inconclusive=lost & ~credit,
            leaked=best["success"] + (lost & ~credit),
        )
        self.best = {
            "recovered": _by(best, ENTRY),
            "oblivious": _by(_best(images[images["knowledge"] == "oblivious"]), ENTRY),
            "own_pick": _by(_best(images[images["picked"] == 1]), ENTRY),
            "extra_data": _by(_best(board[learned]), ENTRY),
        }
        self.strongest = {"recovered": _strongest(images), "extra_data": _strongest(board[learned])}
        self.baseline = _by(
            images.groupby([*ENTRY, *IMAGE])[["baseline_success", "baseline_psnr"]]
            .max()
            .reset_index(),
            ENTRY,
        )
        self.messages, self.knowing = _messages(images), _messages(knowing)

    def figure(self, name: str, place: Place) -> Row:
        """What the best guess of every example makes of it: the share recovered and its interval,
        the images' median PSNR, the sentences' mean share of right words."""
        best = self.best[name].get(place)
        before = "" if name == "recovered" else f"{name}_"
        return self.interval(name, best, "success") | {
            f"{before}psnr_median": None if best is None else float(best["psnr"].median()),
            f"{before}exact_tokens": None if best is None else float(best["exact_tokens"].mean()),
        }

    def interval(self, name: str, best: pd.DataFrame | None, column: str) -> Row:
        """Mean over examples with its interval over victims."""
        if best is None:
            return dict.fromkeys((name, f"{name}_lo", f"{name}_hi"))
        victims = list(zip(best["seed"], best["victim"], strict=True))
        found = rate_interval(per_victim(best[column], victims), level=self.facts.confidence)
        return {name: found.mean, f"{name}_lo": found.lo, f"{name}_hi": found.hi}


def _messages(images: pd.DataFrame) -> dict[Place, int]:
    """How many messages of each entry were attacked."""
    return images[[*ENTRY, "seed", "victim"]].drop_duplicates().groupby(ENTRY).size().to_dict()


def _best(images: pd.DataFrame) -> pd.DataFrame:
    """The best guess of every private example: the highest in the first measure."""
    ranked = images.sort_values(["success", "quality", "clean"], ascending=False, kind="stable")
    return ranked.drop_duplicates([*ENTRY, *IMAGE]).sort_values([*ENTRY, *IMAGE])


def _strongest(images: pd.DataFrame) -> dict[Place, tuple[str, str]]:
    """The attack and evidence that recover most, then with the highest median measure."""
    found = (
        images.groupby([*ENTRY, "attack", "evidence"], sort=False)
        .agg(success=("success", "sum"), quality=("quality", "median"))
        .sort_values(["success", "quality"], ascending=False, kind="stable")
        .reset_index()
        .drop_duplicates(ENTRY)
    )
    return {tuple(row[:4]): tuple(row[4:6]) for row in found.itertuples(index=False)}


def _row(
    place: Place, cells: pd.DataFrame, leaked: _Leaked, facts: Facts
) -> tuple[Row, Bounds | None]:
    """What leaked at one operating point; no bounds where it must not be ranked."""
    count = leaked.messages.get(place, 0)
    missing = not cells["status"].isin(SCORED).all() or set(cells["seed"]) != set(facts.seeds)
    missing |= place not in leaked.baseline and place not in leaked.best["extra_data"]
    row: Row = {
        "flags": ["missing-cells"] if missing else [], "reason": "", "verdict": "",
        "n": 0, "n_victims": count, "status": "failed" if missing else "ok",
        "share_exhausted": None, "share_inconclusive": None,
        "baseline_success": None, "baseline_psnr": None,
        **dict.fromkeys(f"{name}_{end}" for name in CLASSES for end in ("lo", "hi")),
    }  # fmt: skip
    diverged = cells.loc[cells["reason"].fillna("").str.startswith("training diverged"), "reason"]
    if len(diverged):
        row |= {"status": "unsupported", "reason": diverged.iloc[0]}
    for name in FIGURES:
        row |= leaked.figure(name, place)
    for name, before in (("recovered", "strongest"), ("extra_data", "extra_data")):
        strongest = leaked.strongest[name].get(place, ("", ""))
        row[f"{before}_attack"], row[f"{before}_evidence"] = strongest
    best = leaked.best["recovered"].get(place)
    if best is not None:
        baseline = leaked.baseline[place]
        row["n"] = len(baseline)
        row["baseline_success"] = float(baseline["baseline_success"].mean())
        row["baseline_psnr"] = float(baseline["baseline_psnr"].median())
    if place[0] != CONTROL and (best is None or leaked.knowing.get(place, 0) < count):
        row["flags"].append("no-adaptive")
        row["reason"] = row["reason"] or "no attack ran on evidence that knows the defense"
        empty = ("recovered", "recovered_lo", "recovered_hi", "psnr_median", "exact_tokens")
        row |= dict.fromkeys(empty) | {"strongest_attack": "", "strongest_evidence": ""}
        best = None
    row |= leaked.interval("recovered_or_inconclusive", best, "leaked")
    if best is None:
        return row, None
    row["share_exhausted"] = float(best["exhausted"].mean())
    row["share_inconclusive"] = float(best["inconclusive"].mean())
    row["verdict"] = _verdict(best)
    if row["share_inconclusive"] > audit.TOLERANCE:
        row["flags"].append("inconclusive")
    bounds = best.groupby(["seed", "victim"]).agg(low=("success", "sum"), high=("leaked", "sum"))
    return row, None if missing else bounds


def _verdict(best: pd.DataFrame) -> str:
    """The gravest verdict that more than a tenth of the examples have."""
    if (best["verdict"] == audit.BROKEN).any():
        return audit.BROKEN
    if best["inconclusive"].mean() > audit.TOLERANCE:
        return INCONCLUSIVE
    return audit.EXHAUSTED if best["exhausted"].mean() > audit.TOLERANCE else audit.OK


def _utility(runs: pd.DataFrame, control: pd.DataFrame, defense: str, facts: Facts) -> Row:
    """Means over seeds of what the same operating point cost; epsilon is the largest."""
    columns = (
        "accuracy_global", "accuracy_personal", "uplink_bytes", "downlink_bytes", "client_seconds",
        "bytes_to_target",
    )  # fmt: skip
    found: Row = {name: _mean(runs[name]) for name in columns}
    found["epsilon"] = float(runs["epsilon"].max()) if len(runs) else None
    kind = "accuracy_personal" if defense in facts.personalised else "accuracy_global"
    without = _mean(control[kind])
    known = without is not None and found[kind] is not None
    found["accuracy_lost"] = without - found[kind] if known else None
    return found


def _mean(values: pd.Series) -> float | None:
    """None where a seed has none: the mean of the others would flatter."""
    return None if values.isna().any() or values.empty else float(values.mean())


def _flags(row: Row, cells: pd.DataFrame, saturation: pd.DataFrame, facts: Facts) -> list[str]:
    """What else a reader must know of a row."""
    defense = row["defense"]
    attacked = set(cells[cells["status"].isin(ATTACKED)]["evidence"])
    kind = "accuracy_personal" if defense in facts.personalised else "accuracy_global"
    personal = defense in facts.personalised
    chance = facts.chance_personal if personal else facts.chance
    found = {
        "probe": row["batch_size"] * facts.local_steps == 1,
        "randomised": defense in facts.randomised,
        "generic-only": defense != CONTROL
        and not attacked & facts.own_evidence.get(defense, frozenset()),
        "budget-hit": _rising(saturation),
        "no-own-control": row["accuracy_lost"] is None,
        "chance-accuracy": row[kind] is not None
        and not exceeds(row[kind], facts.test_examples, chance, level=facts.confidence),
    }
    return [name for name, holds in found.items() if holds]


def _rising(saturation: pd.DataFrame) -> bool:
    """Whether any larger budget found more than the published one: another victim, or a decibel
    in the median where victims are left."""
    for _, curve in saturation.groupby(["seed", "attack", "evidence"], sort=False):
        for _, base in curve[curve["budget"] == 1].iterrows():
            more = curve[curve["budget"] > 1]
            nearer = (more["success_rate"] < 1) & (more["psnr_median"] > base["psnr_median"] + 1)
            if ((more["success_rate"] > base["success_rate"]) | nearer).any():
                return True
    return False


def _judge(group: list[Row], leaked: Sequence[Bounds | None], headline: bool, facts: Facts) -> None:
    """Fill in the ranks of the headline's rows, or the reason why a row has none."""
    control = next((i for i, row in enumerate(group) if row["defense"] == CONTROL), None)
    reference = max((b.index for b in leaked if b is not None), key=len, default=None)
    usable: dict[int, Bounds] = {}
    for index, (row, bounds) in enumerate(zip(group, leaked, strict=True)):
        if bounds is None:
            continue
        if bounds.index.equals(reference):
            usable[index] = bounds
        else:  # some of its victims were never attacked
            row["flags"].append("missing-cells")
            if row["status"] == "ok":
                row["status"] = "failed"
    rulings = [] if control is None else _rulings(group[control])
    for row in group:
        row["flags"] += rulings
    if not headline:
        return
    barred = None
    if control is None or control not in usable:
        barred = "the undefended control is missing or lacks cells"
    elif "chance-accuracy" in group[control]["flags"]:
        barred = "the undefended control is not above chance"
    elif rulings:
        barred = RULINGS[rulings[0]]
    chosen = [_entries(group, limit) for limit in CLASSES.values()]
    families = [] if barred else [
        [index for index in entries if index in usable] for entries in chosen
    ]  # fmt: skip
    _rank(group, usable, [f if len(f) > 1 else [] for f in families], facts)
    standing = {index for entries in chosen for index in entries}
    for index, row in enumerate(group):
        if not _ranked(row) and not row["reason"]:
            row["reason"] = barred or _unranked(row, index in standing)


def _rulings(control: Row) -> list[str]:
    """Why nobody here can be ranked: without a defense the attacks must work."""
    if control["recovered"] is None:
        return []
    found = {
        "weak-control": control["recovered"] < WORKING,
        "broken-control": control["verdict"] == audit.BROKEN,
        "no-headroom": control["recovered_lo"] <= control["baseline_success"],
    }
    return [name for name, holds in found.items() if holds]


def _entries(group: Sequence[Row], limit: float) -> list[int]:
    """One row per defense in the class that loses at most ``limit``: its strongest point there,
    chosen by accuracy alone; the later point of equals."""
    chosen: dict[str, int] = {}
    for index, row in enumerate(group):
        lost = row["accuracy_lost"]
        control = row["defense"] == CONTROL
        if not control and (lost is None or lost > limit + 1e-9):
            continue
        if not control and "chance-accuracy" in row["flags"]:
            continue
        held = chosen.get(row["defense"])
        if held is None or control or lost >= group[held]["accuracy_lost"]:
            chosen[row["defense"]] = index
    return list(chosen.values())


def _rank(
    group: list[Row], usable: Mapping[int, Bounds], families: Sequence[Sequence[int]], facts: Facts
) -> None:
    entrants = sorted({index for family in families for index in family})
    if not entrants:
        return
    places = usable[entrants[0]].index
    found = rank_ranges(
        {str(i): (usable[i]["low"].to_numpy(), usable[i]["high"].to_numpy()) for i in entrants},
        places.get_level_values("seed").tolist(),
        [[str(index) for index in family] for family in families],
        level=facts.confidence,
    )
    for name, ranges in zip(CLASSES, found, strict=True):
        for index, (low, high) in ranges.items():
            group[int(index)] |= {f"{name}_lo": low, f"{name}_hi": high}


def _ranked(row: Row) -> bool:
    return any(row[f"{name}_hi"] is not None for name in CLASSES)


def _unranked(row: Row, standing: bool) -> str:
    """Why a row of the headline has no rank though others may."""
    if "missing-cells" in row["flags"]:
        return row["reason"] or "cells are missing"
    if "no-own-control" in row["flags"]:
        return "its accuracy was not measured, or no control's of its kind"
    if "chance-accuracy" in row["flags"]:
        return "its accuracy is not above chance"
    if row["accuracy_lost"] > max(CLASSES.values()) + 1e-9:
        return "it loses more accuracy than any budget class allows"
    return "nothing to compare it with" if standing else "another point stands for its defense"


def _order(row: Row) -> tuple[Any, ...]:
    ranks = [row[f"{name}_hi"] or float("inf") for name in CLASSES]
    leak = row["recovered_or_inconclusive"]
    return (not _ranked(row), *ranks, 2.0 if leak is None else leak, row["defense"])
