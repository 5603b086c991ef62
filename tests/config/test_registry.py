"""A file is a plug-in by its name; what is wrong with one is said in one line that names it."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from importlib import import_module
from pathlib import Path

import pytest

from benchmark.config.registry import ATTACKS, DEFENSES, MODELS, PluginError, Registry, file_of
from benchmark.data.datasets.base import Dataset
from benchmark.defenses.base import build
from benchmark.models.base import build as model
from benchmark.models.base import reads

FILE = """
from benchmark.config.registry import PluginError
from tests.config.test_registry import current

current().enter({name!r}, {value!r}, __name__)
"""
PACKAGE = "plugins_of_a_test"
_current: list[Registry[int]] = []


def current() -> Registry[int]:
    """The registry of the test that runs, for the files that it writes."""
    return _current[-1]


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """An empty package of plug-ins; ``current()`` is its registry."""
    (tmp_path / PACKAGE).mkdir()
    (tmp_path / PACKAGE / "__init__.py").touch()
    monkeypatch.syspath_prepend(tmp_path)
    _current.append(Registry("things", PACKAGE))
    yield tmp_path / PACKAGE
    for name in [name for name in sys.modules if name.split(".")[0] == PACKAGE]:
        del sys.modules[name]
    _current.pop()


def write(path: Path, *entries: tuple[str, int], more: str = "") -> None:
    lines = [FILE.format(name=name, value=value) for name, value in entries]
    path.write_text("".join(lines) + more, encoding="utf-8")


def refused(name: str) -> str:
    with pytest.raises(ValueError) as caught:
        current()[name]
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_a_name_of_two_words_is_its_files_with_hyphens(folder: Path) -> None:
    write(folder / "two_words.py", ("two-words", 2))
    assert file_of("two-words") == "two_words"
    assert current().names() == ["two-words"] and not current(), "listing imports nothing"
    assert current()["two-words"] == 2 and list(current()) == ["two-words"]


@pytest.mark.parametrize(
    "name",
    ["._dp.py", ".#dp.py", "_dp.py", "base.py", ".DS_Store", ".dp.py.swp", "dp.py~", "#dp.py#",
     "dp copy.py", "Dp.py", "dp-2.py", "dp__2.py", "2dp.py", "dp.pyc"],
)  # fmt: skip
def test_hidden_and_other_files_are_no_plug_ins(folder: Path, name: str) -> None:
    (folder / name).write_text("this is no Python")
    (folder / "parts").mkdir()
    assert current().names() == []


def test_an_unknown_name_is_told_what_there_is(folder: Path) -> None:
    write(folder / "first.py", ("first", 1))
    write(folder / "second_one.py", ("second-one", 2))
    for name in ("second-on", "second_one"):
        assert refused(name) == (
            f"things: {name!r} is unknown (did you mean second-one?); allowed: first, second-one"
        )
    assert "plugins_of_a_test.first" not in sys.modules


def test_a_file_declares_one_plug_in_of_its_own_name(folder: Path) -> None:
    write(folder / "first.py", ("first", 1), ("second", 2))
    assert "plugins_of_a_test/first.py: its name must be 'first'" in refused("first")
    assert not current(), "what a broken file entered is forgotten"
    write(folder / "third.py", ("third_", 1))
    assert "its name must be 'third', as its file's is, not 'third_'" in refused("third")
    write(folder / "fourth.py")
    assert refused("fourth") == (
        "plugins_of_a_test/fourth.py registers nothing that is called 'fourth'"
    )


def test_a_name_is_taken_once(folder: Path) -> None:
    write(folder / "first.py", ("first", 1), ("first", 1))
    assert current()["first"] == 1
    with pytest.raises(PluginError, match=r"elsewhere.py: two things are called 'first'"):
        current().enter("first", 2, "elsewhere")


@pytest.mark.parametrize(
    ("source", "says"),
    [
        ("import nowhere_at_all", "ModuleNotFoundError: No module named 'nowhere_at_all'"),
        ("raise RuntimeError('first\\nsecond')", "RuntimeError: first second"),
        ("class (", "SyntaxError: "),
        ("\x00", "SyntaxError: source code string cannot contain null bytes"),
    ],
)
def test_a_file_that_breaks_is_named(folder: Path, source: str, says: str) -> None:
    write(folder / "first.py", ("first", 1), more=source)
    message = refused("first")
    assert message.startswith("plugins_of_a_test/first.py cannot be used: ") and says in message
    assert not current()


OWN = """
from dataclasses import dataclass
from benchmark.defenses.base import Defense, register

@register
@dataclass(frozen=True, kw_only=True)
class MyOwn(Defense):
    name = "my-own"
    factor: float = 1.0

    def __post_init__(self):
        if self.factor > 2:
            raise ZeroDivisionError("far too much")
"""

SECOND = """
from benchmark.attacks.base import get, register
from dataclasses import replace

MINE = register(replace(get("ig"), name="my-own", title=""))
"""

MODEL = """
from torch import nn
from benchmark.models.base import VictimModel, register

@register("my-own", reads="text")
def my_own(shape, classes, vocabulary):
    return VictimModel(nn.Sequential(nn.Embedding(vocabulary, 4), nn.Flatten()),
                       nn.Linear(4 * shape[0], classes))
"""


@pytest.fixture
def own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """A defense, an attack and a model of one's own, dropped beside the others."""
    registries = ((DEFENSES, OWN), (ATTACKS, SECOND), (MODELS, MODEL))
    for registry, source in registries:
        package = import_module(registry.package)
        folder = tmp_path / package.__name__
        folder.mkdir()
        (folder / "my_own.py").write_text(source, encoding="utf-8")
        monkeypatch.setattr(package, "__path__", [*package.__path__, str(folder)])
    yield
    for registry, _ in registries:
        registry.pop("my-own", None)
        sys.modules.pop(f"{registry.package}.my_own", None)


@pytest.mark.usefixtures("own")
def test_what_is_not_published_needs_neither_title_nor_source() -> None:
    defense, attack = DEFENSES["my-own"], ATTACKS["my-own"]
    assert (defense.title, defense.cite, defense.url) == ("my-own", "", "")
    assert attack.title == "my-own" and ATTACKS["ig"].title != "my-own"


@pytest.mark.usefixtures("own")
def test_models_say_what_they_read() -> None:
    assert (reads("my-own"), reads("elu")) == ("text", "images")
    assert model("my-own", (5,), 3, 20).head.in_features == 20
    with pytest.raises(ValueError, match="the model my-own reads text only"):
        model("my-own", (1, 8, 8), 3)


@pytest.mark.usefixtures("own")
def test_a_defect_in_a_plug_ins_own_check_names_it() -> None:
    assert build("my-own", {"factor": 2}).parameters() == {"factor": 2.0}
    with pytest.raises(PluginError) as caught:
        build("my-own", {"factor": 3.0}, "defenses.my-own.points.high")
    assert str(caught.value) == ("defenses.my-own.points.high: ZeroDivisionError: far too much")


def test_a_package_of_data_sets_holds_data_sets() -> None:
    from benchmark.config.registry import DATASETS

    assert isinstance(DATASETS["digits"].read(Path()), Dataset)
