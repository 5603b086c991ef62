"""Sentences of up to 10 words of scikit-learn's docstrings, by what the code is for."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

from benchmark.data.datasets.base import Dataset, register
from benchmark.data.text import PROSE, sentences

PURPOSES = (
    (
        "linear_model", "ensemble", "tree", "svm", "neural_network", "naive_bayes",
        "gaussian_process", "cluster", "decomposition", "mixture", "manifold", "covariance",
        "neighbors", "semi_supervised", "cross_decomposition", "discriminant_analysis.py",
    ),
    (
        "preprocessing", "feature_extraction", "feature_selection", "impute", "datasets",
        "compose", "metrics", "model_selection", "inspection", "calibration.py", "utils",
    ),
)  # fmt: skip
"""Parts of scikit-learn by what they are for: models; and the data before, the tests after them."""

_DOCSTRING = re.compile(r'"""(.*?)"""', re.DOTALL)
_SECTION = re.compile(r"^ *[A-Z][\w ]+\n *-{3,}\s*$", re.MULTILINE)
_SENTENCE = re.compile(r"(?<=[.!?])\s+(?=[A-Z])")


@register("docstrings", kind="text")
def docstrings(folder: Path) -> Dataset:
    """Prose before the first section of each; it is installed anyway, nothing is downloaded."""
    import sklearn

    root = Path(sklearn.__file__).parent
    found = [
        (sentence, label)
        for label, parts in enumerate(PURPOSES)
        for part in parts
        for path in _sources(root / part)
        for sentence in _prose(path.read_text(encoding="utf-8"))
    ]
    return sentences("docstrings", found, len(PURPOSES))


def _sources(part: Path) -> list[Path]:
    """A module, or those of a package, tests left out, in a fixed order."""
    if part.is_file():
        return [part]
    return sorted(path for path in part.rglob("*.py") if "tests" not in path.parts)


def _prose(source: str) -> Iterator[str]:
    """Plain sentences of all docstrings of a module."""
    for text in _DOCSTRING.findall(source):
        for paragraph in _SECTION.split(text)[0].split("\n\n"):
            for sentence in _SENTENCE.split(" ".join(paragraph.split())):
                if PROSE.fullmatch(sentence):
                    yield sentence
