"""The engine against breaching 0.1.2, on the same victims, weights, starts and budget.

    python -m benchmarks.breaching [--rounds 5] [--workload lenet-8 ...] [--compile]

The peer lives in an environment of its own, `.leakboard/breaching`, which the first run makes:
breaching without what it asks for, beside the libraries of the environment that runs this. Both
sides run in one process each, on one thread, in interleaved rounds after a warm-up, with the
peer's preset `invertinggradients`: signed Adam with steps of 0.1, total variation of 0.2, a tenth
of the step after 3/8, 5/8 and 7/8 of the iterations. Only `optim.max_iterations` is changed.

Times are CPU milliseconds per iteration and victim, medians over the rounds; the ratio is the
median of the rounds' ratios. `floor` is the engine's time over that of the counted operations at
the measured rate of a large convolution. PSNRs are means over victims; `ig dB` is the board's own
setting of the attack.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import platform
import subprocess
import sys
import sysconfig
import tempfile
import time
import venv
from dataclasses import replace
from pathlib import Path
from statistics import median

import torch
from safetensors.torch import load_file
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

from benchmark.attacks.base import Guess, get
from benchmark.attacks.engine.adam import SignedAdam
from benchmark.attacks.engine.trace import COMPILE, trace
from benchmark.attacks.ig import INVERTING_GRADIENTS
from benchmark.attacks.parts.priors import TotalVariation
from benchmark.evidence.base import Evidence
from benchmark.runtime.parallel import run
from benchmarks.workloads import MEAN, STD, WORKLOADS, Workload, evidences, load, make, predict

ROOT = Path(__file__).parents[1]
PEER = ROOT / ".leakboard" / "breaching"
VERSION = "0.1.2"
WARM_UPS = 2
"""Of the engine, which traces what is called often enough."""
PRESET = replace(INVERTING_GRADIENTS, optimiser=SignedAdam(lr=0.1), priors=(TotalVariation(0.2),))


class Peer:
    """A process that runs breaching when it is told to."""

    def __init__(self) -> None:
        self.process = subprocess.Popen(
            [environment(), "-m", "benchmarks.peer"],
            cwd=ROOT,
            env={**os.environ, "OMP_NUM_THREADS": "1"},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
        )

    def attack(self, victims: Path, iterations: int) -> tuple[float, Tensor]:
        """CPU seconds, and normalised images [V, B, 3, 32, 32]."""
        found = victims.with_suffix(".found")
        task = {"victims": str(victims), "iterations": iterations, "found": str(found)}
        assert self.process.stdin and self.process.stdout
        self.process.stdin.write(json.dumps(task) + "\n")
        self.process.stdin.flush()
        answer = self.process.stdout.readline()
        if not answer:
            raise SystemExit(f"the peer died: `{PEER}/bin/python -m benchmarks.peer` says why")
        return json.loads(answer)["seconds"], load_file(found)["images"]

    def close(self) -> None:
        self.process.communicate()


def environment() -> Path:
    """The peer's interpreter; its environment is made where it is missing."""
    python = PEER / "bin" / "python"
    if not python.exists():
        venv.create(PEER, with_pip=True)
        pip = [python, "-m", "pip", "install", "--quiet", "--no-deps", f"breaching=={VERSION}"]
        subprocess.run(pip, check=True)
        # torch and the rest are the same files for both sides.
        inside = Path(sysconfig.get_path("purelib", vars={"base": str(PEER)}))
        (inside / "shared.pth").write_text(sysconfig.get_path("purelib"), encoding="utf-8")
    return python


def engine(attack: object, given: list[Evidence]) -> tuple[float, list[Guess]]:
    """CPU seconds, and the guesses."""
    start = time.process_time()
    guesses = attack.run(given)  # type: ignore[attr-defined]
    return time.process_time() - start, guesses


def psnr(found: Tensor, pixels: Tensor) -> float:
    """Mean over victims, in dB, of pixels [V, B, 3, 32, 32]."""
    errors = (found - pixels).square().flatten(1).mean(1)
    return float((-10 * errors.clamp_min(1e-6).log10()).mean())


def operations(given: list[Evidence], start: Tensor) -> int:
    """Floating-point operations of one evaluation of one victim: value and input gradient."""
    first = given[0]
    assert first.given is not None
    soft = torch.nn.functional.one_hot(first.given, first.setting.classes).float()

    def loss(images: Tensor) -> Tensor:
        found = predict(first.setting, {"images": images, "labels": soft}, {}, first.data)
        return torch.stack([t.square().sum() for t in found["update"].values()]).sum()

    replay = trace(torch.func.grad(loss), [start[0]])
    with FlopCounterMode(display=False) as counter:
        replay(start[0])
    return int(counter.get_total_flops())


def convolution_rate() -> float:
    """Floating-point operations per CPU second of a large 3x3 convolution on one thread."""
    x, w = torch.randn(8, 128, 32, 32), torch.randn(128, 128, 3, 3)
    best = math.inf
    for _ in range(12):
        start = time.process_time()
        torch.nn.functional.conv2d(x, w, padding=1)
        best = min(best, time.process_time() - start)
    return 2 * 8 * 128 * 128 * 9 * 32 * 32 / best


def compare(peer: Peer, workload: Workload, folder: Path, rounds: int, rate: float) -> str:
    """One line of the table."""
    victims = folder / f"{workload.model}-{workload.batch_size}-{workload.victims}.safetensors"
    make(workload, victims)
    _, tensors = load(victims)
    given = evidences(workload, tensors)
    attack = PRESET.configured(iterations=workload.iterations)
    peer.attack(victims, max(3, workload.iterations // 10))
    for _ in range(WARM_UPS):
        engine(attack, given)
    theirs, ours, found, guesses = [], [], None, []
    for _ in range(rounds):
        seconds, found = peer.attack(victims, workload.iterations)
        theirs.append(seconds)
        seconds, guesses = engine(attack, given)
        ours.append(seconds)
    assert found is not None
    unit = 1000 / workload.victims / workload.iterations
    ratio = median(a / b for a, b in zip(theirs, ours, strict=True))
    mean, std = (torch.tensor(v).view(3, 1, 1) for v in (MEAN, STD))
    pixels = tensors["pixels"]
    quality = psnr((found * std + mean).clamp(0, 1), pixels)
    own = psnr(torch.stack([g.images for g in guesses]), pixels)
    board = get("ig").configured(optimiser={"lr": 0.2}, iterations=workload.iterations)
    usual = psnr(torch.stack([g.images for g in engine(board, given)[1]]), pixels)
    floor = operations(given, tensors["start"]) / rate * 1000
    mine = median(ours) * unit
    verdict = "yes" if ratio >= workload.ratio and abs(own - quality) <= 0.3 else "no"
    return (
        f"| {workload.model} | {workload.batch_size} | {workload.victims} | {workload.iterations} "
        f"| {guesses[0].strategy} {guesses[0].chunk} | {median(theirs) * unit:.2f} | {mine:.2f} "
        f"| {ratio:.2f} | {workload.ratio:.2f} | {verdict} | {quality:.2f} | {own:.2f} "
        f"| {usual:.2f} | {mine / floor:.1f} |"
    )


HEAD = (
    "| model | B | victims | iterations | strategy | peer ms | engine ms | ratio | expected | "
    "reached | peer dB | engine dB | ig dB | floor |\n" + "|---" * 14 + "|"
)


def quarter(path: str) -> int:
    """One job of the test of two processes."""
    _, tensors = load(Path(path))
    engine(PRESET.configured(iterations=200), evidences(WORKLOADS["lenet-8"], tensors))
    return 0


def two_processes(folder: Path, rounds: int) -> str:
    """Wall time of eight jobs in one worker process over that in two."""
    victims = folder / "parallel.safetensors"
    make(WORKLOADS["lenet-8"], victims)

    def wall(workers: int) -> float:
        start = time.monotonic()
        list(run(quarter, [str(victims)] * 8, workers=workers, apart=True))
        return time.monotonic() - start

    ratios = [wall(1) / wall(2) for _ in range(rounds)]
    return f"two processes: {median(ratios):.2f} times the speed of one (expected 1.70)"


def machine() -> str:
    """What the figures depend on."""
    lines = Path("/proc/cpuinfo").read_text().splitlines() if sys.platform == "linux" else []
    names = {line.partition(":")[2].strip() for line in lines if line.startswith("model name")}
    load_average = ", ".join(f"{v:.1f}" for v in os.getloadavg())
    return (
        f"{' '.join(sorted(names)) or platform.processor()}, {os.cpu_count()} cores, one thread; "
        f"load {load_average}; Python {platform.python_version()}, torch {torch.__version__}"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--workload", nargs="+", default=list(WORKLOADS), choices=WORKLOADS)
    parser.add_argument("--compile", action="store_true", help="compile the engine's traces")
    parser.add_argument("--processes", action="store_true", help="also measure two processes")
    options = parser.parse_args()
    if options.compile:
        os.environ[COMPILE] = "0"
    torch.set_num_threads(1)
    rate = convolution_rate()
    print(f"{machine()}; convolution {rate / 1e9:.0f} GFLOP/s\n\n{HEAD}", flush=True)
    peer = Peer()
    with tempfile.TemporaryDirectory() as folder:
        for name in options.workload:
            row = compare(peer, WORKLOADS[name], Path(folder), options.rounds, rate)
            print(row, flush=True)
        peer.close()
        if options.processes:
            print(f"\n{two_processes(Path(folder), options.rounds)}", flush=True)


if __name__ == "__main__":
    main()
