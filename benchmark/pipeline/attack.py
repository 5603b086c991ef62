"""Attacking transcripts: one cell per reading and attack, each computed once and kept.

A cell's guesses are a safetensors file: ``images`` [V, N, C, H, W] in [0, 1], or words [V, N,
length]; ``labels`` [V, N] and ``soft`` [V, N, classes] where the attack gave them,
``hidden.<name>`` [V, ...], the ``loss`` [V] that the attack believes it reached, ``evaluations``
[V] int64, how many gradients of the victim model it took, and of closed forms ``applicable`` [V, N]
bool, whether what they assume is met. What is not a tensor is JSON beside it. Nothing here reads
the truth.
"""

from __future__ import annotations

import json
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from itertools import product
from pathlib import Path
from typing import TYPE_CHECKING, Any

from benchmark.metrics.selection import Candidate, explains, select
from benchmark.results import provenance
from benchmark.results.columns import BOARD, CONTROL, PUBLISHED
from benchmark.runtime.parallel import Failure, run
from benchmark.runtime.paths import artifact, diverged_file, guesses_file, transcripts_file
from benchmark.runtime.randomness import seed_of
from benchmark.runtime.session import Defects
from benchmark.runtime.sources import source_digest
from benchmark.runtime.store import Store, digest, entry_path, library_versions

if TYPE_CHECKING:
    from benchmark.config.schema import Attack as Overrides
    from benchmark.config.schema import Scenario


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
    look: bool = False
    """Only tell what is there: a cell that would have to be computed is ``absent``."""


def plan(scenario: str, board: Scenario, store: Path, limit: float | None) -> list[Task]:
    """One task per attack, settings and file of transcripts of a board."""
    places = product(
        board.attacks.items(), board.points, board.seeds,
        board.federation.checkpoints, board.observation.batch_sizes,
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
            fields=attack.fields if settings == BOARD else {},
            provenance=provenance.summary(),
            store=store,
            limit=limit,
            knowledge=attack.knowledge,
            only=None if settings == BOARD else WHOLE,
        )
        for (name, attack), (defense, point), seed, checkpoint, size in places
        for settings in settings_on(attack, defense, seed == board.seeds[0])
        if checkpoint in (attack.checkpoints or (checkpoint,))
        and size in (attack.batch_sizes or (size,))
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


WHOLE = "oblivious"
"""The evidence that published attacks match: the whole message."""

UNREAD: Mapping[str, Any] = {
    "evidence": WHOLE,
    "knowledge": "oblivious",
    "labels": "",
    "observations": 0,
    "unknowns": 0,
}
"""What a record says of evidence where there are no transcripts to make it of."""


def unsent(transcripts: Path) -> dict[str, Any]:
    """The record of transcripts that are not there because training diverged.

    Raises:
        FileNotFoundError: nothing says that it did.
    """
    number = json.loads(diverged_file(transcripts).read_text(encoding="utf-8"))["round"]
    reason = f"training diverged in round {number}"
    return {**UNREAD, "status": "unsupported", "reason": reason}


def refuse_failed(records: Sequence[Mapping[str, Any]]) -> None:
    """Name every cell that failed: a defect, never a result.

    Raises:
        Defects: there is one; what came of the other cells is in the store.
    """
    failed = [
        f"{r['scenario']}/{r['defense']}/{guesses_file(r).with_suffix('')} failed: {r['reason']}"
        for r in records
        if r["status"] == "failed"
    ]
    if failed:
        raise Defects(sorted(failed))


def attack_transcripts(task: Task) -> list[dict[str, Any]]:
    """Compute what the store lacks; one record per reading, with its cell's folder.

    A record holds the task's key, ``evidence``, ``knowledge``, ``status``, ``reason`` and, where
    guesses exist, ``cell`` and what the attack reported.
    """
    from benchmark.attacks.base import get
    from benchmark.federated.transcript import read

    chosen = get(task.key["attack"]).configured(**task.fields)
    if not task.transcripts.exists():
        return [{**task.key, **unsent(task.transcripts), "threat": chosen.threat}]
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
    board: Scenario, tasks: Sequence[Task], records: Sequence[Mapping[str, Any]]
) -> list[Task]:
    """Tasks that spend larger budgets on a few victims of the first seed, in the board's settings.

    They attack the reading that an attacker would believe for most of those victims.

    Args:
        tasks: of :func:`plan`.
        records: what came of them, with their cells.
    """
    if board.saturation is None:
        return []
    count, found = board.saturation.victims, []
    for task in tasks:
        if task.key["attack"] != ENSEMBLE or task.key["seed"] != board.seeds[0]:
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
                for budget in board.saturation.budgets
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
    """Records of a task that ended in a failure: each reading is tried in a worker of its own.

    What fails again is a record with the failure's reason, so that no row is missing; so is the
    task where not even its readings can be told.
    """
    from benchmark.attacks.base import get
    from benchmark.federated.transcript import read

    threat = get(task.key["attack"]).threat
    try:
        readings = _attacked(task, read(task.transcripts))
    except Exception:  # why they cannot be read, the task's own failure has said
        about = {**UNREAD, "status": failure.status, "reason": failure.reason}
        return [{**task.key, **about, "threat": threat}]
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


def listed(record: Mapping[str, Any]) -> dict[str, Any]:
    """A record as the list of cells has it: its entry of the out in place of the store's cell."""
    kept = {name: value for name, value in record.items() if name != "cell"}
    kept["name"] = str(guesses_file(record))
    if "cell" in record:
        kept["file"] = str(entry_path(Path(), Path(record["cell"]).name) / "guesses.safetensors")
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
    if folder is None and task.look:
        return record | {"status": "absent", "reason": ""}
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
    return digest(
        task.transcripts,
        task.first,
        task.public,
        chosen.parameters(),
        evidence.name,
        source_digest(roots(chosen, evidence.setting)),
        library_versions(),
    )


def roots(chosen: Any, setting: Any) -> list[str]:
    """The modules that compute a cell: this one, and the plug-ins that it names.

    All evidence of the defense counts: what one function says of a transcript may rest on another.
    """
    from benchmark.evidence.base import readings

    defense = setting.defense.name
    modules = {entry.build.__module__ for entry in readings(defense)}
    return [
        "pipeline.attack",
        f"defenses.{defense}",
        f"models.{setting.model}",
        *(f"attacks.{name}" for name in (chosen.name, *chosen.members)),
        *sorted(name.partition(".")[2] for name in modules),
    ]


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
    if chosen.closed_form:
        met = torch.ones(evidences[0].setting.images, dtype=torch.bool)
        tensors["applicable"] = torch.stack(
            [met if g.applicable is None else g.applicable for g in guesses]
        )
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
