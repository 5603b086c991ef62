"""The ranking as LaTeX, Markdown and CSV: the page's rows and rounding, and most of its columns.

Per scenario: ``<name>.tex`` compiles on its own, ``<name>-table.tex`` holds the same tables for
``\\input`` (it needs booktabs and graphicx), ``<name>.md`` and ``<name>.csv``. The CSV has the
exact numbers, the others the rounded ones.
"""

from __future__ import annotations

import unicodedata
from collections.abc import Sequence
from pathlib import Path

from benchmark.results.columns import Column
from benchmark.results.io import field
from benchmark.results.words import FLAGS
from leaderboard import display
from leaderboard.board import Scenario
from leaderboard.columns import Entry, Ranking, columns, frame, groups, rankings, text

_LATEX = {
    "\\": r"\textbackslash{}", "{": r"\{", "}": r"\}", "$": r"\$", "&": r"\&", "#": r"\#",
    "%": r"\%", "_": r"\_", "~": r"\textasciitilde{}", "^": r"\textasciicircum{}",
    "<": r"\textless{}", ">": r"\textgreater{}", "|": r"\textbar{}", '"': "''",
    "–": "--", "—": "---", "‘": "`", "’": "'", "“": "``", "”": "''", "…": r"\ldots{}",
    "·": r"$\cdot$", "∞": r"$\infty$", "×": r"$\times$", "±": r"$\pm$",
    "≤": r"$\leq$", "≥": r"$\geq$", "≈": r"$\approx$", "→": r"$\to$", "−": r"$-$", "\u00a0": "~",
    "α": r"$\alpha$", "β": r"$\beta$", "γ": r"$\gamma$", "δ": r"$\delta$", "ε": r"$\varepsilon$",
    "λ": r"$\lambda$", "μ": r"$\mu$", "σ": r"$\sigma$", "τ": r"$\tau$",
}  # fmt: skip

_LETTERS = frozenset("ßæÆœŒøØłŁåÅ")
_ACCENTS = frozenset("\u0300\u0301\u0302\u0303\u0308\u030c\u0327")  # grave .. caron, cedilla

# The standard font: others would be drawn as bitmaps where only a small TeX is installed.
_DOCUMENT = r"""\documentclass{article}
\usepackage[a4paper,landscape,margin=15mm]{geometry}
\usepackage{booktabs}
\usepackage{graphicx}
\pagestyle{empty}
\begin{document}
%s\end{document}
"""


def write_tables(scenarios: Sequence[Scenario], folder: Path) -> None:
    """Write the four files of every scenario into ``folder``, which must exist."""
    for scenario in scenarios:
        fragment = latex(scenario)
        texts = {
            f"{scenario.name}.tex": _lost(scenario) + _DOCUMENT % fragment,
            f"{scenario.name}-table.tex": _lost(scenario) + fragment,
            f"{scenario.name}.md": markdown(scenario),
            f"{scenario.name}.csv": _csv(scenario),
        }
        for name, content in texts.items():
            (folder / name).write_text(content, encoding="utf-8", newline="")


def _csv(scenario: Scenario) -> str:
    table = frame(scenario)
    for name in table.select_dtypes(["object", "string"]):
        table[name] = [field(value) if isinstance(value, str) else value for value in table[name]]
    return table.to_csv(index=False, lineterminator="\n")


def escape(words: str) -> str:
    """``words`` for pdflatex: special characters escaped, foreign ones spelt in ASCII."""
    out = []
    for character in unicodedata.normalize("NFC", words):
        if character in _LATEX:
            out.append(_LATEX[character])
        elif character.isspace():
            out.append(" ")
        elif " " <= character <= "~" or character in _LETTERS or _accented(character):
            out.append(character)
        else:
            plain = unicodedata.normalize("NFKD", character).encode("ascii", "ignore").decode()
            out.append("".join(_LATEX.get(letter, letter) for letter in plain) or "?")
    return "".join(out)


def _lost(scenario: Scenario) -> str:
    """A comment that names the letters that stand as question marks; empty where there are none."""
    letters = {
        letter
        for ranking in rankings(scenario)
        for said in (
            _caption(scenario, ranking),
            *(text(column, entry) for entry in ranking.entries for column in printed(ranking)),
        )
        for letter in said
    }
    lost = sorted(letter for letter in letters - {"?"} if escape(letter) == "?")
    if not lost:
        return ""
    return f"% LaTeX's standard font lacks these letters, which stand as ?: {''.join(lost)}\n"


def _accented(character: str) -> bool:
    """Whether LaTeX's standard font can set it as an ASCII letter and one accent."""
    parts = unicodedata.normalize("NFD", character)
    return len(parts) == 2 and parts[0].isascii() and parts[1] in _ACCENTS


def latex(scenario: Scenario) -> str:
    """One booktabs table per checkpoint and attacked batch size."""
    parts = []
    for ranking in rankings(scenario):
        shown = printed(ranking)
        body = [_latex_row(shown, entry) for entry in ranking.entries]
        cut = ranking.ranked
        if 0 < cut < len(body):
            body.insert(cut, r"\midrule")
        parts.append(
            "\\begin{table}\n\\centering\n\\setlength{\\belowcaptionskip}{6pt}\n"
            f"\\caption{{{escape(_caption(scenario, ranking))}}}\n"
            f"\\label{{tab:{ranking.slug}}}\n"
            "\\resizebox{\\linewidth}{!}{%\n"
            f"\\begin{{tabular}}{{{''.join('r' if column.numeric else 'l' for column in shown)}}}\n"
            "\\toprule\n" + _latex_groups(shown)
            + " & ".join(escape(_head(column)) for column in shown) + " \\\\\n\\midrule\n"
            + "\n".join(body) + "\n\\bottomrule\n\\end{tabular}}\n\\end{table}\n"
        )  # fmt: skip
    return "\n".join(parts)


def markdown(scenario: Scenario) -> str:
    """The same tables as GitHub-flavoured Markdown, with the flags explained below."""
    lines = [f"# {_pipe(scenario.title)}", ""]
    for ranking in rankings(scenario):
        shown = printed(ranking)
        lines += [f"## {_pipe(_where(ranking))}", "", _pipe(_caption(scenario, ranking)), ""]
        lines.append("| " + " | ".join(_pipe(_head(column)) for column in shown) + " |")
        lines.append("|" + "|".join("--:" if column.numeric else ":--" for column in shown) + "|")
        for entry in ranking.entries:
            lines.append("| " + " | ".join(_pipe(text(column, entry)) for column in shown) + " |")
        lines.append("")
    flags = {flag for ranking in rankings(scenario) for entry in ranking.entries
             for flag in entry.flags}  # fmt: skip
    lines += [f"- **{display.words(flag)}**: {FLAGS[flag]}." for flag in FLAGS if flag in flags]
    return "\n".join(lines).rstrip() + "\n"


def printed(ranking: Ranking) -> list[Column]:
    """The columns that a printed table has room for; the CSV has them all."""
    return [column for column in columns(ranking) if column.paper]


def _latex_row(shown: Sequence[Column], entry: Entry) -> str:
    return " & ".join(escape(text(column, entry)) for column in shown) + r" \\"


def _latex_groups(shown: Sequence[Column]) -> str:
    """The line that names groups of columns, with a rule under each."""
    cells, rules, at = [], "", 1
    for group, width in groups(shown):
        cells.append(f"\\multicolumn{{{width}}}{{c}}{{{escape(group)}}}")
        rules += f"\\cmidrule(lr){{{at}-{at + width - 1}}}" if group else ""
        at += width
    return " & ".join(cells) + f" \\\\\n{rules}\n"


def _head(column: Column) -> str:
    unit = f" ({column.unit})" if column.unit == "dB" else ""
    return f"{column.head}{unit}"


def _where(ranking: Ranking) -> str:
    at = "" if ranking.round is None else f" (round {ranking.round})"
    return f"{ranking.checkpoint}{at}, attacked batch size {ranking.batch_size}"


def _caption(scenario: Scenario, ranking: Ranking) -> str:
    """What the table shows and where it comes from, so that it can be quoted alone."""
    kind = "demo scenario, ranks are indicative" if scenario.demo else "ranked scenario"
    commit = str(scenario.provenance.get("commit") or "unknown")[:12]
    dirty = ", uncommitted changes" if scenario.provenance.get("dirty") else ""
    server = " The server is malicious: it sent crafted weights." if scenario.malicious else ""
    extra = ""
    if any(not display.missing(entry["extra_data"]) for entry in ranking.entries):
        extra = " Attacks that use extra data count in no other column."
    common = ", ".join(display.words(flag) for flag in ranking.common_flags)
    if not ranking.headline:
        ranks = " Intervals only, no ranks."
    elif ranking.unranked:
        ranks = f" Nobody is ranked: {ranking.unranked}."
    else:
        ranks = (
            " Ranks are those possible within 2 and within 5 points of accuracy lost, 1 leaks"
            " least; they hold for these trained models, another training may move them."
        )
    return (
        f"{scenario.title} ({kind}), checkpoint {_where(ranking)}.{server}{ranks} Recovered: the"
        f" share of private {scenario.private} that any attack recovered, with its"
        f" {scenario.interval}; inconclusive: not recovered, and the audit does not credit the"
        " defense; exhausted: credited to it; baseline: recovered without the message; own pick:"
        " the one guess per example that an attacker would choose."
        f"{extra} Accuracy is lost against the control of the same kind; the two kinds are not"
        f" comparable.{f' All rows: {common}.' if common else ''}"
        f" LeakBoard, commit {commit}{dirty}."
    )


def _pipe(words: str) -> str:
    """Text inside a Markdown table: what would end the cell or open markup is escaped."""
    for character in "\\|`*_<>[]":
        words = words.replace(character, "\\" + character)
    return " ".join(words.split())
