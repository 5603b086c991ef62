"""From published results to a page and tables: complete, equal in every form, all or nothing."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote, urlsplit

import pandas as pd
import pytest

from benchmark.results import columns as table
from benchmark.results.columns import FILES
from benchmark.results.io import RecordError, read_table, write_table
from benchmark.results.words import DOUBTS, FLAGS, VERDICTS
from leaderboard import display
from leaderboard.board import load
from leaderboard.build import build, main
from leaderboard.columns import columns, frame, rankings, text

Capture = pytest.CaptureFixture[str]
ROOT = Path(__file__).parents[2]
VOID = {"area", "base", "br", "col", "hr", "img", "input", "link", "meta", "source", "wbr"}


class Page(HTMLParser):
    """A strict reader: what is opened is closed in order, ids are unique, links are collected."""

    def __init__(self, text: str) -> None:
        super().__init__(convert_charrefs=True)
        self.open: list[str] = []
        self.ids: Counter[str] = Counter()
        self.links: list[tuple[str, str, str]] = []
        self.rows: dict[str, list[tuple[dict[str, str | None], str]]] = {}
        self.text: list[str] = []
        self._row = ""
        self._cell: tuple[dict[str, str | None], list[str]] | None = None
        self.feed(text)
        self.close()
        assert not self.open, f"never closed: {self.open}"

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        names = [name for name, _ in attrs]
        assert len(names) == len(set(names)), f"<{tag}> repeats an attribute"
        if tag not in VOID:
            self.open.append(tag)
        values = dict(attrs)
        if values.get("id"):
            self.ids[str(values["id"])] += 1
        for name in ("href", "src", "xlink:href", "action", "poster", "data", "srcset"):
            if values.get(name) is not None:
                self.links.append((tag, name, str(values[name])))
        if tag == "tr":
            self._row = str(values.get("id") or "")
        if tag in ("td", "th") and self._row:
            self._cell = (values, [])

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.handle_starttag(tag, attrs)
        if tag not in VOID:
            self.open.pop()

    def handle_endtag(self, tag: str) -> None:
        if tag in VOID:
            return
        assert self.open and self.open[-1] == tag, f"</{tag}> closes {self.open[-3:]}"
        self.open.pop()
        if tag in ("td", "th") and self._cell:
            attributes, text = self._cell
            self.rows.setdefault(self._row, []).append(
                (attributes, " ".join("".join(text).split()))
            )
            self._cell = None
        if tag == "tr":
            self._row = ""

    def handle_data(self, data: str) -> None:
        self.text.append(data)
        if self._cell:
            self._cell[1].append(data)


@pytest.fixture(scope="module")
def page(board: dict[str, Path]) -> Page:
    return Page((board["site"] / "index.html").read_text(encoding="utf-8"))


def test_building_never_imports_torch(board: dict[str, Path], tmp_path: Path) -> None:
    code = (
        "import sys\n"
        "sys.modules['torch'] = None\n"  # importing it now raises
        "from leaderboard.build import main\n"
        f"assert main(['--results', {str(board['results'])!r}, '--site', {str(tmp_path / 's')!r},"
        f" '--tables', {str(tmp_path / 't')!r}]) == 0\n"
        "heavy = {'torchvision', 'mlflow', 'sklearn', 'ray', 'opacus'} & set(sys.modules)\n"
        "assert not heavy, heavy\n"
    )
    subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=True, timeout=120)


def test_every_entry_stands_on_the_page_with_its_exact_numbers(
    board: dict[str, Path], page: Page
) -> None:
    for folder in board["results"].iterdir():
        table = read_table(folder / "ranking.csv")
        for row in table.to_dict("records"):
            here = table[table["checkpoint"] == row["checkpoint"]]
            key = f"{folder.name}-{row['checkpoint']}-b{row['batch_size']}"
            cells = page.rows[f"{key}-{row['defense']}-{row['point']}"]
            shown = {
                (attributes["class"] or "").split("c-")[-1]: attributes.get("data-v")
                for attributes, _ in cells
            }
            for name in (
                "recovered", "recovered_or_inconclusive", "oblivious", "own_pick",
                "extra_data", "psnr_median", "exact_tokens", "epsilon", "accuracy_global",
                "accuracy_personal", "accuracy_lost", "uplink_bytes", "downlink_bytes",
                "bytes_to_target", "client_seconds",
            ):  # fmt: skip
                compared = (
                    here["defense"] != "none" if name == "accuracy_personal" else here.index >= 0
                )
                if here.loc[compared, name].isna().all():  # it has no column there
                    assert name not in shown
                    continue
                value = shown[name]
                if pd.isna(row[name]):
                    assert value is None
                else:
                    assert value is not None and float(value) == row[name], (key, name)


def of_ranking(page: Page, slug: str) -> dict[str, list[tuple[dict[str, str | None], str]]]:
    """The rows of a ranking by defense and point, from top to bottom."""
    return {key.removeprefix(f"{slug}-"): cells for key, cells in page.rows.items()
            if key.startswith(f"{slug}-") and not key.endswith("-more")}  # fmt: skip


def test_ranks_stand_at_the_headline_alone_and_it_comes_first(
    board: dict[str, Path], page: Page
) -> None:
    rows = of_ranking(page, "toy-early-b1")
    ranks = [cells[0][1] for cells in rows.values()]
    assert any("–" in rank and rank != "–" for rank in ranks), "a tie is a range"
    highest = [float(cells[0][0]["data-v"] or 0) for cells in rows.values()
               if "data-v" in cells[0][0]]  # fmt: skip
    assert highest == sorted(highest) and len(highest) >= 2
    assert [rank for rank in ranks if rank.startswith("–")] == ranks[len(highest) :]
    assert list(rows)[-1] == "ppp-noised", "what has no figure comes last"
    for cells in of_ranking(page, "toy-init-b1").values():
        assert not any("c-rank" in (attributes["class"] or "") for attributes, _ in cells)
    toy = next(each for each in load(board["results"]) if each.name == "toy")
    assert toy.headline == ("early", 1)
    assert [(r.checkpoint, r.headline) for r in rankings(toy)] == [("early", True), ("init", False)]
    text = " ".join(" ".join(page.text).split())
    assert "Intervals only, no ranks: at init" in text
    assert (
        text.count("another training may move them") == 4 + 2
    )  # scenarios, the rule and the metric
    markdown = (board["tables"] / "toy.md").read_text()
    assert markdown.index("## early") < markdown.index("## init")
    assert markdown.count("Intervals only, no ranks") == 1
    assert markdown.count("| Rank, 2 points | Rank, 5 points |") == 1


def test_a_row_without_a_figure_says_why_in_the_cell(page: Page) -> None:
    for slug in ("toy-early-b1", "toy-init-b1"):
        cells = of_ranking(page, slug)["ppp-noised"]
        cell = next(each for each in cells if each[0]["class"] == "c-recovered")
        assert "data-v" not in cell[0]
        assert cell[1] == "–no attack ran on evidence that knows the defense"
        assert "no adaptive" in " ".join(text for _, text in cells)


def test_a_row_says_what_is_exhausted_and_what_is_inconclusive(
    board: dict[str, Path], page: Page
) -> None:
    for row in read_table(board["results"] / "toy" / "ranking.csv").to_dict("records"):
        cells = page.rows[f"toy-{row['checkpoint']}-b1-{row['defense']}-{row['point']}"]
        verdict = next(text for attributes, text in cells if attributes["class"] == "c-verdict")
        shares = (
            f"exhausted {display.share(row['share_exhausted'])},"
            f" inconclusive {display.share(row['share_inconclusive'])}"
        )
        assert (shares in verdict) is (row["recovered"] < 1), row


def test_green_marks_the_baseline_where_it_is_proven_and_nothing_else(
    board: dict[str, Path], page: Page
) -> None:
    for name in ("toy", "toy-ranked"):
        scenario = next(each for each in load(board["results"]) if each.name == name)
        for ranking in rankings(scenario):
            rows = of_ranking(page, ranking.slug)
            for entry in ranking.entries:
                text = " ".join(t for _, t in rows[f"{entry['defense']}-{entry['point']}"])
                assert ("proven" in text) is entry.proven
                at_baseline = not entry["recovered"] > entry["baseline_success"]
                if entry.proven:
                    assert at_baseline and entry["share_inconclusive"] == 0
    proven = {(e["defense"], e["point"], r.checkpoint) for s in load(board["results"])
              for r in rankings(s) for e in r.entries if e.proven}  # fmt: skip
    # At init the same row has inconclusive images, and fedrep recovers no more than the baseline.
    assert proven == {("hyperfl", "h32", "early")}
    css = (board["site"] / "static" / "board.css").read_text()
    users = [line for line in css.splitlines() if "var(--safe" in line]
    assert len(users) == 1 and users[0].startswith(".v-proven")


@pytest.mark.parametrize("flag", sorted(DOUBTS))
def test_a_doubt_takes_the_green_away(board: dict[str, Path], flag: str) -> None:
    toy = next(each for each in load(board["results"]) if each.name == "toy")
    (entry,) = (each for each in rankings(toy)[0].entries if each.proven)
    assert not replace(entry, values={**entry.values, "flags": f"probe;{flag}"}).proven


def test_where_nobody_is_ranked_the_page_says_why(board: dict[str, Path], tmp_path: Path) -> None:
    results = tmp_path / "results"
    shutil.copytree(board["results"] / "toy-ranked", results / "toy-ranked")
    table = read_table(results / "toy-ranked" / "ranking.csv").astype(object)
    rows = table.where(table.notna(), None).to_dict("records")
    for row in rows:
        row |= dict.fromkeys(("rank2_lo", "rank2_hi", "rank5_lo", "rank5_hi"))
        row["reason"] = row["reason"] or "without a defense too little is recovered"
        row["flags"] += ";weak-control"
    write_table(results / "toy-ranked" / "ranking.csv", rows)
    build(results, tmp_path / "site", tmp_path / "tables")
    text = " ".join(" ".join(Page((tmp_path / "site" / "index.html").read_text()).text).split())
    assert "Nobody is ranked here: without a defense too little is recovered." in text
    assert text.count("another training may move them") == 2, "only where ranks are explained"
    assert (
        "Nobody is ranked: without a defense" in (tmp_path / "tables" / "toy-ranked.md").read_text()
    )


def test_published_settings_are_on_no_defense_and_named_so(
    board: dict[str, Path], page: Page
) -> None:
    cells = read_table(board["results"] / "toy" / "cells.csv")
    published = cells["settings"] == "published"
    assert set(cells.loc[published, "defense"]) == {"none"}
    html = (board["site"] / "index.html").read_text()
    every = pd.concat([read_table(folder / "cells.csv") for folder in board["results"].iterdir()])
    assert html.count("<td>published settings, on no defense</td>") == int(
        (every["settings"] == "published").sum()
    )
    assert "Attacks on no defense, at their published settings: ig recovers 100%" in " ".join(
        " ".join(page.text).split()
    )


def test_published_and_our_settings_are_printed_side_by_side(board: dict[str, Path]) -> None:
    html = (board["site"] / "index.html").read_text()
    ig, dlg = (
        re.search(rf'id="attack-{name}".*?</article>', html, re.DOTALL).group()
        for name in ("ig", "dlg")
    )
    assert "Published" not in dlg and '<th scope="row">iterations</th><td>80</td></tr>' in dlg
    assert re.findall(r"<tr( class=\"differs\")?><th scope=\"row\">(.*?)</th>"
                      r"<td>(.*?)</td><td>(.*?)</td></tr>", ig) == [
        (' class="differs"', "iterations", "4800", "200"),
        ("", "optimiser", "SignedAdam", "SignedAdam"),
        (' class="differs"', "optimiser lr", "0.1", "0.2"),
    ]  # fmt: skip


def test_every_flag_and_verdict_is_explained(page: Page) -> None:
    text = " ".join(" ".join(page.text).split())
    for name in set(FLAGS) | set(VERDICTS) - {"ok"}:
        assert display.words(name) in text
    assert "unproven" not in text and "floor" not in text.lower()


def test_learned_attacks_stand_apart_from_every_other_figure(board: dict[str, Path]) -> None:
    toy, ranked = (
        next(each for each in load(board["results"]) if each.name == name)
        for name in ("toy", "toy-ranked")
    )
    for ranking in rankings(toy):
        groups = {column.name: column.group for column in columns(ranking)}
        learned = groups.pop("extra_data")
        assert learned not in groups.values()
    for ranking in rankings(ranked):  # nobody learned
        assert "extra_data" not in {column.name for column in columns(ranking)}


def test_only_a_malicious_server_is_marked_and_it_comes_last(
    board: dict[str, Path], page: Page
) -> None:
    names = [scenario.name for scenario in load(board["results"])]
    assert names == ["toy-ranked", "toy", "toy-words", "toy-crafted"]
    text = " ".join(" ".join(page.text).split())
    assert text.count("Malicious server.") == 1
    assert text.index("Malicious server.") > text.index("Synthetic toy-crafted")
    for name in names:
        for suffix in (".md", ".tex"):
            said = "server is malicious" in (board["tables"] / f"{name}{suffix}").read_text()
            assert said == (name == "toy-crafted")


def test_sentences_are_quoted_with_their_share_of_right_words(board: dict[str, Path]) -> None:
    html = (board["site"] / "index.html").read_text()
    section = html[html.index('<section id="toy-words"') : html.index('<section id="toy-crafted"')]
    assert " dB" not in section and "PSNR" not in section
    assert "<q>return the &lt;sum&gt; of a list</q>" in section
    assert section.count("<summary>1 more</summary>") == 5  # three of four at every entry
    assert re.search(r'<q>return the sum of list a</q>\s*<b title="0.95, counts as recovered">95%',
                     section)  # fmt: skip
    assert re.search(r'<q>stop an error &amp; raise</q>\s*<span title="0.4">40%</span>', section)


def test_a_row_opens_to_its_figures_and_to_every_budget(board: dict[str, Path], page: Page) -> None:
    table = read_table(board["results"] / "toy" / "saturation.csv")
    ranking = read_table(board["results"] / "toy" / "ranking.csv")
    for row in ranking.to_dict("records"):
        key = f"toy-{row['checkpoint']}-b1-{row['defense']}-{row['point']}"
        ((_, text),) = page.rows[f"{key}-more"]
        assert f"Own pick{display.share(row['own_pick'])}" in text
        if pd.isna(row["recovered"]):
            assert "No figure: no attack ran on evidence that knows the defense." in text
        else:
            for label, name in (
                ("Recovered", "recovered"), ("Inconclusive", "share_inconclusive"),
                ("Exhausted", "share_exhausted"), ("No attack", "baseline_success"),
            ):  # fmt: skip
                assert f"{label}{display.share(row[name])}" in text
        assert ("learned from auxiliary data" in text) is not pd.isna(row["extra_data"])
        own = table[(table[["defense", "point", "checkpoint"]]
                     == [row["defense"], row["point"], row["checkpoint"]]).all(axis=1)]  # fmt: skip
        assert len(own) in (0, 3)
        for step in own.to_dict("records"):
            assert (
                f"{step['budget']}× {display.share(step['success_rate'])},"
                f" {display.decibel(step['psnr_median'])} dB"
            ) in text


def test_a_row_whose_attacks_all_failed_says_so(board: dict[str, Path], tmp_path: Path) -> None:
    results = tmp_path / "results"
    shutil.copytree(board["results"] / "toy-words", results / "toy-words")
    rows = read_table(results / "toy-words" / "ranking.csv").to_dict("records")
    kept = {"scenario", "defense", "point", "checkpoint", "batch_size", "flags", "status"}
    rows[1] |= {name: None for name in rows[1] if name not in kept}
    rows[1] |= {"flags": "missing-cells", "status": "failed", "reason": "cells are missing"}
    write_table(results / "toy-words" / "ranking.csv", rows)
    build(results, tmp_path / "site", tmp_path / "tables")
    found = Page((tmp_path / "site" / "index.html").read_text(encoding="utf-8"))
    key = f"toy-words-init-b1-{rows[1]['defense']}-{rows[1]['point']}"
    assert "No figure: cells are missing." in found.rows[f"{key}-more"][0][1]
    assert "–cells are missing" in " ".join(text for _, text in found.rows[key])


def test_what_a_title_says_in_brackets_stands_below_the_name(
    board: dict[str, Path], page: Page
) -> None:
    cell = next(text for attributes, text in page.rows["toy-init-b1-ppp-clean"]
                if attributes["class"] == "c-defense")  # fmt: skip
    assert cell.split() == ["PPP", "PRECODE,", "partially", "perturbed", "clean"]
    markdown = (board["tables"] / "toy.md").read_text()
    assert "PPP (PRECODE, partially perturbed)" in markdown


def test_any_number_of_scenarios_makes_one_page(
    tmp_path: Path, make_results: Callable[..., Path]
) -> None:
    defenses = {"none": {"title": "No defense", "points": {"a": {}}}}
    for index in range(5):
        make_results(tmp_path / "results", f"s{index}", checkpoints={"init": 0}, defenses=defenses)
    build(tmp_path / "results", tmp_path / "site", tmp_path / "tables")
    found = Page((tmp_path / "site" / "index.html").read_text(encoding="utf-8"))
    assert [name for name, count in found.ids.items() if count > 1] == []
    for index in range(5):
        assert f"s{index}" in found.ids
        assert any(key.startswith(f"s{index}-init-b1-none-a") for key in found.rows)


def test_global_and_personalised_accuracy_never_share_a_column(board: dict[str, Path]) -> None:
    for scenario in load(board["results"]):
        for ranking in rankings(scenario):
            shown = {column.name: column for column in columns(ranking)}
            if "accuracy_personal" not in shown:
                assert not any(
                    each["personalised"] for each in scenario.catalog["defenses"].values()
                )
                continue
            control = next(entry for entry in ranking.entries if entry["defense"] == "none")
            for entry in ranking.entries:
                private = scenario.defense(entry["defense"])["personalised"]
                assert (text(shown["accuracy_global"], entry) == "–") is private
                if entry is control:  # the shared model, tested in both ways
                    assert text(shown["accuracy_personal"], entry) != "–"
                    continue
                assert (text(shown["accuracy_personal"], entry) != "–") is private
                kind = "accuracy_personal" if private else "accuracy_global"
                lost = control[kind] - entry[kind]
                assert text(shown["accuracy_lost"], entry) == f"{100 * lost:.1f}"


def test_columns_that_are_empty_everywhere_are_left_out(
    tmp_path: Path, make_results: Callable[..., Path]
) -> None:
    make_results(tmp_path, defenses={"none": {"title": "None", "points": {"a": {}}}})
    (scenario,) = load(tmp_path)
    for ranking in rankings(scenario):
        keys = {column.name for column in columns(ranking)}
        assert "exact_tokens" not in keys and "psnr_median" in keys
        assert "accuracy_personal" not in keys and "accuracy_global" in keys


def test_the_demo_scenario_says_that_its_ranks_are_indicative(page: Page) -> None:
    text = " ".join(" ".join(page.text).split())
    assert text.count("ranks are indicative") == 3  # all but toy-ranked are demos


def test_html_is_well_formed_and_ids_are_unique(page: Page) -> None:
    assert [name for name, count in page.ids.items() if count > 1] == []


def test_every_local_link_resolves_and_nothing_is_loaded_from_elsewhere(
    board: dict[str, Path], page: Page
) -> None:
    assert page.links
    for tag, attribute, link in page.links:
        parts = urlsplit(link)
        if parts.scheme or parts.netloc:
            assert (tag, attribute) == ("a", "href") and parts.scheme in ("http", "https"), link
            continue
        if parts.path:
            assert (board["site"] / unquote(parts.path)).is_file(), link
        elif tag != "use":
            assert parts.fragment in page.ids, link
        else:
            assert parts.fragment in page.ids, link
    for style in board["site"].rglob("*.css"):
        assert not re.search(r"url\(|@import", style.read_text())
    html = (board["site"] / "index.html").read_text()
    assert set(re.findall(r"url\(([^)]*)\)", html)) <= {f"#{name}" for name in page.ids}


def test_drawings_have_a_name_a_description_and_the_themes_colours(board: dict[str, Path]) -> None:
    html = (board["site"] / "index.html").read_text()
    drawings = re.findall(r"<figure><svg.*?</svg>", html, re.DOTALL)
    # Three panels at each of three rankings; nobody is personalised in the other two.
    assert len(drawings) == 3 * 3 + 2 * 2
    for drawing in drawings:
        assert drawing.count("<desc") == 1 and 'role="img"' in drawing
        assert re.search(r"var\(--s[14]\)", drawing)
        assert not re.search(r"#0[0-4]0[0-9a-f]{3}", drawing), "a stand-in colour was left"
        assert "<text" in drawing


def test_missing_failed_and_not_run_read_differently(
    board: dict[str, Path], tmp_path: Path
) -> None:
    results = tmp_path / "results"
    shutil.copytree(board["results"] / "toy", results / "toy")
    cells = results / "toy" / "cells.csv"
    lines = cells.read_text().splitlines(keepends=True)
    gone = next(
        index for index, line in enumerate(lines) if line.startswith("toy,hyperfl,h8,early")
    )
    cells.write_text("".join(lines[:gone] + lines[gone + 1 :]))
    build(results, tmp_path / "site", tmp_path / "tables")
    html = (tmp_path / "site" / "index.html").read_text()
    for words in (
        "1 absent",
        "2 timeout",
        "6 unsupported",
        "stopped after 60 s &amp; 12 evaluations",
    ):
        assert words in html, words


def test_all_cells_and_downloads_are_there(board: dict[str, Path], page: Page) -> None:
    for folder in board["results"].iterdir():
        for name in (*FILES, "catalog.json", "provenance.json"):
            copied = board["site"] / "data" / folder.name / name
            assert copied.read_bytes() == (folder / name).read_bytes()
    html = (board["site"] / "index.html").read_text()
    cells = sum(len(read_table(folder / "cells.csv")) for folder in board["results"].iterdir())
    assert len(re.findall(r'class="reason"', html)) == cells


def test_tables_hold_the_numbers_of_the_page_in_every_form(board: dict[str, Path]) -> None:
    from leaderboard.tables import _pipe, escape, printed

    for scenario in load(board["results"]):
        words = [[text(column, entry) for column in printed(ranking)]
                 for ranking in rankings(scenario) for entry in ranking.entries]  # fmt: skip
        markdown = (board["tables"] / f"{scenario.name}.md").read_text()
        latex = (board["tables"] / f"{scenario.name}-table.tex").read_text()
        whole = (board["tables"] / f"{scenario.name}.tex").read_text()
        for row in words:
            assert "| " + " | ".join(map(_pipe, row)) + " |" in markdown
            assert " & ".join(map(escape, row)) + r" \\" in latex
        assert latex in whole
        table = pd.read_csv(board["tables"] / f"{scenario.name}.csv")
        ranking = read_table(scenario.folder / "ranking.csv")
        keys = ["defense", "point", "checkpoint", "batch_size"]
        both = table.merge(ranking, on=keys, suffixes=("", "_published"))
        assert len(both) == len(table) == len(ranking)
        for name in set(table.columns) & set(ranking.columns) - set(keys):
            left, right = both[name], both[f"{name}_published"]
            assert ((left == right) | (left.isna() & (right.isna() | (right == "")))).all(), name
        assert len(frame(scenario)) == len(words)


NASTY = '50% of $x_1$ & {y}^2 #3 ~ back\\slash <b>"q"</b> | * Čapek, Łódź, naïve, 数据 ε≤∞ –'


@pytest.fixture(scope="module")
def nasty(tmp_path_factory: pytest.TempPathFactory, make_results: Callable[..., Path]) -> Path:
    """A board whose titles hold what LaTeX, Markdown and HTML give a meaning to."""
    root = tmp_path_factory.mktemp("nasty")
    make_results(root / "results", title=NASTY, defenses={
        "none": {"title": NASTY, "points": {"p_1": {"k_1": "a&b"}}},
        "x": {"title": "<script>alert(1)</script>", "note": NASTY, "points": {"a.b-c": {}}},
    })  # fmt: skip
    build(root / "results", root / "site", root / "tables")
    return root


def test_text_from_the_results_cannot_become_markup(nasty: Path) -> None:
    html = (nasty / "site" / "index.html").read_text()
    Page(html)
    assert "<script>alert" not in html and '<b>"q' not in html
    for part in (nasty / "tables" / "toy.md").read_text().split("\n## ")[1:]:
        rows = [line for line in part.splitlines() if line.startswith("|")]
        assert len({len(re.findall(r"(?<!\\)\|", row)) for row in rows}) == 1


@pytest.mark.skipif(shutil.which("pdflatex") is None, reason="pdflatex is not installed")
@pytest.mark.parametrize("which", ["board", "nasty"])
def test_latex_compiles_on_its_own(
    which: str, board: dict[str, Path], nasty: Path, tmp_path: Path
) -> None:
    folder = board["tables"] if which == "board" else nasty / "tables"
    for source in folder.glob("*.tex"):
        if source.stem.endswith("-table"):
            continue
        alone = tmp_path / source.name
        shutil.copyfile(source, alone)
        run = subprocess.run(
            ["pdflatex", "-interaction=nonstopmode", "-halt-on-error", alone.name],
            cwd=tmp_path, capture_output=True, timeout=120,
        )  # fmt: skip
        log = run.stdout.decode("latin-1")
        assert run.returncode == 0, log[-2000:]
        assert "Overfull" not in log and "Missing character" not in log


def _truncate(path: Path) -> None:
    path.write_text(path.read_text()[:200])


def _replace(old: str, new: str) -> Callable[[Path], None]:
    def change(path: Path) -> None:
        text = path.read_text()
        assert old in text
        path.write_text(text.replace(old, new))

    return change


def _set(
    column: str, value: float | None, checkpoint: str = "early", **more: float
) -> Callable[[Path], None]:
    """Change fields of the control's row."""

    def change(path: Path) -> None:
        table = read_table(path).astype(object)
        rows = table.where(table.notna(), None).to_dict("records")
        (row,) = (r for r in rows if (r["defense"], r["checkpoint"]) == ("none", checkpoint))
        row |= {column: value, **more}
        write_table(path, rows)

    return change


@pytest.mark.parametrize(
    ("name", "harm", "says"),
    [
        ("ranking.csv", Path.unlink, "no such file"),
        ("cells.csv", lambda path: path.write_text(""), "cells.csv"),
        ("cells.csv", lambda path: path.write_bytes(b"\xff\xfe\x00"), "cells.csv"),
        ("cells.csv", _replace("evidence-exhausted", "safe"), "verdict: 'safe' must be one of"),
        ("ranking.csv", _replace("recovered_lo", "recovered_low"), "do not fit the schema"),
        ("ranking.csv", _replace("toy,none,default,init,1", "toy,none,default,init,x"), "number"),
        ("ranking.csv", _replace("toy,none", "toy,ghost"), "row 1, defense: 'ghost' is not in"),
        ("ranking.csv", _replace("toy,dp,weak", "toy,dp,very weak"), "no name of a point"),
        ("ranking.csv", _replace("toy,none", "other,none"), "another scenario"),
        ("training.csv", _replace(",0.9,", ",9.0,"), "between 0 and 1"),
        ("ranking.csv", _replace(",lti,", ",ghost,"), "'ghost' is not in catalog.json"),
        ("saturation.csv", Path.unlink, "no such file"),
        ("catalog.json", _truncate, "not JSON"),
        ("catalog.json", _replace('"schema": 3', '"schema": 1'), "this board reads schema 3"),
        ("catalog.json", _replace('"batch_size": 1', '"batch": 1'), "scenario.headline"),
        ("cells.csv", _replace(",published,", ",ours,"), "settings: 'ours' must be one of"),
        ("ranking.csv", _set("share_exhausted", 0.5), "do not add up to 1"),
        ("ranking.csv", _set("share_inconclusive", 0.5, share_exhausted=-0.0), "do not add up"),
        ("ranking.csv", _set("oblivious", 0.9), "oblivious and recovered differ"),
        ("ranking.csv", _set("recovered_hi", 0.9), "recovered: 1.0 lies outside its interval"),
        ("ranking.csv", _set("own_pick_hi", 0.1), "own_pick_lo"),
        ("ranking.csv", _set("rank2_lo", 9), "rank2_lo: 9.0 and rank2_hi are no interval"),
        ("ranking.csv", _set("rank2_hi", None), "no interval"),
        ("ranking.csv", _set("rank5_lo", 1, "init", rank5_hi=2), "outside of the headline"),
        ("ranking.csv", _set("recovered", None), "lies outside its interval"),
        ("gallery/index.json", _replace('"strongest"', '"adaptive"'), "0.rows.2.label: must be"),
        ("catalog.json", _replace('"attacks"', '"attackers"'), "attacks: Field required"),
        ("catalog.json", _replace("https://arxiv", "javascript://arxiv"), "defenses.dgp.url"),
        ("provenance.json", Path.unlink, "no such file"),
        ("gallery/index.json", _replace('"gap": 1', '"gap": 3'), "do not hold its tiles"),
        ("gallery/index.json", _replace('"tile"', '"tail"'), "do not hold"),
        ("gallery/none--default--init.png", Path.unlink, "no such file"),
        ("gallery/none--default--init.png", lambda path: path.write_bytes(b"GIF"), "not a PNG"),
    ],
)  # fmt: skip
def test_broken_results_are_one_line_and_leave_the_last_board(
    board: dict[str, Path],
    tmp_path: Path,
    capsys: Capture,
    name: str,
    harm: Callable[[Path], object],
    says: str,
) -> None:
    results, site, tables = (tmp_path / part for part in ("results", "site", "tables"))
    shutil.copytree(board["results"] / "toy", results / "toy")
    site.mkdir()
    (site / "index.html").write_text("the last good page")
    harm(results / "toy" / name)
    status = main(["--results", str(results), "--site", str(site), "--tables", str(tables)])
    error = capsys.readouterr().err
    assert status != 0
    assert error.count("\n") == 1 and says in error and name.split("/")[0] in error, error
    assert (site / "index.html").read_text() == "the last good page"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["results", "site"]


@pytest.mark.parametrize("empty", [True, False], ids=["empty", "absent"])
def test_no_results_are_one_line(tmp_path: Path, capsys: Capture, empty: bool) -> None:
    results = tmp_path / "results"
    if empty:
        results.mkdir()
    status = main(["--results", str(results), "--site", str(tmp_path / "site"),
                   "--tables", str(tmp_path / "tables")])  # fmt: skip
    assert status != 0 and capsys.readouterr().err.count("\n") == 1
    assert not (tmp_path / "site").exists() and not (tmp_path / "tables").exists()


def test_a_second_build_replaces_the_first_and_is_identical(
    board: dict[str, Path], tmp_path: Path
) -> None:
    paths = {"results": board["results"], "site": tmp_path / "site", "tables": tmp_path / "tables"}
    build(**paths)
    (paths["site"] / "stale.html").write_text("")
    dead = tmp_path / ".site.999999999.new"  # what a killed build leaves
    dead.mkdir()
    build(**paths)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["site", "tables"]
    for name in ("site", "tables"):
        for first in board[name].rglob("*"):
            second = paths[name] / first.relative_to(board[name])
            assert second.is_dir() if first.is_dir() else second.read_bytes() == first.read_bytes()
    assert not (paths["site"] / "stale.html").exists()


def test_a_column_of_the_table_stands_in_csv_page_latex_and_catalog(
    tmp_path: Path, make_results: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A new figure is one line of the table."""
    novel = table.Column("share", "leak_area", "ranking cells", "Leaked area", "Of an image.",
                         head="Area", group="Leakage", page="ranking cells", better="lower",
                         interval="ranking")  # fmt: skip
    monkeypatch.setattr(table, "COLUMNS", (*table.COLUMNS, novel))
    folder = make_results(tmp_path / "results", checkpoints={"init": 0})
    for name in ("ranking.csv", "cells.csv"):
        assert "leak_area" in (folder / name).read_text().splitlines()[0].split(",")
        rows = read_table(folder / name).astype(object)
        records = rows.where(rows.notna(), None).to_dict("records")
        ends = {"leak_area_lo": 0.25, "leak_area_hi": 0.75} if name == "ranking.csv" else {}
        write_table(folder / name, [{**row, "leak_area": 0.5, **ends} for row in records])
    build(tmp_path / "results", tmp_path / "site", tmp_path / "tables")
    page = Page((tmp_path / "site" / "index.html").read_text(encoding="utf-8"))
    cells = of_ranking(page, "toy-init-b1")["dgp-paper"]
    assert ("50%25–75", "0.5") in [(text, about.get("data-v")) for about, text in cells]
    text = " ".join(" ".join(page.text).split())
    assert "Area (lower is better)" in text.replace("↓ ", "").replace("↓", "")
    assert "Leaked area share lower 0 to 1 Of an image." in text
    latex, plain = ((tmp_path / "tables" / f"toy{end}").read_text() for end in (".tex", ".csv"))
    assert "& Area" in latex and r"50\% (25--75)" in latex and ",leak_area," in plain
    assert json.loads((folder / "catalog.json").read_text())["metrics"]["leak_area"] == {
        "title": "Leaked area", "unit": "share", "higher_is_better": False, "low": 0, "high": 1,
        "summary": "Of an image.",
    }  # fmt: skip
    assert "| `leak_area` | Leaked area. Of an image." in table.markdown()
    (folder / "ranking.csv").write_text(
        (folder / "ranking.csv").read_text().replace(",0.5,0.25,0.75\n", ",7,0.25,0.75\n", 1)
    )
    with pytest.raises(RecordError, match="row 1, leak_area: '7' must lie between 0 and 1"):
        load(tmp_path / "results")


def test_the_list_of_columns_beside_the_results_is_the_tables() -> None:
    """`python -m benchmark.results.columns > leaderboard/results/README.md` writes it."""
    said = (ROOT / "leaderboard" / "results" / "README.md").read_text(encoding="utf-8")
    assert said == table.markdown()
