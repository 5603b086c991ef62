"""What a model is good for: accuracy, global or personalised, and when it was reached.

The two kinds of accuracy are never put into one column: a personalised one is of each client's
own model on its own mix of classes, which is an easier task.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np


def accuracy(logits: Any, labels: Any) -> float:
    """Share of rows of ``logits`` [n, classes] whose largest entry is the label [n].

    Rows with NaN are wrong: a model that diverged has not learnt class 0.
    """
    if hasattr(logits, "detach"):
        logits = logits.detach().cpu().numpy()
    scores = np.asarray(logits)
    if scores.ndim != 2 or len(scores) != len(labels) or not len(scores):
        raise ValueError(f"logits {scores.shape} do not fit {len(labels)} labels")
    right = scores.argmax(axis=1) == np.asarray(labels)
    return float((right & ~np.isnan(scores).any(axis=1)).mean())


def personalised(accuracies: Sequence[float], sizes: Sequence[int]) -> float:
    """Mean accuracy over clients' test images: ``sizes`` are their numbers.

    >>> personalised([1.0, 0.5], [10, 30])
    0.625
    """
    if len(accuracies) != len(sizes) or not sum(sizes):
        raise ValueError(f"{len(accuracies)} accuracies do not fit {len(sizes)} sizes")
    return float(np.average(accuracies, weights=sizes))


def rounds_to_target(accuracies: Sequence[tuple[int, float]], target: float) -> int | None:
    """Finished rounds when the accuracy first is ``target`` or more; None if it never is.

    Args:
        accuracies: (finished rounds, accuracy) in the order of training.
        target: accuracy in [0, 1].
    """
    return next((rounds for rounds, reached in accuracies if reached >= target), None)
