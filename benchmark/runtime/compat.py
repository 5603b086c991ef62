"""Make torchvision importable beside a CPU-only torch; import this before it and its users.

A torchvision wheel built for CUDA fails to load its operators on a CPU-only torch, and then its
import stops at "operator torchvision::nms does not exist", because it registers shape functions
for operators that are not there. torchmetrics and opacus stop with it. We need none of those
operators, so declaring their signatures is enough. On an ordinary install nothing happens.
"""

from __future__ import annotations

import importlib
import importlib.util
import re
import sys

import torch

_SCHEMAS = {
    "nms": "nms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor",
    "qnms": "qnms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor",
    "roi_align": (
        "roi_align(Tensor input, Tensor rois, float spatial_scale, SymInt pooled_height, "
        "SymInt pooled_width, int sampling_ratio, bool aligned) -> Tensor"
    ),
    "roi_pool": (
        "roi_pool(Tensor input, Tensor rois, float spatial_scale, SymInt pooled_height, "
        "SymInt pooled_width) -> (Tensor, Tensor)"
    ),
}
_MISSING = re.compile(r"operator torchvision::(\w+) does not exist")
_libraries: list[torch.library.Library] = []  # a schema lives as long as the object that holds it


def mend_torchvision() -> tuple[str, ...]:
    """Import torchvision, declaring what it misses; returns the operators that were declared.

    Raises:
        RuntimeError: torchvision fails for another reason than a missing operator.
    """
    if importlib.util.find_spec("torchvision") is None:
        return ()
    declared: list[str] = []
    while True:
        try:
            importlib.import_module("torchvision")
            return tuple(declared)
        except RuntimeError as error:
            missing = _MISSING.search(str(error))
            name = missing.group(1) if missing else ""
            if name not in _SCHEMAS or name in declared:
                raise
            library = torch.library.Library("torchvision", "FRAGMENT")
            library.define(_SCHEMAS[name])
            _libraries.append(library)
            declared.append(name)
            # What a failed import leaves behind would be taken for the finished package.
            for module in [m for m in sys.modules if m.split(".")[0] == "torchvision"]:
                del sys.modules[module]


mend_torchvision()
