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
PLACE = ["checkpoint", "batch_size"]
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
Bounds: TypeAlias = pd.DataFrame
"""Per (seed, victim): ``low`` examples recovered, and ``high`` with the inconclusive ones."""


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
    groups: list[tuple[bool, list[Row]]] = []
    for (checkpoint, batch_size), here in cells.groupby(PLACE, sort=False):
        found = victims[
            (victims["checkpoint"] == checkpoint) & (victims["batch_size"] == batch_size)
        ]
        group: list[Row] = []
        leaked: list[Bounds | None] = []
        for (defense, point), own in here.groupby(POINT, sort=False):
            images = found[(found["defense"] == defense) & (found["point"] == point)]
            row, bounds = _row(str(defense), images, own, facts)
            row |= {
                "scenario": facts.scenario,
                "defense": defense,
                "point": point,
                "checkpoint": checkpoint,
                "batch_size": batch_size,
                **_utility(training, str(defense), str(point), facts),
            }
            row["flags"] += _flags(row, own, saturation, facts)
            group.append(row)
            leaked.append(bounds)
        headline = (checkpoint, batch_size) == (facts.checkpoint, facts.batch_size)
        _judge(group, leaked, headline, facts)
        groups.append((headline, sorted(group, key=_order)))
    groups.sort(key=lambda entry: not entry[0])
    return [{**row, "flags": ";".join(row["flags"])} for _, group in groups for row in group]


def _row(
    defense: str, images: pd.DataFrame, cells: pd.DataFrame, facts: Facts
) -> tuple[Row, Bounds | None]:
    """What leaked at one operating point; no bounds where it must not be ranked."""
    missing = not cells["status"].isin(SCORED).all()
    missing |= set(cells["seed"]) != set(facts.seeds) or images.empty
    row: Row = {
        "flags": ["missing-cells"] if missing else [], "reason": "", "verdict": "",
        "n": 0, "n_victims": 0, "status": "failed" if missing else "ok",
        "share_exhausted": None, "share_inconclusive": None,
        "floor_success": None, "floor_psnr": None,
    }  # fmt: skip
    diverged = cells.loc[cells["reason"].fillna("").str.startswith("training diverged"), "reason"]
    if len(diverged):
        row |= {"status": "unsupported", "reason": diverged.iloc[0]}
    # published settings run on the control alone: with them it would be attacked harder
    images = images[images["settings"] == BOARD]
    row |= dict.fromkeys(f"{name}_{end}" for name in CLASSES for end in ("lo", "hi"))
    learned = images["threat"] == "auxiliary"
    row |= _figure("learned", images[learned], facts)
    row["learned_attack"], row["learned_evidence"] = _strongest(images[learned])
    images = images[~learned]
    row |= _figure("oblivious", images[images["knowledge"] == "oblivious"], facts)
    row |= _figure("selected", images[images["selected"] == 1], facts)
    if not images.empty:
        baseline = images.groupby(IMAGE)[["floor_success", "floor_psnr"]].max()
        row |= {
            "n": len(baseline),
            "n_victims": _messages(images),
            "floor_success": float(baseline["floor_success"].mean()),
            "floor_psnr": float(baseline["floor_psnr"].median()),
        }
    knowing = images[images["knowledge"].isin(("paper", "adaptive"))]
    if defense != CONTROL and (knowing.empty or _messages(knowing) < _messages(images)):
        row["flags"].append("no-adaptive")
        row["reason"] = row["reason"] or "no attack ran on evidence that knows the defense"
        images = images[:0]
    row |= _figure("recovered", images, facts)
    row["strongest_attack"], row["strongest_evidence"] = _strongest(images)
    best = _audited(images)
    row |= _interval("recovered_or_inconclusive", best, "leaked", facts)
    if best.empty:
        return row, None
    row["share_exhausted"] = float(best["exhausted"].mean())
    row["share_inconclusive"] = float(best["inconclusive"].mean())
    row["verdict"] = _verdict(best)
    if row["share_inconclusive"] > audit.TOLERANCE:
        row["flags"].append("inconclusive")
    bounds = best.groupby(["seed", "victim"]).agg(low=("success", "sum"), high=("leaked", "sum"))
    return row, None if missing else bounds


def _messages(images: pd.DataFrame) -> int:
    return len(images[["seed", "victim"]].drop_duplicates())


FIGURES = {
    "recovered": ("recovered", "recovered", "psnr_median", "exact_tokens"),
    "oblivious": ("oblivious", "oblivious", "oblivious_psnr_median", "oblivious_tokens"),
    "selected": ("selected_success", "selected", "selected_psnr_median", "selected_tokens"),
    "learned": ("learned_success", "learned", "learned_psnr_median", "learned_tokens"),
}
"""Figure -> columns of the share, of its interval (with ``_lo``, ``_hi``), and of the measures."""


def _figure(name: str, images: pd.DataFrame, facts: Facts) -> Row:
    """What the best guess of every example makes of it: the share recovered and its interval, the
    images' median PSNR, the sentences' mean share of right words."""
    best = _best(images)
    share, interval, psnr, tokens = FIGURES[name]
    row = _interval(interval, best, "success", facts)
    row[share] = row.pop(interval)
    row[psnr] = None if best.empty else float(best["psnr"].median())
    row[tokens] = None if best.empty else float(best["exact_tokens"].mean())
    return row


def _best(images: pd.DataFrame) -> pd.DataFrame:
    """The best guess of every private example: the highest in the first measure."""
    ranked = images.assign(quality=_quality(images), clean=images["verdict"] == audit.OK)
    order = ["success", "quality", "clean"]
    ranked = ranked.sort_values(order, ascending=False, kind="stable")
    return ranked.drop_duplicates(IMAGE).sort_values(IMAGE)


def _quality(images: pd.DataFrame) -> pd.Series:
    """The first measure: of images PSNR, of sentences the share of right words."""
    return images["psnr"].fillna(images["exact_tokens"])


def _interval(name: str, best: pd.DataFrame, column: str, facts: Facts) -> Row:
    """Mean over examples with its interval over victims."""
    if best.empty:
        return dict.fromkeys((name, f"{name}_lo", f"{name}_hi"))
    victims = list(zip(best["seed"], best["victim"], strict=True))
    found = rate_interval(per_victim(best[column], victims), level=facts.confidence)
    return {name: found.mean, f"{name}_lo": found.lo, f"{name}_hi": found.hi}


def _strongest(images: pd.DataFrame) -> tuple[str, str]:
    """The attack and evidence that recover most, then with the highest median measure."""
    if images.empty:
        return "", ""
    found = (
        images.assign(quality=_quality(images))
        .groupby(["attack", "evidence"], sort=False)
        .agg(success=("success", "sum"), quality=("quality", "median"))
        .sort_values(["success", "quality"], ascending=False, kind="stable")
    )
    attack, evidence = found.index[0]
    return str(attack), str(evidence)


def _audited(images: pd.DataFrame) -> pd.DataFrame:
    """The best guesses, each example recovered, exhausted or inconclusive."""
    best = _best(images)
    credit = audit.credit(images).loc[pd.MultiIndex.from_frame(best[IMAGE])].to_numpy()
    lost = best["success"] == 0
    return best.assign(
        exhausted=lost & credit,
        inconclusive=lost & ~credit,
        leaked=best["success"] + (lost & ~credit),
    )


def _verdict(best: pd.DataFrame) -> str:
    """The gravest verdict that more than a tenth of the examples have."""
    if (best["verdict"] == audit.BROKEN).any():
        return audit.BROKEN
    if best["inconclusive"].mean() > audit.TOLERANCE:
        return INCONCLUSIVE
    return audit.EXHAUSTED if best["exhausted"].mean() > audit.TOLERANCE else audit.OK


def _utility(training: pd.DataFrame, defense: str, point: str, facts: Facts) -> Row:
    """Means over seeds of what the same operating point cost; epsilon is the largest."""
    runs = training[(training["defense"] == defense) & (training["point"] == point)]
    columns = (
        "accuracy_global", "accuracy_personal", "uplink_bytes", "downlink_bytes", "client_seconds",
    )  # fmt: skip
    found: Row = {name: _mean(runs[name]) for name in columns}
    found["bytes_to_target"] = _mean(runs["bytes_to_target"])
    found["epsilon"] = float(runs["epsilon"].max()) if len(runs) else None
    kind = "accuracy_personal" if defense in facts.personalised else "accuracy_global"
    control = _mean(training[training["defense"] == CONTROL][kind])
    known = control is not None and found[kind] is not None
    found["accuracy_lost"] = control - found[kind] if known else None
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
        "budget-hit": _rising(saturation, row),
        "no-own-control": row["accuracy_lost"] is None,
        "chance-accuracy": row[kind] is not None
        and not exceeds(row[kind], facts.test_examples, chance, level=facts.confidence),
    }
    return [name for name, holds in found.items() if holds]


def _rising(saturation: pd.DataFrame, row: Row) -> bool:
    """Whether any larger budget found more than the published one: another victim, or a decibel
    in the median where victims are left."""
    place = [*POINT, *PLACE]
    own = saturation[(saturation[place] == [row[k] for k in place]).all(axis=1)]
    for _, curve in own.groupby(["seed", "attack", "evidence"], sort=False):
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
        "no-headroom": control["recovered_lo"] <= control["floor_success"],
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
