"""Encoding of float32 rows into the stored types: simple, valid, by rounding to the nearest step.

For tests and benchmarks that need a model of any shape in any stored type. It does not search for
the best scales as llama.cpp's quantizer does, so do not judge a model's quality by it.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from qwick.errors import ParameterError
from qwick.quant.types import StoredType

U8 = NDArray[np.uint8]
F32 = NDArray[np.float32]


def encode(stored: StoredType, values: F32) -> U8:
    """Encode F32[rows, k] as U8[rows, row_bytes]; a new array.

    Raises ParameterError for values that are not finite or too large for the type's float16 scale,
    and FormatError when the type's blocks do not divide k.
    """
    if values.ndim != 2 or values.dtype != np.float32:
        raise ParameterError(
            f"encode wants float32[rows, k], not {values.dtype}{list(values.shape)}"
        )
    rows, k = values.shape
    width = stored.row_bytes(k)
    if not np.isfinite(values).all():
        raise ParameterError(f"cannot store values as {stored.name} that are not finite")
    blocks = np.ascontiguousarray(values).reshape(-1, stored.block)
    return _ENCODERS[stored](blocks).reshape(rows, width)


def _half(values: F32) -> U8:
    """F32[n, m] -> float16 bytes U8[n, 2 m]."""
    with np.errstate(over="ignore"):
        half = values.astype("<f2")
    if np.isinf(half).any():
        raise ParameterError(
            f"a value or block scale of {float(np.abs(values).max()):g} is beyond float16's 65504"
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
        raise ParameterError("a value is beyond bfloat16's 3.39e38")
    return rounded.view(np.uint8)


def _q8_0(blocks: F32) -> U8:
    d = _half(np.abs(blocks).max(axis=1, keepdims=True) / np.float32(127))
    q = np.rint(_over(blocks, _back(d))).clip(-127, 127).astype(np.int8)
    return np.concatenate([d, q.view(np.uint8)], axis=1)


def _q5_0(blocks: F32) -> U8:
    n = len(blocks)
    d = _half(_extreme(blocks) / np.float32(-16))
    q = (np.rint(_over(blocks, _back(d))).clip(-16, 15) + 16).astype(np.uint8)
    high = np.packbits(q >> 4, axis=1, bitorder="little")
    pairs = q.reshape(n, 2, 16)
    low = (pairs[:, 0] & 15) | (pairs[:, 1] << 4)
    return np.concatenate([d, high, low], axis=1)


def _q4_k(blocks: F32) -> U8:
    n = len(blocks)
    x = blocks.reshape(n, 8, 32)
    lowest = np.maximum(-x.min(axis=2), 0)
    step = np.maximum(x.max(axis=2) + lowest, 0) / np.float32(15)
    d = _half(step.max(axis=1, keepdims=True) / np.float32(63))
    dmin = _half(lowest.max(axis=1, keepdims=True) / np.float32(63))
    sc = np.rint(_over(step, np.broadcast_to(_back(d), step.shape))).clip(0, 63).astype(np.uint8)
    m = np.rint(_over(lowest, np.broadcast_to(_back(dmin), step.shape))).clip(0, 63)
    m = m.astype(np.uint8)
    scale = np.broadcast_to((_back(d) * sc)[:, :, None], x.shape)
    shifted = x + (_back(dmin) * m)[:, :, None]
    q = np.rint(_over(shifted, scale)).clip(0, 15).astype(np.uint8).reshape(n, 4, 2, 32)
    nibbles = (q[:, :, 0] | (q[:, :, 1] << 4)).reshape(n, 128)
    packed = [
        (sc[:, :4] & 63) | ((sc[:, 4:] >> 4) << 6),
        (m[:, :4] & 63) | ((m[:, 4:] >> 4) << 6),
        (sc[:, 4:] & 15) | ((m[:, 4:] & 15) << 4),
    ]
    return np.concatenate([d, dmin, *packed, nibbles], axis=1)


def _q6_k(blocks: F32) -> U8:
    n = len(blocks)
    x = blocks.reshape(n, 16, 16)
    step = (_extreme(x) / np.float32(-32))[:, :, 0]
    d = _half(np.abs(step).max(axis=1, keepdims=True) / np.float32(127))
    sc = np.rint(_over(step, np.broadcast_to(_back(d), step.shape))).clip(-127, 127)
    scale = np.broadcast_to((_back(d) * sc.astype(np.float32))[:, :, None], x.shape)
    q = (np.rint(_over(x, scale)).clip(-32, 31) + 32).astype(np.uint8).reshape(n, 2, 4, 32)
    low = ((q[:, :, 0:2] & 15) | ((q[:, :, 2:4] & 15) << 4)).reshape(n, 128)
    high = np.zeros((n, 2, 32), np.uint8)
    for row in range(4):
        high |= (q[:, :, row] >> 4) << np.uint8(2 * row)
    scales = sc.astype(np.int8).view(np.uint8)
    return np.concatenate([low, high.reshape(n, 64), scales, d], axis=1)


_ENCODERS: dict[StoredType, Callable[[F32], U8]] = {
    StoredType.F32: _f32,
    StoredType.F16: _half,
    StoredType.BF16: _bf16,
    StoredType.Q8_0: _q8_0,
    StoredType.Q5_0: _q5_0,
    StoredType.Q4_K: _q4_k,
    StoredType.Q6_K: _q6_k,
}
