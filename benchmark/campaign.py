"""Attacking transcripts: one cell per reading and attack, each computed once and kept.

A cell's guesses are a safetensors file: ``images`` [V, N, C, H, W] in [0, 1], or words [V, N,
length]; ``labels`` [V, N] and ``soft`` [V, N, classes] where the attack gave them,
``hidden.<name>`` [V, ...], the ``loss`` [V] that the attack believes it reached, and the
``evaluations`` [V] int64 that it took: gradients of the victim model. What is not a tensor is JSON
beside it. Nothing here reads the truth.
"""

from __future__ import annotations

import json
import shutil
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from itertools import product
from pathlib import Path
from typing import TYPE_CHECKING, Any

from benchmark import provenance
from benchmark.cells import Store, digest, library_versions, source_digest
from benchmark.execution import Failure, run
from benchmark.metrics.selection import Candidate, explains, select
from benchmark.naming import artifact, guesses_file, transcripts_file
from benchmark.randomness import seed_of

if TYPE_CHECKING:
    from benchmark.config import Attack as Overrides
    from benchmark.config import Params

HERE = Path(__file__).parent


@dataclass(frozen=True)
class Task:
    """One attack on one file of transcripts, on all readings or on ``only`` one of them.

    ``key`` are the columns that its cells share: scenario, defense, point, checkpoint, seed,
    batch_size, attack and settings.
    """

    key: Mapping[str, Any] = field(hash=False)
    transcripts: Path
    public: Path
    fields: Mapping[str, Any] = field(hash=False)
    provenance: Mapping[str, Any] = field(hash=False)
    store: Path
    limit: float | None = None
    """Seconds a cell may take; its best guess by then counts, with status ``timeout``."""
    knowledge: tuple[str, ...] | None = None
    """Which readings are attacked, by what they know; None for all."""
    only: str | None = None
    first: int | None = None
    """How many victims are attacked; None for all."""


def plan(
    params: Params, scenario: str, defense: str, store: Path, limit: float | None
) -> list[Task]:
    """One task per attack, settings and file of transcripts of one defense."""
    chosen = params.scenarios[scenario]
    places = product(
        chosen.attacks, params.defenses[defense].points, params.seeds,
        chosen.federation.checkpoints, chosen.observation.batch_sizes,
    )  # fmt: skip
    return [
        Task(
            key={
                "scenario": scenario, "defense": defense, "point": point, "seed": seed,
                "checkpoint": checkpoint, "batch_size": size, "attack": name,
                "settings": settings,
            },
            transcripts=artifact(scenario, "transcripts", defense)
            / transcripts_file(point, seed, checkpoint, size),
            public=artifact(scenario, "public"),
            fields=params.attacks[name].fields if settings == BOARD else {},
            provenance=provenance.summary(),
            store=store,
            limit=limit,
            knowledge=params.attacks[name].knowledge,
            only=None if settings == BOARD else WHOLE,
        )
        for name, point, seed, checkpoint, size in places
        for settings in settings_on(params.attacks[name], defense, seed == params.seeds[0])
        if checkpoint in (params.attacks[name].checkpoints or (checkpoint,))
        and size in (params.attacks[name].batch_sizes or (size,))
    ]  # fmt: skip


def settings_on(attack: Overrides, defense: str, first_seed: bool) -> list[str]:
    """In which settings an attack runs on a defense: the board's, and as it was published.

    The latter on the control alone, for the first seed (published budgets are tens of times the
    board's), on the whole message and nothing else, and only where the board's settings are others.
    A victim's start does not depend on them.
    """
    wanted: list[str] = [name for name in (BOARD, PUBLISHED) if name in attack.settings]
    if not (attack.fields and defense == CONTROL and first_seed):
        return [name for name in wanted if name == BOARD]
    return wanted


BOARD, PUBLISHED, CONTROL = "board", "published", "none"
WHOLE = "oblivious"
"""The evidence that published attacks match: the whole message."""

UNSENT = {
    "evidence": WHOLE,
    "knowledge": "oblivious",
    "labels": "",
    "observations": 0,
    "unknowns": 0,
    "status": "failed",
    "reason": "nothing to attack: training diverged before this checkpoint",
}


def attack_transcripts(task: Task) -> list[dict[str, Any]]:
    """Compute what the store lacks; one record per reading, with its cell's folder.

    A record holds the task's key, ``evidence``, ``knowledge``, ``status``, ``reason`` and, where
    guesses exist, ``cell`` and what the attack reported.
    """
    from benchmark.attacks.base import get
    from benchmark.federated.transcript import read

    chosen = get(task.key["attack"]).configured(**task.fields)
    if not task.transcripts.exists():
        return [{**task.key, **UNSENT, "threat": chosen.threat}]
    transcripts = read(task.transcripts)[: task.first]
    records = []
    for name, evidences in _attacked(task, transcripts).items():
        if task.only not in (None, name):
            continue
        found = _cell(task, chosen, name, evidences)
        records.append({**task.key, **found, "threat": chosen.threat})
    return records


ENSEMBLE = "auto"
"""The attack that can spend several times its budget."""


def saturation(
    params: Params, tasks: Sequence[Task], records: Sequence[Mapping[str, Any]]
) -> list[Task]:
    """Tasks that spend larger budgets on a few victims of the first seed, in the board's settings.

    They attack the reading that an attacker would believe for most of those victims.

    Args:
        tasks: of :func:`plan`.
        records: what came of them, with their cells.
    """
    if params.saturation is None:
        return []
    count, found = params.saturation.victims, []
    for task in tasks:
        if task.key["attack"] != ENSEMBLE or task.key["seed"] != params.seeds[0]:
            continue
        if task.key["settings"] != BOARD:
            continue
        own = [r for r in records if "cell" in r and task.key.items() <= r.items()]
        if own:
            only = _believed(own, count)
            found += [
                replace(
                    task,
                    key={**task.key, "budget": budget},
                    fields={**task.fields, "budget": budget},
                    only=only,
                    first=count,
                )
                for budget in params.saturation.budgets
            ]
    return found


def _believed(records: Sequence[Mapping[str, Any]], count: int) -> str:
    """The reading that the attacker believes for most of the first victims.

    ``records`` are one attack's on one file, in the order of its readings.
    """
    from safetensors.numpy import load_file  # without torch, which the stage itself never needs

    losses = [load_file(Path(r["cell"]) / "guesses.safetensors")["loss"][:count] for r in records]
    picked = [
        select(
            [
                Candidate(place, 0, explains(loss, record["noisy"]))
                for place, (record, loss) in enumerate(zip(records, victim, strict=True))
            ]
        )
        for victim in zip(*losses, strict=True)
    ]
    return records[max(range(len(records)), key=picked.count)]["evidence"]


def leftover(task: Task, failure: Failure) -> list[dict[str, Any]]:
    """Records of a task whose worker died over it: each reading is tried in a worker of its own.

    What died again is a record with the failure's reason, so that no row is missing.
    """
    from benchmark.attacks.base import get
    from benchmark.federated.transcript import read

    threat = get(task.key["attack"]).threat
    readings = _attacked(task, read(task.transcripts))
    alone = [replace(task, only=name) for name in readings if task.only in (None, name)]
    records = []
    for each, done in run(attack_transcripts, alone, workers=1, apart=True):
        if isinstance(done, Failure):
            assert each.only is not None
            about = _about(readings[each.only][0])
            about |= {"status": done.status, "reason": done.reason, "evidence": each.only}
            records.append({**task.key, **about, "threat": threat})
        else:
            records += done
    return records


def keep(record: Mapping[str, Any], folder: Path) -> dict[str, Any]:
    """Copy a record's guesses to ``folder``; the record names the file in place of the cell."""
    kept = {name: value for name, value in record.items() if name != "cell"}
    kept["file"] = str(guesses_file(record))
    if "cell" in record:
        target = folder / kept["file"]
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(Path(record["cell"]) / "guesses.safetensors", target)
    return kept


def readable(transcripts: list[Any]) -> dict[str, list[Any]]:
    """Every reading that applies to all the transcripts, by name, one evidence per victim."""
    from benchmark.evidence.base import readings

    found = {}
    for entry in readings(transcripts[0].setting.defense.name):
        evidences = [entry.build(transcript) for transcript in transcripts]
        if all(evidence is not None for evidence in evidences):
            found[entry.name] = evidences
    return found


def _attacked(task: Task, transcripts: list[Any]) -> dict[str, list[Any]]:
    """The readings that the task's attack is run on."""
    return {
        name: evidences
        for name, evidences in readable(transcripts).items()
        if task.knowledge is None or evidences[0].knowledge in task.knowledge
    }


def _cell(task: Task, chosen: Any, name: str, evidences: list[Any]) -> dict[str, Any]:
    first = evidences[0]
    record = {"evidence": name, **_about(first)}
    reason = chosen.refusal(first)
    if reason is not None:
        return record | {"status": "unsupported", "reason": reason}
    record["labels"] = chosen.labels_from(first)
    if record["labels"] == "joint" and first.labels == "given":  # granted, and not made use of
        record["unknowns"] += first.setting.images * first.setting.classes
    store = Store(task.store)
    key = cell_digest(task, chosen, first)
    late = digest(key, task.limit)  # a cell that was cut short is of this limit alone
    folder = store.get(key) or store.get(late)
    if folder is None:
        try:
            tensors, made = _compute(task, chosen, evidences)
        except MemoryError as error:
            return record | {"status": "oom", "reason": _line(error)}
        except Exception as error:  # a cell that fails is a row with its reason
            return record | {"status": "failed", "reason": _line(error)}
        folder = store.put(
            late if made["status"] == "timeout" else key, partial(_write, tensors, made)
        )
    made = json.loads((folder / "cell.json").read_text(encoding="utf-8"))
    return record | made | {"cell": str(folder)}


def _about(evidence: Any) -> dict[str, Any]:
    return {
        "knowledge": evidence.knowledge,
        "labels": evidence.labels,
        "noisy": evidence.noisy,
        "observations": evidence.observations,
        "unknowns": evidence.unknowns,
    }


def cell_digest(task: Task, chosen: Any, evidence: Any) -> str:
    """The digest of everything that a cell's guesses depend on."""
    from benchmark.attacks.base import PARTS

    defense, model = evidence.setting.defense.name, evidence.setting.model
    sources = [
        *(HERE / "evidence" / f"{name}.py" for name in (*GENERIC, *borrowed(defense))),
        *(HERE / "attacks" / f"{name}.py" for name in (*PARTS, chosen.name, *chosen.members)),
        *(HERE / "models" / name for name in ("base.py", "parts", f"{model}.py")),
        *(HERE / "defenses" / name for name in ("base.py", "parts", f"{defense}.py")),
        *(HERE / "federated" / f"{name}.py" for name in FEDERATED),
        HERE / "data" / "preparation.py",
        HERE / "randomness.py",
        Path(__file__),
    ]
    return digest(
        task.transcripts,
        task.first,
        task.public,
        chosen.parameters(),
        evidence.name,
        source_digest(sources),
        library_versions(),
    )


FEDERATED = ("client", "setting", "transcript", "update", "wire")
"""What readings need of federated learning."""


GENERIC = ("base", "generic", "linear")
"""The files of readings of every defense."""


def borrowed(defense: str) -> tuple[str, ...]:
    """The files of a defense's own readings: its own, where there is one, and what that imports."""
    import ast

    path = HERE / "evidence" / f"{defense}.py"
    if not path.exists():
        return ()
    names: list[str] = []
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.ImportFrom) and node.module:
            if node.module == "benchmark.evidence":
                names += [alias.name for alias in node.names]
            elif node.module.startswith("benchmark.evidence."):
                names.append(node.module.rsplit(".", 1)[-1])
    found = [name for name in names if name not in (*GENERIC, defense)]
    return tuple(dict.fromkeys([defense, *(more for name in found for more in borrowed(name))]))


def _compute(
    task: Task, chosen: Any, evidences: list[Any]
) -> tuple[dict[str, Any], dict[str, Any]]:
    """A cell's tensors, and what is written beside them."""
    import torch

    from benchmark.data.preparation import read_public
    from benchmark.federated.transcript import read_header

    header = read_header(task.transcripts)
    seeds = [
        seed_of("start", evidences[0].setting.scenario, header["seed"], chosen.name, victim)
        for victim in range(len(evidences))
    ]
    began = time.monotonic()
    deadline = None if task.limit is None else began + task.limit
    guesses = chosen.run(evidences, read_public(task.public), seeds, deadline)
    seconds = time.monotonic() - began
    tensors = {
        "images": torch.stack([g.images for g in guesses]),
        "loss": torch.tensor([g.loss for g in guesses], dtype=torch.float64),
        "evaluations": torch.tensor(
            [g.evaluations * evidences[0].cost + g.simulated for g in guesses]
        ),
    }
    for part in ("labels", "soft"):
        if all(getattr(g, part) is not None for g in guesses):
            tensors[part] = torch.stack([getattr(g, part) for g in guesses])
    for name in guesses[0].hidden:
        tensors[f"hidden.{name}"] = torch.stack([g.hidden[name] for g in guesses])
    late = any(g.stopped == "timeout" for g in guesses)
    made = {
        "status": "timeout" if late else "ok",
        "reason": f"stopped after {task.limit} s, best guess scored" if late else "",
        "evaluations": int(tensors["evaluations"].max()),
        "strategy": guesses[0].strategy,
        "chunk": guesses[0].chunk,
        "seconds": seconds,
        **task.provenance,
    }
    return {name: tensor.contiguous() for name, tensor in tensors.items()}, made


def _write(tensors: Mapping[str, Any], made: Mapping[str, Any], folder: Path) -> None:
    from safetensors.torch import save_file

    save_file(dict(tensors), folder / "guesses.safetensors")
    (folder / "cell.json").write_text(json.dumps(made, indent=1, sort_keys=True), encoding="utf-8")


def _line(error: BaseException) -> str:
    text = " ".join(str(error).split())[:300]
    return f"{type(error).__name__}: {text}" if text else type(error).__name__
