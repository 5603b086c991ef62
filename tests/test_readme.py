"""README's commands exist and its snippets run, so that they cannot rot."""

from __future__ import annotations

import re
import shlex
import shutil
import subprocess
import sys
from functools import lru_cache
from pathlib import Path

import pytest
from ruamel.yaml import YAML

ROOT = Path(__file__).resolve().parent.parent
PAGES = {
    name: (ROOT / name).read_text(encoding="utf-8") for name in ("README.md", "CONTRIBUTING.md")
}
README = PAGES["README.md"]


def fences(language: str, text: str = README) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```$", text, flags=re.MULTILINE | re.DOTALL)


def snippets(language: str) -> list[tuple[str, str]]:
    """Fenced blocks whose first line is a comment that names the file they belong to."""
    found = []
    for block in fences(language, "\n".join(PAGES.values())):
        first, _, rest = block.partition("\n")
        found.append((first.removeprefix("# "), rest))
    return found


def shown_params() -> dict[str, dict]:
    """The entries that the pages add to params.yaml."""
    yaml, added = YAML(typ="safe"), {}
    for name, text in snippets("yaml"):
        assert name == "params.yaml"
        added |= yaml.load(text)
    return added


COMMANDS = [
    (page, line)
    for page, text in PAGES.items()
    for block in fences("bash", text)
    for line in block.splitlines()
]


@lru_cache
def make_targets() -> set[str]:
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    return set(re.findall(r"^([a-z]+):", makefile, flags=re.MULTILINE))


@lru_cache
def stage_names() -> set[str]:
    done = subprocess.run(
        [sys.executable, "-m", "dvc", "stage", "list", "--name-only"],
        cwd=ROOT, capture_output=True, text=True, check=True, timeout=120,
    )  # fmt: skip
    return set(done.stdout.split())


@lru_cache
def options(*command: str) -> str:
    done = subprocess.run(
        [sys.executable, "-m", *command, "--help"],
        cwd=ROOT, capture_output=True, text=True, check=True, timeout=120,
    )  # fmt: skip
    return done.stdout


@pytest.mark.parametrize(("page", "line"), COMMANDS, ids=[line for _, line in COMMANDS])
def test_a_command_exists(page, line):
    program, *arguments = shlex.split(line)
    if program == "make":
        assert {word for word in arguments if "=" not in word} <= make_targets()
    elif program in ("dvc", "mlflow"):
        verb, *rest = arguments
        help_text = options(program, verb)
        assert all(word in help_text for word in rest if word.startswith("--"))
        if program == "dvc":
            assert {word for word in rest if not word.startswith("-")} <= stage_names()
    else:
        assert program == "mv", f"{page} shows a program that this test does not know: {line}"


def test_readme_opens_with_the_two_commands():
    assert fences("bash")[0].split("\n")[:2] == ["make board", "make test"]


def test_readme_keeps_its_order():
    titles = ["Two commands", "Add a defense", "How to read a row", "How it works"]
    places = [README.index(f"\n## {title}\n") for title in titles]
    assert README.index("docs/board.png") < places[0]
    assert places == sorted(places)


@pytest.mark.parametrize("target", sorted(set(re.findall(r"\]\(([^)#]+)\)", README))))
def test_a_link_leads_somewhere(target):
    assert target.startswith("https://") or (ROOT / target).is_file()


def test_readme_speaks_of_files_that_exist():
    built = {"leaderboard/tables", "leaderboard/results/<scenario>"}
    named = set(re.findall(r"`((?:benchmark|stages|leaderboard|tests|docs)/[^`]*?)/?`", README))
    placeholders = {name for name in named if "<name>" in name}
    made_in_snippets = {path for path, _ in snippets("python")}
    missing = named - built - placeholders - made_in_snippets
    assert not {name for name in missing if not (ROOT / name).exists()}


@pytest.fixture(scope="module")
def extended(tmp_path_factory) -> Path:
    """A copy of the benchmark with the pages' files and params entries added to it."""
    tree = tmp_path_factory.mktemp("readme")
    shutil.copytree(ROOT / "benchmark", tree / "benchmark")
    for path, code in snippets("python"):
        assert not (tree / path).exists(), f"{path} exists already"
        (tree / path).write_text(code, encoding="utf-8")
    yaml = YAML(typ="safe")
    params = yaml.load((ROOT / "params.yaml").read_text(encoding="utf-8"))
    added = shown_params()
    for section, entries in added.items():
        assert not set(entries) & set(params[section])
        params[section] |= entries
    for scenario in params["scenarios"].values():
        scenario["entrants"].extend(added["defenses"])
        if scenario["data"] == "digits":
            scenario["attacks"].extend(added["attacks"])
    yaml.dump(params, tree / "params.yaml")
    return tree


def run(tree: Path, code: str) -> str:
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=tree, capture_output=True, text=True, check=False,
        timeout=300,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_readmes_params_are_accepted(extended):
    shown = run(
        extended,
        "from benchmark.config.schema import load_params\n"
        "params, board = load_params(), load_params().board('digits')\n"
        "print(*params.defenses, *params.attacks, *board.entrants, *board.attacks)",
    )
    added = [name for entries in shown_params().values() for name in entries]
    assert [shown.split().count(name) for name in added] == [2, 2]


def test_readmes_defense_protects_at_every_point_it_shows(extended):
    added = shown_params()["defenses"]
    for name, entry in added.items():
        for point in entry["points"].values():
            run(
                extended,
                f"""
import torch
from benchmark.defenses.base import build
from benchmark.federated.update import Update

defense = build({name!r}, {point!r})
update = Update({{"w": torch.linspace(-1, 1, 101), "b": torch.zeros(3)}})
nothing = update * 0.0
sent, memory = defense.protect(update, nothing, torch.Generator())
assert {{n: t.shape for n, t in sent.items()}} == {{n: t.shape for n, t in update.items()}}
assert all(torch.isfinite(t).all() for t in sent.values())
assert len(sent["w"].unique()) == 2 * defense.levels + 1 or defense.levels > 50
assert (sent["w"] - update["w"]).abs().max() <= 0.5 / defense.levels + 1e-6
""",
            )


def test_readmes_evidence_explains_a_real_message(extended):
    offered = run(
        extended,
        """
import torch
from benchmark.defenses.base import build
from benchmark.evidence.base import registered_evidence
from benchmark.federated.setting import Setting, schema
from benchmark.federated.simulation import start
from benchmark.federated.transcript import Transcript
from benchmark.federated.update import Update
from benchmark.federated.wire import decode, encode

setting = Setting(
    scenario="digits", model="elu", shape=(1, 8, 8), classes=10, mean=(0.3,), std=(0.3,),
    algorithm="fedsgd", local_steps=1, local_lr=0.1, private_lr=0.1, batch_size=1,
    labels_given=True, defense=build("rounding", {"levels": 64}),
)
broadcast, (client,) = start(setting, 1, 0, "a secret")
images, labels = torch.rand(1, 1, 8, 8), torch.tensor([3])
sent = client.round(broadcast, [(images, labels)], torch.Generator().manual_seed(0))
message = Update(decode(encode(sent), schema(setting)))
transcript = Transcript(setting, 0, 0, broadcast, message, labels)
for entry in registered_evidence("rounding"):
    evidence = entry.build(transcript)
    if evidence is None or entry.name not in ("oblivious", "levels"):
        continue
    guess = {"images": images, "labels": torch.nn.functional.one_hot(labels, 10).float()}
    told = evidence.predict(setting, guess, {}, evidence.data)["update"]
    for name, tensor in evidence.terms["update"].value.items():
        step = tensor.abs().max() / 64
        assert (told[name] - tensor).abs().max() <= 0.51 * step + 1e-7, (entry.name, name)
    print(entry.name)
""",
    ).split()
    assert offered == ["oblivious", "levels"]


def test_contributings_attack_recovers_an_undefended_image(extended):
    psnr = run(
        extended,
        """
import torch
from benchmark.attacks.base import get
from benchmark.defenses.base import build
from benchmark.evidence.generic import oblivious
from benchmark.federated.setting import Setting
from benchmark.federated.simulation import start
from benchmark.federated.transcript import Transcript

torch.set_num_threads(1)
setting = Setting(
    scenario="digits", model="elu", shape=(1, 8, 8), classes=10, mean=(0.3,), std=(0.3,),
    algorithm="fedsgd", local_steps=1, local_lr=0.1, private_lr=0.1, batch_size=1,
    labels_given=True, defense=build("none", {}),
)
broadcast, (client,) = start(setting, 1, 0, "a secret")
row = torch.linspace(0, 1, 8)
image, labels = (row * row[:, None])[None, None], torch.tensor([3])
message = client.round(broadcast, [(setting.normalise(image), labels)], torch.Generator())
transcript = Transcript(setting, 0, 0, broadcast, message, labels)
(guess,) = get("smooth").configured(iterations=120).run([oblivious(transcript)])
print(float(-10 * (guess.images - image).square().mean().log10()))
""",
    )
    assert float(psnr) > 20


def test_readmes_evidence_recovers_at_least_what_every_generic_one_does(extended):
    """On a coarse point, where rounding hides most of a message from the others."""
    found = run(
        extended,
        """
import torch
from benchmark.attacks.base import get
from benchmark.defenses.base import build
from benchmark.evidence.base import registered_evidence
from benchmark.federated.setting import Setting, schema
from benchmark.federated.simulation import start
from benchmark.federated.transcript import Transcript
from benchmark.federated.update import Update
from benchmark.federated.wire import decode, encode

torch.set_num_threads(1)
setting = Setting(
    scenario="digits", model="elu", shape=(1, 8, 8), classes=10, mean=(0.3,), std=(0.3,),
    algorithm="fedsgd", local_steps=1, local_lr=0.1, private_lr=0.1, batch_size=1,
    labels_given=True, defense=build("rounding", {"levels": 4}),
)
broadcast, (client,) = start(setting, 1, 0, "a secret")
pixels = torch.rand(2, 1, 1, 8, 8, generator=torch.Generator().manual_seed(1))
transcripts = []
for victim, image in enumerate(pixels):
    batch = (setting.normalise(image), torch.tensor([victim]))
    sent = client.copy().round(broadcast, [batch], torch.Generator())
    message = Update(decode(encode(sent), schema(setting)))
    transcripts.append(Transcript(setting, victim, 0, broadcast, message, batch[1]))
for entry in registered_evidence("rounding"):
    evidences = [entry.build(transcript) for transcript in transcripts]
    if None in evidences:
        continue
    guesses = get("auto").run(evidences)
    errors = [(g.images - p).square().mean() for g, p in zip(guesses, pixels)]
    print(entry.name, float(-10 * torch.stack(errors).clamp_min(1e-6).log10().mean()))
""",
    ).splitlines()
    psnr = {name: float(value) for name, value in (line.split() for line in found)}
    assert {"oblivious", "first-linear-layer", "bpda-eot", "levels"} == set(psnr)
    assert psnr["levels"] == max(psnr.values()), psnr
