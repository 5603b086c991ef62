"""Evidence: one way to read a transcript, as a prediction to make and what it must explain.

An attack knows nothing of defenses. It is given, per victim, a pure function that says which
message a guess would have caused, and the terms that the guess has to explain. Everything a
defense's mechanism gives away goes into an evidence, nothing into an attack.

``predict(setting, guess, hidden, data)`` is a module-level function of one victim:
``guess["images"]`` [N, C, H, W] are normalised model inputs, ``guess["labels"]`` [N, classes]
probabilities, ``hidden`` the client's variables that are optimised with them, ``data`` a tree of
tensors. It returns ``{term: {name: tensor}}``, shaped like the terms' values.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal, TypeVar

from torch import Tensor

from benchmark.results.columns import CONTROL

if TYPE_CHECKING:
    from torch import Generator

    from benchmark.federated.transcript import Setting, Transcript

Knowledge = Literal["oblivious", "paper", "adaptive"]
Tensors = Mapping[str, Tensor]
Predict = Callable[["Setting", Tensors, Tensors, Mapping[str, Any]], Mapping[str, Tensors]]
Simulate = Callable[["Setting", Tensors, Mapping[str, Any], "Generator"], Mapping[str, Tensors]]
Reveal = Callable[["Setting", Mapping[str, Tensor], Mapping[str, Any]], dict[str, Tensor]]


@dataclass(frozen=True, kw_only=True)
class Term:
    """What one part of the transcript shows.

    Attributes:
        value: what was observed, by tensor name.
        mask: 1 where the observation counts, 0 where it does not; None counts everything.
        variance: known variance of zero-mean noise on ``value``, broadcastable; None for none.
        lower, upper: for entries with mask 0, a prediction p is admissible when
            |p| <= lower or |p| >= upper; ``upper`` None means only |p| <= lower.
        weight: factor on the term's mismatch.
        kind: ``direction`` leaves the mismatch to the attack (cosine, squares); ``value`` is
            compared by relative squared error whatever the attack.
    """

    value: Tensors
    mask: Tensors | None = None
    variance: Tensors | None = None
    lower: Tensors | None = None
    upper: Tensors | None = None
    weight: float = 1.0
    kind: Literal["direction", "value"] = "direction"


@dataclass(frozen=True, kw_only=True)
class Hidden:
    """A client variable that the attack optimises beside the images.

    Attributes:
        shape: of one victim's variable.
        init: ``zero``, or ``normal`` for independent standard normal starts.
        prior: weight of 0.5 * mean(h ** 2) in the attack's loss.
        lr: step size for first-order optimisers.
    """

    shape: tuple[int, ...]
    init: Literal["zero", "normal"] = "zero"
    prior: float = 0.0
    lr: float = 0.01


def reveal_nothing(
    setting: Setting, truth: Mapping[str, Tensor], data: Mapping[str, Any]
) -> dict[str, Tensor]:
    """The true hidden variables of an evidence that has none."""
    return {}


@dataclass(frozen=True, kw_only=True)
class Evidence:
    """One reading of one victim's transcript; victims of a cell share its structure.

    Attributes:
        name, defense, knowledge: what the board calls it.
        setting: the public facts, hashable.
        predict, reveal: module-level functions; ``reveal`` turns the sealed truth into the true
            hidden variables and is called by the audit alone.
        data: a tree of tensors for ``predict``.
        terms: what ``predict`` returns must explain.
        hidden: variables optimised jointly with the images.
        simulate: module-level function for attacks that learn. ``simulate(setting, batch, data,
            rng)`` runs the client on ``batch["images"]`` [N, C, H, W] (normalised model inputs)
            and ``batch["labels"]`` int64 [N], draws whatever the client draws from ``rng``, and
            returns what the terms' values would be. None where nobody wrote one.
        linear: weight and bias gradients of linear layers, for closed forms.
        noisy: whether known noise is all that keeps the truth from explaining the terms.
        exact: whether that noise is the defense's own, not a mean over draws or an estimate; only
            then may exhausting it be credited to the defense.
        cost: gradients of the victim model that one prediction takes, every local step and every
            draw of an expectation counted, so that budgets can be equal.
        labels: ``given`` by the setting, ``unknown`` (the attack infers or optimises them), or
            ``eliminated`` (the prediction does not depend on them).
    """

    name: str
    defense: str
    knowledge: Knowledge
    setting: Setting
    predict: Predict
    data: Mapping[str, Any]
    terms: Mapping[str, Term]
    hidden: Mapping[str, Hidden] = field(default_factory=dict)
    reveal: Reveal = reveal_nothing
    simulate: Simulate | None = None
    linear: Mapping[str, tuple[Tensor, Tensor]] = field(default_factory=dict)
    noisy: bool = False
    exact: bool = True
    cost: int = 1
    labels: Literal["given", "unknown", "eliminated"] = "unknown"
    given: Tensor | None = None
    """int64 [N], only where ``labels`` is ``given``."""

    @property
    def observations(self) -> int:
        """Numbers that the guess has to explain: entries with a mask of one."""
        return sum(
            int(t.value[n].numel() if t.mask is None else t.mask[n].sum())
            for t in self.terms.values()
            for n in t.value
        )

    @property
    def unknowns(self) -> int:
        """Numbers that the attack has to find: pixels, hidden variables, labels not given."""
        size = 1
        for extent in self.setting.shape:
            size *= extent
        total = self.setting.images * size
        for variable in self.hidden.values():
            count = 1
            for extent in variable.shape:
                count *= extent
            total += count
        if self.labels == "unknown":
            total += self.setting.images * self.setting.classes
        return total


class EvidenceError(ValueError):
    """Evidence is registered where it must not be; the message is one line."""


Reading = Callable[["Transcript"], "Evidence | None"]
SomeReading = TypeVar("SomeReading", bound=Reading)


@dataclass(frozen=True)
class Entry:
    """A registered reading: who it reads, under which name, with what knowledge, and why."""

    defense: str
    name: str
    knowledge: Knowledge
    build: Reading
    summary: str


_REGISTRY: dict[tuple[str, str], Entry] = {}
EVERY = "*"


def reads(
    defense: str, *, knowledge: Knowledge = "adaptive"
) -> Callable[[SomeReading], SomeReading]:
    """Register a reading of one defense's transcripts (``"*"``: of every defense's).

    The function's name, with ``_`` as ``-``, names the evidence; its docstring's first line
    describes it on the board. It returns None where it does not apply. It stands in the file of
    the defense's name, evidence of every defense in one of the generic files: a finished cell is
    known by those files, and evidence elsewhere could change behind its back.

    Raises:
        EvidenceError: it stands in another file, or there is no such defense.
        ValueError: the defense already has a reading of that name, or is ``none``: what applies
            to an undefended message applies to every other one, and is registered for all.
    """
    if defense == CONTROL:
        raise ValueError("evidence of undefended messages is evidence of all: register it for '*'")

    def register(build: SomeReading) -> SomeReading:
        name = build.__name__.replace("_", "-")
        key = (defense, name)
        if reason := _misplaced(defense, name, build.__module__):
            raise EvidenceError(reason)
        if key in _REGISTRY and _REGISTRY[key].build.__module__ != build.__module__:
            raise ValueError(f"two readings of {defense} are called {name}")
        summary = (build.__doc__ or name).strip().splitlines()[0]
        _REGISTRY[key] = Entry(defense, name, knowledge, build, summary)
        return build

    return register


def _misplaced(defense: str, name: str, module: str) -> str | None:
    """What is wrong with evidence that ``module`` registers for ``defense``."""
    from benchmark.defenses.base import names
    from benchmark.evidence import GENERIC

    if defense != EVERY and defense not in names():
        return (
            f"{module}: evidence {name!r} is of {defense!r}, and no defense is called so; "
            f"there are {', '.join(names())}"
        )
    allowed = GENERIC if defense == EVERY else (defense,)
    if module in [f"{__package__}.{file}" for file in allowed]:
        return None
    files = " or ".join(f"benchmark/evidence/{file}.py" for file in allowed)
    whose = "every defense" if defense == EVERY else repr(defense)
    return f"{module}: evidence {name!r} of {whose} must stand in {files}"


def readings(defense: str) -> list[Entry]:
    """All readings of one defense: the generic ones first, then its own.

    Without a defense there is none to know of: only the oblivious ones are left.
    """
    from benchmark.evidence import load

    load(defense)
    generic = [e for (d, _), e in _REGISTRY.items() if d == EVERY]
    if defense == CONTROL:
        return [entry for entry in generic if entry.knowledge == "oblivious"]
    own = [e for (d, _), e in _REGISTRY.items() if d == defense]
    names = {entry.name for entry in own}
    return [entry for entry in generic if entry.name not in names] + own
