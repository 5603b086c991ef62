"""What an attack is: a frozen value that turns evidence into guesses, and is not trusted.

The author of an attack writes `supports`, `reconstruct` and `measure`. The base owns `run` and
`loss`: it refuses what the attack does not support, and checks everything that comes back.
"""

from __future__ import annotations

import dataclasses
import math
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal, TypeVar, final

import torch
from torch import Tensor

from benchmark.config.errors import ParamsError
from benchmark.config.registry import ATTACKS
from benchmark.config.values import changed

if TYPE_CHECKING:
    from benchmark.evidence.base import Evidence


class AttackError(RuntimeError):
    """An attack broke its contract: the shape, type or finiteness of what it returned."""


class Unsupported(ValueError):
    """An attack was run on evidence that it does not support. The message is the reason."""


@dataclass(frozen=True)
class Guess:
    """What an attack believes about one victim.

    images       [N, C, H, W] pixels in [0, 1]; of texts int64 [N, length], numbers of words
    labels       [N] int64, or None where the evidence has no use for labels
    soft         [N, classes] probabilities, or None where no distribution was estimated
    hidden       the client's hidden variables that explain the evidence together with the images
    loss         the attack's own objective at its solution, data term only (no prior); before
                 clipping to [0, 1] for attacks without a box
    evaluations  predictions that finding the guess took, differentiated or not: all restarts, line
                 searches, rejected candidates and auxiliary searches counted; each takes as many
                 gradients of the victim model as its evidence's ``cost`` says. What is predicted
                 only to report ``loss`` decides nothing and is not counted
    simulated    gradients of the victim model in messages that were simulated to learn from. What
                 is learned once for a cell counts whole for each of its victims
    stopped      "budget", "converged" or "timeout"; empty for closed forms
    strategy     how the engine computed it, a pure function of shapes; empty without an engine
    chunk        rows of the stack in which it was computed
    applicable   bool [N], of closed forms: whether what they assume is met for each guess, as the
                 message itself shows; None where it is for all
    """

    images: Tensor
    labels: Tensor | None
    soft: Tensor | None
    hidden: dict[str, Tensor] = field(default_factory=dict)
    loss: float = math.nan
    evaluations: int = 0
    simulated: int = 0
    stopped: str = ""
    strategy: str = ""
    chunk: int = 0
    applicable: Tensor | None = None


Threat = Literal["curious", "auxiliary", "malicious"]
"""What an attack supposes of the server, beyond what its evidence says: it follows the protocol
(`curious`), it has learned from auxiliary data too, or it sends crafted weights (`malicious`)."""


@dataclass(frozen=True, kw_only=True)
class Attack:
    """One attack with its parameters, as a value: equal parameters, equal attack.

    threat       never compared with an attack of another threat
    members      other attacks that this one runs
    reads        what the private data may be: `images`, `text`
    closed_form  whether it solves for the data in place of searching: what it does not find says
                 nothing of the evidence
    pools        whether victims of several cells may be given to it at once: each guess follows
                 from its own evidence, and nothing is learned
    """

    pools = False

    name: str
    title: str = ""
    cite: str = ""
    url: str = ""
    summary: str = ""
    threat: Threat = "curious"
    members: tuple[str, ...] = ()
    reads: tuple[str, ...] = ("images",)
    closed_form: bool = False

    def supports(self, evidence: Evidence) -> str | None:
        """None if the attack can read this evidence, otherwise the reason why it cannot."""
        return None

    @final
    def refusal(self, evidence: Evidence) -> str | None:
        """`supports`, and before that whether the private data are of a kind that it reads."""
        kind = "text" if evidence.setting.vocabulary else "images"
        if kind not in self.reads:
            return f"it reconstructs {' and '.join(self.reads)}, and the private data are {kind}"
        return self.supports(evidence)

    def planned(self, evidence: Evidence) -> int:
        """About how many gradients of the victim model one victim takes, to balance jobs by."""
        return 1000

    def labels_from(self, evidence: Evidence) -> str:
        """Whose labels the attack works with: `given`, `inferred`, `joint` or `eliminated`."""
        return "inferred" if evidence.labels == "unknown" else evidence.labels

    def reconstruct(
        self,
        evidences: Sequence[Evidence],
        public: Any,
        seeds: Sequence[int],
        deadline: float | None,
    ) -> list[Guess]:
        """One guess per evidence. `seeds` key the random starts, one per victim;
        `deadline` is a `time.monotonic` instant after which the best guess so far is returned."""
        raise NotImplementedError

    def measure(
        self,
        evidences: Sequence[Evidence],
        images: Sequence[Tensor],
        soft: Sequence[Tensor | None],
        hidden: Sequence[Mapping[str, Tensor]],
    ) -> list[float]:
        """The attack's objective, data term only, at given points. Arguments as in `losses`."""
        raise NotImplementedError

    @final
    def valued(self, evidences: Sequence[Evidence], guesses: Sequence[Guess]) -> list[Guess]:
        """The guesses with the objective that they reach, whatever they were found by."""
        losses = self.measure(
            evidences,
            [g.images for g in guesses],
            [g.soft for g in guesses],
            [g.hidden for g in guesses],
        )
        return [dataclasses.replace(g, loss=x) for g, x in zip(guesses, losses, strict=True)]

    def at_least_one(self, *fields: str) -> None:
        """Refuse counts of nothing.

        Raises:
            ParamsError: naming the field.
        """
        for name in fields:
            if (value := getattr(self, name)) < 1:
                raise ParamsError(f"attacks.{self.name}.{name} must be at least 1, not {value}")

    @final
    def run(
        self,
        evidences: Sequence[Evidence],
        public: Any = None,
        seeds: Sequence[int] | None = None,
        deadline: float | None = None,
    ) -> list[Guess]:
        """Attack several victims at once.

        Args:
            evidences: one per victim, equal in structure.
            public: public data of the scenario, for attacks that learn.
            seeds: one per victim; a victim's start depends on its own seed only. Default 0, 1, ...
            deadline: an instant of `time.monotonic`; later, the best guess so far is returned.

        Returns:
            One checked guess per victim, on the CPU, pixels clipped to [0, 1].

        Raises:
            Unsupported: with the reason that `refusal` gives.
            AttackError: if the attack returned something malformed.
        """
        evidences = list(evidences)
        chosen = list(range(len(evidences))) if seeds is None else [int(s) for s in seeds]
        if len(chosen) != len(evidences):
            raise ValueError(f"{len(evidences)} victims need as many seeds, not {len(chosen)}")
        for evidence in evidences:
            reason = self.refusal(evidence)
            if reason is not None:
                raise Unsupported(f"{self.name} on {evidence.name}: {reason}")
        if not evidences:
            return []
        guesses = self.reconstruct(evidences, public, chosen, deadline)
        if len(guesses) != len(evidences):
            raise AttackError(
                f"{self.name} returned {len(guesses)} guesses for {len(evidences)} victims"
            )
        return [self._checked(g, e) for g, e in zip(guesses, evidences, strict=True)]

    @final
    def losses(
        self,
        evidences: Sequence[Evidence],
        images: Sequence[Tensor],
        soft: Sequence[Tensor | None],
        hidden: Sequence[Mapping[str, Tensor]] | None = None,
    ) -> list[float]:
        """The attack's objective (data term, no prior) at any point, for many victims.

        Args:
            evidences: as in `run`.
            images: per victim [N, C, H, W], pixels in [0, 1].
            soft: per victim [N, classes] probabilities, or None where labels play no part.
            hidden: per victim the hidden variables, default none.
        """
        evidences = list(evidences)
        if not evidences:
            return []
        if hidden is None:
            hidden = [{} for _ in evidences]
        return [float(v) for v in self.measure(evidences, images, soft, hidden)]

    @final
    def loss(
        self,
        evidence: Evidence,
        images: Tensor,
        soft: Tensor | None,
        hidden: Mapping[str, Tensor] | None = None,
    ) -> float:
        """`losses` for one victim."""
        return self.losses([evidence], [images], [soft], [hidden or {}])[0]

    def parameters(self) -> dict[str, Any]:
        """Everything that decides what the attack computes, as JSON-able values."""
        values = {
            f.name: _plain(getattr(self, f.name))
            for f in dataclasses.fields(self)
            if f.name not in _DESCRIPTION
        }
        return {"attack": type(self).__name__, **values}

    def configured(self, **changes: Any) -> Attack:
        """The same attack with other parameters; nested values by mappings: `optimiser={"lr": 1}`.

        A mapping with `is` names another class of the same kind: `optimiser={"is": "LBFGS"}`.

        Raises:
            ParamsError: naming an unknown parameter and what is allowed.
        """
        return self.configured_at(f"attacks.{self.name}", changes)

    @final
    def configured_at(
        self, key: str, changes: Mapping[str, Any], also: Sequence[str] = ()
    ) -> Attack:
        """`configured`, by what stands at `key` in a params file, where `also` is allowed too."""
        return changed(self, changes, key, fixed=(*_DESCRIPTION, "name"), also=also)

    def _checked(self, guess: Guess, evidence: Evidence) -> Guess:
        setting = evidence.setting
        count, classes = setting.images, setting.classes
        if setting.vocabulary:
            images = _words(self.name, guess.images, (count, *setting.shape), setting.vocabulary)
        else:
            images = _finite(self.name, "images", guess.images, (count, *setting.shape))
            images = images.clamp(0, 1)
        labels = guess.labels
        if labels is not None:
            if labels.dtype != torch.int64 or tuple(labels.shape) != (count,):
                raise AttackError(f"{self.name}: labels must be [{count}] int64")
            if labels.numel() and not 0 <= int(labels.min()) <= int(labels.max()) < classes:
                raise AttackError(f"{self.name}: a label lies outside 0..{classes - 1}")
            labels = labels.detach().cpu().clone()
        soft = guess.soft
        if soft is not None:
            soft = _finite(self.name, "soft labels", soft, (count, classes)).clamp(0, 1)
        hidden = {
            name: _finite(self.name, f"hidden {name}", value, tuple(evidence.hidden[name].shape))
            for name, value in guess.hidden.items()
            if name in evidence.hidden
        }
        applicable = guess.applicable
        if applicable is not None:
            if applicable.dtype != torch.bool or tuple(applicable.shape) != (count,):
                raise AttackError(f"{self.name}: applicable must be [{count}] bool")
            applicable = applicable.detach().cpu().clone()
        return dataclasses.replace(
            guess,
            images=images,
            labels=labels,
            soft=soft,
            hidden=hidden,
            applicable=applicable,
            loss=float(guess.loss),
            evaluations=max(0, int(guess.evaluations)),
            simulated=max(0, int(guess.simulated)),
        )


_DESCRIPTION = ("title", "cite", "url", "summary", "threat", "members", "reads", "closed_form")
A = TypeVar("A", bound=Attack)


def register(attack: A) -> A:
    """Make an attack known by its name, which is also its file's name, and by default its title.

    Raises:
        PluginError: the file has another name, or another attack has that name.
    """
    if not attack.title:
        object.__setattr__(attack, "title", attack.name)
    ATTACKS.enter(attack.name, attack, sys._getframe(1).f_globals["__name__"])
    return attack


names = ATTACKS.names
get: Callable[[str], Attack] = ATTACKS.__getitem__
"""The attack of that name with its published parameters; only its own file is imported."""


def _finite(name: str, what: str, value: Tensor, shape: tuple[int, ...]) -> Tensor:
    if not isinstance(value, Tensor) or tuple(value.shape) != tuple(shape):
        got = tuple(value.shape) if isinstance(value, Tensor) else type(value).__name__
        raise AttackError(f"{name}: {what} must have shape {tuple(shape)}, not {got}")
    value = value.detach().to("cpu", torch.float32, copy=True)
    if not bool(torch.isfinite(value).all()):
        raise AttackError(f"{name}: {what} are not finite")
    return value


def _words(name: str, value: Tensor, shape: tuple[int, ...], vocabulary: int) -> Tensor:
    if value.dtype != torch.int64 or tuple(value.shape) != shape:
        raise AttackError(f"{name}: words must be {list(shape)} int64")
    if not 0 <= int(value.min()) <= int(value.max()) < vocabulary:
        raise AttackError(f"{name}: a word lies outside 0..{vocabulary - 1}")
    return value.detach().cpu().clone()


def _plain(value: Any) -> Any:
    """A nested value of dataclasses as dictionaries that say which class they came from."""
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        inner = {f.name: _plain(getattr(value, f.name)) for f in dataclasses.fields(value)}
        return {"is": type(value).__name__, **inner}
    if isinstance(value, (tuple, list)):
        return [_plain(v) for v in value]
    return value
