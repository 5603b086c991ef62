"""Plug-ins' dataclasses from the mappings of a params file.

Types and ranges are those of the annotations (``Annotated[float, Field(lt=1)]`` has a range).
Beyond them, a number whose default is not negative must not be negative, and a whole number whose
default is at least 1 must be at least 1: it counts something.
"""

from __future__ import annotations

import dataclasses
import sys
import types
import typing
from collections.abc import Callable, Iterable, Mapping
from functools import lru_cache
from typing import Any, Literal, TypeVar, get_args, get_origin

from benchmark.config.errors import ParamsError, choose, validated, wrong
from benchmark.config.registry import PluginError

T = TypeVar("T")
_SCALARS = (int, float, str, bool, types.NoneType, ...)
LARGEST = 10**9
"""Of whole numbers."""


def construct(cls: Callable[..., T], values: Mapping[str, Any], key: str) -> T:
    """The dataclass ``cls`` with the ``values`` that stand at ``key`` in the file.

    Raises:
        ParamsError: a key is unknown or missing, or a value is not allowed.
    """
    read = check_values(cls, values, key)
    for field in dataclasses.fields(cls):  # type: ignore[arg-type]
        if field.name not in read and not _has_default(field):
            raise ParamsError(f"{key}.{field.name}: missing")
    return _made(lambda: cls(**read), key)


def check_values(
    cls: Any, values: Mapping[str, Any], key: str, also: Iterable[str] = ()
) -> dict[str, Any]:
    """Some of ``cls``'s fields as their declared types: an int given for a float becomes one.

    ``also`` are keys that are allowed there and no fields. Raises ParamsError.
    """
    settable = {name: hint for name, hint in _hints(cls).items() if _is_plain(hint)}
    for name in values:
        choose(key, name, [*settable, *also], "is no key here")
    defaults = {f.name: f.default for f in dataclasses.fields(cls)}
    return {
        name: _checked(settable[name], value, f"{key}.{name}", defaults[name])
        for name, value in values.items()
    }


def changed(
    value: T, changes: Mapping[str, Any], key: str, fixed: Iterable[str] = (),
    also: Iterable[str] = (),
) -> T:  # fmt: skip
    """``value``, a dataclass, with other parameters; its parts by mappings: ``{"lr": 0.1}``.

    A mapping with ``is`` exchanges a part for another of its module or base: ``{"is": "LBFGS"}``.
    What is ``fixed`` no file can set.

    Raises:
        ParamsError: naming the key, its value and what is allowed.
    """
    fields = {f.name: f for f in dataclasses.fields(value)}  # type: ignore[arg-type]
    cls: Any = type(value)
    hints = {name: hint for name, hint in _hints(cls).items() if name not in fixed}
    parts = {name for name in hints if dataclasses.is_dataclass(getattr(value, name))}
    settable = [name for name in hints if name in parts or _is_plain(hints[name])]
    new: dict[str, Any] = {}
    for name, change in changes.items():
        choose(key, name, [*settable, *also], "is no key here")
        at, old = f"{key}.{name}", getattr(value, name)
        if name not in parts:
            default = fields[name].default
            new[name] = _checked(
                hints[name], change, at, old if default is dataclasses.MISSING else default
            )
        elif not isinstance(change, Mapping):
            raise wrong(at, change, "must be a mapping of its own parameters")
        else:
            if "is" in change:
                old = _exchanged(old, hints[name], change["is"], f"{at}.is")
            new[name] = changed(old, {n: c for n, c in change.items() if n != "is"}, at)
    return _made(lambda: dataclasses.replace(value, **new), key)  # type: ignore[type-var]


def _exchanged(part: Any, hint: Any, wanted: Any, key: str) -> Any:
    """A part of the class that is called so, at its defaults; the same one if it is so already."""
    kinds = [kind for kind in get_args(hint) or (hint,) if kind is not types.NoneType]
    needed = {n for kind in kinds for n in dir(kind) if not n.startswith("_")}  # of a protocol too
    base = type(part).__mro__[1]
    classes = [*vars(sys.modules[type(part).__module__]).values()]
    classes += [] if base is object else base.__subclasses__()
    beside = {
        cls.__name__: cls
        for cls in classes
        if isinstance(cls, type) and dataclasses.is_dataclass(cls)
        if cls is not hint and needed.issubset(dir(cls))
        if all(map(_has_default, dataclasses.fields(cls)))
    }
    choose(key, wanted, sorted(beside))
    return part if type(part) is beside[wanted] else beside[wanted]()


def _made(make: Callable[[], T], key: str) -> T:
    """What ``make`` makes; what a plug-in's own check says, in one line that names its key."""
    try:
        return make()
    except ParamsError:
        raise
    except ValueError as error:
        raise ParamsError(f"{key}: {error}") from None
    except Exception as error:
        raise PluginError(f"{key}: {type(error).__name__}: {error}") from error


@lru_cache(maxsize=256)
def _hints(cls: Any) -> dict[str, Any]:
    """The annotations of the fields of a dataclass."""
    try:
        found = typing.get_type_hints(cls, include_extras=True)
    except NameError as error:  # imported for type checkers only
        raise PluginError(f"{cls.__module__}.{cls.__name__}: its annotations: {error}") from None
    return {f.name: found[f.name] for f in dataclasses.fields(cls) if f.init}


def _is_plain(hint: Any) -> bool:
    """Whether a params file can hold it: numbers, words, and tuples of them."""
    origin = get_origin(hint)
    if origin is typing.Annotated:
        return _is_plain(get_args(hint)[0])
    if origin in (typing.Union, types.UnionType, tuple):
        return all(map(_is_plain, get_args(hint)))
    return origin is Literal or hint in _SCALARS


def _has_default(field: Any) -> bool:
    missing = dataclasses.MISSING
    return field.default is not missing or field.default_factory is not missing


def _checked(hint: Any, value: Any, key: str, default: Any) -> Any:
    read = validated(hint, value, key)
    counts = type(default) is int and default >= 1
    signed = isinstance(default, int | float) and default < 0
    for number in read if isinstance(read, tuple) else (read,):
        if type(number) is int and abs(number) > LARGEST:
            raise wrong(key, value, f"must be at most {LARGEST}")
        if counts and number is not None and number < 1:
            raise wrong(key, value, "must be at least 1")
        if not signed and isinstance(number, int | float) and number < 0:
            raise wrong(key, value, "must not be negative")
    return read
