"""Decoding of stored rows to float32 in NumPy, bit for bit as `gguf.quants.dequantize` does it.

It is the oracle of the kernels and the path of small tensors. The order of the multiplications is
part of the contract: float32 products do not associate. Knows nothing of files or packed layouts.
Source of the layouts: ggml's block structs (`ggml-common.h`) and its `dequantize_row_*`.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from qwick.errors import FormatError
from qwick.quant.types import StoredType

U8 = NDArray[np.uint8]
F32 = NDArray[np.float32]

# Elements decoded at a time: the temporaries (some 8 bytes each) then stay in a core's cache.
_CHUNK = 1 << 16


def decode(stored: StoredType, raw: U8) -> F32:
    """Decode U8[rows, row_bytes] to F32[rows, k]; a new array.

    Raises FormatError when the row bytes are no whole number of blocks.
    """
    if raw.ndim != 2 or raw.dtype != np.uint8:
        raise FormatError(f"decode wants uint8[rows, bytes], not {raw.dtype}{list(raw.shape)}")
    rows, width = raw.shape
    if width % stored.bytes:
        raise FormatError(
            f"a row of {width} bytes is no whole number of {stored.name} blocks "
            f"of {stored.bytes} bytes"
        )
    k = width // stored.bytes * stored.block
    out = np.empty((rows, k), np.float32)
    blocks = np.ascontiguousarray(raw).reshape(-1, stored.bytes)
    flat = out.reshape(-1, stored.block)
    step = max(1, _CHUNK // stored.block)
    kind = _DECODERS[stored]
    # A damaged scale may be infinite or NaN: it goes through as in ggml, without a warning.
    with np.errstate(invalid="ignore", over="ignore"):
        for start in range(0, len(blocks), step):
            flat[start : start + step] = kind(blocks[start : start + step])
    return out


def _half(raw: U8) -> F32:
    """float16 bytes U8[n, 2 m] -> F32[n, m]."""
    values: F32 = np.ascontiguousarray(raw).view("<f2").astype(np.float32)
    return values


def _f32(blocks: U8) -> F32:
    values: F32 = blocks.view("<f4")
    return values


def _bf16(blocks: U8) -> F32:
    bits = blocks.view("<u2").astype(np.uint32) << np.uint32(16)
    values: F32 = bits.view(np.float32)
    return values


def _q8_0(blocks: U8) -> F32:
    """d: f16, q: i8[32]; value = q d."""
    q: F32 = blocks[:, 2:].view(np.int8).astype(np.float32)
    q *= _half(blocks[:, :2])
    return q


def _q5_0(blocks: U8) -> F32:
    """d: f16, high bits: u32 (bit i of element i), low nibbles: u8[16]; value = d (q - 16)."""
    n = len(blocks)
    halves = np.empty((n, 2, 16), np.uint8)
    low = blocks[:, 6:]
    np.bitwise_and(low, 15, out=halves[:, 0])
    np.right_shift(low, 4, out=halves[:, 1])
    q: U8 = halves.reshape(n, 32)
    q |= np.unpackbits(blocks[:, 2:6], axis=1, bitorder="little") << np.uint8(4)
    values: F32 = (q.view(np.int8) - np.int8(16)).astype(np.float32)
    values *= _half(blocks[:, :2])
    return values


def q4_k_scales(scales: U8) -> tuple[U8, U8]:
    """Unpack Q4_K's U8[n, 12] into the 6-bit scales U8[n, 8] and minimums U8[n, 8]."""
    low_d, low_m, rest = scales[:, 0:4], scales[:, 4:8], scales[:, 8:12]
    d = np.concatenate([low_d & 63, (rest & 15) | ((low_d >> 2) & 48)], axis=1)
    m = np.concatenate([low_m & 63, (rest >> 4) | ((low_m >> 2) & 48)], axis=1)
    return d, m


def _q4_k(blocks: U8) -> F32:
    """d, dmin: f16, 8 scales, 8 minimums (6 bits), nibbles: u8[4][32]; value = d s q - dmin m."""
    n = len(blocks)
    sc, m = q4_k_scales(blocks[:, 4:16])
    scale = (_half(blocks[:, 0:2]) * sc.astype(np.float32))[:, :, None]
    minimum = (_half(blocks[:, 2:4]) * m.astype(np.float32))[:, :, None]
    nibbles = blocks[:, 16:].reshape(n, 4, 32)
    q = np.empty((n, 4, 2, 32), np.float32)
    q[:, :, 0] = nibbles & 15
    q[:, :, 1] = nibbles >> 4
    values: F32 = q.reshape(n, 8, 32)
    values *= scale
    values -= minimum
    return values.reshape(n, 256)


def _q6_k(blocks: U8) -> F32:
    """Low nibbles: u8[2][64], high: u8[2][32], scales: i8[16], d: f16; value = (d s) (q - 32)."""
    n = len(blocks)
    low = blocks[:, :128].reshape(n, 2, 2, 32)
    high = blocks[:, 128:192].reshape(n, 2, 32)
    q = np.empty((n, 2, 4, 32), np.uint8)
    np.bitwise_and(low, 15, out=q[:, :, 0:2])
    np.right_shift(low, 4, out=q[:, :, 2:4])
    for row in range(4):
        q[:, :, row] |= ((high >> np.uint8(2 * row)) & 3) << np.uint8(4)
    scales = blocks[:, 192:208].view(np.int8).astype(np.float32)
    scale = (_half(blocks[:, 208:210]) * scales)[:, :, None]
    values: F32 = (q.view(np.int8) - np.int8(32)).reshape(n, 16, 16).astype(np.float32)
    values *= scale
    return values.reshape(n, 256)


_DECODERS: dict[StoredType, Callable[[U8], F32]] = {
    StoredType.F32: _f32,
    StoredType.F16: _half,
    StoredType.BF16: _bf16,
    StoredType.Q8_0: _q8_0,
    StoredType.Q5_0: _q5_0,
    StoredType.Q4_K: _q4_k,
    StoredType.Q6_K: _q6_k,
}
