"""How transcripts can be read: a file per defense, and the parts that several of them share."""

from __future__ import annotations

from importlib import import_module
from importlib.util import find_spec

from benchmark.config.registry import file_of

GENERIC = ("generic", "first_linear")
"""The files of evidence of every defense."""


def load(defense: str) -> None:
    """Import the generic evidence and a defense's own, which stands in the file of its name."""
    for name in (*GENERIC, file_of(defense)):
        if find_spec(f"{__name__}.{name}"):
            import_module(f"{__name__}.{name}")


def load_all() -> None:
    """Import every file here: evidence in the wrong file, or of no defense, is refused then."""
    from pkgutil import iter_modules

    for module in iter_modules(__path__):
        import_module(f"{__name__}.{module.name}")
