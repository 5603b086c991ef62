"""Updates and broadcasts as bytes: lossless, each tensor in the smallest of four encodings.

A message is a header and one block per tensor, in the order of the schema::

    "LKB" | version u8 | crc32(schema) u32 | crc32(blocks) u32 | block | block | ...
    block = tag u8 + payload

==========  ====  ===========================================================================
encoding    tag   payload (little-endian; n entries, k of them kept: their bits are not all 0)
==========  ====  ===========================================================================
dense       0     n float32
bitmap      1     n bits (1 = kept), then k float32
index       2     k u32, r u8, l u32, k*r bits, l bytes, k float32: the distances between kept
                  entries, Rice-coded: the r low bits packed, the rest in unary
quantised   3     p-1 u8, p float32, n indices of ceil(log2 p) bits each: a palette, p <= 256
==========  ====  ===========================================================================

Names and shapes are the public schema: both sides hold it, so it is not sent, only its
checksum. Values are compared by their bits, but for -0.0: it is sent, and comes back, as 0.0. The
sign of a zero means nothing, and multiplying by a mask or rounding leaves it behind.
"""

from __future__ import annotations

import math
import struct
import zlib
from collections.abc import Iterator, Mapping, Sequence
from functools import lru_cache

import numpy as np
import torch
from torch import Tensor

from benchmark.federated.update import Update

Schema = Mapping[str, tuple[int, ...]]
"""Ordered tensor names with their shapes."""

MAGIC = b"LKB"
VERSION = 1
ENCODINGS = ("dense", "bitmap", "index", "quantised")
HEADER = struct.Struct("<3sBII")

_RICE = struct.Struct("<IBI")
_PALETTE_LIMIT = 256
_PROBE = 1024  # about so many entries are looked at before a palette is searched for in all
_COUNT_LIMIT = 2**32  # tensors with more entries than a u32 can count are sent dense


class WireError(ValueError):
    """A tensor cannot be sent, or bytes are not a message of this schema; one line says why."""


def encode(tensors: Mapping[str, Tensor]) -> bytes:
    """The message that carries ``tensors`` (float32, any shapes), bit for bit but for -0.0.

    At most ``12 + len(tensors)`` bytes longer than the raw values.

    Raises:
        WireError: a tensor is not float32, or holds NaN or infinity; the message names it.
    """
    return encode_all([tensors])[0]


def encode_all(updates: Sequence[Mapping[str, Tensor]]) -> list[bytes]:
    """:func:`encode` of several updates of the same names and shapes."""
    messages: list[list[bytes]] = [[] for _ in updates]
    for name in updates[0]:
        blocks = _encode_blocks(name, [update[name] for update in updates])
        for message, block in zip(messages, blocks, strict=True):
            message += block
    fingerprint = _fingerprint({name: tuple(t.shape) for name, t in updates[0].items()})
    return [_sealed(b"".join(message), fingerprint) for message in messages]


def decode(message: bytes, schema: Schema) -> dict[str, Tensor]:
    """The tensors (float32, on the CPU) that :func:`encode` put into ``message``.

    Raises:
        WireError: the bytes are cut, damaged, too long, or of another schema. Never more
            memory is taken than the schema's tensors and a few bytes per entry need.
    """
    return dict(decode_all([message], schema)[0])


def decode_all(messages: Sequence[bytes], schema: Schema) -> list[Update]:
    """:func:`decode` of several messages of one schema; a tensor's rows share their memory."""
    fingerprint = _fingerprint(schema)
    readers = [_Reader(_opened(message, fingerprint)) for message in messages]
    rows: list[dict[str, Tensor]] = [{} for _ in messages]
    for name, shape in schema.items():
        bits = np.empty((len(messages), math.prod(shape)), dtype="<u4")
        for row, reader in zip(bits, readers, strict=True):
            try:
                _decode_block(reader, row)
            except WireError as error:
                raise WireError(f"{name}: {error}") from None
        values = bits.view("<f4").astype(np.float32, copy=False)
        if not np.isfinite(values).all():
            raise WireError(f"{name}: holds NaN or infinity")
        values += np.float32(0)  # also where somebody else's encoder kept the sign of a zero
        stack = torch.from_numpy(values).reshape(len(messages), *shape)
        for decoded, tensor in zip(rows, stack, strict=True):
            decoded[name] = tensor
    for reader in readers:
        if reader.at != len(reader.data):
            raise WireError(f"{len(reader.data) - reader.at} bytes follow the last tensor")
    return [Update(decoded) for decoded in rows]


def _fingerprint(schema: Schema) -> int:
    """Checksum of names, shapes and their order."""
    return _checksum(tuple((name, tuple(shape)) for name, shape in schema.items()))


@lru_cache(maxsize=64)
def _checksum(schema: tuple[tuple[str, tuple[int, ...]], ...]) -> int:
    lines = (f"{name}:{','.join(str(int(side)) for side in shape)}" for name, shape in schema)
    return zlib.crc32("\n".join(lines).encode())


def _sealed(blocks: bytes, fingerprint: int) -> bytes:
    return HEADER.pack(MAGIC, VERSION, fingerprint, zlib.crc32(blocks)) + blocks


# ---------------------------------------------------------------------------------- encoding


def _encode_blocks(name: str, tensors: Sequence[Tensor]) -> Iterator[list[bytes]]:
    """Tag and payload of the smallest encoding of one tensor, of every message."""
    for tensor in tensors:
        if tensor.dtype != torch.float32:
            raise WireError(f"{name}: only float32 can be sent, not {str(tensor.dtype)[6:]}")
    values = np.stack([tensor.detach().cpu().numpy().reshape(-1) for tensor in tensors])
    if not np.isfinite(values).all():
        raise WireError(f"{name}: holds NaN or infinity, which cannot be sent")
    values += np.float32(0)  # -0.0 + 0.0 is 0.0
    rows = values.astype("<f4", copy=False).view("<u4")
    masks = rows != 0
    distinct = _distinct(rows)
    kept = np.count_nonzero(masks, axis=1)
    for bits, mask, *counts in zip(rows, masks, kept.tolist(), distinct.tolist(), strict=True):
        yield _smallest(bits, mask, *counts)


def _distinct(rows: np.ndarray) -> np.ndarray:
    """At least so many values are in each row: those of a sample, never of all of a big tensor."""
    # the stride is odd, as widths of layers seldom are
    sample = np.sort(rows[:, :: rows.shape[1] // _PROBE | 1], axis=1)
    return 1 + np.count_nonzero(sample[:, 1:] != sample[:, :-1], axis=1)


def _smallest(bits: np.ndarray, mask: np.ndarray, kept: int, distinct: int) -> list[bytes]:
    dense, bitmap = 4 * bits.size, -(-bits.size // 8) + 4 * kept
    if not 0 < bits.size < _COUNT_LIMIT:
        return [b"\x00", bits.tobytes()]
    size, best = min(dense, bitmap), []
    others = (_encode_index(bits, mask, kept), _encode_palette(bits, mask, kept, distinct, size))
    for other in filter(None, others):
        if sum(map(len, other)) < size + 1:
            best, size = other, sum(map(len, other)) - 1
    if best:
        return best
    if size == dense:
        return [b"\x00", bits.tobytes()]
    return [b"\x01", np.packbits(mask, bitorder="little").tobytes(), bits[mask].tobytes()]


def _encode_index(bits: np.ndarray, mask: np.ndarray, kept: int) -> list[bytes] | None:
    """Kept entries by Rice-coded distance; None where a bitmap is surely as short."""
    if not 0 < kept < 0.45 * bits.size or bits.size <= 8 * (_RICE.size + 1):
        return None  # above this density a distance costs no less than the zeros it skips
    places = np.flatnonzero(mask)
    gaps = np.diff(places, prepend=-1) - 1  # zeros skipped before each kept entry
    # The best r is near log2(ln 2 * mean gap); neighbours cost nearly the same.
    guess = max(0, round(math.log2(max(1.0, math.log(2) * float(gaps.mean())))))
    low = min((r for r in (guess - 1, guess, guess + 1) if 0 <= r < 32),
              key=lambda r: kept * r + int((gaps >> r).sum()))  # fmt: skip
    ends = np.cumsum((gaps >> low) + 1) - 1
    unary = np.zeros(int(ends[-1]) + 1, dtype=bool)
    unary[ends] = True
    high = np.packbits(unary, bitorder="little").tobytes()
    return [b"\x02", _RICE.pack(kept, low, len(high)), _pack(gaps & ((1 << low) - 1), low), high,
            bits[places].tobytes()]  # fmt: skip


def _encode_palette(
    bits: np.ndarray, mask: np.ndarray, kept: int, distinct: int, size: int
) -> list[bytes] | None:
    """A palette and indices into it; None where there are more than 256 distinct values, or where
    ``distinct`` of them already take more than ``size`` bytes."""
    if distinct > _PALETTE_LIMIT:
        return None
    if 4 * distinct + bits.size * (distinct - 1).bit_length() // 8 > size:
        return None
    stored = bits if kept == bits.size else bits[mask]
    if _distinct(stored[None]) > _PALETTE_LIMIT:
        return None
    palette = np.unique(stored)
    if kept < bits.size:
        palette = np.concatenate([np.zeros(1, palette.dtype), palette])
    if palette.size > _PALETTE_LIMIT:
        return None
    width = (palette.size - 1).bit_length()
    return [b"\x03", bytes([palette.size - 1]), palette.astype("<u4").tobytes(),
            _pack(np.searchsorted(palette, bits), width)]  # fmt: skip


def _pack(numbers: np.ndarray, width: int) -> bytes:
    """Non-negative ``numbers`` below ``2**width`` (width < 32), ``width`` bits each."""
    if width == 8:
        return numbers.astype(np.uint8).tobytes()
    rows = numbers.astype("<u4").view(np.uint8).reshape(-1, 4)
    return np.packbits(
        np.unpackbits(rows, axis=1, count=width, bitorder="little"), bitorder="little"
    ).tobytes()


# ---------------------------------------------------------------------------------- decoding


class _Reader:
    """A cursor over the blocks that refuses to read past their end."""

    def __init__(self, data: memoryview) -> None:
        self.data = data
        self.at = 0

    def take(self, count: int) -> memoryview:
        if count > len(self.data) - self.at:
            raise WireError("the message ends early")
        self.at += count
        return self.data[self.at - count : self.at]

    def words(self, count: int) -> np.ndarray:
        return np.frombuffer(self.take(4 * count), dtype="<u4")

    def bits(self, count: int) -> np.ndarray:
        """``count`` bits as 0 and 1 (uint8); the padding up to the byte must be 0."""
        raw = np.frombuffer(self.take(-(-count // 8)), dtype=np.uint8)
        if count % 8 and raw[-1] >> (count % 8):
            raise WireError("padding bits are set")
        return np.unpackbits(raw, count=count, bitorder="little")

    def numbers(self, count: int, width: int) -> np.ndarray:
        """``count`` numbers of ``width`` bits each, undoing :func:`_pack`."""
        if width == 0:
            return np.zeros(count, dtype=np.int64)
        if width == 8:
            return np.frombuffer(self.take(count), dtype=np.uint8)
        rows = self.bits(count * width).reshape(count, width)
        numbers = np.zeros(count, dtype=np.int64)
        for bit in range(width):
            numbers |= rows[:, bit].astype(np.int64) << bit
        return numbers


def _opened(message: bytes, fingerprint: int) -> memoryview:
    """The blocks of a message whose header is right."""
    if len(message) < HEADER.size:
        raise WireError(f"{len(message)} bytes are too short for a message")
    magic, version, named, checksum = HEADER.unpack_from(message)
    if magic != MAGIC:
        raise WireError("the bytes do not begin like a message")
    if version != VERSION:
        raise WireError(f"message version {version} is unknown (this is version {VERSION})")
    if named != fingerprint:
        raise WireError("the message belongs to other tensor names or shapes")
    blocks = memoryview(message)[HEADER.size :]
    if zlib.crc32(blocks) != checksum:
        raise WireError("the message is cut, too long or damaged (checksum)")
    return blocks


def _decode_block(reader: _Reader, bits: np.ndarray) -> None:
    """Fill ``bits`` with the entries of the next tensor."""
    tag = reader.take(1)[0]
    if tag >= len(ENCODINGS):
        raise WireError(f"encoding {tag} is unknown")
    if tag == 0:
        bits[:] = reader.words(bits.size)
    elif bits.size == 0:
        raise WireError("an empty tensor is always dense")
    elif tag == 3:
        palette = reader.words(reader.take(1)[0] + 1)
        numbers = reader.numbers(bits.size, (palette.size - 1).bit_length())
        if int(numbers.max()) >= palette.size:
            raise WireError("an index points outside the palette")
        bits[:] = palette[numbers]
    else:
        whole = tag == 1
        places = (
            np.flatnonzero(reader.bits(bits.size)) if whole else _decode_index(reader, bits.size)
        )
        bits[:] = 0
        bits[places] = reader.words(places.size)


def _decode_index(reader: _Reader, size: int) -> np.ndarray:
    """Positions of the kept entries, increasing and below ``size``."""
    kept, low, length = _RICE.unpack(reader.take(_RICE.size))
    if not 0 < kept <= size or low > 31:
        raise WireError(f"{kept} entries with {low} low bits do not fit a tensor of {size}")
    # Unary costs a bit per kept entry and one per 2**low zeros skipped: more is nonsense, and
    # unpacking it would take memory that the tensor does not justify.
    if length > (kept + (size >> low)) // 8 + 1:
        raise WireError("the unary part is too long")
    remainders = reader.numbers(kept, low)
    ends = np.flatnonzero(reader.bits(8 * length))
    if ends.size != kept:
        raise WireError(f"{ends.size} distances for {kept} entries")
    quotients = np.diff(ends, prepend=-1) - 1
    places = np.cumsum((quotients << low) + remainders + 1) - 1
    if int(places[-1]) >= size:
        raise WireError("an index points outside the tensor")
    return places
