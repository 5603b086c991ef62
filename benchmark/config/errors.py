"""What a wrong params file is told: one line with the dotted key, the value and what is allowed."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Mapping
from typing import Any, TypeVar

from pydantic import BaseModel, ConfigDict, ValidationError, model_validator
from pydantic_core import PydanticCustomError

Model = TypeVar("Model", bound="Section")


class ParamsError(ValueError):
    """A params file is wrong; the message is one line: dotted key, value, what is allowed."""

    def __init__(self, message: str) -> None:
        super().__init__(" ".join(message.split()))


class Section(BaseModel):
    """A frozen mapping of a params file, checked by :func:`validated`."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True, allow_inf_nan=False)

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


def choose(key: str, value: Any, allowed: Iterable[str], problem: str = "is unknown") -> None:
    """Raise the complaint about a name that is not among the allowed, with the closest of them."""
    options = list(allowed)
    if value in options:
        return
    close = difflib.get_close_matches(str(value), options, 1)
    hint = f" (did you mean {close[0]}?)" if close else ""
    listed = ", ".join(options) or "nothing"
    raise ParamsError(f"{key}: {_show(value)} {problem}{hint}; allowed: {listed}")


def unique(key: str, values: tuple[Any, ...]) -> None:
    """Raise the complaint about a value that stands twice."""
    for value in values:
        if values.count(value) > 1:
            raise wrong(key, value, "it stands there twice")


def validated(model: type[Model], data: Any, key: str = "") -> Model:
    """``data`` as ``model``, whose place in the file is ``key``.

    Raises:
        ParamsError: it does not fit; the first misfit is named.
    """
    try:
        return model.model_validate(data)
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
    where = _path(first, data, key) or "params"
    if first["type"] == "missing":
        raise ParamsError(f"{where}: missing")
    if first["type"] == "unknown_key":
        choose(where, first["ctx"]["key"], first["ctx"]["options"], "is no key here")
    raise wrong(where, first["input"], first["msg"].replace("Input should", "must"))


def _path(misfit: Any, data: Any, key: str) -> str:
    """The dotted key of a misfit: pydantic's location without the tags of its own."""
    path, value = [key] if key else [], data
    for part in misfit["loc"]:
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
