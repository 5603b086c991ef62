"""Losses and gradients of many trials at once: victims times restarts is a batch dimension.

One victim's objective is a pure function. The engine differentiates it with respect to what is
unknown (images, label logits, hidden variables; never weights), and evaluates it for a stack of
trials:

`vmap`   one call for the whole stack; the fastest way for small models.
`loop`   one trial after the other: for models whose layers fill the machine by themselves, for
         predictions that vmap refuses, and as the oracle of the tests.

A gradient function that will be called often is traced once, see `traces.py`. All data are inputs
of the trace, so that equal structures share it.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from benchmark.attacks.engine.memory import BUDGET, keep_freed
from benchmark.attacks.engine.optimisers import Evaluation, Variables
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
# Tensors of the size of an update that are alive at once, and the largest stacks.
_COPIES = 16
_LARGEST_STACK = {"cpu": 64, "cuda": 1024}
# Tensors of this many bytes are worth their process's memory: an executor takes a worker that
# keeps what small ones freed for one that leaks, and replaces it.
_LARGE = 6 * 2**20


Path = tuple[str, ...]
"""The keys from a tree's root to a leaf."""


@dataclass(frozen=True)
class Plan:
    """How trials are computed: the strategy, and how many in one stack."""

    strategy: str
    chunk: int

    def chunks(self, trials: int) -> list[slice]:
        """Slices of nearly equal size, none larger than the chunk."""
        parts = max(1, math.ceil(trials / self.chunk))
        edges = [trials * k // parts for k in range(parts + 1)]
        return [slice(a, b) for a, b in itertools.pairwise(edges)]


def plan(observed: int, images: int, pixels: int, device: str = "cpu") -> Plan:
    """The strategy for one cell, a pure function of shapes and the kind of device.

    Args:
        observed: entries that one victim's prediction has.
        images: private images of one victim, over all local steps.
        pixels: values of one image.
        device: ``cpu`` or ``cuda``, which is filled by stacks alone.
    """
    large = observed > _ENTRIES or observed * images > _ENTRIES_TIMES_IMAGES
    if device == "cpu" and large:
        return Plan("loop", 1)
    # Hidden activations are taken as 64 values per pixel.
    each = 4 * _COPIES * (observed + 64 * images * pixels)
    return Plan("vmap", max(1, min(_LARGEST_STACK[device], BUDGET[device] // each)))


@dataclass(frozen=True)
class Structure:
    """What is equal for all victims of a cell: everything but the numbers. Hashable."""

    predict: Callable[..., Any]
    setting: Any
    objective: Objective
    priors: tuple[Prior, ...]
    terms: tuple[tuple[str, str, float, tuple[str, ...]], ...]
    hidden: tuple[tuple[str, float], ...]
    joint_labels: bool


def structure(
    evidence: Evidence, objective: Objective, priors: tuple[Prior, ...], joint_labels: bool
) -> Structure:
    """The structure of an evidence under an attack's objective."""
    return Structure(
        evidence.predict,
        evidence.setting,
        objective,
        priors,
        tuple((n, t.kind, float(t.weight), tuple(t.value)) for n, t in evidence.terms.items()),
        tuple((n, float(h.prior)) for n, h in evidence.hidden.items()),
        joint_labels,
    )


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
    hidden = {name: variables[f"hidden.{name}"] for name, _ in shape.hidden}
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
    for name, weight in shape.hidden:
        if weight:
            total = total + weight * 0.5 * variables[f"hidden.{name}"].square().mean()
    return total, data


@dataclass
class Stack:
    """The numbers of several victims, leaf by leaf.

    `leaves` are stacked along a new first dimension, or kept single where all victims hold the
    same tensor object; `dims` says which (0 or None), `paths` where a leaf belongs, `bare` where
    the tree has a branch without leaves.
    """

    paths: tuple[Path, ...]
    leaves: list[Tensor]
    dims: tuple[int | None, ...]
    bare: tuple[Path, ...] = ()

    @classmethod
    def of(cls, victims: Sequence[Mapping[str, Any]]) -> Stack:
        """Stack trees of tensors that share their structure.

        Raises:
            ValueError: if the structures or shapes differ.
        """
        flat = [dict(_walk(v)) for v in victims]
        if any(list(f) != list(flat[0]) for f in flat):
            raise ValueError("victims of one cell must share the structure of their evidence")
        paths = tuple(path for path, leaf in flat[0].items() if leaf is not None)
        bare = tuple(path for path, leaf in flat[0].items() if leaf is None)
        leaves: list[Tensor] = []
        dims: list[int | None] = []
        for path in paths:
            column = [leaf for f in flat if (leaf := f[path]) is not None]
            if all(c is column[0] for c in column):
                leaves.append(column[0])
                dims.append(None)
            else:
                if any(c.shape != column[0].shape for c in column):
                    raise ValueError(f"victims differ in the shape of {'.'.join(path)}")
                leaves.append(torch.stack(column))
                dims.append(0)
        return cls(paths, leaves, tuple(dims), bare)

    def take(self, rows: Tensor) -> Stack:
        """The given victims, in that order and possibly several times (restarts)."""
        leaves = [
            leaf if dim is None else leaf.index_select(0, rows)
            for leaf, dim in zip(self.leaves, self.dims, strict=True)
        ]
        return Stack(self.paths, leaves, self.dims, self.bare)

    def to(self, device: torch.device) -> Stack:
        """The same numbers on a device."""
        return Stack(self.paths, [x.to(device) for x in self.leaves], self.dims, self.bare)

    def grow(self, leaves: Sequence[Tensor]) -> dict[str, Any]:
        """One victim's tree from its leaves."""
        tree: dict[str, Any] = {}
        for path in self.bare:
            _branch(tree, path)
        for path, leaf in zip(self.paths, leaves, strict=True):
            _branch(tree, path[:-1])[path[-1]] = leaf
        return tree


@dataclass
class Engine:
    """Evaluates one chunk of trials. `planned` is how many evaluations are to come."""

    shape: Structure
    stack: Stack
    strategy: str
    planned: int = 1
    _functions: dict[tuple[str, ...], Callable[..., Any]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if max((leaf.nbytes for leaf in self.stack.leaves), default=0) >= _LARGE:
            keep_freed()

    def narrowed(self, rows: Tensor) -> Engine:
        """The engine of some of its trials."""
        return Engine(self.shape, self.stack.take(rows), self.strategy, self.planned)

    def __call__(self, variables: Variables) -> Evaluation:
        """Losses and gradients; `variables` are [trials, ...]."""
        names = tuple(variables)
        inputs = [v.detach() for v in variables.values()]
        if names not in self._functions:
            self._functions[names] = self._gradient(names, inputs)
        total, data, *gradients = self._functions[names](*inputs, *self.stack.leaves)
        return Evaluation(total, data, dict(zip(names, gradients, strict=True)))

    def data_loss(self, variables: Variables) -> Tensor:
        """[trials] the data term alone, without gradients."""
        names = tuple(variables)
        shape, grow = self.shape, self.stack.grow

        def value(*leaves: Tensor) -> Tensor:
            variables = dict(zip(names, leaves, strict=False))
            return objective_of(shape, variables, grow(leaves[len(names) :]))[1]

        dims = (*(0 for _ in names), *self.stack.dims)
        leaves = (*variables.values(), *self.stack.leaves)
        with torch.no_grad():
            if self.strategy == "vmap":
                try:
                    return torch.func.vmap(value, in_dims=dims)(*leaves)
                except RuntimeError:
                    self.strategy = "loop"
            return _looped(value, dims)(*leaves)

    def _gradient(self, names: tuple[str, ...], inputs: list[Tensor]) -> Callable[..., Any]:
        stack, planned = self.stack, self.planned
        trials = inputs[0].shape[0]
        dims = (*(0 for _ in names), *stack.dims)
        leaves = [*inputs, *stack.leaves]
        single = _single(self.shape, names, stack.grow)
        batched = torch.func.vmap(single, in_dims=dims)
        key: tuple[Any, ...] = (self.shape, names, stack.paths, stack.bare, dims)
        if self.strategy == "vmap":
            if TRACES.known(key, leaves) or _works(batched, leaves):
                return TRACES.function(key, batched, leaves, planned)
            self.strategy = "loop"
        key = (*key, "loop")
        one = [x if d is None else x[0] for x, d in zip(leaves, dims, strict=True)]
        first = [x if d is None else x[:1] for x, d in zip(leaves, dims, strict=True)]

        def traceable() -> bool:
            """What vmap accepts does not depend on values, so that a trace of it is sound."""
            return _works(batched, first)

        chosen = TRACES.function(key, single, one, planned * trials, traceable)
        return _looped(chosen, dims)


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


def _looped(single: Callable[..., Any], dims: tuple[int | None, ...]) -> Callable[..., Any]:
    def looped(*leaves: Tensor) -> Any:
        trials = next(x.shape[0] for x, d in zip(leaves, dims, strict=True) if d == 0)
        rows = []
        for k in range(trials):
            row = [x if d is None else x[k] for x, d in zip(leaves, dims, strict=True)]
            rows.append(single(*row))
        if isinstance(rows[0], Tensor):
            return torch.stack(rows)
        return tuple(torch.stack(column) for column in zip(*rows, strict=True))

    return looped


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
