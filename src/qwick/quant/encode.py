"""Encoding of float32 rows into the stored types: simple, valid, by rounding to the nearest step.

For tests and benchmarks that need a model of any shape in any stored type. It does not search for
the best scales as llama.cpp's quantizer does, so do not judge a model's quality by it.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from qwick.errors import ParameterError
from qwick.quant.decode import FP4_TABLE, NF4_TABLE, TABLE
from qwick.quant.types import StoredType
from qwick.values import check_kind

U8 = NDArray[np.uint8]
F32 = NDArray[np.float32]


def encode(stored: StoredType, values: F32) -> U8:
    """Encode F32[rows, k] as U8[rows, row_bytes]; a new array.

    Raises ParameterError for values that are not finite or too large for the type's float16 scale,
    and FormatError when the type's blocks do not divide k.
    """
    check_kind("stored", stored, StoredType, "a StoredType")
    check_kind("values", values, np.ndarray, "float32[rows, k]")
    if values.ndim != 2 or values.dtype != np.float32:
        raise ParameterError(
            f"values are {values.dtype}{list(values.shape)}; allowed: float32[rows, k]"
        )
    rows, k = values.shape
    width = stored.row_bytes(k)
    if not np.isfinite(values).all():
        raise ParameterError(f"values are not finite; allowed in {stored.name}: finite ones")
    blocks = np.ascontiguousarray(values).reshape(-1, stored.block)
    return _ENCODERS[stored](blocks).reshape(rows, width)


def _half(values: F32) -> U8:
    """F32[n, m] -> float16 bytes U8[n, 2 m]."""
    with np.errstate(over="ignore"):
        half = values.astype("<f2")
    if np.isinf(half).any():
        raise ParameterError(
            f"a value or block scale of {float(np.abs(values).max()):g} is beyond float16; "
            "allowed: up to 65504"
        )
    return np.ascontiguousarray(half).view(np.uint8)


def _back(half: U8) -> F32:
    """Read float16 bytes back as float32: the scale that the decoder will see."""
    return half.view("<f2").astype(np.float32)


def _over(values: F32, scale: F32) -> F32:
    """Return values / scale, and 0 where the scale is 0."""
    return np.divide(values, scale, out=np.zeros_like(values), where=scale != 0)


def _extreme(values: F32) -> F32:
    """Per last axis the value of greatest magnitude, with its sign (axis kept)."""
    at = np.abs(values).argmax(axis=-1, keepdims=True)
    return np.take_along_axis(values, at, axis=-1)


def _f32(blocks: F32) -> U8:
    return blocks.astype("<f4").view(np.uint8)


def _bf16(blocks: F32) -> U8:
    """Round to the nearest, ties to even."""
    bits = blocks.view(np.uint32).astype(np.uint64)
    rounded = ((bits + 0x7FFF + ((bits >> 16) & 1)) >> 16).astype("<u2")
    if ((rounded & 0x7FFF) == 0x7F80).any():
        raise ParameterError("a value is beyond bfloat16; allowed: up to 3.39e38")
    return rounded.view(np.uint8)


def _q8_0(blocks: F32) -> U8:
    d = _half(np.abs(blocks).max(axis=1, keepdims=True) / np.float32(127))
    q = np.rint(_over(blocks, _back(d))).clip(-127, 127).astype(np.int8)
    return np.concatenate([d, q.view(np.uint8)], axis=1)


def _nibbles(q: U8) -> U8:
    """u8[n, 32] -> u8[n, 16]: the first 16 in the low nibbles, the last in the high ones."""
    pairs = q.reshape(-1, 2, 16)
    packed: U8 = (pairs[:, 0] & np.uint8(15)) | (pairs[:, 1] << np.uint8(4))
    return packed


def _signed(blocks: F32, half: int) -> tuple[U8, U8]:
    """Scale and quants 0..2 half - 1 with `half` as their zero: the extreme becomes quant 0."""
    d = _half(_extreme(blocks) / np.float32(-half))
    q = np.rint(_over(blocks, _back(d))).clip(-half, half - 1) + half
    return d, q.astype(np.uint8)


def _ranged(blocks: F32, most: int) -> tuple[U8, U8, U8]:
    """Scale, minimum and quants 0..most: the least value becomes quant 0."""
    low = blocks.min(axis=1, keepdims=True)
    d, m = _half((blocks.max(axis=1, keepdims=True) - low) / np.float32(most)), _half(low)
    q = np.rint(_over(blocks - _back(m), np.broadcast_to(_back(d), blocks.shape)))
    return d, m, q.clip(0, most).astype(np.uint8)


def _high(q: U8) -> U8:
    """Fifth bits of u8[n, 32] as u8[n, 4]."""
    return np.packbits(q >> 4, axis=1, bitorder="little")


def _q4_0(blocks: F32) -> U8:
    d, q = _signed(blocks, 8)
    return np.concatenate([d, _nibbles(q)], axis=1)


def _q4_1(blocks: F32) -> U8:
    d, m, q = _ranged(blocks, 15)
    return np.concatenate([d, m, _nibbles(q)], axis=1)


def _q5_0(blocks: F32) -> U8:
    d, q = _signed(blocks, 16)
    return np.concatenate([d, _high(q), _nibbles(q)], axis=1)


def _q5_1(blocks: F32) -> U8:
    d, m, q = _ranged(blocks, 31)
    return np.concatenate([d, m, _high(q), _nibbles(q)], axis=1)


def _leveled(blocks: F32, parts: int, most: int, top: int) -> tuple[U8, U8, U8, U8, U8]:
    """d, dmin, scales, minimums (up to `top`), quants (up to `most`) of parts of a block."""
    n = len(blocks)
    x = blocks.reshape(n, parts, -1)
    lowest = np.maximum(-x.min(axis=2), 0)
    step = np.maximum(x.max(axis=2) + lowest, 0) / np.float32(most)
    d = _half(step.max(axis=1, keepdims=True) / np.float32(top))
    dmin = _half(lowest.max(axis=1, keepdims=True) / np.float32(top))
    sc = np.rint(_over(step, np.broadcast_to(_back(d), step.shape))).clip(0, top).astype(np.uint8)
    m = np.rint(_over(lowest, np.broadcast_to(_back(dmin), step.shape))).clip(0, top)
    m = m.astype(np.uint8)
    scale = np.broadcast_to((_back(d) * sc)[:, :, None], x.shape)
    q = np.rint(_over(x + (_back(dmin) * m)[:, :, None], scale)).clip(0, most).astype(np.uint8)
    return d, dmin, sc, m, q.reshape(n, 8, 32)


def _two_bits(q: U8) -> U8:
    """u8[n, 8, 32] -> u8[n, 64]: each half's four groups in the pairs of 32 bytes."""
    pairs = (q & 3).reshape(-1, 2, 4, 32) << np.array([0, 2, 4, 6], np.uint8)[:, None]
    packed: U8 = np.bitwise_or.reduce(pairs, axis=2)
    return packed.reshape(-1, 64)


def _high_bits(q: U8, place: int) -> U8:
    """Bit `place` of u8[n, 8, 32] -> u8[n, 32]: that of group g in bit g."""
    bits = (q >> place & 1) << np.arange(8, dtype=np.uint8)[:, None]
    packed: U8 = np.bitwise_or.reduce(bits, axis=1)
    return packed


def _nibble_pairs(q: U8) -> U8:
    """u8[n, 8, 32] -> u8[n, 128]: two groups in the nibbles of 32 bytes."""
    pairs = q.reshape(-1, 4, 2, 32)
    packed: U8 = (pairs[:, :, 0] & np.uint8(15)) | (pairs[:, :, 1] << np.uint8(4))
    return packed.reshape(-1, 128)


def _q2_k(blocks: F32) -> U8:
    d, dmin, sc, m, q = _leveled(blocks, 16, 3, 15)
    return np.concatenate([sc | m << 4, _two_bits(q), d, dmin], axis=1)


def _stepped(blocks: F32, half: int, top: int) -> tuple[U8, NDArray[np.int8], U8]:
    """d, scales (from -top to top) and quants 0..2 half - 1 of 16 parts of a block."""
    n = len(blocks)
    x = blocks.reshape(n, 16, 16)
    step = (_extreme(x) / np.float32(-half))[:, :, 0]
    d = _half(np.abs(step).max(axis=1, keepdims=True) / np.float32(top))
    sc = np.rint(_over(step, np.broadcast_to(_back(d), step.shape))).clip(-top, top)
    scale = np.broadcast_to((_back(d) * sc.astype(np.float32))[:, :, None], x.shape)
    q = (np.rint(_over(x, scale)).clip(-half, half - 1) + half).astype(np.uint8)
    return d, sc.astype(np.int8), q.reshape(n, 8, 32)


def _q3_k(blocks: F32) -> U8:
    d, signed, q = _stepped(blocks, 4, 31)
    sc = (signed + np.int8(32)).view(np.uint8)
    low = (sc[:, :8] & 15) | (sc[:, 8:] & 15) << 4
    pairs = (sc >> 4).reshape(-1, 4, 4) << np.array([0, 2, 4, 6], np.uint8)[:, None]
    high = np.bitwise_or.reduce(pairs, axis=1)
    return np.concatenate([_high_bits(q, 2), _two_bits(q), low, high, d], axis=1)


def _levels(sc: U8, m: U8) -> U8:
    """Eight scales and minimums of 6 bits in 12 bytes."""
    first = [(x[:, :4] & 63) | x[:, 4:] >> 4 << 6 for x in (sc, m)]
    return np.concatenate([*first, (sc[:, 4:] & 15) | (m[:, 4:] & 15) << 4], axis=1)


def _q4_k(blocks: F32) -> U8:
    d, dmin, sc, m, q = _leveled(blocks, 8, 15, 63)
    return np.concatenate([d, dmin, _levels(sc, m), _nibble_pairs(q)], axis=1)


def _q5_k(blocks: F32) -> U8:
    d, dmin, sc, m, q = _leveled(blocks, 8, 31, 63)
    return np.concatenate([d, dmin, _levels(sc, m), _high_bits(q, 4), _nibble_pairs(q)], axis=1)


def _q6_k(blocks: F32) -> U8:
    d, sc, q = _stepped(blocks, 32, 127)
    n = len(blocks)
    quarters = q.reshape(n, 2, 4, 32)
    low = ((quarters[:, :, 0:2] & 15) | ((quarters[:, :, 2:4] & 15) << 4)).reshape(n, 128)
    high = np.zeros((n, 2, 32), np.uint8)
    for row in range(4):
        high |= (quarters[:, :, row] >> 4) << np.uint8(2 * row)
    return np.concatenate([low, high.reshape(n, 64), sc.view(np.uint8), d], axis=1)


def _places(x: F32, scale: F32, table: F32 = TABLE) -> U8:
    """Places of the table's values (ascending) that are nearest to x / scale."""
    middles = (table[1:] + table[:-1]) / 2
    return np.searchsorted(middles, _over(x, scale)).astype(np.uint8)


def _iq4_nl(blocks: F32) -> U8:
    d = _half(_extreme(blocks) / TABLE[0])
    return np.concatenate([d, _nibbles(_places(blocks, _back(d)))], axis=1)


def _iq4_xs(blocks: F32) -> U8:
    n = len(blocks)
    x = blocks.reshape(n, 8, 32)
    step = (_extreme(x) / TABLE[0])[:, :, 0]
    d = _half(np.abs(step).max(axis=1, keepdims=True) / np.float32(31))
    sc = np.rint(_over(step, np.broadcast_to(_back(d), step.shape))).clip(-31, 31)
    scale = np.broadcast_to((_back(d) * sc.astype(np.float32))[:, :, None], x.shape)
    q = _nibbles(_places(x, scale).reshape(-1, 32)).reshape(n, 128)
    bits = (sc + 32).astype(np.uint8)
    high = ((bits >> 4).astype(np.uint16) << (2 * np.arange(8, dtype=np.uint16))).sum(axis=1)
    low = (bits[:, ::2] & 15) | (bits[:, 1::2] & 15) << 4
    return np.concatenate([d, high.astype("<u2")[:, None].view(np.uint8), low, q], axis=1)


def _nf4(blocks: F32) -> U8:
    """The value of largest magnitude keeps its sign: both ends of the table are 127."""
    d = _half(np.abs(blocks).max(axis=1, keepdims=True) / np.float32(127))
    return np.concatenate([d, _nibbles(_places(blocks, _back(d), NF4_TABLE))], axis=1)


def _mxfp4(blocks: F32) -> U8:
    """The least power of two under which nothing exceeds the largest level, 6 (doubled: 12)."""
    top = np.abs(blocks).max(axis=1, keepdims=True)
    fraction, exponent = np.frexp(top / np.float32(6))  # fraction 2^exponent, from 0.5 to 1
    e = np.maximum(exponent - (fraction == 0.5), -127)
    levels = FP4_TABLE[:8]
    q = _places(np.abs(blocks), np.ldexp(np.float32(0.5), e), levels)
    q |= np.where(blocks < 0, np.uint8(8), np.uint8(0))
    return np.concatenate([(e + 127).astype(np.uint8), _nibbles(q)], axis=1)


def _q4_z(blocks: F32) -> U8:
    """From the least value to the greatest, 0 between them so that it has a quant of its own."""
    low = np.minimum(blocks.min(axis=1, keepdims=True), 0)
    high = np.maximum(blocks.max(axis=1, keepdims=True), 0)
    d = _half((high - low) / np.float32(15))
    zero = np.rint(_over(-low, _back(d))).clip(0, 15)
    q = (np.rint(_over(blocks, _back(d))) + zero).clip(0, 15).astype(np.uint8)
    return np.concatenate([d, zero.astype(np.uint8), _nibbles(q)], axis=1)


_ENCODERS: dict[StoredType, Callable[[F32], U8]] = {
    StoredType.F32: _f32,
    StoredType.F16: _half,
    StoredType.BF16: _bf16,
    StoredType.Q4_0: _q4_0,
    StoredType.Q4_1: _q4_1,
    StoredType.Q5_0: _q5_0,
    StoredType.Q5_1: _q5_1,
    StoredType.Q8_0: _q8_0,
    StoredType.Q2_K: _q2_k,
    StoredType.Q3_K: _q3_k,
    StoredType.Q4_K: _q4_k,
    StoredType.Q5_K: _q5_k,
    StoredType.Q6_K: _q6_k,
    StoredType.IQ4_NL: _iq4_nl,
    StoredType.IQ4_XS: _iq4_xs,
    StoredType.MXFP4: _mxfp4,
    StoredType.Q4_Z: _q4_z,
    StoredType.NF4: _nf4,
}
