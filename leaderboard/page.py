"""The page: what the template shows, gathered from the published results."""

from __future__ import annotations

import json
import re
import shutil
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup

from benchmark.results import words
from benchmark.results.columns import CONTROL, FILES, PUBLISHED, Column, described, shown
from benchmark.results.io import RecordError
from leaderboard import columns as board_columns
from leaderboard import display, plots, saturation
from leaderboard.board import Scenario
from leaderboard.columns import Entry, Ranking
from leaderboard.gallery import LABELS, Row, Strip

HERE = Path(__file__).parent
TILE = 32  # CSS pixels that a tile of a strip is enlarged to, in whole steps


def write_site(scenarios: Sequence[Scenario], tables: Path, folder: Path) -> None:
    """Write the page and everything it links to into ``folder``, which must exist.

    Args:
        tables: the folder that :func:`leaderboard.tables.write_tables` has filled.
    """
    shutil.copytree(HERE / "static", folder / "static")
    for scenario in scenarios:
        data = folder / "data" / scenario.name
        data.mkdir(parents=True)
        for name in (*FILES, "catalog.json", "provenance.json"):
            shutil.copyfile(scenario.folder / name, data / name)
        for suffix in (".csv", ".md", ".tex", "-table.tex"):
            shutil.copyfile(tables / f"{scenario.name}{suffix}", data / f"board{suffix}")
        gallery = folder / "gallery" / scenario.name
        gallery.mkdir(parents=True)
        for strip in scenario.strips:
            if strip.file:
                shutil.copyfile(scenario.folder / "gallery" / strip.file, gallery / strip.file)
    (folder / "index.html").write_text(render(scenarios), encoding="utf-8", newline="")


def render(scenarios: Sequence[Scenario]) -> str:
    """The page as HTML; a pure function of the published results."""
    environment = Environment(
        loader=FileSystemLoader(HERE / "templates"), autoescape=True, undefined=StrictUndefined,
        trim_blocks=True, lstrip_blocks=True,
    )  # fmt: skip
    environment.globals.update(
        show=display, markup=Markup, missing=display.missing, saturation=saturation
    )
    defenses = _merged(scenarios, "defenses")
    look = plots.looks(list(defenses))
    page = environment.get_template("index.html.j2").render(
        scenarios=[_view(scenario, look) for scenario in scenarios],
        defenses=defenses,
        attacks=_merged(scenarios, "attacks"),
        metrics=described(),
        evidence=_evidence(scenarios),
        looks=look,
        words=words,
        calibration=json.loads((HERE / "calibration.json").read_text(encoding="utf-8")),
        proven=board_columns.PROVEN,
        verdict_word=board_columns.verdict,
        text=board_columns.text,
    )
    anchors = Counter(re.findall(r'\bid="([^"]+)"', page))
    if twice := [name for name, count in anchors.items() if count > 1]:
        raise RecordError(f"{twice[0]}: two parts of the page would have this anchor; rename the"
                          " scenario, checkpoint, defense or point that it is made of")  # fmt: skip
    return page


def _view(scenario: Scenario, look: Mapping[str, plots.Look]) -> dict[str, Any]:
    rankings = board_columns.rankings(scenario)
    order = scenario.entrants
    return {
        "name": scenario.name,
        "title": scenario.title,
        "demo": scenario.demo,
        "malicious": scenario.malicious,
        "private": scenario.private,
        "measure": scenario.measure,
        "facts": scenario.facts,
        "summary": _summary(scenario),
        "rankings": [
            {
                "ranking": ranking,
                "columns": (columns := _apart(ranking)),
                "groups": board_columns.groups(columns),
                "control": _control(scenario, ranking),
                "observed": _observed(scenario, ranking.checkpoint),
                "gaps": _gaps(ranking),
                "plots": [
                    (panel, Markup(svg))
                    for panel in plots.PANELS
                    if (svg := plots.trade_off(ranking, panel, look, order))
                ],
            }
            for ranking in rankings
        ],
        "example": _example(scenario, rankings),
        "strips": [
            (checkpoint, [_strip(strip, scenario) for strip in scenario.strips
                          if strip.checkpoint == checkpoint])
            for checkpoint in scenario.checkpoints
            if any(strip.checkpoint == checkpoint for strip in scenario.strips)
        ],
        "coverage": _coverage(scenario),
        "cells": scenario.tables["cells.csv"].to_dict("records"),
        "cell_columns": _cell_columns(scenario),
        "checkpoints": _checkpoint_table(scenario),
        "provenance": scenario.provenance,
        "catalog": scenario.catalog,
        "interval": scenario.interval,
        "entrants": scenario.entrants,
        "files": [*FILES, "catalog.json", "provenance.json"],
    }  # fmt: skip


def _merged(scenarios: Sequence[Scenario], part: str) -> dict[str, dict[str, Any]]:
    """The cards of all scenarios by name; operating points stay apart where they differ."""
    merged: dict[str, dict[str, Any]] = {}
    for scenario in scenarios:
        order = scenario.entrants if part == "defenses" else scenario.catalog[part]
        for name in order:
            card = scenario.catalog[part][name]
            entry = merged.setdefault(name, {**card, "where": [], "compared": []})
            points = {point: card["points"].get(point) for point in order[name]
                      } if card.get("points") else {}  # fmt: skip
            if points:
                _gather(entry["where"], scenario.title, points)
            if part == "attacks" and card["settings"]:
                _gather(entry["compared"], scenario.title, _compared(card["settings"]))
    return merged


def _gather(known: list[tuple[list[str], Any]], title: str, what: Any) -> None:
    """Add ``title`` to those that have ``what``, or both as a new entry."""
    same = [titles for titles, other in known if other == what]
    if same:
        same[0].append(title)
    else:
        known.append(([title], what))


def _compared(settings: Mapping[str, Any]) -> list[tuple[str, str, str, bool]]:
    """An attack's parameters as (name, as published, as run here, whether they are the same)."""
    published, board = (_flat(settings.get(name) or {}) for name in ("published", "board"))
    pairs = (
        (name, published.get(name, ""), board.get(name, ""))
        for name in dict.fromkeys((*published, *board))
    )
    return [(name, one, other, one == other) for name, one, other in pairs]


def _flat(parameters: Mapping[str, Any], within: str = "") -> dict[str, str]:
    """Nested parameters as names and text: ``is`` names the kind of the part that it stands in."""
    found: dict[str, str] = {}
    for key, value in parameters.items():
        if key == "name" and not within:  # the attack's own, which the card has for a title
            continue
        name = within if key == "is" else f"{within} {display.words(key)}".strip()
        if isinstance(value, dict):
            found |= _flat(value, name)
        else:
            found[name] = display.setting(value)
    return found


def _evidence(scenarios: Sequence[Scenario]) -> dict[str, dict[str, Mapping[str, Any]]]:
    """Per defense the evidence in its messages."""
    merged: dict[str, dict[str, Mapping[str, Any]]] = {}
    for scenario in scenarios:
        for key, about in scenario.catalog["evidence"].items():
            defense, _, name = key.partition("/")
            merged.setdefault(defense, {}).setdefault(name, about)
    return merged


def _summary(scenario: Scenario) -> list[tuple[str, str]]:
    """The facts of a scenario that a reader needs first, as label and text."""
    facts = scenario.facts
    labels = {
        "data": "Data", "model": "Victim model", "algorithm": "Algorithm", "clients": "Clients",
        "partition": "Partition", "rounds": "Rounds", "local_steps": "Local steps",
        "batch_size": "Training batch", "victims": "Victims per seed", "side": "Server is granted",
    }  # fmt: skip
    found = [(label, display.setting(facts[name])) for name, label in labels.items()
             if not display.missing(facts.get(name)) and facts[name] != {}]  # fmt: skip
    seeds = len(_seeds(scenario))
    if seeds:
        found.append(("Seeds", str(seeds)))
    if not display.missing(facts.get("tau")):
        found.append(("Recovered above", display.quality(facts["tau"], scenario.measure)))
    if not display.missing(facts.get("chance")):
        found.append(("Largest class", display.accuracy(facts["chance"])))
    return found


def _seeds(scenario: Scenario) -> set[int]:
    """All seeds that the board asked for or holds."""
    return set(scenario.facts.get("seeds") or ()) | set(scenario.tables["cells.csv"]["seed"])


def _apart(ranking: Ranking) -> list[Column]:
    """The columns that the page gives a place of their own."""
    every = board_columns.columns(ranking)
    names = {column.name for column in every}
    return [column for column in every if column.within not in names]


def _control(
    scenario: Scenario, ranking: Ranking
) -> list[tuple[str, list[tuple[str, float, str]]]]:
    """What each attack reaches without a defense here: by settings, (attack, share recovered,
    median quality).

    The best evidence of each attack counts; seeds are weighted by their number of examples. Of an
    attack that also ran at its published settings only what ran in both counts, so that the two
    differ in settings alone. Attacks that fail even there say nothing about a defense.
    """
    cells = scenario.tables["cells.csv"]
    here = cells[(cells["defense"] == CONTROL) & (cells["checkpoint"] == ranking.checkpoint)
                 & (cells["batch_size"] == ranking.batch_size) & cells["success_rate"].notna()
                 & (cells["n"] > 0)]  # fmt: skip
    published = here[here["settings"] == PUBLISHED]
    both = here.set_index(["attack", "evidence", "seed"]).index.isin(
        published.set_index(["attack", "evidence", "seed"]).index
    )
    here = here[both | ~here["attack"].isin(published["attack"])]
    quality = "psnr_median" if scenario.measure == "psnr" else "exact_tokens"
    best: dict[str, dict[str, tuple[float, float]]] = {name: {} for name in words.SETTINGS}
    for (settings, attack, _), rows in here.groupby(["settings", "attack", "evidence"], sort=True):
        weight = rows["n"] / rows["n"].sum()
        figures = (
            float((rows["success_rate"] * weight).sum()),
            float(rows[quality].median()),
        )
        known = best[str(settings)]
        known[str(attack)] = max(known.get(str(attack), (-1.0, 0.0)), figures)
    return [
        (settings, [(attack, success, display.quality(median, scenario.measure))
                    for attack, (success, median) in known.items()])
        for settings, known in best.items() if known
    ]  # fmt: skip


def _observed(scenario: Scenario, checkpoint: str) -> dict[str, float]:
    """Mean accuracy, loss and gradient norm of the undefended run at a checkpoint, if recorded."""
    table = scenario.tables["checkpoints.csv"]
    here = table[(table["defense"] == CONTROL) & (table["checkpoint"] == checkpoint)]
    return {} if here.empty else here[["accuracy", "loss", "gradient_norm"]].mean().to_dict()


def _gaps(ranking: Ranking) -> list[tuple[Entry, float]]:
    """Entries with what they lose to an attacker who knows them (share), the most first."""
    found = [
        (entry, entry["recovered"] - entry["oblivious"])
        for entry in ranking.entries
        if not display.missing(entry["recovered"]) and not display.missing(entry["oblivious"])
    ]
    return sorted(found, key=lambda pair: (-pair[1], pair[0]["recovered"]))


def _example(scenario: Scenario, rankings: Sequence[Ranking]) -> dict[str, Any] | None:
    """A ranked row to explain: the first that has a defense and leaks something."""
    entries = [
        (ranking, entry) for ranking in rankings for entry in ranking.entries
        if not display.missing(entry["rank2_hi"]) and entry["defense"] != CONTROL
    ]  # fmt: skip
    telling = [pair for pair in entries if 0 < pair[1]["recovered"] < 1]
    for ranking, entry in (*telling, *entries):
        return {"ranking": ranking, "entry": entry, "interval": scenario.interval,
                "private": scenario.private}  # fmt: skip
    return None


def _strip(strip: Strip, scenario: Scenario) -> dict[str, Any]:
    """A strip as the template prints it: tiles in CSS pixels, rows with what made them."""
    (height, width), gap = strip.tile, strip.gap
    scale = max(1, TILE // height)
    return {
        "strip": strip,
        "title": scenario.defense(strip.defense)["title"],
        "rows": [
            {
                "label": LABELS[row.label],
                "source": _source(row),
                "quality": getattr(row, scenario.measure),
                "texts": row.texts,
                "top": scale * (strip.edge + index * (height + gap)),
            }
            for index, row in enumerate(strip.rows)
        ],
        "tau": scenario.facts["tau"],
        "height": scale * height,
        "column": scale * width,
        "gap": scale * gap,
        "left": scale * strip.edge,
        "picture": (scale * strip.size[0], scale * strip.size[1]),
        "window": scale * (len(strip.victims) * (width + gap) - gap),
    }


def _source(row: Row) -> str:
    settings = "published settings" if row.settings == PUBLISHED else ""
    return " · ".join(part for part in (row.attack, row.evidence, settings) if part)


def _cell_columns(scenario: Scenario) -> list[Column]:
    """The columns that hold something; threat and settings where they differ between cells."""
    cells = scenario.tables["cells.csv"]
    return [
        column
        for column in shown("cells")
        if column.name in ("success_rate", "reason")
        or (
            cells[column.name].nunique() > 1
            if column.name in ("threat", "settings")
            else not all(map(display.missing, cells[column.name]))
        )
    ]


def _coverage(scenario: Scenario) -> dict[str, Any]:
    """How many cells of each entrant ended how, by checkpoint and attack.

    A cell that exists for another seed and not for this one is ``absent``: it was planned and left
    no row, which is neither a failure nor "not planned".
    """
    cells = scenario.tables["cells.csv"]
    seeds = len(_seeds(scenario))
    heads = [
        (checkpoint, *head)
        for checkpoint in scenario.checkpoints
        for head in sorted(
            set(cells.loc[cells["checkpoint"] == checkpoint, ["attack", "settings"]]
                .itertuples(index=False, name=None))
        )
    ]  # fmt: skip
    counts: dict[tuple[str, ...], dict[str, int]] = {}
    key = ["defense", "point", "checkpoint", "attack", "settings"]
    for names, rows in cells.groupby(key, sort=False):
        count = rows["status"].value_counts().to_dict()
        found = rows.groupby(["evidence", "batch_size"])["seed"].nunique()
        absent = int((seeds - found).sum())
        counts[names] = {**count, **({"absent": absent} if absent else {})}
    entries = [
        (name, scenario.defense(name)["title"], point)
        for name, points in scenario.entrants.items()
        for point in points
    ]
    rows = [
        (title, point, [counts.get((name, point, *head), {}) for head in heads])
        for name, title, point in entries
    ]
    return {"heads": heads, "rows": rows}


def _checkpoint_table(scenario: Scenario) -> list[dict[str, Any]]:
    """What the server looked at: means over seeds per entrant and checkpoint."""
    table = scenario.tables["checkpoints.csv"]
    if table.empty:
        return []
    order = {name: index for index, name in enumerate(scenario.checkpoints)}
    means = (
        table.groupby(["defense", "point", "checkpoint", "round"], sort=False)[
            ["gradient_norm", "loss", "accuracy"]
        ]
        .mean()
        .reset_index()
    )
    rows = [{**row, "title": scenario.defense(row["defense"])["title"]}
            for row in means.to_dict("records")]  # fmt: skip
    return sorted(rows, key=lambda row: order.get(row["checkpoint"], len(order)))
