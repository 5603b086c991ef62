"""Fields of plug-ins are read from source as the classes would have them."""

from __future__ import annotations

from typing import Literal, Optional

import pytest

from benchmark.config import declared

BASE = """
class Base:
    name: str = ""
    shared: int = 1
    _hidden: int = 2
"""

CHILD = """
from typing import ClassVar, Literal, Optional
from .base import Base as Parent
from benchmark.defenses._parts import Mixed

Norm = Literal["l1", "l2"]

class Helper:
    name = "helper"

class Child(Mixed, Parent):
    name: ClassVar[str] = "my-child"
    rate: float
    norm: Norm = "l1"
    some: "Optional[int]" = None
    pair: tuple[float, int] = (1.0, 2)
    many: tuple[int, ...] = ()
    either: int | str = 1
    module: "Module" = None
    other: dict[str, int] = {}
    constant: ClassVar[int] = 3

    def method(self):
        local: int = 3
"""

ATTACKS = """
from benchmark.attacks._kind import Kind

def register(value):
    return value

ONE = register(Kind(name="one", goal=object()))
TWO: Kind = Kind(name="two", goal=None, steps=7)
print(Kind(name=str(3)))

class Third(Kind):
    name = "third"
    extra: bool = False

def inside():
    return Kind(name="nowhere", goal=1)
"""


@pytest.fixture
def package(tmp_path):
    for folder in ("defenses", "attacks"):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "__init__.py").touch()
    (tmp_path / "defenses" / "base.py").write_text(BASE)
    (tmp_path / "defenses" / "_parts.py").write_text("class Mixed:\n    mixed: float = 0.5\n")
    (tmp_path / "defenses" / "my_child.py").write_text(CHILD)
    kind = "class Kind:\n    name: str\n    goal: object\n    steps: int = 5\n    need: int\n"
    (tmp_path / "attacks" / "_kind.py").write_text(kind)
    (tmp_path / "attacks" / "some.py").write_text(ATTACKS)
    return tmp_path


def test_a_defense_has_its_own_and_its_bases_scalar_fields(package):
    (child,) = declared.defenses(package).values()
    assert child.name == "my-child"
    assert child.fields == {
        "shared": int,
        "mixed": float,
        "rate": float,
        "norm": Literal["l1", "l2"],
        "some": Optional[int],  # noqa: UP045
        "pair": tuple[float, int],
        "many": tuple[int, ...],
        "either": int | str,
    }
    assert child.required == {"rate"}


def test_attacks_are_classes_and_module_level_calls(package):
    found = declared.attacks(package)
    assert sorted(found) == ["one", "third", "two"]
    assert found["two"].fields == {"steps": int, "need": int}
    assert found["third"].fields == {"steps": int, "need": int, "extra": bool}
    assert found["one"].required == {"need"}


def test_a_defense_file_without_its_class_and_one_that_is_no_python_are_errors(package):
    (package / "defenses" / "empty.py").write_text("")
    with pytest.raises(SyntaxError, match=r'empty.py has no class with name = "empty"'):
        declared.defenses(package)
    (package / "defenses" / "empty.py").write_text("class (")
    with pytest.raises(SyntaxError):
        declared.defenses(package)


def test_a_changed_file_is_read_again(package):
    assert "one" in declared.attacks(package)
    (package / "attacks" / "some.py").write_text("")
    assert declared.attacks(package) == {}
