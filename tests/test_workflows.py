"""The workflow files are valid, safe, and run what README says."""

from __future__ import annotations

import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).resolve().parent.parent
WORKFLOWS = sorted((ROOT / ".github/workflows").glob("*.yml"))
SITE = ROOT / ".github/workflows/site.yml"


def tool(name: str, *arguments: object) -> None:
    command = [str(Path(sys.executable).parent / name), *map(str, arguments)]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=120)
    assert done.returncode == 0, done.stdout + done.stderr


def jobs(path: Path) -> dict[str, dict]:
    return yaml.safe_load(path.read_text(encoding="utf-8"))["jobs"]


def steps(path: Path) -> list[dict]:
    return [step for job in jobs(path).values() for step in job["steps"]]


def test_there_are_workflows_for_tests_and_site():
    assert {path.name for path in WORKFLOWS} >= {"tests.yml", "site.yml"}


@pytest.mark.parametrize("path", WORKFLOWS, ids=lambda path: path.name)
def test_a_workflow_fits_its_schema(path):
    tool("check-jsonschema", "--builtin-schema", "vendor.github-workflows", path)


def test_dependabot_fits_its_schema():
    config = ROOT / ".github/dependabot.yml"
    tool("check-jsonschema", "--builtin-schema", "vendor.dependabot", config)


def test_zizmor_finds_nothing_to_say():
    tool("zizmor", "--offline", "--persona", "pedantic", ROOT / ".github")


@pytest.mark.parametrize("path", WORKFLOWS, ids=lambda path: path.name)
def test_rights_are_given_to_jobs_and_never_to_a_workflow(path):
    assert yaml.safe_load(path.read_text(encoding="utf-8"))["permissions"] == {}
    for name, job in jobs(path).items():
        writes = {right for right, level in job["permissions"].items() if level == "write"}
        assert writes <= ({"pages", "id-token"} if name == "deploy" else set())


@pytest.mark.parametrize("path", WORKFLOWS, ids=lambda path: path.name)
def test_actions_are_pinned_by_commit_with_their_version_beside(path):
    uses = re.findall(r"uses: (.*)", path.read_text(encoding="utf-8"))
    assert uses
    assert all(re.fullmatch(r"[\w./-]+@[0-9a-f]{40} # v\d+\.\d+\.\d+", use) for use in uses)


def test_pull_requests_run_the_script_that_runs_everything():
    workflow = yaml.safe_load((ROOT / ".github/workflows/tests.yml").read_text(encoding="utf-8"))
    assert "pull_request" in workflow[True]  # YAML 1.1 reads the key `on` as a truth value
    runs = [step.get("run") for step in steps(ROOT / ".github/workflows/tests.yml")]
    assert "bash .ci/run" in runs


def test_ci_checks_first_and_then_runs_readmes_test_command():
    script = (ROOT / ".ci/run").read_text(encoding="utf-8")
    commands = re.findall(r"^make --no-print-directory (\w+)$", script, flags=re.MULTILINE)
    assert commands == ["check", "test"]
    assert script.rstrip().endswith("test"), "pytest's summary has to be what is printed last"
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    assert re.search(r"^make test\b", readme, flags=re.MULTILINE)


def test_ci_script_is_executable_and_parses():
    script = ROOT / ".ci/run"
    assert script.stat().st_mode & 0o111
    subprocess.run(["bash", "-n", script], check=True, timeout=30)


REFUSE = """
import runpy, sys
from importlib.abc import MetaPathFinder

refused = set(sys.argv.pop(1).split(","))

class Refuse(MetaPathFinder):
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in refused:
            raise ImportError(f"{name} is not there where the site is built")

sys.meta_path.insert(0, Refuse())
sys.argv[0] = "leaderboard.build"
runpy.run_module("leaderboard.build", run_name="__main__")
"""


def test_the_site_is_built_from_committed_results_with_what_the_workflow_installs(tmp_path):
    install = next(step["run"] for step in steps(SITE) if "pip install" in step.get("run", ""))
    assert " -c requirements.txt " in install
    installed = {name.lower() for name in install.split(" -c requirements.txt ")[1].split()}
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    needed_by_them = {"numpy", "pillow", "markupsafe"}
    others = {name.lower() for name in project["project"]["dependencies"]} - installed
    modules = {"scikit-learn": "sklearn", "pyyaml": "yaml", "ruamel.yaml": "ruamel"}
    refused = {modules.get(name, name) for name in others - needed_by_them}
    assert "torch" in refused
    done = subprocess.run(
        [sys.executable, "-c", REFUSE, ",".join(sorted(refused)),
         "--site", tmp_path / "site", "--tables", tmp_path / "tables"],
        cwd=ROOT, capture_output=True, text=True, check=False, timeout=300,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "site/index.html").is_file()
