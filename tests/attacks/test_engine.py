"""Stacks agree with the sequential loop, and a row with itself wherever it lies."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch
from torch._subclasses.fake_tensor import FakeTensorMode

from benchmark.attacks.base import get
from benchmark.attacks.engine import batch as engine_module
from benchmark.attacks.engine import trace as traces
from benchmark.attacks.engine.base import Evaluation
from benchmark.attacks.engine.batch import Stack, rows_of, setting_used, structure, victim_tree
from benchmark.attacks.engine.memory import BUDGET, DEVICE, device
from benchmark.attacks.engine.trace import trace
from benchmark.attacks.parts.objectives import Cosine, SquaredError
from benchmark.attacks.parts.priors import TotalVariation
from benchmark.defenses.base import build as build_defense
from benchmark.evidence.generic import predict_protected
from tests.attacks.conftest import predict_branching


def build(
    victims, objective, rows: int, planned: int = 1, count: int = 3, **options
) -> tuple[Stack, list[Any], dict[str, torch.Tensor]]:
    """A stack, the numbers of all victims, and points [victims, ...] to evaluate them at."""
    evidences, _, labels = victims(count, **options)
    joint = evidences[0].labels != "given"
    soft = [None if joint else torch.nn.functional.one_hot(y, 10).float() for y in labels]
    numbers = [victim_tree(e, s) for e, s in zip(evidences, soft, strict=True)]
    shape = structure(evidences[0], objective, (TotalVariation(0.01),), joint)
    rng = torch.Generator().manual_seed(9)
    batch = evidences[0].setting.images
    variables = {"images": torch.randn(count, batch, 1, 6, 6, generator=rng)}
    if joint:
        variables["logits"] = torch.randn(count, batch, 10, generator=rng)
    for name, hidden in evidences[0].hidden.items():
        variables[f"hidden.{name}"] = torch.randn(count, *hidden.shape, generator=rng)
    first = {name: value[0] for name, value in variables.items()}
    return Stack(shape, numbers[0], first, rows, planned), numbers, variables


def evaluated(stack: Stack, numbers: list[Any], variables: dict[str, torch.Tensor]) -> Evaluation:
    """All victims, as many at once as there are rows."""
    found = []
    for begin in range(0, len(numbers), stack.rows):
        for row in range(stack.rows):
            stack.put(row, numbers[begin + row])
        found.append(stack({n: v[begin : begin + stack.rows] for n, v in variables.items()}))
    return Evaluation(
        torch.cat([f.total for f in found]),
        torch.cat([f.data for f in found]),
        {n: torch.cat([f.gradients[n] for f in found]) for n in variables},
    )


CASES = [
    {},
    {"batch_size": 3},
    {"labels": "unknown"},
    {"hidden": True},
    {"labels": "unknown", "hidden": True, "batch_size": 2, "scale": 1e-8},
]


@pytest.mark.parametrize("options", CASES, ids=str)
@pytest.mark.parametrize("objective", [Cosine(), SquaredError()], ids=repr)
def test_batched_and_traced_equal_the_sequential_loop(victims, objective, options) -> None:
    oracle, numbers, variables = build(victims, objective, 1, **options)
    expected = evaluated(oracle, numbers, variables)
    assert oracle.strategy == "loop"
    for rows, planned in ((3, 1), (3, 10_000), (1, 10_000)):
        stack, _, _ = build(victims, objective, rows, planned, **options)
        found = evaluated(stack, numbers, variables)
        assert stack.strategy == ("vmap" if rows > 1 else "loop")
        assert torch.allclose(found.total, expected.total, rtol=1e-5)
        assert torch.allclose(found.data, expected.data, rtol=1e-5)
        for name, gradient in found.gradients.items():
            reference = expected.gradients[name]
            assert float((gradient - reference).norm() / reference.norm()) <= 1e-5, name


@pytest.mark.parametrize("options", [{}, {"hidden": True, "batch_size": 2}], ids=str)
@pytest.mark.parametrize("model", ["elu", "lenet", "mlp"])
def test_a_rows_bits_follow_from_its_class_of_places(victims, options, model) -> None:
    """Neighbours replaced and reordered, twice as many rows: equal bits eight places apart."""
    stack, numbers, variables = build(victims, Cosine(), 16, count=16, model=model, **options)
    larger, _, _ = build(victims, Cosine(), 32, count=16, model=model, **options)
    first = evaluated(stack, numbers, variables)
    rng = torch.Generator().manual_seed(0)
    for _ in range(4):
        kept = torch.randperm(16, generator=rng)[:8].tolist()
        place: dict[int, int] = {}
        for number in kept:
            free = [r for r in range(number % 8, 32, 8) if r not in place]
            place[free[int(torch.randint(len(free), (), generator=rng))]] = number
        who = [place.get(row, 3) for row in range(32)]
        for row, number in enumerate(who):
            larger.put(row, numbers[number])
        found = larger({n: v[who] for n, v in variables.items()})
        for row, number in place.items():
            assert torch.equal(found.total[row], first.total[number])
            for name, gradient in found.gradients.items():
                assert torch.equal(gradient[row], first.gradients[name][number]), (row, number)


def test_a_prediction_of_the_plain_update_needs_no_defense(victims) -> None:
    (plain,), _, _ = victims(1)
    pruned = replace(plain, setting=replace(plain.setting, defense=build_defense("pruning", {})))
    assert setting_used(plain) == setting_used(pruned) != pruned.setting
    asking = replace(pruned, predict=predict_protected, data={**pruned.data, "private": {}})
    assert setting_used(asking) == pruned.setting
    wrapped = replace(plain, setting=replace(plain.setting, defense=build_defense("precode", {})))
    assert setting_used(replace(wrapped, predict=lambda *_: {})) != setting_used(plain)


def test_the_gradient_is_autograds_of_the_total(victims) -> None:
    stack, numbers, variables = build(victims, Cosine(), 3, hidden=True)
    found = evaluated(stack, numbers, variables)
    direction = {k: torch.randn_like(v) for k, v in variables.items()}
    double = {k: v.double() for k, v in variables.items()}
    stack.leaves = [leaf.double() for leaf in stack.leaves]
    step = 1e-6
    ahead = stack({k: v + step * direction[k] for k, v in double.items()}).total
    behind = stack({k: v - step * direction[k] for k, v in double.items()}).total
    slope = sum((found.gradients[k] * direction[k]).flatten(1).sum(1) for k in variables)
    assert torch.allclose(slope.double(), (ahead - behind) / (2 * step), rtol=1e-3, atol=1e-6)


def test_a_replay_is_bit_identical_and_serves_other_numbers(victims) -> None:
    stack, numbers, variables = build(victims, Cosine(), 3)
    evaluated(stack, numbers, variables)
    batched = torch.func.vmap(stack._single())
    leaves = [*variables.values(), *stack.leaves]
    replay = trace(batched, leaves)
    other = [x + 0.1 * torch.randn_like(x) for x in leaves]
    for values in (leaves, other):
        for a, b in zip(replay(*values), batched(*values), strict=True):
            assert torch.equal(a, b)


def test_a_prediction_that_decides_on_values_is_looped(victims) -> None:
    attack = get("ig").configured(iterations=200)
    plain = attack.run(victims(2)[0])
    branching = attack.run(victims(2, function=predict_branching)[0])
    assert [g.strategy for g in branching] == ["loop", "loop"]
    assert [g.strategy for g in plain] == ["vmap", "vmap"]
    for a, b in zip(plain, branching, strict=True):
        assert torch.allclose(a.images, b.images, atol=1e-2)


def test_victims_of_different_structure_are_refused(victims) -> None:
    one, two = victims(1)[0][0], victims(1, batch_size=2)[0][0]
    shape = structure(one, Cosine(), (), False)
    start = {"images": torch.zeros(1, 1, 6, 6)}
    stack = Stack(shape, victim_tree(one, torch.ones(1, 10)), start, 2)
    with pytest.raises(ValueError, match="soft"):
        stack.put(0, victim_tree(two, torch.ones(2, 10)))
    with pytest.raises(ValueError, match="structure"):
        stack.put(0, victim_tree(one, None))


def test_the_rows_follow_from_shapes() -> None:
    assert rows_of(14_074, 1, 64, 100) == 32
    assert [rows_of(14_074, 1, 64, n) for n in (1, 2, 3, 8, 9, 17)] == [8, 8, 8, 8, 16, 32]
    assert rows_of(242_122, 1, 3072, 100) > 1
    assert rows_of(14_074, 32, 64, 100) > 1
    assert rows_of(242_122, 4, 3072, 100) == 1
    assert rows_of(11_000_000, 1, 3072, 100) == 1
    assert rows_of(11_000_000, 1, 3072, 100, "cuda") > 1


@pytest.mark.parametrize("device", BUDGET)
@pytest.mark.parametrize("observed", [1_000, 14_074, 242_122, 11_000_000])
def test_a_stack_fits_its_memory_and_more_memory_takes_more_rows(observed, device) -> None:
    rows = rows_of(observed, 1, 3072, 10_000, device)
    assert rows == 1 or rows * 64 * (observed + 64 * 3072) <= BUDGET[device]
    assert rows_of(2 * observed, 1, 3072, 10_000, device) <= rows
    assert rows_of(observed, 1, 3072, 10_000, "cpu") <= rows_of(observed, 1, 3072, 10_000, "cuda")


def test_another_device_gets_every_tensor_that_a_gradient_needs(victims) -> None:
    """Tensors without numbers stand in for a GPU's; they refuse to meet those of the processor."""
    stack, _, variables = build(victims, Cosine(), 3, hidden=True)
    single = torch.func.vmap(stack._single())
    with FakeTensorMode(allow_non_fake_inputs=False):
        leaves = [*variables.values(), *stack.leaves]
        moved = [torch.empty(x.shape, dtype=x.dtype, device="meta") for x in leaves]
        found = single(*moved)
        mixed = [torch.empty(x.shape, dtype=x.dtype) for x in leaves[:2]] + moved[2:]
        with pytest.raises(Exception, match="device"):
            single(*mixed)
    assert [x.device.type for x in found] == ["meta"] * 4
    assert found[2].shape == variables["images"].shape


def test_the_device_is_the_processor_unless_another_is_named(monkeypatch) -> None:
    monkeypatch.delenv(DEVICE, raising=False)
    assert device() == torch.device("cpu")
    monkeypatch.setenv(DEVICE, "tpu")
    with pytest.raises((ValueError, RuntimeError), match="tpu|device"):
        device()
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setenv(DEVICE, "cuda")
    with pytest.raises(ValueError, match="no CUDA device"):
        device()


def test_compiling_is_asked_for_and_falls_back_to_the_trace(victims, monkeypatch) -> None:
    asked = []

    def refused(function, leaves):
        asked.append(function)
        raise RuntimeError("no C++ compiler")

    monkeypatch.setattr(traces, "compiled", refused)
    stack, numbers, variables = build(victims, Cosine(), 3, 10_000)
    monkeypatch.setattr(engine_module, "TRACES", traces.Traces())
    monkeypatch.delenv(traces.COMPILE, raising=False)
    expected = evaluated(stack, numbers, variables)
    assert not asked
    monkeypatch.setenv(traces.COMPILE, "500")
    again, _, _ = build(victims, Cosine(), 3, 10_000)
    found = evaluated(again, numbers, variables)
    assert len(asked) == 1
    assert torch.equal(found.total, expected.total)


def test_a_compiled_function_that_differs_is_not_used(victims, monkeypatch) -> None:
    wrong = lambda function, leaves: lambda *x: [1.01 * y for y in function(*x)]  # noqa: E731
    monkeypatch.setattr(traces, "compiled", wrong)
    monkeypatch.setattr(engine_module, "TRACES", traces.Traces())
    stack, numbers, variables = build(victims, Cosine(), 3, 10_000)
    monkeypatch.setenv(traces.COMPILE, "0")
    compiled = evaluated(stack, numbers, variables)
    monkeypatch.delenv(traces.COMPILE)
    plain, _, _ = build(victims, Cosine(), 3)
    assert torch.equal(compiled.total, evaluated(plain, numbers, variables).total)
