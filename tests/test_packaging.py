"""The pins, the Makefile and the environment that they promise."""

from __future__ import annotations

import ast
import os
import re
import shutil
import subprocess
import sys
import tomllib
from importlib.metadata import packages_distributions, version
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).resolve().parent.parent
REQUIREMENTS = (ROOT / "requirements.txt").read_text(encoding="utf-8")
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
PACKAGES = ("benchmark", "stages", "leaderboard")


def canonical(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


def pins() -> dict[str, str]:
    lines = [line for line in REQUIREMENTS.splitlines() if line and not line.startswith("#")]
    return dict((canonical(name), version) for name, version in (ln.split("==") for ln in lines))


def declared(*, dev: bool = False) -> set[str]:
    names = list(PROJECT["project"]["dependencies"])
    names += PROJECT["dependency-groups"]["dev"] if dev else []
    return {canonical(name) for name in names}


def imported(packages: tuple[str, ...]) -> set[str]:
    """Distributions that the packages' files import, at the top or late."""
    modules = set()
    for path in (file for package in packages for file in (ROOT / package).rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Import):
                modules |= {alias.name for alias in node.names}
            elif isinstance(node, ast.ImportFrom) and node.level == 0 and node.module:
                modules.add(node.module)
    owners = packages_distributions()
    found = set()
    for module in modules:
        top = module.split(".")[0]
        if top in sys.stdlib_module_names or top in (*PACKAGES, "tests"):
            continue
        if top == "ruamel":  # a namespace: ruamel.yaml is the distribution
            found.add(canonical(module))
            continue
        # mlflow's modules belong to mlflow and to mlflow-skinny: a declared owner is enough.
        options = sorted(map(canonical, owners.get(top, [top])))
        found.add(next((name for name in options if name in declared(dev=True)), options[0]))
    return found


@pytest.mark.parametrize(
    "line", [line for line in REQUIREMENTS.splitlines() if line and not line.startswith("#")]
)
def test_a_requirement_is_a_plain_name_and_an_exact_public_version(line):
    assert re.fullmatch(
        r"[A-Za-z0-9][A-Za-z0-9._-]*==[0-9]+(\.[0-9]+|\.post[0-9]+)*(b[0-9]+)?", line
    )


def test_no_distribution_is_pinned_twice():
    names = [canonical(x.split("==")[0]) for x in REQUIREMENTS.splitlines() if "==" in x]
    assert len(names) == len(set(names))


def test_only_torch_itself_decides_between_cpu_and_cuda():
    assert not [name for name in pins() if name.startswith(("nvidia", "cuda", "triton"))]


def test_every_declared_dependency_is_pinned():
    assert declared(dev=True) <= set(pins())


def test_pyproject_names_versions_nowhere():
    names = PROJECT["project"]["dependencies"] + PROJECT["dependency-groups"]["dev"]
    assert not [name for name in names if re.search(r"[<>=~!@;]", name)]


def test_every_import_is_a_declared_dependency():
    extras = PROJECT["project"]["optional-dependencies"].values()
    optional = {canonical(name) for names in extras for name in names}
    assert imported(PACKAGES) <= declared() | optional
    assert imported(("tests",)) <= declared(dev=True)


def test_the_environment_holds_what_is_pinned():
    installed = {name: version(name).split("+")[0] for name in pins()}
    assert installed == pins()


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    """An empty project with this Makefile and a stand-in for the slow half of its environment."""
    root = tmp_path / "a tree"
    root.mkdir()
    shutil.copy(ROOT / "Makefile", root)
    (root / "requirements.txt").write_text("")
    return root


def make(tree: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    # These tests may be running under `make test`, whose options are not for this make.
    outside = {k: v for k, v in os.environ.items() if not k.startswith("MAKE") and k != "MFLAGS"}
    return subprocess.run(
        ["make", *arguments],
        cwd=tree, env=outside, capture_output=True, text=True, check=False, timeout=300,
    )  # fmt: skip


def test_an_old_python_ends_with_one_line_that_says_so(tree):
    old = tree.parent / "python-that-fails-the-check"
    old.write_text("#!/bin/sh\nexit 1\n")
    old.chmod(0o755)
    done = make(tree, "test", f"PYTHON={old}")
    assert done.returncode != 0
    first = done.stderr.splitlines()[0]
    assert "needs Python 3.11 or newer" in first
    assert "Traceback" not in done.stderr
    assert not (tree / ".venv").exists()


def test_an_environment_is_made_once_and_again_when_the_pins_change(tree):
    python = f"PYTHON={sys.executable}"
    stamp = ".venv/.installed"
    assert make(tree, stamp, python).returncode == 0
    assert (tree / stamp).exists()
    assert "up to date" in make(tree, stamp, python).stdout
    (tree / "requirements.txt").write_text("# changed\n")
    assert make(tree, "--question", stamp, python).returncode == 1


def test_a_failed_install_leaves_no_stamp_and_is_taken_up_again(tree):
    python = f"PYTHON={sys.executable}"
    (tree / "requirements.txt").write_text("this is no requirement\n")
    assert make(tree, ".venv/.installed", python).returncode != 0
    assert not (tree / ".venv/.installed").exists()
    (tree / "requirements.txt").write_text("")
    assert make(tree, ".venv/.installed", python).returncode == 0


def test_a_broken_environment_is_made_anew(tree):
    (tree / ".venv/bin").mkdir(parents=True)
    (tree / ".venv/bin/python").write_text("not a python")
    assert make(tree, ".venv/.installed", f"PYTHON={sys.executable}").returncode == 0
    subprocess.run([tree / ".venv/bin/python", "-c", "import pip"], check=True, timeout=60)


def test_version_and_license_are_the_same_everywhere():
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text(encoding="utf-8"))
    changelog = (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")
    assert citation["version"] == PROJECT["project"]["version"]
    assert f"\n## [{citation['version']}] - " in changelog
    assert citation["license"] == PROJECT["project"]["license"]
    assert (ROOT / "LICENSE").read_text(encoding="utf-8").startswith(f"{citation['license']} ")


def test_citation_file_fits_its_schema():
    command = [Path(sys.executable).parent / "check-jsonschema"]
    command += ["--builtin-schema", "vendor.citation-file-format", ROOT / "CITATION.cff"]
    subprocess.run(command, check=True, timeout=120)
