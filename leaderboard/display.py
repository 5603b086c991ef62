"""How numbers read on the page and in the tables: rounded here and nowhere else.

Every function takes a number that may be missing (``None`` or NaN) and returns text; missing is
:data:`MISSING`. The exact number stays beside the rounded one, as a tooltip or in a CSV.
"""

from __future__ import annotations

import math
from typing import Any

from benchmark.results.columns import Column

MISSING = "–"


def missing(value: Any) -> bool:
    """Whether a field holds nothing: None, NaN or an empty string."""
    return value is None or value == "" or (isinstance(value, float) and math.isnan(value))


def render(column: Column, value: Any) -> str:
    """A value of a column, as the column's form or its type says."""
    if not column.numeric:
        return str(value)
    form = column.form or ("share" if column.type == "share" else "plain")
    return str(globals()[form](value))


def share(value: Any) -> str:
    """A share in [0, 1] as a percentage, whole unless that would hide a difference from 0 or 100.

    A success rate over some tens of victims moves in steps of several percent, so decimals
    would only pretend to precision.
    """
    if missing(value):
        return MISSING
    percent = 100 * float(value)
    if percent in (0.0, 100.0):
        return f"{percent:.0f}%"
    if percent < 0.1:
        return "<0.1%"
    if percent > 99.9:
        return ">99.9%"
    if percent < 1 or percent > 99:
        return f"{percent:.1f}%"
    return f"{percent:.0f}%"


def interval(low: Any, high: Any) -> str:
    """An interval of shares in percent, ``71–96``; the unit stands with the value before it."""
    if missing(low) or missing(high):
        return MISSING
    return f"{share(low)}–{share(high)}".replace("%", "")


def accuracy(value: Any) -> str:
    """A test accuracy in [0, 1] with one decimal of a percent."""
    return MISSING if missing(value) else f"{100 * float(value):.1f}%"


def points(value: Any) -> str:
    """A difference of shares in percentage points with one decimal; a gain has a minus."""
    if missing(value):
        return MISSING
    text = f"{100 * float(value):.1f}".replace("-", "−")
    return "0.0" if text == "−0.0" else text


def decibel(value: Any) -> str:
    """A PSNR in dB with one decimal."""
    return MISSING if missing(value) else f"{float(value):.1f}"


def quality(value: Any, measure: str) -> str:
    """How good a guess is, with its unit: a PSNR, or the share of words in the right place."""
    if missing(value):
        return MISSING
    return f"{decibel(value)} dB" if measure == "psnr" else f"{share(value)} of words"


def bytes_(value: Any) -> str:
    """A number of bytes in SI units with three significant digits (1 kB is 1000 bytes)."""
    if missing(value):
        return MISSING
    size = float(value)
    for unit in ("B", "kB", "MB", "GB", "TB"):
        # 999.6 kB would round to "1000 kB": move on one unit before that.
        if size < 999.5 or unit == "TB":
            digits = 0 if unit == "B" or size >= 99.95 else 1 if size >= 9.995 else 2
            return f"{size:.{digits}f} {unit}"
        size /= 1000
    raise AssertionError("unreachable")


def seconds(value: Any) -> str:
    """A duration: milliseconds below a tenth of a second."""
    if missing(value):
        return MISSING
    span = float(value)
    if span < 0.1:
        return f"{1000 * span:.{1 if span < 0.01 else 0}f} ms"
    return f"{span:.2f} s" if span < 10 else f"{span:.0f} s"


def epsilon(value: Any) -> str:
    """A differential-privacy epsilon with three significant digits, ∞ where there is none."""
    if missing(value):
        return MISSING
    return "∞" if math.isinf(value) else plain(value, 3)


def plain(value: Any, digits: int = 3) -> str:
    """A bare number with ``digits`` significant digits and no needless zeros."""
    if missing(value):
        return MISSING
    number = float(value)
    if math.isinf(number):
        return "∞" if number > 0 else "-∞"
    if number == int(number) and abs(number) < 1e6:
        return str(int(number))
    text = f"{number:.{digits}g}"
    mantissa, _, exponent = text.partition("e")
    return f"{mantissa}e{int(exponent)}" if exponent else text


def short(value: Any) -> str:
    """A bare number with two significant digits."""
    return plain(value, 2)


def ranks(low: Any, high: Any) -> str:
    """A rank, or the interval of ranks that entrants who cannot be told apart share: ``1–3``."""
    if missing(low) or missing(high):
        return MISSING
    return str(int(low)) if int(low) == int(high) else f"{int(low)}–{int(high)}"


def exact(value: Any, unit: str = "") -> str:
    """Every digit that was recorded, for tooltips: whole numbers grouped in threes."""
    if missing(value):
        return "not computed"
    if isinstance(value, float) and math.isinf(value):
        return "no bound"
    number = float(value)
    text = f"{int(number):,}" if number == int(number) else repr(number)
    return f"{text} {unit}".rstrip()


def setting(value: Any) -> str:
    """One value out of the catalog (a parameter, a granted fact) as a reader would write it."""
    if isinstance(value, bool):
        return "yes" if value else "no"
    if value is None:
        return "none"
    if isinstance(value, (int, float)):
        return plain(float(value), 6)
    if isinstance(value, (list, tuple)):
        return ", ".join(setting(item) for item in value)
    if isinstance(value, dict):
        return ", ".join(f"{words(key)} {setting(item)}" for key, item in value.items())
    return str(value)


def words(name: str) -> str:
    """A column or parameter name as words."""
    return str(name).replace("_", " ").replace("-", " ")
