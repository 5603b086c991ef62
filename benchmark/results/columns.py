# ruff: noqa: E501
"""The one table of columns: what each file of published results holds, and what it means.

Schema checks, the writing and reading of CSV, the page's headings and directions, the printed
tables, the catalog's descriptions and the list in ``leaderboard/results/README.md`` follow from it.
A new measure of reconstructions is a function in a file of its own in ``benchmark/metrics/`` and
one line here.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from benchmark.results.words import BOARD as BOARD
from benchmark.results.words import CONTROL as CONTROL
from benchmark.results.words import FLAGS, KNOWLEDGE, SETTINGS, STATUSES, THREATS, VERDICTS, Words
from benchmark.results.words import PUBLISHED as PUBLISHED

SCHEMA = 3
"""The version of the published files. A change of meaning or a removed column raises it."""

FILES: Mapping[str, str] = {
    "ranking.csv": "one defense at one point, checkpoint and attacked batch size, over all seeds",
    "cells.csv": "one attack on one evidence of one seed",
    "victims.csv": "one private example in one cell",
    "saturation.csv": "a few victims of one operating point at one budget",
    "training.csv": "one training run: accuracy, bytes, epsilon",
    "checkpoints.csv": "one checkpoint of one run: gradient norm, loss, accuracy",
}
"""Every table, and what a row of it is."""


@dataclass(frozen=True)
class Column:
    """One column of the published files.

    Attributes:
        files: the tables that have it, by their names without ``.csv``; ``*`` where it is part of
            the key of a row.
        type: ``name`` (of letters, digits, ``.``, ``_``, ``-``), ``text``, ``word`` (one of
            ``words``, or empty), ``flags`` (some of ``words``, joined by ``;``), ``whole``,
            ``number``, or ``share`` (in [0, 1]). Numbers and text may be empty: not computed.
        words: the vocabulary, with meanings; ``needed`` where none of them is not allowed.
        low, high: bounds of a number, both allowed. ``infinite`` numbers may be without bound.
        better: what is better for the defender, ``higher`` or ``lower``; empty for neither.
        interval: the tables in which ``<name>_lo`` and ``<name>_hi`` follow it, or of ranks stand alone.
        page: where the page shows it, ``ranking`` and ``cells``; printed tables have those of the
            ranking too, unless ``paper`` is false.
        head, group: its heading on page and paper, and what is written above its neighbours.
        within: the column in whose cell the page shows it.
        form: the function of ``leaderboard.display`` that renders it; a default follows from type.
        clock: whether it is a reading of a clock, in which two equal runs may differ.
        metric: ``module.function`` in ``benchmark.metrics`` that measures it per private example
            of the kind ``data``; in cells.csv a column of the same name is the mean.
        of: what a column of cells.csv says of one of victims.csv, such as ``median psnr``.
    """

    type: Literal["name", "text", "word", "flags", "whole", "number", "share"]
    name: str
    files: str
    title: str
    meaning: str = ""
    unit: str = ""
    words: Words = field(default_factory=dict)
    needed: bool = False
    low: float | None = None
    high: float | None = None
    infinite: bool = False
    better: Literal["higher", "lower", ""] = ""
    interval: str = ""
    page: str = ""
    head: str = ""
    group: str = ""
    within: str = ""
    form: str = ""
    paper: bool = True
    clock: bool = False
    metric: str = ""
    data: Literal["", "images", "texts"] = ""
    of: str = ""

    @property
    def numeric(self) -> bool:
        return self.type in ("whole", "number", "share")

    @property
    def bounds(self) -> tuple[float | None, float | None]:
        """Lower and upper bound of a number."""
        return (0, 1) if self.type == "share" and self.low is None else (self.low, self.high)

    def stands_in(self, file: str) -> bool:
        return file.removesuffix(".csv") in self.files.replace("*", "").split()

    def names_rows_of(self, file: str) -> bool:
        """Whether it is part of the key of a file's rows."""
        return file.removesuffix(".csv") + "*" in self.files.split()


_RUNS = "ranking* cells* victims* saturation* training* checkpoints*"
_SEEN = "ranking* cells* victims* saturation* checkpoints*"
_CELL = "cells* victims*"
_DB: dict[str, Any] = {"unit": "dB", "low": 0, "high": 60, "form": "decibel"}
_SIZE: dict[str, Any] = {"unit": "bytes", "low": 1, "form": "bytes_"}
_LEAK: dict[str, Any] = {"better": "lower", "group": "Leakage", "page": "ranking"}
_COST: dict[str, Any] = {"better": "lower", "group": "Cost", "page": "ranking"}
_ACCURACY: dict[str, Any] = {
    "better": "higher",
    "group": "Accuracy",
    "page": "ranking",
    "form": "accuracy",
}

COLUMNS: tuple[Column, ...] = (
    Column("name", "scenario", _RUNS, "Scenario"),
    Column("name", "defense", _RUNS, "Defense", page="ranking", head="Defense"),
    Column("name", "point", _RUNS, "Operating point", page="ranking cells", head="Point",
        within="defense"),
    Column("name", "checkpoint", _SEEN, "Checkpoint", page="cells", head="Checkpoint"),
    Column("name", "attack", "cells* victims* saturation*", "Attack", page="cells", head="Attack"),
    Column("word", "threat", "cells victims", "Threat", words=THREATS, needed=True, page="cells", head="Threat"),
    Column("name", "evidence", "cells* victims* saturation*", "Evidence", page="cells",
        head="Evidence"),
    Column("word", "settings", _CELL, "Settings", words=SETTINGS, needed=True, page="cells", head="Settings"),
    Column("word", "knowledge", "cells victims", "Knowledge", words=KNOWLEDGE, needed=True, page="cells",
        head="Knowledge"),
    Column("whole", "seed", "cells* victims* saturation* training* checkpoints*", "Seed", low=0,
        page="cells", head="Seed"),
    Column("whole", "batch_size", "ranking* cells* victims* saturation*", "Attacked batch size",
        low=1, page="cells", head="Batch"),
    Column("whole", "victim", "victims*", "Victim", "Whose message of the file it is.", low=0),
    Column("whole", "image", "victims*", "Place in the batch", low=0),
    Column("whole", "budget", "saturation*", "Budget", "Gradient evaluations that an attack may spend,"
        " as a multiple of the standard.", low=1),
    Column("name", "labels", "cells", "Labels", "Whose labels the attack worked with.", page="cells",
        head="Labels"),
    Column("word", "status", "ranking cells", "Status", words=STATUSES, needed=True, page="cells", head="Status"),
    Column("whole", "n", "ranking cells saturation", "Private examples", low=0, page="cells",
        head="n"),
    Column("whole", "n_victims", "ranking", "Messages", low=0),
    # ------------------------------------------------------------------------------------ ranks
    Column("whole", "rank2", "ranking", "Rank within 2 points of accuracy", "The ranks that are"
        " possible among defenses that lose at most 2 points of accuracy against the control of"
        " their kind, each at its strongest such point, chosen by accuracy alone; 1 leaks least."
        " They hold for these trained models; another training may move them.", better="lower",
        low=1, interval="ranking", page="ranking", head="Rank, 2 points", form="ranks"),
    Column("whole", "rank5", "ranking", "Rank within 5 points of accuracy", "The same among defenses"
        " that lose at most 5 points of accuracy.", better="lower", low=1, interval="ranking",
        page="ranking", head="Rank, 5 points", form="ranks", within="rank2"),
    # ---------------------------------------------------------------------------------- leakage
    Column("share", "success_rate", "cells saturation", "Success rate", "Share of private examples"
        " recovered: the PSNR of an image, or the share of right words of a sentence, is above"
        " tau.", better="lower", interval="cells", page="cells", head="Recovered",
        of="mean success"),
    Column("share", "recovered", "ranking", "Recovered", "Share of private examples that any attack on"
        " any evidence of the board's threat recovered: per example the best guess in hindsight."
        " Empty where nothing that knows the defense was attacked.", interval="ranking",
        head="Recovered", **_LEAK),
    Column("share", "recovered_or_inconclusive", "ranking", "Recovered or inconclusive", "The"
        " recovered, and those that were not although the audit does not credit the defense with"
        " it. A defense is placed before another where even this share of its own is significantly"
        " below what is recovered of the other.", interval="ranking", head="Recovered or inconclusive",
        **_LEAK),
    Column("share", "baseline_success", "ranking victims", "No-attack baseline", "Share that the best"
        " guess made without the message recovers: the same maximum per example over as many"
        " guesses.", head="Baseline", within="recovered", group="Leakage", page="ranking"),
    Column("share", "oblivious", "ranking", "Oblivious", "Share recovered by any attack that treats"
        " messages as if there were no defense: same attacks, same budget on each evidence. Equal"
        " to the recovered where there is none.", interval="ranking", head="Oblivious", **_LEAK),
    Column("share", "share_exhausted", "ranking cells", "Evidence exhausted", "Share not recovered"
        " where the audit credits the defense: a guess explains what was sent at least as well as"
        " the truth does.", head="Exhausted", within="verdict", group="Leakage", page="ranking",
        of="share evidence-exhausted"),
    Column("share", "share_inconclusive", "ranking", "Inconclusive", "Share neither recovered nor"
        " credited to the defense: the search failed, or no evidence describes the message.",
        head="Inconclusive", within="verdict", group="Leakage", page="ranking"),
    Column("word", "verdict", "ranking cells victims", "Verdict", "Why the rest was not recovered.",
        words=VERDICTS, head="Verdict", group="Leakage", page="ranking cells"),
    Column("flags", "flags", "ranking", "Flags", words=FLAGS, head="Flags", within="verdict",
        group="Leakage", page="ranking"),
    Column("name", "strongest_attack", "ranking", "Strongest single attack and its evidence", "The one"
        " attack and evidence that recover most; others add to the share.", head="Strongest",
        within="recovered", group="Leakage", page="ranking", form="source"),
    Column("name", "strongest_evidence", "ranking", "Evidence of the strongest attack"),
    Column("share", "share_ok", "cells", "Share with verdict ok", of="share ok"),
    Column("share", "share_failed", "cells", "Share with verdict optimiser-failed",
        of="share optimiser-failed"),
    Column("share", "share_broken", "cells", "Share with verdict broken-attack",
        of="share broken-attack"),
    Column("share", "share_missed", "cells", "Share with verdict missed", of="share missed"),
    Column("share", "share_not_applicable", "cells", "Share with verdict not-applicable",
        of="share not-applicable"),
    # ------------------------------------------------------------------------ quality of guesses
    Column("number", "psnr", "victims", "PSNR", **_DB, metric="images.psnr", data="images"),
    Column("number", "psnr_median", "ranking cells saturation", "Median PSNR", "Median over private"
        " images of the best guess's peak signal-to-noise ratio; capped at 60.", **_DB, **_LEAK
        | {"page": "ranking cells"}, head="PSNR", of="median psnr"),
    Column("number", "psnr_mean", "cells", "Mean PSNR", **_DB, better="lower", of="mean psnr"),
    Column("number", "psnr_q10", "cells", "First decile of PSNR", **_DB, of="q10 psnr"),
    Column("number", "psnr_q90", "cells", "Last decile of PSNR", **_DB, of="q90 psnr"),
    Column("number", "psnr_max", "cells", "Highest PSNR", **_DB, of="max psnr"),
    Column("number", "baseline_psnr", "ranking cells victims", "No-attack baseline", "Median PSNR of"
        " the best of class mean, nearest auxiliary image, and the attack's guess for another"
        " victim of the same label.", **_DB, page="cells", head="Baseline", data="images",
        of="median baseline_psnr"),
    Column("number", "ssim", "victims", "SSIM", low=-1, high=1, metric="images.ssim", data="images"),
    Column("number", "ssim_mean", "cells", "SSIM", "Mean structural similarity; a window of 7 pixels"
        " on images below 11.", low=-1, high=1, better="lower", page="cells", head="SSIM",
        form="short", of="mean ssim"),
    Column("share", "mse", "victims", "MSE", metric="images.mse", data="images"),
    Column("share", "mse_mean", "cells", "MSE", "Mean squared error of pixels in [0, 1].",
        better="higher", of="mean mse"),
    Column("share", "exact_tokens", "ranking cells victims saturation", "Right words", "Mean share of"
        " a sentence's places that hold the right word.", metric="tokens.exact_tokens",
        data="texts", head="Right words", **_LEAK | {"page": "ranking cells"}),
    Column("share", "baseline_exact_tokens", "cells victims", "No-attack baseline", "Median share of"
        " right words of the best of usual words, nearest auxiliary sentence, and the attack's"
        " guess for another victim of the same label.", page="cells", head="Baseline", data="texts",
        of="median baseline_exact_tokens"),
    Column("share", "rouge1", "cells victims", "ROUGE-1", "Mean F-measure of words that guess and"
        " sentence have in common.", better="lower", metric="tokens.rouge1", data="texts",
        page="cells", head="ROUGE-1", form="short"),
    Column("share", "rouge2", "cells victims", "ROUGE-2", "Mean F-measure of common pairs of"
        " neighbouring words.", better="lower", metric="tokens.rouge2", data="texts", page="cells",
        head="ROUGE-2", form="short"),
    Column("share", "rougeL", "cells victims", "ROUGE-L", "Mean F-measure of the longest common"
        " subsequence of words.", better="lower", metric="tokens.rougeL", data="texts",
        page="cells", head="ROUGE-L", form="short"),
    Column("number", "oblivious_psnr_median", "ranking", "Median PSNR of oblivious guesses", **_DB),
    Column("share", "oblivious_exact_tokens", "ranking", "Right words of oblivious guesses"),
    Column("share", "own_pick", "ranking", "The attacker's own pick", "Share of private examples"
        " recovered where an attacker believes one guess each, picked by a rule that needs no"
        " truth.", interval="ranking", head="Own pick", **_LEAK),
    Column("number", "own_pick_psnr_median", "ranking", "Median PSNR of the attacker's own picks",
        **_DB),
    Column("share", "own_pick_exact_tokens", "ranking", "Right words of the attacker's own picks"),
    Column("share", "extra_data", "ranking", "Uses extra data", "Share of private examples recovered"
        " by attacks that learned from auxiliary data, the best guess per example: another threat,"
        " part of no other figure and of no rank.", interval="ranking", head="Extra data",
        **_LEAK | {"group": "Auxiliary"}),
    Column("number", "extra_data_psnr_median", "ranking", "Median PSNR with extra data", **_DB),
    Column("share", "extra_data_exact_tokens", "ranking", "Right words with extra data"),
    Column("name", "extra_data_attack", "ranking", "Strongest attack that uses extra data"),
    Column("name", "extra_data_evidence", "ranking", "Evidence of that attack"),
    Column("share", "label_accuracy", "cells", "Label accuracy", "Share of a batch's labels recovered;"
        " empty where they were given.", better="lower", page="cells", head="Labels right"),
    Column("share", "identification_rate", "cells", "Identified", "Share of guesses nearer to their"
        " truth than to other images of its class.", better="lower", of="mean identified"),
    Column("share", "baseline_success_rate", "cells", "Share that the no-attack baseline recovers",
        of="mean baseline_success"),
    Column("whole", "success", "victims", "Recovered", low=0, high=1),
    Column("whole", "identified", "victims", "Identified", low=0, high=1),
    Column("whole", "accurate", "victims", "Whether the evidence describes the message", low=0,
        high=1),
    Column("whole", "picked", "victims", "Whether it is the attacker's own pick", low=0, high=1),
    # ------------------------------------------------------------------------- audit and effort
    Column("number", "loss_guess", "victims", "The attack's objective at its guess", infinite=True),
    Column("number", "loss_truth", "victims", "The attack's objective at the truth", infinite=True),
    Column("number", "loss_guess_median", "cells", "Median of the objective at the guesses",
        infinite=True, page="cells", head="L(guess)", form="short", of="median loss_guess"),
    Column("number", "loss_truth_max", "cells", "Highest objective at a truth", infinite=True,
        page="cells", head="L(truth)", form="short", of="max loss_truth"),
    Column("number", "loss_median", "saturation", "Median of the objective at the guesses",
        infinite=True),
    Column("whole", "observations", "cells", "Numbers observed", low=0, page="cells",
        head="Observed"),
    Column("whole", "unknowns", "cells", "Numbers to find", low=0, page="cells", head="Unknown"),
    Column("number", "evaluations", "cells saturation", "Gradient evaluations", "Gradients of the"
        " victim model per victim, mean over victims, everything counted.", low=0, page="cells",
        head="Evaluations"),
    # --------------------------------------------------------------------------------- what it costs
    Column("share", "accuracy_global", "ranking training", "Accuracy of the shared model", "Test"
        " accuracy of the server's model after the last round.", head="Global", **_ACCURACY),
    Column("share", "accuracy_personal", "ranking training", "Accuracy of the clients' models", "Mean"
        " over clients of their own model's accuracy on their own mix of labels: each class counts"
        " by the client's share of it, however often the test set shows it. Of no defense, the"
        " shared model on the same mixes: the control of personalised defenses.", head="Personal",
        **_ACCURACY),
    Column("number", "accuracy_lost", "ranking", "Accuracy lost", "Accuracy without a defense less the"
        " defense's own: personalised defenses are compared with the undefended model on each"
        " client's own labels.", low=-1, high=1, head="Lost, points",
        **_ACCURACY | {"better": "lower", "form": "points"}),
    Column("number", "epsilon", "ranking training", "Differential-privacy epsilon", "Differential"
        " privacy over all rounds, at the unit and against the adversary named beside it. Zero:"
        " delta alone covers the difference that a unit makes; infinite: there is no bound.",
        low=0, infinite=True, head="Epsilon", form="epsilon", **_COST),
    Column("number", "delta", "training", "Differential-privacy delta", low=0, high=1),
    Column("text", "privacy_unit", "training", "What epsilon protects"),
    Column("text", "adversary", "training", "Whom epsilon holds against"),
    Column("number", "uplink_bytes", "ranking training", "Upload per client and round", "Encoded bytes"
        " that a client sends per round, mean over clients and rounds.", **_SIZE, head="Up",
        **_COST),
    Column("number", "downlink_bytes", "ranking training", "Download per client and round", "Encoded"
        " bytes that a client receives per round.", **_SIZE, head="Down", **_COST),
    Column("number", "bytes_to_target", "ranking training", "Bytes to reach the target accuracy",
        "Bytes of all clients, up and down, until the target accuracy was measured; empty where a"
        " seed never reached it.", **_SIZE, head="To target", paper=False, **_COST),
    Column("share", "target_accuracy", "training", "Target accuracy"),
    Column("whole", "rounds", "training", "Rounds", low=0),
    Column("whole", "round", "checkpoints", "Finished rounds", low=0),
    Column("number", "gradient_norm", "checkpoints", "Gradient norm", low=0, infinite=True),
    Column("number", "loss", "checkpoints", "Loss", infinite=True),
    Column("share", "accuracy", "checkpoints", "Accuracy"),
    # --------------------------------------------------------------------------- where it comes from
    Column("text", "strategy", "cells", "How the engine computed it"),
    Column("whole", "chunk", "cells", "Victims computed together", low=0),
    Column("name", "commit", "cells", "Commit"),
    Column("whole", "dirty", "cells", "Whether there were uncommitted changes", low=0, high=1),
    Column("text", "machine", "cells", "Kind of machine"),
    Column("text", "reason", "ranking cells", "Reason", page="cells", head="Reason"),
    Column("number", "seconds", "cells", "Time", unit="s", low=0, clock=True, page="cells",
        head="Time", form="seconds"),
    Column("number", "client_seconds", "ranking training", "Client time per round", "Clock time of a"
        " client's round: training, defense and encoding.", unit="s", low=0, clock=True,
        head="Client time", form="seconds", paper=False, **_COST),
)  # fmt: skip


def columns(file: str) -> list[Column]:
    """The columns of one file, in their order; the ends of an interval follow what they are of."""
    found: list[Column] = []
    for column in COLUMNS:
        if column.stands_in(file) and column.form != "ranks":
            found.append(column)
        if file.removesuffix(".csv") in column.interval.split():
            for end, which in (("lo", "Lower"), ("hi", "Upper")):
                title = f"{which} end of {column.title[0].lower()}{column.title[1:]}"
                found.append(Column(column.type, f"{column.name}_{end}", column.interval, title,
                                    low=column.low, high=column.high))  # fmt: skip
    return found


def names(file: str) -> tuple[str, ...]:
    """The names of a file's columns, in their order."""
    return tuple(column.name for column in columns(file))


def key(file: str) -> list[str]:
    """The columns that name a row of a file."""
    return [column.name for column in COLUMNS if column.names_rows_of(file)]


def clocks() -> frozenset[str]:
    """The columns in which two equal runs may differ."""
    return frozenset(column.name for column in COLUMNS if column.clock)


def shown(place: Literal["ranking", "cells"]) -> list[Column]:
    """The columns that the page shows in one of its tables; ranks come first."""
    found = [c for c in COLUMNS if place in c.page.split() and c.stands_in(place)]
    return sorted(found, key=lambda column: column.form != "ranks")


def measures(data: str) -> list[Column]:
    """What is measured of each private example of a kind of data; the first decides."""
    return [column for column in COLUMNS if column.metric and column.data == data]


def described() -> dict[str, dict[str, object]]:
    """What a catalog says of the numbers: title, unit, direction, bounds and meaning by name."""
    return {
        column.name: {
            "title": column.title,
            "unit": column.unit or ("share" if column.type == "share" else ""),
            "higher_is_better": {"higher": True, "lower": False}.get(column.better),
            "low": column.bounds[0],
            "high": column.bounds[1],
            "summary": column.meaning,
        }
        for column in COLUMNS
        if column.numeric and column.meaning
    }


def markdown() -> str:
    """All files and columns as a Markdown document: ``leaderboard/results/README.md``."""
    lines = [
        "# Columns of the published files",
        "",
        f"Schema {SCHEMA}, written by `python -m benchmark.results.columns`. UTF-8, numbers at full"
        " precision; an empty field was not computed. Columns in bold name a row.",
    ]
    for file, row in FILES.items():
        lines += ["", f"## {file}", "", f"A row is {row}.", "", "| Column | What it is |"]
        lines.append("| --- | --- |")
        for column in columns(file):
            name = f"**`{column.name}`**" if column.names_rows_of(file) else f"`{column.name}`"
            lines.append(f"| {name} | {'. '.join(_facts(column))} |")
    return "\n".join(lines) + "\n"


def _facts(column: Column) -> Iterator[str]:
    """What there is to say of a column, as phrases."""
    yield f"{column.title}, {column.unit}" if column.unit else column.title
    if column.meaning:
        yield column.meaning.rstrip(".")
    low, high = ("" if bound is None else f"{bound:g}" for bound in column.bounds)
    if low or high:
        yield f"{low} to {high}" if high else f"{low} or more"
    if column.better:
        yield f"{column.better.capitalize()} is better for the defender"
    if column.words:
        yield f"{'Some' if column.type == 'flags' else 'One'} of `{'`, `'.join(column.words)}`"


if __name__ == "__main__":
    print(markdown(), end="")
