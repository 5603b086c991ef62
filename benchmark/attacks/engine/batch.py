"""Losses and gradients of many trials at once: victims times restarts are rows of a stack.

One victim's objective is a pure function. The engine differentiates it with respect to what is
unknown (images, label logits, hidden variables; never weights), and evaluates it for a stack:

`vmap`   one call for all rows; the fastest way for small models.
`loop`   one row: for models whose layers fill the machine by themselves, for predictions that vmap
         refuses, and as the oracle of the tests.

A gradient function that will be called often is traced once, see `trace.py`. All numbers, the
weights too, are inputs of the trace and every row has its own, so that victims of equal structure
share it, whatever their defense, point, checkpoint or seed.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from benchmark.attacks.engine.base import Evaluation, Variables
from benchmark.attacks.engine.memory import BUDGET, keep_freed
from benchmark.attacks.engine.refill import PLACES
from benchmark.attacks.engine.trace import TRACES
from benchmark.attacks.parts.objectives import Objective, mismatch, prepare
from benchmark.attacks.parts.priors import Prior

if TYPE_CHECKING:
    from benchmark.evidence.base import Evidence

# One vmapped call beats a loop up to so many observed entries, and so many times images: a choice
# that `python -m benchmarks.breaching` prints beside its time. In a stack the layers with shared
# weights see one large batch, and the weight gradients of all trials are one convolution with a
# group for each.
_ENTRIES, _ENTRIES_TIMES_IMAGES = 300_000, 500_000
# Tensors of the size of an update that are alive at once, and the largest stacks: beyond, numbers
# no longer fit a processor's cache. Powers of two, see `refill.py`.
_COPIES = 16
_MOST_ROWS = {"cpu": 32, "cuda": 1024}

Path = tuple[str, ...]
"""The keys from a tree's root to a leaf."""


def rows_of(observed: int, images: int, pixels: int, trials: int, device: str = "cpu") -> int:
    """How many rows a stack has, a power of two; one where a loop is faster.

    A pure function of shapes, of how many trials there are, and of the kind of device.

    Args:
        observed: entries that one victim's prediction has.
        images: private images of one victim, over all local steps.
        pixels: values of one image.
        device: ``cpu`` or ``cuda``, which is filled by stacks alone.
    """
    large = observed > _ENTRIES or observed * images > _ENTRIES_TIMES_IMAGES
    if device == "cpu" and large:
        return 1
    # Hidden activations are taken as 64 values per pixel.
    each = 4 * _COPIES * (observed + 64 * images * pixels)
    most = max(1, min(_MOST_ROWS[device], BUDGET[device] // each))
    wanted = max(PLACES, 1 << (trials - 1).bit_length())  # fewer rows lie differently in memory
    return min(wanted, 1 << (most.bit_length() - 1))


@dataclass(frozen=True)
class Structure:
    """What is equal for all victims of a stack: everything but the numbers. Hashable."""

    predict: Callable[..., Any]
    setting: Any
    objective: Objective
    priors: tuple[Prior, ...]
    terms: tuple[tuple[str, str, float, tuple[str, ...]], ...]
    hidden: tuple[tuple[str, float, float], ...]
    joint_labels: bool


def structure(
    evidence: Evidence, objective: Objective, priors: tuple[Prior, ...], joint_labels: bool
) -> Structure:
    """The structure of an evidence under an attack's objective."""
    return Structure(
        evidence.predict,
        setting_used(evidence),
        objective,
        priors,
        tuple((n, t.kind, float(t.weight), tuple(t.value)) for n, t in evidence.terms.items()),
        tuple((n, float(h.prior), float(h.lr)) for n, h in evidence.hidden.items()),
        joint_labels,
    )


class Asked(Exception):
    """A prediction asked a defense for more than the model under it."""


@dataclass(frozen=True)
class ModelOnly:
    """Stands for the defense where a prediction needs no more of it than the model that it makes.

    Equal for all defenses that leave the model alone.
    """

    wraps: Any = None

    def wrap(self, model: Any) -> Any:
        return model if self.wraps is None else self.wraps.wrap(model)

    def __getattr__(self, name: str) -> Any:
        raise AttributeError(name) if name.startswith("__") else Asked(name)


_USED: dict[Any, Any] = {}


def setting_used(evidence: Evidence) -> Any:
    """The evidence's setting without what its prediction does not ask for, found by asking once.

    So predictions of the plain update are one structure under every defense.
    """
    from benchmark.defenses.base import Defense
    from benchmark.federated.setting import stateless_model

    setting = evidence.setting
    key = evidence.predict, setting
    if key not in _USED:
        wraps = type(setting.defense).wrap is not Defense.wrap
        bare = replace(setting, defense=ModelOnly(setting.defense if wraps else None))  # type: ignore[arg-type]
        try:
            stateless_model(bare)
            with torch.no_grad():
                evidence.predict(bare, *_anything(evidence), evidence.data)
        except Asked:
            bare = setting
        _USED[key] = bare
    stateless_model(_USED[key])  # kept from here on: inside a prediction's vmap none can be made
    return _USED[key]


def _anything(evidence: Evidence) -> tuple[Variables, Variables]:
    """A guess and hidden variables of the right shapes."""
    from benchmark.attacks.parts.words import searched_shape

    setting = evidence.setting
    guess = {
        "images": torch.zeros(setting.images, *searched_shape(evidence)),
        "labels": torch.full((setting.images, setting.classes), 1 / setting.classes),
    }
    return guess, {name: torch.zeros(h.shape) for name, h in evidence.hidden.items()}


def objective_of(
    shape: Structure, variables: Mapping[str, Tensor], victim: Mapping[str, Any]
) -> tuple[Tensor, Tensor]:
    """Total loss and its data term for ONE trial.

    Args:
        variables: "images" [N, C, H, W] normalised, "logits" [N, classes] if labels are joint,
            "hidden.<name>".
        victim: "data", "terms" (prepared) and "soft" labels if they are fixed.
    """
    soft = variables["logits"].softmax(-1) if shape.joint_labels else victim["soft"]
    hidden = {name: variables[f"hidden.{name}"] for name, _, _ in shape.hidden}
    guess = {"images": variables["images"], "labels": soft}
    predicted = shape.predict(shape.setting, guess, hidden, victim["data"])
    data = variables["images"].new_zeros(())
    for name, kind, weight, order in shape.terms:
        try:
            parts = [predicted[name][k].reshape(-1) for k in order]
        except KeyError as missing:
            raise ValueError(f"the prediction lacks {missing} of term {name!r}") from None
        flat = torch.cat(parts)
        if flat.shape != victim["terms"][name]["unit"].shape:
            raise ValueError(f"the prediction of term {name!r} does not have its values' shapes")
        data = data + weight * mismatch(shape.objective, kind, flat, victim["terms"][name])
    total = data
    for prior in shape.priors:
        total = total + prior(variables["images"])
    for name, weight, _ in shape.hidden:
        if weight:
            total = total + weight * 0.5 * variables[f"hidden.{name}"].square().mean()
    return total, data


class Stack:
    """Rows of victims of one structure, each with its own numbers, evaluated together.

    strategy   ``vmap``, or ``loop`` where there is but one row
    rows       how many there are; fewer than asked for where vmap refuses the prediction
    """

    def __init__(
        self,
        shape: Structure,
        first: Mapping[str, Any],
        start: Variables,
        rows: int,
        planned: int = 1,
        place: torch.device | None = None,
    ) -> None:
        """Make room for victims whose numbers are shaped like ``first``.

        Args:
            start: variables of one trial, without a dimension for rows.
            rows: one means that nothing is batched.
            planned: how many evaluations are to come.
        """
        self.shape, self.planned, self.names = shape, planned, tuple(start)
        self.place = place or torch.device("cpu")
        flat = dict(_walk(first))
        self.paths = tuple(path for path, leaf in flat.items() if leaf is not None)
        self.bare = tuple(path for path, leaf in flat.items() if leaf is None)
        self._like = [leaf for leaf in flat.values() if leaf is not None]
        self._start = [start[name].to(self.place) for name in self.names]
        self._make_room(rows)
        if rows > 1 and not self._is_batchable():
            self._make_room(1)
        keep_freed()
        self._gradient: Callable[..., Any] | None = None

    @property
    def strategy(self) -> str:
        return "vmap" if self.rows > 1 else "loop"

    def put(self, row: int, numbers: Mapping[str, Any]) -> None:
        """Fill one row.

        Raises:
            ValueError: the victim's numbers have another structure or other shapes.
        """
        flat = dict(_walk(numbers))
        if {path for path, leaf in flat.items() if leaf is not None} != set(self.paths):
            raise ValueError("victims of one stack must share the structure of their evidence")
        for path, leaf in zip(self.paths, self.leaves, strict=True):
            given = flat[path]
            assert given is not None
            if given.shape != leaf.shape[1:]:
                raise ValueError(f"victims differ in the shape of {'.'.join(path)}")
            leaf[row] = given

    def __call__(self, variables: Variables) -> Evaluation:
        """Losses and gradients; `variables` are [rows, ...]."""
        leaves = self._arguments([variables[name].detach() for name in self.names])
        if self._gradient is None:
            self._gradient = self._chosen(leaves)
        found = self._gradient(*leaves)
        total, data, *gradients = found if self.rows > 1 else [t[None] for t in found]
        return Evaluation(total, data, dict(zip(self.names, gradients, strict=True)))

    def data_loss(self, variables: Variables) -> Tensor:
        """[rows] the data term alone, without gradients."""
        count = len(self.names)

        def value(*leaves: Tensor) -> Tensor:
            variables = dict(zip(self.names, leaves, strict=False))
            return objective_of(self.shape, variables, self.grow(leaves[count:]))[1]

        leaves = self._arguments([variables[name] for name in self.names])
        with torch.no_grad():
            return torch.func.vmap(value)(*leaves) if self.rows > 1 else value(*leaves)[None]

    def grow(self, leaves: Sequence[Tensor]) -> dict[str, Any]:
        """One victim's tree from its leaves."""
        tree: dict[str, Any] = {}
        for path in self.bare:
            _branch(tree, path)
        for path, leaf in zip(self.paths, leaves, strict=True):
            _branch(tree, path[:-1])[path[-1]] = leaf
        return tree

    def _make_room(self, rows: int) -> None:
        self.rows = rows
        self.leaves = [
            x.to(self.place).expand(rows, *x.shape).clone(memory_format=torch.contiguous_format)
            for x in self._like
        ]

    def _arguments(self, inputs: Sequence[Tensor]) -> list[Tensor]:
        leaves = [*inputs, *self.leaves]
        return leaves if self.rows > 1 else [leaf[0] for leaf in leaves]

    def _single(self) -> Callable[..., Any]:
        return _single(self.shape, self.names, self.grow)

    @property
    def _key(self) -> tuple[Any, ...]:
        return self.shape, self.names, self.paths, self.bare, self.strategy

    def _is_batchable(self) -> bool:
        starts = [x.expand(self.rows, *x.shape) for x in self._start]
        leaves = self._arguments([x.contiguous() for x in starts])
        return TRACES.known(self._key, leaves) or _works(torch.func.vmap(self._single()), leaves)

    def _chosen(self, leaves: list[Tensor]) -> Callable[..., Any]:
        single = self._single()
        if self.rows > 1:
            return TRACES.function(self._key, torch.func.vmap(single), leaves, self.planned)

        def traceable() -> bool:
            """What vmap accepts does not depend on values, so that a trace of it is sound."""
            return _works(torch.func.vmap(single), [leaf[None] for leaf in leaves])

        return TRACES.function(self._key, single, leaves, self.planned, traceable)


def _works(function: Callable[..., Any], leaves: Sequence[Tensor]) -> bool:
    """Whether vmap accepts the function. Errors of the function itself come out of the loop."""
    try:
        function(*leaves)
    except RuntimeError:
        return False
    return True


def _single(
    shape: Structure, names: tuple[str, ...], grow: Callable[[Sequence[Tensor]], dict[str, Any]]
) -> Callable[..., Any]:
    """(leaves of one trial) -> total, data, gradients of the variables."""
    count = len(names)

    def losses(*leaves: Tensor) -> tuple[Tensor, tuple[Tensor, Tensor]]:
        variables = dict(zip(names, leaves, strict=False))
        total, data = objective_of(shape, variables, grow(leaves[count:]))
        return total, (total, data)

    def single(*leaves: Tensor) -> tuple[Tensor, ...]:
        gradients, (total, data) = torch.func.grad(
            losses, argnums=tuple(range(count)), has_aux=True
        )(*leaves)
        return (total.detach(), data.detach(), *gradients)

    return single


def _walk(tree: Mapping[str, Any], prefix: Path = ()) -> Iterator[tuple[Path, Tensor | None]]:
    if not tree:
        yield prefix, None
    for key, value in tree.items():
        if isinstance(value, Tensor):
            yield (*prefix, key), value
        else:
            yield from _walk(value, (*prefix, key))


def _branch(tree: dict[str, Any], path: Path) -> dict[str, Any]:
    for key in path:
        tree = tree.setdefault(key, {})
    return tree


def victim_tree(evidence: Evidence, soft: Tensor | None) -> dict[str, Any]:
    """One victim's numbers as the engine stacks them."""
    tree: dict[str, Any] = {
        "data": evidence.data,
        "terms": {name: prepare(term, name) for name, term in evidence.terms.items()},
    }
    if soft is not None:
        tree["soft"] = soft
    return tree
