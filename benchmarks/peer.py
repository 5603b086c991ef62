"""The peer's side of `breaching.py`: a process of its own environment that is told when to run.

Reads one request per line, `{"victims": file, "iterations": n, "found": file}`, attacks those
victims one after the other with breaching's preset `invertinggradients`, writes the images and
answers `{"seconds": CPU seconds}`.
"""

from __future__ import annotations

import json
import os
import sys
import time
from pathlib import Path
from types import SimpleNamespace

import torch
from safetensors.torch import save_file

import benchmark.runtime.compat  # noqa: F401  (breaching imports torchvision)
from benchmarks.workloads import MEAN, SHAPE, STD, load, network

SETUP = {"device": torch.device("cpu"), "dtype": torch.float}


def attack(victims: Path, iterations: int, found: Path) -> float:
    """Reconstruct every victim; the CPU seconds that the attacks alone took."""
    import breaching

    model, tensors = load(victims)
    net = network(model)
    weights = [p.detach() for p in net.parameters()]
    names = [name for name, _ in net.named_parameters()]
    data = SimpleNamespace(modality="vision", shape=SHAPE, mean=MEAN, std=STD)
    payload = [
        {"parameters": weights, "buffers": [b.detach() for b in net.buffers()], "metadata": data}
    ]
    options = [f"optim.max_iterations={iterations}"]
    attacker = breaching.attacks.prepare_attack(
        net,
        torch.nn.CrossEntropyLoss(),
        breaching.get_attack_config("invertinggradients", options),
        SETUP,
    )
    images, seconds = [], 0.0
    for k, labels in enumerate(tensors["labels"]):
        about = {"num_data_points": len(labels), "labels": labels, "local_hyperparams": None}
        gradients = [tensors[f"gradient.{name}"][k] for name in names]
        shared = [{"gradients": gradients, "buffers": None, "metadata": about}]
        start = time.process_time()
        result, _ = attacker.reconstruct(payload, shared, {}, initial_data=tensors["start"][k])
        seconds += time.process_time() - start
        images.append(result["data"].detach())
    save_file({"images": torch.stack(images)}, found)
    return seconds


def main() -> None:
    answers = os.fdopen(os.dup(1), "w", buffering=1)
    sys.stdout = sys.stderr  # breaching prints
    torch.set_num_threads(1)
    for line in sys.stdin:
        task = json.loads(line)
        seconds = attack(Path(task["victims"]), task["iterations"], Path(task["found"]))
        answers.write(json.dumps({"seconds": seconds}) + "\n")


if __name__ == "__main__":
    main()
