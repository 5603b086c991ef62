"""The engine's strategies agree with the sequential loop, and depend on shapes alone."""

from __future__ import annotations

import pytest
import torch
from torch._subclasses.fake_tensor import FakeTensorMode

from benchmark.attacks.base import get
from benchmark.attacks.engine import trace as traces
from benchmark.attacks.engine.batch import Engine, Plan, Stack, plan, structure, victim_tree
from benchmark.attacks.engine.batch import batch as engine_module
from benchmark.attacks.engine.memory import BUDGET, DEVICE, device
from benchmark.attacks.engine.trace import trace
from benchmark.attacks.parts.objectives import Cosine, SquaredError
from benchmark.attacks.parts.priors import TotalVariation
from tests.attacks.conftest import predict_branching


def build(victims, objective, strategy: str, planned: int = 1, **options):
    evidences, images, labels = victims(3, **options)
    joint = evidences[0].labels != "given"
    soft = [None if joint else torch.nn.functional.one_hot(y, 10).float() for y in labels]
    stack = Stack.of([victim_tree(e, s) for e, s in zip(evidences, soft, strict=True)])
    shape = structure(evidences[0], objective, (TotalVariation(0.01),), joint)
    rng = torch.Generator().manual_seed(9)
    batch = evidences[0].setting.images
    variables = {"images": torch.randn(3, batch, 1, 6, 6, generator=rng)}
    if joint:
        variables["logits"] = torch.randn(3, batch, 10, generator=rng)
    for name, hidden in evidences[0].hidden.items():
        variables[f"hidden.{name}"] = torch.randn(3, *hidden.shape, generator=rng)
    return Engine(shape, stack, strategy, planned), variables


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
    oracle, variables = build(victims, objective, "loop", **options)
    expected = oracle(variables)
    assert oracle.strategy == "loop"
    for strategy, planned in (("vmap", 1), ("vmap", 10_000), ("loop", 10_000)):
        engine, _ = build(victims, objective, strategy, planned, **options)
        found = engine(variables)
        assert engine.strategy == strategy
        assert torch.allclose(found.total, expected.total, rtol=1e-5)
        assert torch.allclose(found.data, expected.data, rtol=1e-5)
        for name, gradient in found.gradients.items():
            reference = expected.gradients[name]
            assert float((gradient - reference).norm() / reference.norm()) <= 1e-5, name


def test_the_gradient_is_autograds_of_the_total(victims) -> None:
    engine, variables = build(victims, Cosine(), "vmap", hidden=True)
    found = engine(variables)
    direction = {k: torch.randn_like(v) for k, v in variables.items()}
    double = {k: v.double() for k, v in variables.items()}
    stack = engine.stack
    exact = Engine(
        engine.shape,
        Stack(stack.paths, [x.double() for x in stack.leaves], stack.dims, stack.bare),
        "loop",
    )
    step = 1e-6
    ahead = exact({k: v + step * direction[k] for k, v in double.items()}).total
    behind = exact({k: v - step * direction[k] for k, v in double.items()}).total
    slope = sum((found.gradients[k] * direction[k]).flatten(1).sum(1) for k in variables)
    assert torch.allclose(slope.double(), (ahead - behind) / (2 * step), rtol=1e-3, atol=1e-6)


def test_a_replay_is_bit_identical_and_serves_other_numbers(victims) -> None:
    engine, variables = build(victims, Cosine(), "vmap")
    single = engine_module._single(engine.shape, tuple(variables), engine.stack.grow)
    batched = torch.func.vmap(single, in_dims=(0, *engine.stack.dims))
    leaves = [*variables.values(), *engine.stack.leaves]
    replay = trace(batched, leaves)
    other = [x + 0.1 * torch.randn_like(x) for x in leaves]
    for numbers in (leaves, other):
        for a, b in zip(replay(*numbers), batched(*numbers), strict=True):
            assert torch.equal(a, b)


def test_a_prediction_that_decides_on_values_is_looped(victims) -> None:
    attack = get("ig").configured(iterations=200)
    plain = attack.run(victims(2)[0])
    branching = attack.run(victims(2, function=predict_branching)[0])
    assert [g.strategy for g in branching] == ["loop", "loop"]
    assert [g.strategy for g in plain] == ["vmap", "vmap"]
    for a, b in zip(plain, branching, strict=True):
        assert torch.allclose(a.images, b.images, atol=1e-2)


def test_what_all_victims_share_is_not_stacked(victims) -> None:
    evidences = victims(3)[0]
    stack = Stack.of([victim_tree(e, None) for e in evidences])
    dims = dict(zip(stack.paths, stack.dims, strict=True))
    assert all(dim is None for path, dim in dims.items() if path[:2] == ("data", "shared"))
    assert dims["terms", "update", "unit"] == 0
    assert stack.grow(stack.leaves)["data"]["noise"] == {}


def test_victims_of_different_structure_are_refused(victims) -> None:
    one, two = victims(1)[0][0], victims(1, batch_size=2)[0][0]
    trees = [victim_tree(one, torch.ones(1, 10)), victim_tree(two, torch.ones(2, 10))]
    with pytest.raises(ValueError, match="soft"):
        Stack.of(trees)
    with pytest.raises(ValueError, match="structure"):
        Stack.of([trees[0], victim_tree(one, None)])


def test_the_plan_follows_from_shapes() -> None:
    assert plan(14_074, 1, 64).strategy == "vmap"
    assert plan(242_122, 1, 3072).strategy == "vmap"
    assert plan(14_074, 32, 64).strategy == "vmap"
    assert plan(242_122, 4, 3072).strategy == "loop"
    assert plan(11_000_000, 1, 3072).strategy == "loop"
    assert plan(11_000_000, 1, 3072, "cuda").strategy == "vmap"


@pytest.mark.parametrize("device", BUDGET)
@pytest.mark.parametrize("observed", [1_000, 14_074, 242_122, 11_000_000])
def test_a_stack_fits_its_memory_and_more_memory_takes_more_trials(observed, device) -> None:
    chosen = plan(observed, 1, 3072, device)
    assert chosen.chunk == 1 or chosen.chunk * 64 * (observed + 64 * 3072) <= BUDGET[device]
    assert plan(2 * observed, 1, 3072, device).chunk <= chosen.chunk
    assert plan(observed, 1, 3072, "cpu").chunk <= plan(observed, 1, 3072, "cuda").chunk


def test_another_device_gets_every_tensor_that_a_gradient_needs(victims) -> None:
    """Tensors without numbers stand in for a GPU's; they refuse to meet those of the processor."""
    engine, variables = build(victims, Cosine(), "vmap", hidden=True)
    single = engine_module._single(engine.shape, tuple(variables), engine.stack.grow)
    with FakeTensorMode(allow_non_fake_inputs=False):
        leaves = [*variables.values(), *engine.stack.leaves]
        moved = [torch.empty(x.shape, dtype=x.dtype, device="meta") for x in leaves]
        found = torch.func.vmap(single, in_dims=(0, 0, *engine.stack.dims))(*moved)
        mixed = [torch.empty(x.shape, dtype=x.dtype) for x in leaves[:2]] + moved[2:]
        with pytest.raises(Exception, match="device"):
            torch.func.vmap(single, in_dims=(0, 0, *engine.stack.dims))(*mixed)
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


def test_a_narrowed_engine_evaluates_the_trials_it_was_given(victims) -> None:
    engine, variables = build(victims, Cosine(), "vmap", labels="unknown", hidden=True)
    whole = engine(variables)
    rows = torch.tensor([2, 0])
    part = engine.narrowed(rows)({name: value[rows] for name, value in variables.items()})
    assert torch.allclose(part.total, whole.total[rows], rtol=1e-5)
    for name, gradient in part.gradients.items():
        assert torch.allclose(gradient, whole.gradients[name][rows], rtol=1e-4, atol=1e-6)


def test_compiling_is_asked_for_and_falls_back_to_the_trace(victims, monkeypatch) -> None:
    asked = []

    def refused(function, leaves):
        asked.append(function)
        raise RuntimeError("no C++ compiler")

    monkeypatch.setattr(traces, "compiled", refused)
    engine, variables = build(victims, Cosine(), "vmap", 10_000)
    monkeypatch.setattr(engine_module, "TRACES", traces.Traces())
    monkeypatch.delenv(traces.COMPILE, raising=False)
    expected = engine(variables)
    assert not asked
    monkeypatch.setenv(traces.COMPILE, "500")
    again, _ = build(victims, Cosine(), "vmap", 10_000)
    found = again(variables)
    assert len(asked) == 1
    assert torch.equal(found.total, expected.total)


def test_a_compiled_function_that_differs_is_not_used(victims, monkeypatch) -> None:
    wrong = lambda function, leaves: lambda *x: [1.01 * y for y in function(*x)]  # noqa: E731
    monkeypatch.setattr(traces, "compiled", wrong)
    monkeypatch.setattr(engine_module, "TRACES", traces.Traces())
    engine, variables = build(victims, Cosine(), "vmap", 10_000)
    monkeypatch.setenv(traces.COMPILE, "0")
    compiled = engine(variables)
    monkeypatch.delenv(traces.COMPILE)
    plain, _ = build(victims, Cosine(), "vmap")
    assert torch.equal(compiled.total, plain(variables).total)


def test_chunks_cover_all_trials_evenly() -> None:
    for trials in range(1, 40):
        for chunk in range(1, 12):
            parts = Plan("vmap", chunk).chunks(trials)
            sizes = [p.stop - p.start for p in parts]
            assert [k for p in parts for k in range(p.start, p.stop)] == list(range(trials))
            assert max(sizes) <= chunk and max(sizes) - min(sizes) <= 1


def test_chunks_do_not_change_what_is_found(victims, monkeypatch) -> None:
    evidences = victims(3)[0]
    attack = get("ig").configured(iterations=30)
    whole = attack.run(evidences)
    monkeypatch.setattr(engine_module, "_LARGEST_STACK", {"cpu": 2})
    parts = attack.run(evidences)
    assert [g.chunk for g in parts] == [2, 2, 2]
    for a, b in zip(whole, parts, strict=True):
        assert a.loss == pytest.approx(b.loss, rel=0.05)
