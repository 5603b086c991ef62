"""Many searches at once: stacks that refill, traces, optimisers, memory."""

from benchmark.attacks.engine import adam, lbfgs

__all__ = ["adam", "lbfgs"]
