"""No defense: the control."""

from __future__ import annotations

from dataclasses import dataclass

from benchmark.defenses.base import Defense, register


@register
@dataclass(frozen=True, kw_only=True)
class NoDefense(Defense):
    """The client sends what it computed."""

    name = "none"
    title = "No defense"
    cite = "mcmahan2017communication"
    url = "https://arxiv.org/abs/1602.05629"
    summary = "The client sends its gradient or weight difference as it is."
