"""What the plug-in files declare, read from their source and never imported.

Checking params.yaml needs the names and parameters of every defense and attack, but importing
those files imports torch, which takes seconds. Their dataclass fields stand in plain sight, so
they are read with ``ast``: annotated assignments of the class and of its bases in this package.
"""

from __future__ import annotations

import ast
import typing
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import Any

PACKAGE = Path(__file__).parents[1]

_IDENTITY = frozenset(
    {"name", "title", "cite", "url", "summary", "note", "threat", "members", "reads", "closed_form"}
)
_SCALARS: dict[str, Any] = {"int": int, "float": float, "str": str, "bool": bool, "None": None}


@dataclass(frozen=True)
class Declared:
    """A defense or attack as its file declares it.

    ``fields`` maps each parameter that a params file can set to its type (built from int, float,
    str, bool, None, Literal, Optional, unions and tuples); ``required`` are those with no default;
    ``parts`` are made of code (an objective, an optimiser), whose own parameters a params file can
    set by a mapping.
    """

    name: str
    file: Path
    fields: dict[str, Any] = field(default_factory=dict)
    required: frozenset[str] = frozenset()
    parts: frozenset[str] = frozenset()


def defenses(package: Path = PACKAGE) -> dict[str, Declared]:
    """Every file of ``defenses/`` by name (``a_b.py`` declares ``a-b``).

    Raises:
        SyntaxError: a file is not Python, or has no class with ``name = "<name>"``.
    """
    found = {}
    for path in _plugins(package / "defenses"):
        name = path.stem.replace("_", "-")
        for node in _module(path).body:
            if isinstance(node, ast.ClassDef) and _class_name(node) == name:
                found[name] = _declared(name, path, node, package)
        if name not in found:
            raise SyntaxError(f'defenses/{path.name} has no class with name = "{name}"')
    return found


def attacks(package: Path = PACKAGE) -> dict[str, Declared]:
    """Every attack by name: a class with ``name = ...``, or ``X = SomeAttack(name=..., ...)``.

    Raises:
        SyntaxError: a file is not Python.
    """
    found = {}
    for path in _plugins(package / "attacks"):
        for node in _module(path).body:
            if isinstance(node, ast.ClassDef) and (name := _class_name(node)):
                found[name] = _declared(name, path, node, package)
            for call in _calls(node):
                name = next((_text(k.value) for k in call.keywords if k.arg == "name"), None)
                owner = _find(_module(path), call.func, package)
                if name and owner:
                    given = frozenset(k.arg for k in call.keywords if k.arg)
                    found[name] = _declared(name, path, owner[0], package, owner[1], given)
    return found


def _plugins(folder: Path) -> Iterator[Path]:
    """The plug-in files of a folder: helpers start with ``_``, contracts are ``base.py``."""
    for path in sorted(folder.glob("*.py")):
        if path.stem != "base" and not path.stem.startswith("_"):
            yield path


def _module(path: Path) -> ast.Module:
    return _parse(path, path.stat().st_mtime_ns)


@lru_cache(maxsize=256)
def _parse(path: Path, _changed: int) -> ast.Module:
    tree = ast.parse(path.read_text(encoding="utf-8"), str(path))
    tree.path = path  # type: ignore[attr-defined]
    return tree


def _class_name(node: ast.ClassDef) -> str | None:
    """The text given to ``name`` in a class body."""
    for line in node.body:
        target = line.targets[0] if isinstance(line, ast.Assign) else getattr(line, "target", None)
        if isinstance(target, ast.Name) and target.id == "name":
            return _text(getattr(line, "value", None))
    return None


def _text(node: ast.AST | None) -> str | None:
    return node.value if isinstance(node, ast.Constant) and isinstance(node.value, str) else None


def _calls(node: ast.stmt) -> Iterator[ast.Call]:
    """Calls in a module-level assignment or expression, such as ``X = register(Attack(...))``."""
    if isinstance(node, ast.Assign | ast.AnnAssign | ast.Expr) and node.value is not None:
        for part in ast.walk(node.value):
            if isinstance(part, ast.Call):
                yield part


def _declared(
    name: str,
    file: Path,
    node: ast.ClassDef,
    package: Path,
    module: ast.Module | None = None,
    given: frozenset[str] = frozenset(),
) -> Declared:
    types: dict[str, Any] = {}
    parts = set()
    required = set()
    for line, home in _fields(node, module or _module(file), package):
        key = line.target.id  # type: ignore[union-attr]
        try:
            types[key] = _type(line.annotation, home)
        except TypeError:
            types.pop(key, None)  # an objective or a schedule: code, not a parameter
            parts.add(key)
        required.discard(key)
        if line.value is None and key in types and key not in given:
            required.add(key)
    return Declared(name, file, types, frozenset(required), frozenset(parts) - set(types))


def _fields(
    node: ast.ClassDef, module: ast.Module, package: Path
) -> Iterator[tuple[ast.AnnAssign, ast.Module]]:
    """Annotated fields, bases first, each with the module whose names its annotation uses."""
    for base in reversed(node.bases):
        owner = _find(module, base, package)
        if owner and owner[0] is not node:
            yield from _fields(*owner, package)
    for line in node.body:
        if (
            isinstance(line, ast.AnnAssign)
            and isinstance(line.target, ast.Name)
            and not line.target.id.startswith("_")
            and line.target.id not in _IDENTITY
        ):
            yield line, module


def _find(
    module: ast.Module, name: ast.expr, package: Path
) -> tuple[ast.ClassDef, ast.Module] | None:
    """The class that ``name`` means in ``module``, followed through imports inside the package."""
    if not isinstance(name, ast.Name):
        return None
    for node in module.body:
        if isinstance(node, ast.ClassDef) and node.name == name.id:
            return node, module
        if isinstance(node, ast.ImportFrom):
            for alias in node.names:
                path = _source(node, module.path, package)  # type: ignore[attr-defined]
                if (alias.asname or alias.name) == name.id and path:
                    return _find(_module(path), ast.Name(alias.name), package)
    return None


def _source(node: ast.ImportFrom, importer: Path, package: Path) -> Path | None:
    parts = (node.module or "").split(".") if node.module else []
    if node.level:
        folder = importer.parents[node.level - 1]
    elif parts and parts[0] == PACKAGE.name:
        folder, parts = package, parts[1:]
    else:
        return None
    path = folder.joinpath(*parts)
    options = (path.with_suffix(".py"), path / "__init__.py")
    return next((option for option in options if option.is_file()), None)


def _type(node: ast.expr, module: ast.Module) -> Any:
    """The annotation as a type; TypeError for whatever a params file cannot hold."""
    if isinstance(node, ast.Constant) and node.value is None:
        return None
    if text := _text(node):
        return _type(ast.parse(text, mode="eval").body, module)
    if isinstance(node, ast.Name):
        if node.id in _SCALARS:
            return _SCALARS[node.id]
        for line in module.body:  # an alias: Norm = Literal["l1", "l2"]
            if isinstance(line, ast.Assign) and any(
                isinstance(target, ast.Name) and target.id == node.id for target in line.targets
            ):
                return _type(line.value, module)
    if isinstance(node, ast.BinOp) and isinstance(node.op, ast.BitOr):
        return typing.Union[_type(node.left, module), _type(node.right, module)]  # noqa: UP007
    if isinstance(node, ast.Subscript):
        kind = node.value.attr if isinstance(node.value, ast.Attribute) else node.value.id  # type: ignore[attr-defined]
        inner = list(node.slice.elts) if isinstance(node.slice, ast.Tuple) else [node.slice]
        if kind == "Literal":
            return typing.Literal[tuple(ast.literal_eval(part) for part in inner)]
        if kind == "Optional":
            return typing.Optional[_type(inner[0], module)]  # noqa: UP045
        if kind in ("tuple", "Tuple"):
            parts = [... if ast.unparse(p) == "..." else _type(p, module) for p in inner]
            return tuple.__class_getitem__(tuple(parts))
    raise TypeError(ast.unparse(node))
