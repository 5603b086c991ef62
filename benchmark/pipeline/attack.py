"""Attacking transcripts: one cell per evidence and attack, each computed once and kept.

A survey tells which evidence a file of transcripts gives an attack, and under which digest each
cell is kept. Cells that are missing are attacked in jobs: many of equal structure at once, whatever
their defense, point, checkpoint and seed, and then kept one by one.

A cell's guesses are a safetensors file: ``images`` [V, N, C, H, W] in [0, 1], or words [V, N,
length]; ``labels`` [V, N] and ``soft`` [V, N, classes] where the attack gave them,
``hidden.<name>`` [V, ...], the ``loss`` [V] that the attack believes it reached, ``evaluations``
[V] int64, how many gradients of the victim model it took, and of closed forms ``applicable`` [V, N]
bool, whether what they assume is met. What is not a tensor is JSON beside it. Nothing here reads
the truth.
"""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cache, partial
from itertools import product
from pathlib import Path
from typing import TYPE_CHECKING, Any

from benchmark.config.registry import file_of
from benchmark.metrics.selection import Candidate, explains, select
from benchmark.results import provenance
from benchmark.results.columns import BOARD, CONTROL, PUBLISHED
from benchmark.runtime.parallel import Failure, choose, run
from benchmark.runtime.paths import artifact, diverged_file, guesses_file, transcripts_file
from benchmark.runtime.randomness import seed_of
from benchmark.runtime.session import Defects, say
from benchmark.runtime.sources import source_digest
from benchmark.runtime.store import Store, digest, entry_path, library_versions, plan_line

if TYPE_CHECKING:
    from benchmark.config.schema import Attack as Overrides
    from benchmark.config.schema import Scenario


@dataclass(frozen=True)
class Task:
    """One attack on one file of transcripts, on all evidences or on ``only`` one of them.

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
    """Which evidences are attacked, by what they know; None for all."""
    only: str | None = None
    first: int | None = None
    """How many victims are attacked; None for all."""


@dataclass(frozen=True)
class Cell:
    """A cell that is to be computed: its task, and what a survey said of its evidence."""

    task: Task
    found: Mapping[str, Any] = field(hash=False)


@dataclass(frozen=True)
class Job:
    """Cells of equal structure that one worker computes together, and about how many evaluations
    they take."""

    cells: tuple[Cell, ...]
    evaluations: int = 0


VICTIMS = 96
"""A job's victims, if its cells have no more: who is killed loses one job."""


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


def attacked(tasks: Sequence[Task], describe: str = "") -> list[dict[str, Any]]:
    """The records of all tasks' cells, one per evidence; what the store lacks is computed.

    A record holds the task's key, ``evidence``, ``knowledge``, ``status``, ``reason`` and, where
    guesses exist, ``cell`` and what the attack reported.
    """
    records: list[dict[str, Any]] = []
    missing: list[Cell] = []
    for task, cells in surveyed(tasks):
        for found in cells:
            record = cell_record(Cell(task, found))
            folder = kept(task, found)
            if "status" in found:
                records.append(record)
            elif folder is not None:
                records.append(record | _made(folder))
            else:
                missing.append(Cell(task, found))
    jobs = jobs_of(missing)
    if describe:
        known = [record["seconds"] for record in records if "seconds" in record]
        known = known or (Store(tasks[0].store).seconds("cell.json") if tasks else [])
        workers = choose(len(jobs)).workers
        line = plan_line("cells", len(records) + len(missing), len(missing), known, workers)
        say(f"{describe}: {line}")
    for job, done in run(attack_together, jobs, describe=describe):
        records += alone(job, done) if isinstance(done, Failure) else done
    return records


_ABOUT_COMPUTING = ("digest", "structure", "victims", "planned")
"""What a survey says of a cell that is no part of its record."""


def surveyed(tasks: Sequence[Task]) -> list[tuple[Task, list[dict[str, Any]]]]:
    """What every task attacks, from the store or by reading its transcripts."""
    files: dict[Path, list[Task]] = {}
    done: list[tuple[Task, list[dict[str, Any]]]] = []
    for task in tasks:
        if not task.transcripts.exists():
            done.append((task, [unsent(task.transcripts) | {"threat": attack_of(task).threat}]))
            continue
        folder = Store(task.store).get(survey_digest(task))
        if folder is None:
            files.setdefault(task.transcripts, []).append(task)
        else:
            done.append((task, json.loads((folder / "survey.json").read_text(encoding="utf-8"))))
    for some, found in run(survey, list(files.values())):
        if isinstance(found, Failure):  # why the file cannot be read
            about = {**UNREAD, "status": found.status, "reason": found.reason}
            done += [(task, [about | {"threat": attack_of(task).threat}]) for task in some]
        else:
            done += zip(some, found, strict=True)
    order = {id(task): number for number, task in enumerate(tasks)}
    return sorted(done, key=lambda each: order.get(id(each[0]), 0))


def survey(tasks: Sequence[Task]) -> list[list[dict[str, Any]]]:
    """What tasks on the same transcripts attack: kept, and returned.

    Per evidence what a record says of it, and the cell's ``digest``, shared by evidence that shows
    the same of every victim, its ``structure``, ``victims`` and ``planned`` evaluations; or a
    ``status`` that needs no attack.
    """
    from benchmark.federated.transcript import read

    transcripts = read(tasks[0].transcripts)
    there = readable(transcripts)
    digests = {name: _shown(evidences) for name, evidences in there.items()}
    structure = cache(lambda name: signature(there[name][0]))  # the same for every attack
    surveys = []
    for task in tasks:
        cells, chosen, key = [], attack_of(task), survey_digest(task)
        for name, evidences in there.items():
            first = evidences[0]
            if task.only not in (None, name):
                continue
            if task.knowledge is not None and first.knowledge not in task.knowledge:
                continue
            found = {"evidence": name, **_about(first), "threat": chosen.threat}
            reason = chosen.refusal(first)
            if reason is not None:
                cells.append(found | {"status": "unsupported", "reason": reason})
                continue
            found["labels"] = chosen.labels_from(first)
            if found["labels"] == "joint" and first.labels == "given":  # granted, and not used
                found["unknowns"] += first.setting.images * first.setting.classes
            cells.append(
                found
                | {
                    "digest": digest(key, digests[name]),
                    "structure": structure(name) if chosen.pools else "",
                    "victims": len(evidences[: task.first]),
                    "planned": chosen.planned(first),
                }
            )
        Store(task.store).put(key, partial(_write_survey, cells))
        surveys.append(cells)
    return surveys


def _write_survey(cells: Sequence[Mapping[str, Any]], folder: Path) -> None:
    (folder / "survey.json").write_text(json.dumps(cells), encoding="utf-8")


def kept(task: Task, found: Mapping[str, Any]) -> Path | None:
    """The folder of a surveyed cell; one that was cut short is of its limit alone."""
    if "digest" not in found:
        return None
    store = Store(task.store)
    return store.get(found["digest"]) or store.get(digest(found["digest"], task.limit))


def _made(folder: Path) -> dict[str, Any]:
    made = json.loads((folder / "cell.json").read_text(encoding="utf-8"))
    return {**made, "cell": str(folder)}


def jobs_of(cells: Sequence[Cell]) -> list[Job]:
    """Missing cells in jobs of equal structure, the largest structures first.

    Cells that share a digest are one computation: the others find it done.
    """
    groups: dict[str, dict[str, list[Cell]]] = {}
    for cell in cells:
        task, found = cell.task, cell.found
        together = found["structure"] or found["digest"]  # what does not pool is a job of its own
        group = digest(task.key["attack"], dict(task.fields), task.limit, together)
        groups.setdefault(group, {}).setdefault(found["digest"], []).append(cell)
    jobs: list[Job] = []
    for alike in groups.values():
        counts = [same[0].found["victims"] for same in alike.values()]
        parts = max(1, round(sum(counts) / VICTIMS))
        share, filled = sum(counts) / parts, 0
        bins: list[list[Cell]] = [[] for _ in range(parts)]
        for same, count in zip(alike.values(), counts, strict=True):
            bins[min(parts - 1, int(filled / share))] += same
            filled += count
        each = same[0].found["planned"]
        jobs += [Job(tuple(part), round(share * each)) for part in bins if part]
    return sorted(jobs, key=lambda job: -job.evaluations)


def attack_together(job: Job) -> list[dict[str, Any]]:
    """Compute a job's cells, or those of them that can be; one record per cell."""
    first: dict[str, Cell] = {}
    for cell in job.cells:
        first.setdefault(cell.found["digest"], cell)
    todo = [cell for cell in first.values() if kept(cell.task, cell.found) is None]
    failed = _computed(todo)
    records = []
    for cell in job.cells:
        record = cell_record(cell)
        if reason := failed.get(cell.found["digest"]):
            records.append(record | reason)
        else:
            folder = kept(cell.task, cell.found)
            assert folder is not None
            records.append(record | _made(folder))
    return records


def cell_record(cell: Cell) -> dict[str, Any]:
    """What is known of a cell before it is computed."""
    about = {k: v for k, v in cell.found.items() if k not in _ABOUT_COMPUTING}
    return {**cell.task.key, **about}


def _computed(cells: list[Cell]) -> dict[str, dict[str, str]]:
    """Compute and keep cells; what became of those that failed, by digest.

    One that fails does not take the others along: they are tried one by one.
    """
    if not cells:
        return {}
    try:
        _compute(cells)
    except Exception as error:
        if len(cells) > 1:
            return {key: why for cell in cells for key, why in _computed([cell]).items()}
        status = "oom" if isinstance(error, MemoryError) else "failed"
        return {cells[0].found["digest"]: {"status": status, "reason": _line(error)}}
    return {}


def alone(job: Job, failure: Failure) -> list[dict[str, Any]]:
    """Records of a job that took its worker along: each cell is tried in a worker of its own.

    What fails again is a record with the failure's reason, so that no row is missing.
    """
    singles = [Job((cell,)) for cell in job.cells]
    records = []
    for each, done in run(attack_together, singles, workers=1, apart=True):
        if isinstance(done, Failure):
            about = {"status": done.status, "reason": done.reason}
            records.append(cell_record(each.cells[0]) | about)
        else:
            records += done
    return records


ENSEMBLE = "auto"
"""The attack that can spend several times its budget."""


def saturation(
    board: Scenario, tasks: Sequence[Task], records: Sequence[Mapping[str, Any]]
) -> list[Task]:
    """Tasks that spend larger budgets on a few victims of the first seed, in the board's settings.

    They attack the evidence that an attacker would believe for most of those victims.

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
    """The evidence that the attacker believes for most of the first victims.

    ``records`` are one attack's on one file, in the order of its evidences.
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


def listed(record: Mapping[str, Any]) -> dict[str, Any]:
    """A record as the list of cells has it: its entry of the out in place of the store's cell."""
    kept = {name: value for name, value in record.items() if name != "cell"}
    kept["name"] = str(guesses_file(record))
    if "cell" in record:
        kept["file"] = str(entry_path(Path(), Path(record["cell"]).name) / "guesses.safetensors")
    return kept


def readable(transcripts: list[Any]) -> dict[str, list[Any]]:
    """Every evidence that applies to all the transcripts, by name, one evidence per victim."""
    from benchmark.evidence.base import registered_evidence

    found = {}
    for entry in registered_evidence(transcripts[0].setting.defense.name):
        evidences = [entry.build(transcript) for transcript in transcripts]
        if all(evidence is not None for evidence in evidences):
            found[entry.name] = evidences
    return found


def _shown(evidences: Sequence[Any]) -> str:
    """The digest of all that an attack can see of its evidence but the name."""
    total = hashlib.sha256()
    for e in evidences:
        plain = (_named(e.predict), _named(e.simulate), e.noisy, e.cost, e.labels, e.hidden)
        total.update(repr(plain).encode())
        parts = {n: (t.kind, t.weight) for n, t in e.terms.items()}
        total.update(repr(parts).encode())
        tensors = {n: {p: getattr(t, p) for p in _TERM_PARTS} for n, t in e.terms.items()}
        for path, tensor in _leaves([e.data, tensors, e.linear, e.given]):
            total.update(f"{path} {tensor.dtype} {tuple(tensor.shape)}".encode())
            total.update(tensor.detach().cpu().contiguous().numpy().tobytes())
    return total.hexdigest()


_TERM_PARTS = ("value", "mask", "variance", "lower", "upper")


def signature(evidence: Any) -> str:
    """Equal for evidence whose victims may share a stack."""
    from benchmark.attacks.engine.batch import setting_used

    shapes = {
        "terms": {
            name: {
                "is": [term.kind, term.weight],
                "order": list(term.value),
                **{p: _shapes(part) for p in _TERM_PARTS if (part := getattr(term, p)) is not None},
            }
            for name, term in evidence.terms.items()
        },
        "data": _shapes(evidence.data),
        "hidden": {name: repr(hidden) for name, hidden in evidence.hidden.items()},
        "asks": [_named(evidence.predict), repr(setting_used(evidence))],
        "rest": [evidence.cost, evidence.labels, evidence.noisy],
        "linear": _shapes(evidence.linear),
    }
    return digest(shapes)


def _shapes(tree: Any) -> list[list[Any]]:
    return [[path, list(tensor.shape)] for path, tensor in _leaves(tree)]


def _leaves(tree: Any, path: str = "") -> Iterator[tuple[str, Any]]:
    """The tensors of mappings, lists and tuples in one another, with their paths."""
    if isinstance(tree, Mapping):
        for name in sorted(tree):
            yield from _leaves(tree[name], f"{path}/{name}")
    elif isinstance(tree, list | tuple):
        for number, part in enumerate(tree):
            yield from _leaves(part, f"{path}/{number}")
    elif tree is not None:
        yield path, tree


def _named(function: Any) -> str:
    name = getattr(function, "__qualname__", None)
    return f"{function.__module__}.{name}" if name else repr(function)


def _about(evidence: Any) -> dict[str, Any]:
    return {
        "knowledge": evidence.knowledge,
        "labels": evidence.labels,
        "noisy": evidence.noisy,
        "observations": evidence.observations,
        "unknowns": evidence.unknowns,
    }


def attack_of(task: Task) -> Any:
    """The task's attack, as it is set."""
    from benchmark.attacks.base import get

    return get(task.key["attack"]).configured(**task.fields)


def content_digest(path: Path) -> str:
    """The digest of a file's or folder's content, computed once for what does not change."""
    newest = max(p.stat().st_mtime_ns for p in (path, *path.rglob("*")))
    return _content_digest(path, newest)


@cache
def _content_digest(path: Path, newest: int) -> str:
    return digest(path)


def survey_digest(task: Task) -> str:
    """The digest of everything that a survey, and with the evidence its cells, depend on."""
    from benchmark.federated.transcript import read_header

    chosen, setting = attack_of(task), read_header(task.transcripts)["setting"]
    return digest(
        content_digest(task.transcripts),
        content_digest(task.public),
        task.first,
        task.knowledge,
        task.only,
        chosen.parameters(),
        source_digest(roots(chosen, setting["defense"]["name"], setting["model"])),
        library_versions(),
    )


def roots(chosen: Any, defense: str, model: str) -> list[str]:
    """The modules that compute a cell: this one, and the plug-ins that it names.

    All evidence of the defense counts: what one function says of a transcript may rest on another.
    """
    from benchmark.evidence.base import registered_evidence

    modules = {entry.build.__module__ for entry in registered_evidence(defense)}
    return [
        "pipeline.attack",
        f"defenses.{file_of(defense)}",
        f"models.{file_of(model)}",
        *(f"attacks.{file_of(name)}" for name in (chosen.name, *chosen.members)),
        *sorted(name.partition(".")[2] for name in modules),
    ]


def _compute(cells: Sequence[Cell]) -> None:
    """Attack the victims of all cells at once, and keep each cell."""
    from benchmark.data.preparation import read_public

    task, chosen = cells[0].task, attack_of(cells[0].task)
    began = time.monotonic()
    deadline = None if task.limit is None else began + task.limit * len(cells)
    built = [_built(cell) for cell in cells]
    evidences = [evidence for some in built for evidence, _ in some]
    seeds = [
        seed_of("start", evidence.setting.scenario, seed, chosen.name, victim)
        for some in built
        for victim, (evidence, seed) in enumerate(some)
    ]
    guesses = iter(chosen.run(evidences, read_public(task.public), seeds, deadline))
    seconds = time.monotonic() - began
    own = [[next(guesses) for _ in some] for some in built]
    spent = [sum(g.evaluations + g.simulated for g in some) for some in own]
    for cell, some, found, cost in zip(cells, built, own, spent, strict=True):
        share = cost / sum(spent) if sum(spent) else 1 / len(cells)
        _keep(cell, chosen, some[0][0], found, seconds * share)


def _built(cell: Cell) -> list[tuple[Any, int]]:
    """A cell's evidence, victim by victim, and the seed that its transcripts belong to.

    A victim's place in a stack is its own: that in its file, from a start that the file's name in
    the board gives.
    """
    from benchmark.evidence.base import registered_evidence
    from benchmark.federated.transcript import read, read_header

    task = cell.task
    transcripts = read(task.transcripts)
    build: Any = {
        e.name: e.build for e in registered_evidence(transcripts[0].setting.defense.name)
    }[cell.found["evidence"]]
    file = [task.key[name] for name in ("defense", "point", "seed", "checkpoint", "batch_size")]
    begin = seed_of("place", *file) % 2**16
    seed = read_header(task.transcripts)["seed"]
    return [
        (replace(build(transcript), place=begin + victim), seed)
        for victim, transcript in enumerate(transcripts[: task.first])
    ]


def _keep(cell: Cell, chosen: Any, first: Any, guesses: Sequence[Any], seconds: float) -> None:
    """Put a cell into the store: its tensors, and what is written beside them."""
    import torch

    task = cell.task
    tensors = {
        "images": torch.stack([g.images for g in guesses]),
        "loss": torch.tensor([g.loss for g in guesses], dtype=torch.float64),
        "evaluations": torch.tensor([g.evaluations * first.cost + g.simulated for g in guesses]),
    }
    if chosen.closed_form:
        met = torch.ones(first.setting.images, dtype=torch.bool)
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
    key = cell.found["digest"]
    Store(task.store).put(
        digest(key, task.limit) if late else key,
        partial(_write, {n: t.contiguous() for n, t in tensors.items()}, made),
    )


def _write(tensors: Mapping[str, Any], made: Mapping[str, Any], folder: Path) -> None:
    from safetensors.torch import save_file

    save_file(dict(tensors), folder / "guesses.safetensors")
    (folder / "cell.json").write_text(json.dumps(made, indent=1, sort_keys=True), encoding="utf-8")


def _line(error: BaseException) -> str:
    text = " ".join(str(error).split())[:300]
    return f"{type(error).__name__}: {text}" if text else type(error).__name__
