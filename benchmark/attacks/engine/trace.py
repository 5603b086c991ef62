"""Gradient functions as graphs of plain operations, recorded once and replayed.

`make_fx` runs a function and notes what it does to tensors: the same operations in the same order,
without Python's and functorch's bookkeeping. A function is traced where that pays over the life of
the process.

A trace can be compiled as well (TorchInductor; direct compilation of a module refuses double
backward, that of the finished gradient function does not). LEAKBOARD_COMPILE=<calls> compiles what
is planned to be called so often; without it nothing is. It changes results within rounding, so it
is for trying things out, not for what is published. Where there is no C++ compiler, or the compiled
function differs by more than rounding, the trace stays.
"""

from __future__ import annotations

import math
import os
from collections import OrderedDict
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

COMPILE = "LEAKBOARD_COMPILE"
# A trace costs as much as this many untraced calls save; both grow with the operation count.
_PAYS_AFTER = 175
_KEPT = 16
_ROUNDING = 1e-4
_RESHAPES = (torch.ops.aten.view.default, torch.ops.aten._unsafe_view.default)
_EXPAND = torch.ops.aten.expand.default

Gradient = Callable[..., Any]
"""(leaves) -> tensors."""


class Traces:
    """Traced functions of this process, the least recently used ones forgotten."""

    def __init__(self) -> None:
        self._chosen: OrderedDict[Any, Gradient] = OrderedDict()
        self._calls: OrderedDict[Any, int] = OrderedDict()

    def function(
        self,
        key: Any,
        function: Gradient,
        leaves: Sequence[Tensor],
        planned: int,
        traceable: Callable[[], bool] = lambda: True,
    ) -> Gradient:
        """A replay if that pays over the process's life so far, otherwise the function itself.

        Without compilation the results are bit-identical either way, so that nothing recorded
        depends on the choice.
        """
        key = _with_shapes(key, leaves)
        calls = self._calls.get(key, 0) + planned
        self._remember(self._calls, key, calls)
        if calls < _PAYS_AFTER:
            return function
        key = (key, compiling := calls >= compiled_after())
        if key not in self._chosen:
            good = _first_good(function, leaves, compiling) if traceable() else function
            self._remember(self._chosen, key, good)
        self._chosen.move_to_end(key)
        return self._chosen[key]

    def known(self, key: Any, leaves: Sequence[Tensor]) -> bool:
        """Whether the function has been traced before, and so is known to work."""
        return (_with_shapes(key, leaves), False) in self._chosen

    @staticmethod
    def _remember(store: OrderedDict[Any, Any], key: Any, value: Any) -> None:
        store[key] = value
        store.move_to_end(key)
        while len(store) > _KEPT:
            store.popitem(last=False)


TRACES = Traces()


def _with_shapes(key: Any, leaves: Sequence[Tensor]) -> Any:
    return key, tuple((tuple(x.shape), x.dtype, str(x.device)) for x in leaves)


def trace(function: Gradient, leaves: Sequence[Tensor]) -> Gradient:
    """The operations that `function` performs on tensors of these shapes, as one callable."""
    return _without_gradients(_graph(function, leaves))


def compiled(function: Gradient, leaves: Sequence[Tensor]) -> Gradient:
    """The same, compiled: the first call takes tens of seconds."""
    from torch._inductor.compile_fx import compile_fx

    made: Any = compile_fx(_graph(function, leaves), list(leaves))
    return _without_gradients(made)


def _graph(function: Gradient, leaves: Sequence[Tensor]) -> torch.fx.GraphModule:
    from torch.fx.experimental.proxy_tensor import make_fx

    graph = make_fx(function)(*leaves)
    _tidy(graph.graph)
    graph.recompile()
    return graph


def _tidy(graph: torch.fx.Graph) -> None:
    """Leave out what is computed twice, changes nothing, or is not used."""
    first: dict[str, torch.fx.Node] = {}
    for node in list(graph.nodes):
        if not isinstance(node.target, torch._ops.OpOverload) or node.target._schema.is_mutable:
            continue
        if torch.Tag.nondeterministic_seeded in node.target.tags:
            continue
        if node.target in _RESHAPES:
            _shorten(node)
        source = node.args[0] if node.target in (*_RESHAPES, _EXPAND) else None
        if not isinstance(source, torch.fx.Node) or not _alike(source, node):
            source = first.setdefault(repr((node.target, node.args, node.kwargs)), node)
        if source is not node:
            node.replace_all_uses_with(source)
            graph.erase_node(node)
    graph.eliminate_dead_code()


def _shorten(node: torch.fx.Node) -> None:
    """A reshape of a reshape of a contiguous tensor is one."""
    source = node.args[0]
    if not isinstance(source, torch.fx.Node) or source.target not in _RESHAPES:
        return
    before = source.args[0]
    if isinstance(before, torch.fx.Node) and before.meta["val"].is_contiguous():
        node.args = (before, *node.args[1:])


def _alike(one: torch.fx.Node, other: torch.fx.Node) -> bool:
    a, b = one.meta["val"], other.meta["val"]
    return bool(a.shape == b.shape and a.stride() == b.stride())


def _without_gradients(graph: Gradient) -> Gradient:
    def replay(*inputs: Tensor) -> Any:
        with torch.no_grad():
            return graph(*inputs)

    return replay


def _first_good(function: Gradient, leaves: Sequence[Tensor], compiling: bool) -> Gradient:
    """Compiled if asked for, else traced, whichever first computes what the function does."""
    expected = function(*leaves)
    for make, rounding in ((compiled, _ROUNDING), (trace, 0.0)):
        if make is compiled and not compiling:
            continue
        try:
            replay = make(function, leaves)
            pairs = zip(replay(*leaves), expected, strict=True)
            if all(_close(a.nan_to_num(), b.nan_to_num(), rounding) for a, b in pairs):
                return replay
        except Exception:  # refused in many ways; the next one is slower, never wrong
            continue
    return function


def _close(found: Tensor, expected: Tensor, rounding: float) -> bool:
    gap = (found - expected).double().norm()
    return bool(gap <= rounding * expected.double().norm())


def compiled_after() -> float:
    """Calls from which on a function is compiled; infinite where nobody asked for it.

    Raises:
        ValueError: it is no whole number.
    """
    value = os.environ.get(COMPILE)
    if not value:
        return math.inf
    if not (value.isascii() and value.isdecimal()):
        raise ValueError(f"{COMPILE}: {value!r} is not allowed: a whole number of calls")
    return int(value)
