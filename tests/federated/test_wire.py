"""Messages: lossless, small, and never trusted."""

from __future__ import annotations

import math
import struct
import time
import zlib

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from benchmark.federated.wire import (
    ENCODINGS,
    HEADER,
    MAGIC,
    VERSION,
    WireError,
    decode,
    encode,
)

SHAPES = [(), (0,), (1,), (7,), (10,), (3, 0, 2), (8, 1, 3, 3), (48, 65), (1000,)]


def shapes_of(tensors: dict[str, Tensor]) -> dict[str, tuple[int, ...]]:
    return {name: tuple(tensor.shape) for name, tensor in tensors.items()}


def same_bits(left: Tensor, right: Tensor) -> bool:
    return left.shape == right.shape and left.numpy().tobytes() == right.numpy().tobytes()


def sparse(size: int, density: float, seed: int = 0) -> Tensor:
    """Exactly round(size * density) normal values at random places, zeros elsewhere."""
    rng = np.random.default_rng(seed)
    values = np.zeros(size, dtype=np.float32)
    kept = rng.choice(size, round(size * density), replace=False)
    values[kept] = rng.normal(size=len(kept))
    return torch.from_numpy(values)


def sealed(blocks: bytes, tensors: dict[str, Tensor]) -> bytes:
    """``blocks`` under a header that is right for them: only their content can be wrong."""
    fingerprint = HEADER.unpack_from(encode(tensors))[2]
    return HEADER.pack(MAGIC, VERSION, fingerprint, zlib.crc32(blocks)) + blocks


@st.composite
def tensor_sets(draw: st.DrawFn) -> dict[str, Tensor]:
    """Several tensors of any shape, density and number of distinct values, -0.0 included."""
    tensors = {}
    for index in range(draw(st.integers(0, 4))):
        shape = draw(st.sampled_from(SHAPES))
        rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
        values = rng.normal(size=shape).astype(np.float32) * np.float32(10.0) ** draw(
            st.integers(-40, 30)
        )
        levels = draw(st.sampled_from([0, 1, 2, 3, 17, 256, 257]))
        if levels:
            values = rng.choice(values.reshape(-1)[:1] * np.arange(levels), size=shape) if (
                values.size) else values  # fmt: skip
        density = draw(st.sampled_from([0.0, 0.003, 0.05, 0.2, 0.5, 0.9, 1.0]))
        zero = np.float32(draw(st.sampled_from([0.0, 0.0, -0.0])))
        values = np.where(rng.random(shape) < density, values, zero).astype(np.float32)
        tensors[f"layer{index}.weight"] = torch.from_numpy(np.asarray(values))
    return tensors


@settings(max_examples=200, deadline=None)
@given(tensor_sets())
def test_what_is_sent_arrives_bit_for_bit_but_for_the_sign_of_zeros(
    tensors: dict[str, Tensor],
) -> None:
    message = encode(tensors)
    arrived = decode(message, shapes_of(tensors))
    assert list(arrived) == list(tensors)
    assert all(same_bits(arrived[name], tensors[name] + 0.0) for name in tensors)


@settings(max_examples=100, deadline=None)
@given(tensor_sets())
def test_a_message_is_never_longer_than_values_and_a_small_header(
    tensors: dict[str, Tensor],
) -> None:
    dense = sum(4 * tensor.numel() for tensor in tensors.values())
    assert len(encode(tensors)) <= dense + HEADER.size + len(tensors)


@settings(max_examples=300, deadline=None)
@given(tensor_sets(), st.binary(max_size=200))
def test_foreign_bytes_are_one_clear_error(tensors: dict[str, Tensor], noise: bytes) -> None:
    with pytest.raises(WireError) as caught:
        decode(noise, shapes_of(tensors))
    assert "\n" not in str(caught.value)


@settings(max_examples=500, deadline=None)
@given(tensor_sets().filter(bool), st.data())
def test_well_sealed_nonsense_is_an_error_or_finite_tensors(
    tensors: dict[str, Tensor], data: st.DataObject
) -> None:
    blocks = bytearray(encode(tensors)[HEADER.size :])
    for _ in range(data.draw(st.integers(1, 4))):
        place = data.draw(st.integers(0, max(0, len(blocks) - 1)))
        blocks[place : place + data.draw(st.integers(0, 2))] = data.draw(st.binary(max_size=3))
    try:
        arrived = decode(sealed(bytes(blocks), tensors), shapes_of(tensors))
    except WireError as error:
        assert "\n" not in str(error)
    else:
        assert shapes_of(arrived) == shapes_of(tensors)
        assert all(bool(tensor.isfinite().all()) for tensor in arrived.values())


@settings(max_examples=100, deadline=None)
@given(tensor_sets(), st.data())
def test_any_flipped_bit_is_noticed(tensors: dict[str, Tensor], data: st.DataObject) -> None:
    message = bytearray(encode(tensors))
    bit = data.draw(st.integers(0, 8 * len(message) - 1))
    message[bit // 8] ^= 1 << bit % 8
    with pytest.raises(WireError):
        decode(bytes(message), shapes_of(tensors))


@settings(max_examples=100, deadline=None)
@given(tensor_sets(), st.data())
def test_a_cut_or_lengthened_message_is_noticed(
    tensors: dict[str, Tensor], data: st.DataObject
) -> None:
    message = encode(tensors)
    with pytest.raises(WireError):
        decode(message[: data.draw(st.integers(0, len(message) - 1))], shapes_of(tensors))
    with pytest.raises(WireError):
        decode(message + data.draw(st.binary(min_size=1, max_size=9)), shapes_of(tensors))


@pytest.mark.parametrize(
    "schema",
    [{}, {"a": (3, 2)}, {"b": (2, 3)}, {"a": (2, 3), "b": (1,)}, {"a": (6,)}],
    ids=str,
)
def test_another_schema_is_refused_even_where_the_sizes_agree(schema: dict) -> None:
    with pytest.raises(WireError, match="other tensor names or shapes"):
        decode(encode({"a": torch.ones(2, 3)}), schema)


def test_the_order_of_tensors_is_part_of_the_schema() -> None:
    tensors = {"a": torch.zeros(4), "b": torch.ones(4)}
    with pytest.raises(WireError, match="other tensor names"):
        decode(encode(tensors), {"b": (4,), "a": (4,)})


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_a_tensor_that_is_not_finite_is_named_and_not_sent(value: float) -> None:
    tensors = {"good": torch.ones(3), "features.fc.weight": torch.tensor([0.0, value])}
    with pytest.raises(WireError, match=r"^features\.fc\.weight: holds NaN or infinity"):
        encode(tensors)


def test_a_received_value_that_is_not_finite_is_refused() -> None:
    tensors = {"w": torch.ones(1)}
    with pytest.raises(WireError, match="w: holds NaN"):
        decode(sealed(b"\x00" + struct.pack("<f", math.nan), tensors), shapes_of(tensors))


@pytest.mark.parametrize("dtype", [torch.float64, torch.float16, torch.int64])
def test_only_float32_is_sent(dtype: torch.dtype) -> None:
    with pytest.raises(WireError, match="w: only float32"):
        encode({"w": torch.ones(3, dtype=dtype)})


def test_an_unknown_version_is_refused() -> None:
    message = bytearray(encode({"w": torch.ones(3)}))
    message[3] = 99
    with pytest.raises(WireError, match="version 99"):
        decode(bytes(message), {"w": (3,)})


# Blocks that only a hostile or broken sender makes, for a tensor of 40 entries.
HOSTILE = {
    "unknown encoding": b"\x04",
    "no encoding": b"",
    "palette without values": b"\x03\xff",
    "index outside the palette": b"\x03\x02" + struct.pack("<3f", 1, 2, 3) + b"\xff" * 10,
    "four billion kept": b"\x02" + struct.pack("<IBI", 2**32 - 1, 31, 2**32 - 1),
    "more kept than entries": b"\x02" + struct.pack("<IBI", 41, 0, 6) + b"\xff" * 6,
    "none kept": b"\x02" + struct.pack("<IBI", 0, 0, 0),
    "long unary part": b"\x02" + struct.pack("<IBI", 1, 0, 1000) + b"\x00" * 1000,
    "fewer distances than kept": b"\x02" + struct.pack("<IBI", 3, 0, 1) + b"\x01" + b"\x00" * 12,
    "beyond the end": b"\x02" + struct.pack("<IBI", 1, 31, 1) + b"\xff\xff\xff\x7f\x01" + b"0" * 4,
    "bitmap without values": b"\x01" + b"\xff" * 5,
}


@pytest.mark.parametrize("name", HOSTILE)
def test_hostile_blocks_are_errors_that_name_the_tensor(name: str) -> None:
    tensors = {"head.weight": torch.ones(40)}
    with pytest.raises(WireError, match=r"^head\.weight: "):
        decode(sealed(HOSTILE[name], tensors), shapes_of(tensors))


def test_padding_bits_cannot_carry_anything() -> None:
    tensors = {"w": torch.zeros(3)}
    block = b"\x01" + bytes([0b1000_0001]) + struct.pack("<f", 1)
    with pytest.raises(WireError, match="padding"):
        decode(sealed(block, tensors), shapes_of(tensors))


def test_decoded_tensors_are_fresh_and_writable() -> None:
    message = encode({"w": torch.arange(300.0)})
    first = decode(message, {"w": (300,)})["w"]
    first.zero_()
    assert decode(message, {"w": (300,)})["w"][7] == 7


def test_a_bitmap_costs_one_bit_an_entry() -> None:
    tensor = sparse(20_000, 0.6)
    message = encode({"w": tensor})
    assert ENCODINGS[message[HEADER.size]] == "bitmap"
    assert len(message) == HEADER.size + 1 + 20_000 // 8 + 4 * 12_000


def test_one_fifth_kept_costs_no_more_than_a_bitmap_and_no_less_than_entropy() -> None:
    """32 bits for a fifth of the entries, and .722 (the entropy) to 1 (a bitmap) for places."""
    size = 100_000
    bits = 8 * len(encode({"w": sparse(size, 0.2)})) / size
    assert 32 * 0.2 + 0.722 < bits < 32 * 0.2 + 1
    assert bits == pytest.approx(32 * 0.2 + 1, rel=0.04)


@pytest.mark.parametrize("density", [0.1, 0.05, 0.01, 0.001])
def test_places_of_few_entries_cost_little_more_than_their_entropy(density: float) -> None:
    size = 200_000
    message = encode({"w": sparse(size, density)})
    assert ENCODINGS[message[HEADER.size]] == "index"
    entropy = -density * math.log2(density) - (1 - density) * math.log2(1 - density)
    assert 8 * len(message) / size - 32 * density < 1.1 * entropy


@pytest.mark.parametrize(("levels", "bits"), [(1, 0), (2, 1), (3, 2), (16, 4), (256, 8)])
def test_quantised_tensors_cost_the_bits_of_their_levels(levels: int, bits: int) -> None:
    rng = np.random.default_rng(levels)
    values = torch.from_numpy(rng.normal(size=levels).astype(np.float32))
    tensor = values[torch.from_numpy(rng.integers(levels, size=8000))]
    message = encode({"w": tensor})
    assert ENCODINGS[message[HEADER.size]] == "quantised"
    assert len(message) == HEADER.size + 2 + 4 * levels + 1000 * bits


def test_a_zero_tensor_costs_a_few_bytes() -> None:
    assert len(encode({"w": torch.zeros(1000, 1000)})) <= HEADER.size + 6


def test_negative_zeros_arrive_as_zeros() -> None:
    tensor = torch.tensor([0.0, -0.0, 3.0] * 50)
    arrived = decode(encode({"w": tensor}), {"w": (150,)})["w"]
    assert torch.equal(arrived, tensor) and not torch.signbit(arrived).any()


def test_negative_zeros_of_another_encoder_arrive_as_zeros() -> None:
    tensors = {"w": torch.zeros(3)}
    block = b"\x00" + struct.pack("<3f", 1.0, -0.0, 0.0)
    arrived = decode(sealed(block, tensors), {"w": (3,)})["w"]
    assert arrived.tolist() == [1.0, 0.0, 0.0] and not torch.signbit(arrived).any()


def test_signs_of_zeros_cost_nothing() -> None:
    """One level, as QSGD sends it: sign times size times 0 or 1, so half the zeros are -0.0."""
    rng = np.random.default_rng(0)
    signs = torch.from_numpy(rng.choice([-1.0, 1.0], size=14_074).astype(np.float32))
    level = torch.from_numpy((rng.random(14_074) < 0.03).astype(np.float32))
    signed, plain = signs * 0.7 * level, torch.where(level > 0, signs * 0.7, 0.0)
    assert torch.signbit(signed[signed == 0]).any() and torch.equal(signed, plain)
    assert encode({"w": signed}) == encode({"w": plain})


def test_strided_tensors_that_require_gradients_are_sent() -> None:
    tensor = torch.arange(12.0).reshape(3, 4).T.requires_grad_()
    assert torch.equal(decode(encode({"w": tensor}), {"w": (4, 3)})["w"], tensor)


def test_large_dense_updates_are_cheap() -> None:
    """Milliseconds when measured; the bounds leave room for a busy machine."""
    tensors = {"a": torch.randn(1000, 400), "b": torch.randn(50_000)}
    schema = shapes_of(tensors)

    def fastest(call) -> float:
        times = []
        for _ in range(7):
            start = time.perf_counter()
            call()
            times.append(time.perf_counter() - start)
        return min(times)

    message = encode(tensors)
    assert fastest(lambda: encode(tensors)) < 0.05
    assert fastest(lambda: decode(message, schema)) < 0.02
