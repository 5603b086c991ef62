"""What a stage tells MLflow: a run per stage and defense, child runs, curves, metrics, pictures.

Importing MLflow and opening its database takes seconds, and a tracking server may be away. So a
stage first keeps its record in ``.leakboard/tracking/``, one per scenario, stage and defense, and
:func:`deliver` (:mod:`benchmark.runtime.delivery`) sends whatever is kept: at the end of a stage
that took long, and wherever a stage asks for it. What cannot be delivered stays for the next time.

LEAKBOARD_TRACKING=off keeps nothing. Only a stage's own process tracks, never its workers.
"""

from __future__ import annotations

import contextlib
import json
import math
import os
import re
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from benchmark.results.provenance import commit
from benchmark.runtime.session import fresh_folder

ROOT = Path(".leakboard/tracking")
PATIENCE = 20.0
"""Seconds of work after which a stage's end may cost the few that a delivery takes."""

Curves = Mapping[str, Sequence[tuple[int, float]]]
Images = Mapping[str, bytes | Path]


class Run:
    """One run as it grows: plain values in memory until the stage ends."""

    def __init__(self, name: str, params: Mapping[str, Any], tags: Mapping[str, str]) -> None:
        self._name, self._tags, self._start = name, dict(tags), time.time()
        self._params = flatten(params)
        self._metrics: dict[str, float] = {}
        self._curves: dict[str, list[tuple[int, float]]] = {}
        self._images: dict[str, bytes] = {}
        self.children: list[Run] = []

    def log(
        self,
        metrics: Mapping[str, float | None] | None = None,
        curves: Curves | None = None,
        images: Images | None = None,
        tags: Mapping[str, str] | None = None,
    ) -> None:
        """Add values. What is None or not a number is left out; infinities become parameters.

        Args:
            metrics: name -> final value.
            curves: name -> (step, value) pairs.
            images: name without suffix -> PNG, as bytes or as a file.
            tags: name -> text.
        """
        for key, value in (metrics or {}).items():
            if value is None or math.isnan(value):
                continue
            if math.isinf(value):
                self._params.setdefault(_key(key), str(value))
            else:
                self._metrics[_key(key)] = float(value)
        for key, points in (curves or {}).items():
            finite = [(int(step), float(value)) for step, value in points if math.isfinite(value)]
            self._curves.setdefault(_key(key), []).extend(finite)
        for key, image in (images or {}).items():
            self._images[_key(key)] = image.read_bytes() if isinstance(image, Path) else image
        self._tags.update({_key(key): str(value) for key, value in (tags or {}).items()})

    def child(
        self,
        name: str,
        params: Mapping[str, Any] | None = None,
        metrics: Mapping[str, float | None] | None = None,
        curves: Curves | None = None,
        images: Images | None = None,
        tags: Mapping[str, str] | None = None,
    ) -> None:
        """Add a finished run below this one, such as one operating point or cell."""
        child = Run(name, params or {}, self._tags)
        child.log(metrics, curves, images, tags)
        self.children.append(child)

    def write(self, folder: Path, status: str) -> dict[str, Any]:
        """The run as JSON; its pictures go to ``folder`` under the run's place in the tree."""
        folder.mkdir(parents=True, exist_ok=True)
        for key, image in self._images.items():
            picture = folder / "images" / f"{key}.png"
            picture.parent.mkdir(parents=True, exist_ok=True)
            picture.write_bytes(image)
        children = enumerate(self.children)
        return {
            "name": self._name, "status": status, "start": self._start, "end": time.time(),
            "params": self._params, "tags": self._tags, "metrics": self._metrics,
            "curves": self._curves,
            "children": [child.write(folder / str(n), "FINISHED") for n, child in children],
        }  # fmt: skip


@contextlib.contextmanager
def tracked(
    scenario: str,
    stage: str,
    defense: str = "",
    params: Mapping[str, Any] | None = None,
    deliver: bool | None = None,
) -> Iterator[Run]:
    """A run of ``stage``, kept when the block ends, also by an error (FAILED) or Ctrl-C (KILLED).

    Args:
        scenario: the experiment.
        defense: empty for stages that treat all of them at once.
        params: may be nested; written as dotted names.
        deliver: send everything kept to MLflow afterwards; None: if the stage took long.
    """
    tags = {"stage": stage, "scenario": scenario, "defense": defense, "git_commit": commit()}
    run = Run("/".join(filter(None, (stage, defense))), params or {}, tags)
    start, status = time.monotonic(), "FINISHED"
    try:
        yield run
    except Exception:
        status = "FAILED"
        raise
    except BaseException:
        status = "KILLED"
        raise
    finally:
        if os.environ.get("LEAKBOARD_TRACKING", "").lower() != "off":
            _keep(run, status, "--".join((scenario, stage, defense or "all")))
            if deliver is None:
                deliver = time.monotonic() - start >= PATIENCE
            if deliver and status == "FINISHED":
                from benchmark.runtime.delivery import deliver as send

                send()


def flatten(values: Mapping[str, Any], prefix: str = "") -> dict[str, str]:
    """Nested parameters as MLflow's flat text ones: ``{"a": {"b": 1}}`` is ``{"a.b": "1"}``."""
    flat: dict[str, str] = {}
    for name, value in values.items():
        key = f"{prefix}{_key(name)}"
        if isinstance(value, Mapping) and value:
            flat |= flatten(value, f"{key}.")
        elif value is not None:
            flat[key] = str(value)[:6000]
    return flat


def _keep(run: Run, status: str, name: str) -> None:
    with fresh_folder(ROOT / "pending" / name) as folder:
        record = json.dumps(run.write(folder / "run", status), indent=1)
        (folder / "record.json").write_text(record, encoding="utf-8")


def _key(name: object) -> str:
    """MLflow's alphabet for names, less the slash."""
    return re.sub(r"[^\w.: -]", "_", str(name), flags=re.ASCII)[:250] or "_"
