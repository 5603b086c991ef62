"""What a wrong params file is told: one line with the dotted key, the value and what is allowed."""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable, Mapping
from functools import lru_cache
from typing import Any

from pydantic import BaseModel, ConfigDict, TypeAdapter, ValidationError, model_validator
from pydantic_core import PydanticCustomError

_RULES = {
    "dict_type": "must be a mapping",
    "model_type": "must be a mapping, {} at least",
    "tuple_type": "must be a list",
    "too_short": "must not be empty",
    "string_too_short": "must not be empty",
    "string_pattern_mismatch": "must be lower-case words joined by hyphens (of a point: or dots)",
}
"""Of pydantic's kinds of misfit, those that it tells in Python's words."""

STRICT = ConfigDict(strict=True, allow_inf_nan=False)


class ParamsError(ValueError):
    """A params file is wrong; the message is one line: dotted key, value, what is allowed."""

    def __init__(self, message: str) -> None:
        super().__init__(" ".join(message.split()))


class Section(BaseModel):
    """A frozen mapping of a params file, checked by :func:`validated`."""

    model_config = ConfigDict(frozen=True, extra="forbid", **STRICT)

    @model_validator(mode="before")
    @classmethod
    def _known_keys(cls, data: Any) -> Any:
        for key in data if isinstance(data, dict) else ():
            if key not in cls.model_fields:
                context = {"key": key, "options": list(cls.model_fields)}
                raise PydanticCustomError("unknown_key", "unknown key", context)
        return data


def wrong(key: str, value: Any, rule: str) -> ParamsError:
    """The complaint about a value that breaks ``rule``."""
    return ParamsError(f"{key}: {_show(value)} is not allowed: {rule}")


def choose(key: str, value: Any, allowed: Iterable[Any], problem: str = "is unknown") -> None:
    """Raise the complaint about a name that is not among the allowed, with the closest of them."""
    options = list(allowed)
    if value in options:
        return
    words = list(map(str, options))
    close = difflib.get_close_matches(str(value), words, 1)
    hint = f" (did you mean {close[0]}?)" if close else ""
    listed = ", ".join(words) or "nothing"
    raise ParamsError(f"{key}: {_show(value)} {problem}{hint}; allowed: {listed}")


def validated(kind: Any, data: Any, key: str = "") -> Any:
    """``data`` as a :class:`Section` or any other type, read as strictly; ``key`` is its place.

    Raises:
        ParamsError: it does not fit; the first misfit is named.
    """
    try:
        return _adapter(kind).validate_python(data)
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
    where = _path(first, data, key) or "params"
    if first["type"] == "missing":
        raise ParamsError(f"{where}: missing")
    if first["type"] == "unknown_key":
        choose(where, first["ctx"]["key"], first["ctx"]["options"], "is no key here")
    rule = _RULES.get(first["type"]) or re.sub(r"^\w+ should", "must", first["msg"])
    raise wrong(where, first["input"], rule)


@lru_cache(maxsize=256)
def _adapter(kind: Any) -> TypeAdapter[Any]:
    own = isinstance(kind, type) and issubclass(kind, BaseModel)
    return TypeAdapter(kind, config=None if own else STRICT)


def _path(misfit: Any, data: Any, key: str) -> str:
    """The dotted key of a misfit: pydantic's location without the tags of its own."""
    path, value = [key] if key else [], data
    named = misfit["loc"][-1:] == ("[key]",)  # a key is wrong: its mapping is the place
    for part in misfit["loc"][:-2] if named else misfit["loc"]:
        inside = isinstance(value, Mapping) and part in value
        inside |= isinstance(value, tuple) and isinstance(part, int) and part < len(value)
        if inside:
            value = value[part]
        if inside or misfit["type"] == "missing":
            path.append(str(part))
    return ".".join(path)


def _show(value: Any) -> str:
    try:
        text = repr(value)
    except ValueError:  # an integer of more digits than Python prints
        text = "that number"
    return text if len(text) <= 60 else text[:57] + "..."
