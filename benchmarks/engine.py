"""How much faster the batched engine is than one victim after the other.

    python benchmarks/engine.py [--victims 8] [--iterations 100] [--rounds 3] [--model elu ...]

Runs the attack "ig" on undefended gradients of untrained models, in interleaved rounds with a
plain sequential loop (autograd, input gradient only, constant target norm, the same objective,
prior, optimiser and starts), on one thread, after a warm-up. Prints CPU seconds per victim and
iteration (medians), the ratio, and the median PSNR of both.
"""

from __future__ import annotations

import argparse
import math
import statistics
import time
from collections.abc import Callable

import torch
from torch import Tensor
from torch.func import functional_call

from benchmark.attacks.base import get
from benchmark.attacks.priors import TotalVariation
from benchmark.defenses.base import build
from benchmark.evidence.base import Evidence
from benchmark.evidence.generic import oblivious
from benchmark.federated.setting import Setting, skeleton
from benchmark.federated.transcript import Transcript
from benchmark.federated.update import Update
from benchmark.randomness import generator

SHAPES = {"elu": (1, 8, 8), "lenet": (3, 32, 32), "convnet": (3, 32, 32), "mlp": (1, 8, 8)}


def victims(model: str, count: int, batch_size: int) -> tuple[list[Evidence], list[Tensor]]:
    """Undefended evidence about smooth random images, and the images."""
    shape = SHAPES[model]
    setting = Setting(
        scenario="speed",
        model=model,
        shape=shape,
        classes=10,
        mean=(0.5,) * shape[0],
        std=(0.25,) * shape[0],
        algorithm="fedsgd",
        local_steps=1,
        local_lr=0.1,
        private_lr=0.1,
        batch_size=batch_size,
        labels_given=True,
        defense=build("none", {}),
    )
    net = skeleton(setting)
    net.initialise(generator("speed", "weights"))
    shared = Update({name: p.detach().clone() for name, p in net.named_parameters()})
    evidences, images = [], []
    for k in range(count):
        rng = generator("speed", "victim", k)
        coarse = torch.rand(batch_size, shape[0], 4, 4, generator=rng)
        pixels = torch.nn.functional.interpolate(coarse, shape[1:], mode="bicubic").clamp(0, 1)
        labels = torch.randint(10, (batch_size,), generator=rng)
        soft = torch.nn.functional.one_hot(labels, 10).float()
        leaves = {name: p.clone().requires_grad_() for name, p in shared.items()}
        loss = functional_call(net, leaves, (setting.normalise(pixels), {}, soft))
        steps = torch.autograd.grad(loss, list(leaves.values()))
        message = Update(dict(zip(leaves, steps, strict=True)))
        evidences.append(oblivious(Transcript(setting, k, 0, shared, message, labels)))
        images.append(pixels)
    return evidences, images


def sequential(evidences: list[Evidence], iterations: int) -> list[Tensor]:
    """The same attack as anyone would write it: one victim after the other, with torch.optim."""
    prior = TotalVariation(1e-4)
    found = []
    for k, evidence in enumerate(evidences):
        setting = evidence.setting
        net = skeleton(setting)
        leaves = {n: p.clone().requires_grad_() for n, p in evidence.data["shared"].items()}
        target = list(evidence.terms["update"].value.values())
        norm = torch.cat([t.flatten() for t in target]).norm()
        assert evidence.given is not None
        soft = torch.nn.functional.one_hot(evidence.given, setting.classes).float()
        rng = generator("attack start", k, 0, 0, "images")
        x = torch.randn((setting.images, *setting.shape), generator=rng).requires_grad_()
        ends = torch.zeros(1, *setting.shape)
        low, high = setting.normalise(ends), setting.normalise(ends + 1)
        adam = torch.optim.Adam([x], lr=0.2)
        marks = [math.ceil(m * iterations) for m in (3 / 8, 5 / 8, 7 / 8)]
        plan = torch.optim.lr_scheduler.MultiStepLR(adam, marks, 0.1)
        best, least = x.detach().clone(), math.inf
        for _ in range(iterations):
            loss = functional_call(net, leaves, (x, {}, soft))
            steps = torch.autograd.grad(loss, list(leaves.values()), create_graph=True)
            products = [(s * t).sum() for s, t in zip(steps, target, strict=True)]
            squares = [s.square().sum() for s in steps]
            total = 1 - torch.stack(products).sum() / (torch.stack(squares).sum().sqrt() * norm)
            total = total + prior(x)
            (slope,) = torch.autograd.grad(total, [x])
            if (value := float(total.detach())) < least:
                best, least = x.detach().clone(), value
            x.grad = slope.sign()
            adam.step()
            plan.step()
            with torch.no_grad():
                x.copy_(torch.minimum(torch.maximum(x, low), high))
        found.append(setting.denormalise(best))
    return found


def timed(function: Callable[[], list[Tensor]]) -> tuple[float, list[Tensor]]:
    start = time.process_time()
    found = function()
    return time.process_time() - start, found


def psnr(found: list[Tensor], images: list[Tensor]) -> float:
    errors = [float((a - b).square().mean()) for a, b in zip(found, images, strict=True)]
    return statistics.median(min(60.0, -10 * math.log10(max(e, 1e-12))) for e in errors)


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--victims", type=int, default=8)
    parser.add_argument("--iterations", type=int, default=100)
    parser.add_argument("--batch-size", type=int, default=1)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--model", nargs="+", default=["elu", "lenet"], choices=sorted(SHAPES))
    options = parser.parse_args()
    torch.set_num_threads(1)
    attack = get("ig").configured(iterations=options.iterations)
    print("model     strategy  engine ms  loop ms  ratio  engine dB  loop dB")
    for model in options.model:
        evidences, images = victims(model, options.victims, options.batch_size)
        guesses = attack.run(evidences)

        def engine(evidences: list[Evidence] = evidences) -> list[Tensor]:
            return [g.images for g in attack.run(evidences)]

        def loop(evidences: list[Evidence] = evidences) -> list[Tensor]:
            return sequential(evidences, options.iterations)

        rounds = [(timed(engine), timed(loop)) for _ in range(options.rounds)]
        unit = 1000 / options.victims / options.iterations
        fast = statistics.median(r[0][0] for r in rounds) * unit
        slow = statistics.median(r[1][0] for r in rounds) * unit
        print(
            f"{model:9} {guesses[0].strategy:8} {fast:10.3f} {slow:8.3f} {slow / fast:6.2f}"
            f" {psnr(rounds[0][0][1], images):10.1f} {psnr(rounds[0][1][1], images):8.1f}"
        )


if __name__ == "__main__":
    main()
