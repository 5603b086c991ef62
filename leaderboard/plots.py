"""Trade-off plots as inline SVG: leakage against accuracy and against bytes.

Colours leave here as CSS variables and text as text, so that one drawing follows the page's light
and dark theme and can be read aloud, searched and copied.
"""

from __future__ import annotations

import html
import io
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import matplotlib

matplotlib.use("svg")

from matplotlib import ticker  # noqa: E402
from matplotlib.figure import Figure  # noqa: E402
from matplotlib.markers import MarkerStyle  # noqa: E402

from benchmark.results.columns import CONTROL  # noqa: E402
from leaderboard import display  # noqa: E402
from leaderboard.columns import Entry, Ranking  # noqa: E402

MARKERS = "osD^vPXph<>*"
SERIES = 10  # distinct colours in static/board.css: --s0 .. --s9
# matplotlib draws in colours that occur nowhere else; each becomes a variable of the page.
_INK, _MUTED, _GRID = "#010101", "#020202", "#030303"
_VARIABLES = {_INK: "--ink", _MUTED: "--muted", _GRID: "--grid"} | {
    f"#0400{index:02x}": f"--s{index}" for index in range(SERIES)
}
_STYLE: Any = {
    "svg.fonttype": "none", "svg.hashsalt": "leakboard", "font.family": "DejaVu Sans",
    "font.size": 8.5, "axes.edgecolor": _MUTED, "axes.labelcolor": _INK, "text.color": _INK,
    "xtick.color": _MUTED, "ytick.color": _MUTED, "xtick.labelcolor": _INK,
    "ytick.labelcolor": _INK, "grid.color": _GRID, "axes.spines.top": False,
    "axes.spines.right": False, "axes.linewidth": 0.8, "grid.linewidth": 0.7,
}  # fmt: skip


@dataclass(frozen=True)
class Look:
    """How one defense is drawn everywhere: index of its colour and its marker."""

    colour: int
    marker: str

    @property
    def path(self) -> str:
        """The marker as SVG path data in a box from -0.5 to 0.5."""
        style = MarkerStyle(self.marker)
        shape = style.get_path().transformed(style.get_transform())
        out = []
        for vertices, code in shape.iter_segments(curves=True, simplify=False):
            # matplotlib's y axis points up, SVG's down.
            points = " ".join(f"{x:.3f} {-y:.3f}" for x, y in vertices.reshape(-1, 2))
            out.append({1: "M", 2: "L", 3: "Q", 4: "C", 79: "Z"}[int(code)])
            if code != 79:
                out.append(points)
        return " ".join(out)


@dataclass(frozen=True)
class Panel:
    """One axis to trade leakage against: a field of the ranking and how its values read."""

    field: str
    title: str
    better: str  # which way is better, in words
    logarithmic: bool = False


PANELS = (
    Panel("accuracy_global", "Accuracy of the shared model", "down and right is better"),
    Panel("accuracy_personal", "Accuracy of the clients' models", "down and right is better"),
    Panel("uplink_bytes", "Upload per client and round", "down and left is better", True),
)


def looks(defenses: Sequence[str]) -> dict[str, Look]:
    """A colour and a marker for each defense, the same on the whole board."""
    return {
        name: Look(index % SERIES, MARKERS[index % len(MARKERS)])
        for index, name in enumerate(defenses)
    }


def trade_off(
    ranking: Ranking, panel: Panel, look: Mapping[str, Look], order: Mapping[str, Sequence[str]]
) -> str:
    """Leakage against one cost, a curve per defense over its operating points.

    Args:
        order: per defense its operating points in the order in which the curve joins them.

    Returns:
        An ``<svg>`` element, or an empty string where no defense has both numbers.
    """
    entries = [
        entry
        for entry in ranking.entries
        if not (display.missing(entry[panel.field]) or display.missing(entry["recovered"]))
    ]
    if all(entry["defense"] == CONTROL for entry in entries):
        return ""
    tooltips: dict[str, str] = {}
    with matplotlib.rc_context(_STYLE):
        figure = Figure(figsize=(3.7, 2.9), layout="constrained")
        figure.patch.set_alpha(0)
        axes = figure.add_subplot()
        axes.patch.set_alpha(0)
        axes.grid(True)
        axes.set_axisbelow(True)
        _baseline(axes, entries)
        for name, points in order.items():
            curve = sorted((entry for entry in entries if entry["defense"] == name),
                           key=lambda entry: points.index(entry["point"])
                           if entry["point"] in points else len(points))  # fmt: skip
            if curve:
                _curve(axes, curve, panel, look[name], tooltips)
        _axes(axes, panel, entries)
        text = io.StringIO()
        figure.savefig(text, format="svg", metadata={"Date": None, "Creator": None})
    title = f"Recovered against {panel.title.lower()}, checkpoint {ranking.checkpoint}"
    numbers = "; ".join(_tooltip(entry, panel) for entry in entries)
    slug = f"{ranking.slug}-{panel.field}"
    return _inline(text.getvalue(), slug, title, f"{panel.better}. {numbers}.", tooltips)


def _baseline(axes: Any, entries: Sequence[Entry]) -> None:
    found = [entry["baseline_success"] for entry in entries
              if not display.missing(entry["baseline_success"])]  # fmt: skip
    if found:
        height = 100 * max(found)
        axes.axhline(height, color=_MUTED, linewidth=0.9, linestyle=(0, (4, 3)))
        axes.annotate("highest no-attack baseline", (1, height), (-2, 2),
                      xycoords=("axes fraction", "data"), textcoords="offset points", ha="right",
                      va="bottom", color=_MUTED, fontsize=7.5)  # fmt: skip


def _curve(
    axes: Any, curve: Sequence[Entry], panel: Panel, look: Look, tooltips: dict[str, str]
) -> None:
    colour = f"#0400{look.colour:02x}"
    xs = [entry[panel.field] * (1 if panel.logarithmic else 100) for entry in curve]
    ys = [100 * entry["recovered"] for entry in curve]
    axes.plot(xs, ys, color=colour, linewidth=1.2, alpha=0.55, zorder=2)
    for entry, x, y in zip(curve, xs, ys, strict=True):
        if not display.missing(entry["recovered_lo"]):
            axes.plot([x, x], [100 * entry["recovered_lo"], 100 * entry["recovered_hi"]],
                      color=colour, linewidth=1, alpha=0.45, zorder=2)  # fmt: skip
        upper = 100 * entry["recovered_or_inconclusive"]
        if upper > y:
            axes.plot([x, x], [y, upper], color=colour, linewidth=3.2, alpha=0.7, zorder=2,
                      linestyle=(0, (0.5, 0.5)))  # fmt: skip
        (mark,) = axes.plot(
            [x], [y], marker=look.marker, color=colour, markersize=6.5, markeredgewidth=0,
            linestyle="none", zorder=3, clip_on=False,
        )  # fmt: skip
        gid = f"tip{len(tooltips)}"
        mark.set_gid(gid)
        tooltips[gid] = _tooltip(entry, panel)


def _tooltip(entry: Entry, panel: Panel) -> str:
    value = entry[panel.field]
    cost = display.bytes_(value) if panel.logarithmic else display.accuracy(value)
    interval = display.interval(entry["recovered_lo"], entry["recovered_hi"])
    return (
        f"{entry.title}, {entry['point']}: recovered {display.share(entry['recovered'])}"
        f" ({interval}), recovered or inconclusive"
        f" {display.share(entry['recovered_or_inconclusive'])}, {panel.title.lower()} {cost}"
    )


def _axes(axes: Any, panel: Panel, entries: Sequence[Entry]) -> None:
    axes.set_ylim(-4, 104)
    axes.yaxis.set_major_locator(ticker.FixedLocator([0, 25, 50, 75, 100]))
    axes.yaxis.set_major_formatter(lambda value, _: f"{value:.0f}%")
    axes.set_ylabel("Recovered")
    axes.set_xlabel(panel.title)
    axes.tick_params(length=0)
    values = [entry[panel.field] for entry in entries]
    if panel.logarithmic:
        axes.set_xscale("log")
        axes.set_xlim(min(values) / 1.5, max(values) * 1.5)
        span = max(values) / min(values)
        if span > 5:
            subs = (1.0,) if span > 100 else (1.0, 3.0)
            axes.xaxis.set_major_locator(ticker.LogLocator(subs=subs, numticks=6))
        else:  # too few round powers lie in it
            axes.xaxis.set_major_locator(ticker.MaxNLocator(4, steps=[1, 2, 5, 10]))
        axes.xaxis.set_minor_locator(ticker.NullLocator())
        axes.xaxis.set_major_formatter(_round_bytes)
    else:
        low, high = 100 * min(values), 100 * max(values)
        pad = max(1.0, 0.06 * (high - low))
        axes.set_xlim(low - pad, min(high + pad, 101))
        axes.xaxis.set_major_locator(ticker.MaxNLocator(5))
        axes.xaxis.set_major_formatter(lambda value, _: f"{value:g}%")


def _round_bytes(value: float, _: int) -> str:
    return re.sub(r"\.0+ ", " ", display.bytes_(value))


def _inline(svg: str, slug: str, title: str, text: str, tooltips: Mapping[str, str]) -> str:
    """matplotlib's file as an element of a page: own ids, theme colours, name, description."""
    svg = svg[svg.index("<svg") :]
    svg = re.sub(r"<metadata>.*?</metadata>", "", svg, flags=re.DOTALL)
    svg = re.sub(r"<style type=.text/css.>.*?</style>", "", svg, flags=re.DOTALL)
    svg = re.sub(r"<!--.*?-->\s*", "", svg, flags=re.DOTALL)
    for gid, tip in tooltips.items():
        svg = svg.replace(f'<g id="{gid}">', f'<g id="{gid}"><title>{html.escape(tip)}</title>')
    # Several drawings share a page, and matplotlib numbers each one's parts from 1.
    svg = re.sub(r'\bid="([^"]+)"', rf'id="{slug}-\1"', svg)
    svg = re.sub(r'href="#([^"]+)"', rf'href="#{slug}-\1"', svg)
    svg = re.sub(r"url\(#([^)]+)\)", rf"url(#{slug}-\1)", svg)
    for colour, variable in _VARIABLES.items():
        svg = svg.replace(colour, f"var({variable})")
    svg = re.sub(r"font: ([\d.]+)px [^;\"]*", r"font-size: \1px", svg)
    box = re.search(r'viewBox="[^"]+"', svg)
    assert box, "matplotlib writes a viewBox"
    head = (
        f'<svg {box.group()} role="img" aria-labelledby="{slug}-title {slug}-desc"'
        ' xmlns="http://www.w3.org/2000/svg" xmlns:xlink="http://www.w3.org/1999/xlink">'
        f'<title id="{slug}-title">{html.escape(title)}</title>'
        f'<desc id="{slug}-desc">{html.escape(text)}</desc>'
    )
    return head + re.sub(r"^<svg[^>]*>", "", svg, count=1)
