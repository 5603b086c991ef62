"""What a defense is: where it may step into a client's round, with a default for every place.

A defense is a frozen value. It knows nothing of attacks; what its messages give away is another
file, in ``benchmark/evidence``. Its file bears its name.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any, ClassVar, Literal, Protocol

import torch
from torch import Generator, Tensor

from benchmark.config.registry import DEFENSES, Kind
from benchmark.config.values import construct
from benchmark.federated.update import Batch, Update

if TYPE_CHECKING:
    from benchmark.models.base import VictimModel


class Trainer(Protocol):
    """What a defense sees of a client."""

    setting: Any

    def train(self, broadcast: Update, batches: Sequence[Batch], rng: Generator) -> Update:
        """Plain local training, as the scenario has it."""


@dataclass(frozen=True)
class Guarantee:
    """A differential-privacy statement: epsilon at delta, for one unit, against one adversary.

    Neighbouring data sets differ in one unit, which is there or not there. An epsilon of zero says
    that delta alone covers the difference, infinity that there is no bound.
    """

    epsilon: float
    delta: float
    unit: str
    adversary: str


@dataclass(frozen=True, kw_only=True)
class Defense:
    """A defense against gradient inversion; override the places where it acts.

    Fields are its strength, set per operating point in params.yaml. ``title`` is by default the
    name; ``cite`` and ``url`` are for what is published. ``protect`` should consist of
    tensor operations of fixed shape and draw randomness through :func:`gaussian`: then an
    adaptive attacker can simulate it (BPDA).
    """

    name: ClassVar[str] = ""
    title: ClassVar[str] = ""
    cite: ClassVar[str] = ""
    url: ClassVar[str] = ""
    summary: ClassVar[str] = ""
    note: ClassVar[str] = ""
    reads: ClassVar[tuple[Kind, ...]] = ("images", "text")
    """Models of what it can defend."""
    sampling: ClassVar[str] = "fixed"
    """``fixed``: batches of one size; ``poisson``: each example joins with the protocol's public
    sampling rate, whatever its client holds."""
    randomised: ClassVar[bool] = False
    """Whether two messages from the same state and batch differ."""
    zeros: ClassVar[Literal["withheld", "value"] | None] = None
    """What a zero in a message means: that the entry was not sent, or its value. Undeclared, it is
    probed: where messages are unbiased zeros are values, otherwise they were not sent."""

    def impossible(self, model: VictimModel) -> tuple[str, str] | None:
        """A field whose value ``model`` cannot have, and what is allowed there; None if all can.

        ``check`` asks this of every operating point on its scenario's model. Where the model
        cannot be defended at all, the field is empty.
        """
        return None

    def wrap(self, model: VictimModel) -> VictimModel:
        """The model that is trained in place of ``model``."""
        return model

    def shared(self, name: str) -> bool:
        """Whether the parameter ``name`` leaves the client; the others stay with it for good."""
        return True

    def trained_before_shared(self, name: str) -> bool:
        """Which of the parameters that stay take a pass of their own before the shared ones move;
        the others that stay move with them."""
        return not self.shared(name)

    def local(
        self, client: Trainer, broadcast: Update, batches: Sequence[Batch], rng: Generator
    ) -> Update:
        """One client's round, from what it received to what it would send unprotected."""
        return client.train(broadcast, batches, rng)

    def local_together(
        self,
        clients: Sequence[Trainer],
        broadcast: Update,
        batches: Sequence[Sequence[Batch]],
        rngs: Sequence[Generator],
    ) -> list[Update]:
        """:meth:`local` of several clients that received the same. A defense with local training of
        its own may compute them as one stack; without this they take turns."""
        columns = zip(clients, batches, rngs, strict=True)
        return [self.local(client, broadcast, own, rng) for client, own, rng in columns]

    def protect(
        self, update: Update, memory: Update, rng: Generator | None
    ) -> tuple[Update, Update]:
        """What is sent in place of ``update``, and what the client keeps for its next round.

        ``memory`` starts at zero. With ``rng`` None the expectation over the randomness is
        wanted: an attacker's best guess at a draw that it cannot see.
        """
        return update, memory

    def shared_rate(self, rate: float) -> float:
        """The step size of the shared parameters where the scenario has ``rate``: the server's in
        FedSGD, the clients' local one in FedAvg. A defense may need another."""
        return rate

    def message(self, updates: Sequence[Update]) -> list[Update]:
        """What the clients of a round send together; here, each its own update."""
        return list(updates)

    def guarantee(self, *, rounds: int, rate: float) -> Guarantee | None:
        """The differential privacy of ``rounds`` messages (of as many local steps, where each
        step is noised), examples joining at ``rate``."""
        return None

    @classmethod
    def personalised(cls) -> bool:
        """Whether every client ends with a model of its own."""
        return (
            cls.trained_before_shared is not Defense.trained_before_shared
            or cls.shared is not Defense.shared
        )

    def parameters(self) -> dict[str, Any]:
        """The fields and their values, as JSON would hold them."""
        return asdict(self)


def gaussian(like: Tensor, std: float | Tensor, rng: Generator | None) -> Tensor:
    """Independent normal noise of ``like``'s shape; zero, its expectation, without ``rng``."""
    if rng is None:
        return torch.zeros_like(like)
    return torch.randn(like.shape, generator=rng, dtype=like.dtype) * std


def register(cls: type[Defense]) -> type[Defense]:
    """Enter a defense under its ``name``, which must be its file's.

    Raises:
        PluginError: the name is taken, or is not the file's.
    """
    cls.title = cls.title or cls.name
    return DEFENSES.enter(cls.name, cls, cls.__module__)


names = DEFENSES.names
get: Callable[[str], type[Defense]] = DEFENSES.__getitem__
"""The class of one defense; only its own file is imported."""


def build(name: str, parameters: dict[str, Any], key: str = "") -> Defense:
    """The defense ``name`` at one operating point, which stands at ``key`` in params.yaml.

    Raises:
        ParamsError: a field is unknown, or its value is out of range.
    """
    return construct(get(name), parameters, key or f"defenses.{name}")


def require(condition: bool, message: str) -> None:
    """Raise ValueError with ``message`` unless ``condition`` holds: a field's range check."""
    if not condition:
        raise ValueError(message)
