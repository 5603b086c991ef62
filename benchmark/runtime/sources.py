"""The digest of the code that a unit of work depends on: every module that it really imports.

From the roots that a unit names, static imports are followed through the package, those inside
functions too, those for type checkers not. Plug-ins are imported by name, never statically: so only
those that a unit names as roots are in its digest. Of every module the parsed source counts,
without comments and docstrings: mending a word computes nothing again.
"""

from __future__ import annotations

import ast
from collections.abc import Iterable, Iterator
from functools import lru_cache
from pathlib import Path

from benchmark.runtime.store import digest

PACKAGE = Path(__file__).parents[1]

EXCEPTED = {
    "runtime.store": "keeps finished work under names that it is given",
    "runtime.files": "whole files, locks",
    "runtime.sources": "reads code, and makes no number",
    "runtime.compat": "makes other libraries importable",
    "config.errors": "words of errors",
    "config.schema": "parameters enter a digest as values",
    "config.values": "parameters enter a digest as values",
    "config.registry": "finds plug-ins, which a unit names as roots",
    "runtime.parallel": "where and when work is done",
    "runtime.progress": "what is said meanwhile",
    "runtime.workers": "where and when work is done",
    "runtime.session": "locks, folders and ends of stages",
    "runtime.paths": "names of files",
    "results.provenance": "says who computed something, and where",
    "results.columns": "writes and reads what was computed",
    "data.datasets.base": "what it makes enters a digest as bytes",
    "data.partitions.base": "what it makes enters a digest as bytes",
    "data.splits": "what it makes enters a digest as bytes",
}
"""Modules that only move bytes, and why their code is in no digest: neither they nor what is
imported through them alone."""


def source_digest(roots: Iterable[str], package: Path = PACKAGE) -> str:
    """The digest of the parsed source of :func:`closure`."""
    return digest(sorted((name, _parsed(path)) for name, path in closure(roots, package).items()))


def closure(
    roots: Iterable[str], package: Path = PACKAGE, excepted: Iterable[str] = EXCEPTED
) -> dict[str, Path]:
    """Every module that the roots import, themselves included, with its file.

    Args:
        roots: dotted names below the package, such as ``attacks.ig``.
        package: the folder of the package.
        excepted: names that are neither included nor followed.

    Raises:
        ValueError: a root has no file.
    """
    left_out, found = frozenset(excepted), {}
    waiting = list(roots)
    for name in waiting:
        if _file(package, name) is None:
            raise ValueError(f"{package.name}.{name} has no file, so nothing can be its digest")
    while waiting:
        name = waiting.pop()
        path = _file(package, name)
        if path is None or name in found or name in left_out:
            continue
        found[name] = path
        parents = name.split(".")[:-1]
        waiting += [".".join(parents[: depth + 1]) for depth in range(len(parents))]
        waiting += _imported(path, name, package)
    return found


def _file(package: Path, name: str) -> Path | None:
    path = package.joinpath(*name.split(".")) if name else package
    options = (path.with_suffix(".py"), path / "__init__.py")
    return next((option for option in options if option.is_file()), None)


def _imported(path: Path, name: str, package: Path) -> Iterator[str]:
    """What a module imports of its package, and names in it that may be no modules."""
    for module, level, attribute in _imports(path, path.stat().st_mtime_ns, path.stat().st_size):
        parts = module.split(".") if module else []
        if level:
            home = name.split(".") if path.name == "__init__.py" else name.split(".")[:-1]
            parts = [*home[: len(home) - (level - 1)], *parts]
        elif parts[0] == package.name:
            parts = parts[1:]
        else:
            continue
        if parts:
            yield ".".join(parts)
        if attribute:
            yield ".".join([*parts, attribute])


@lru_cache(maxsize=1024)
def _imports(path: Path, _changed: int, _size: int) -> tuple[tuple[str, int, str], ...]:
    """(module, dots in front of it, name that is imported from it) of every import."""
    found: list[tuple[str, int, str]] = []
    waiting: list[ast.AST] = [ast.parse(path.read_bytes(), str(path))]
    while waiting:
        node = waiting.pop()
        if isinstance(node, ast.Import):
            found += [(alias.name, 0, "") for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            found += [(node.module or "", node.level, alias.name) for alias in node.names]
        elif isinstance(node, ast.If) and ast.unparse(node.test).endswith("TYPE_CHECKING"):
            waiting += node.orelse
        else:
            waiting += ast.iter_child_nodes(node)
    return tuple(found)


def _parsed(path: Path) -> str:
    return _dump(path, path.stat().st_mtime_ns, path.stat().st_size)


@lru_cache(maxsize=1024)
def _dump(path: Path, _changed: int, _size: int) -> str:
    """The digest of a file's syntax tree without strings that stand alone, as docstrings do."""
    tree = ast.parse(path.read_bytes(), str(path))
    for node in ast.walk(tree):
        for part in ("body", "orelse", "finalbody"):
            lines = getattr(node, part, None)
            if isinstance(lines, list):
                setattr(node, part, [line for line in lines if not _says_only(line)])
    return digest(ast.dump(tree))


def _says_only(line: ast.AST) -> bool:
    return (
        isinstance(line, ast.Expr)
        and isinstance(line.value, ast.Constant)
        and isinstance(line.value.value, str)
    )
