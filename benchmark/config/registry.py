"""What can be plugged in: one file each, listed without an import, imported when it is asked for.

A name is lower-case words joined by hyphens; its file has the same name with underscores, so
``my-defense`` is entered by ``defenses/my_defense.py``. ``base.py`` and files of other names
(hidden ones, those that begin with ``_``) are no plug-ins.
"""

from __future__ import annotations

import re
from importlib import import_module
from pathlib import Path
from typing import Any, Generic, Literal, TypeVar

from benchmark.config.errors import ParamsError, choose

T = TypeVar("T")
Kind = Literal["images", "text"]
"""What examples are, what a model reads, what a defense can protect."""

NAME = r"^[a-z][a-z0-9]*(-[a-z0-9]+)*$"
_FILE = re.compile(r"[a-z][a-z0-9]*(_[a-z0-9]+)*")


class PluginError(ParamsError):
    """A plug-in's file cannot be used; the message is one line and names it."""


def file_of(name: str) -> str:
    """The stem of the file that enters ``name``."""
    return name.replace("-", "_")


class Registry(dict[str, T], Generic[T]):
    """The plug-ins of one package by name; a name that has a file is imported when it is read."""

    def __init__(self, what: str, package: str) -> None:
        """``what`` they are called in a params file, and the ``package`` of their files."""
        super().__init__()
        self.what, self.package = what, package

    def names(self) -> list[str]:
        """Every name that has a file or was entered, in alphabetical order."""
        folders = map(Path, import_module(self.package).__path__)
        files = {path.stem for folder in folders for path in folder.glob("*.py")} - {"base"}
        return sorted({*self, *(f.replace("_", "-") for f in files if _FILE.fullmatch(f))})

    def enter(self, name: str, value: T, module: str) -> T:
        """Make ``value`` known, which ``module`` declares.

        Raises:
            PluginError: the name is not that of the file, or is taken.
        """
        if module.startswith(f"{self.package}.") and module != f"{self.package}.{file_of(name)}":
            own = module.rsplit(".", 1)[-1].replace("_", "-")
            raise PluginError(f"{_path(module)}: its name must be {own!r}, as its file's is, "
                              f"not {name!r}; a file declares one")  # fmt: skip
        if name in self and self[name] != value:
            raise PluginError(f"{_path(module)}: two {self.what} are called {name!r}")
        self[name] = value
        return value

    def __missing__(self, name: str) -> T:
        choose(self.what, name, self.names())
        module = f"{self.package}.{file_of(name)}"
        try:
            import_module(module)
        except Exception as error:
            self.pop(name, None)
            if isinstance(error, PluginError):
                raise
            what = f"{type(error).__name__}: {error}"
            raise PluginError(f"{_path(module)} cannot be used: {what}") from error
        if name not in self:
            raise PluginError(f"{_path(module)} registers nothing that is called {name!r}")
        return self[name]


def _path(module: str) -> str:
    return module.replace(".", "/") + ".py"


ATTACKS: Registry[Any] = Registry("attacks", "benchmark.attacks")
DATASETS: Registry[Any] = Registry("data sets", "benchmark.data.datasets")
DEFENSES: Registry[Any] = Registry("defenses", "benchmark.defenses")
MODELS: Registry[Any] = Registry("models", "benchmark.models")
PARTITIONS: Registry[Any] = Registry("partitions", "benchmark.data.partitions")
