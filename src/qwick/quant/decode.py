"""Decoding of stored rows to float32 in NumPy, bit for bit as `gguf.quants.dequantize` does it.

Q4_Z and NF4, which no GGUF file has, are defined here.

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
from qwick.values import check_kind

U8 = NDArray[np.uint8]
F32 = NDArray[np.float32]

# Elements decoded at a time: the temporaries (some 8 bytes each) then stay in a core's cache.
_CHUNK = 1 << 16


def decode(stored: StoredType, raw: U8) -> F32:
    """Decode U8[rows, row_bytes] to F32[rows, k]; a new array.

    Raises FormatError when the row bytes are no whole number of blocks.
    """
    check_kind("stored", stored, StoredType, "a StoredType")
    check_kind("raw", raw, np.ndarray, "uint8[rows, bytes]")
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


def _nibbles(packed: U8) -> U8:
    """u8[n, 16] -> u8[n, 32]: the low nibbles, then the high ones."""
    halves = np.empty((len(packed), 2, 16), np.uint8)
    np.bitwise_and(packed, 15, out=halves[:, 0])
    np.right_shift(packed, 4, out=halves[:, 1])
    return halves.reshape(-1, 32)


def _fifth_bits(packed: U8) -> U8:
    """u32 as u8[n, 4], bit i of element i -> u8[n, 32] of 0 and 16."""
    bits: U8 = np.unpackbits(packed, axis=1, bitorder="little") << np.uint8(4)
    return bits


def _q4_0(blocks: U8) -> F32:
    """d: f16, nibbles: u8[16]; value = d (q - 8)."""
    q: F32 = (_nibbles(blocks[:, 2:]).view(np.int8) - np.int8(8)).astype(np.float32)
    q *= _half(blocks[:, :2])
    return q


def _q4_1(blocks: U8) -> F32:
    """d, m: f16, nibbles: u8[16]; value = d q + m."""
    q: F32 = _nibbles(blocks[:, 4:]).astype(np.float32)
    q *= _half(blocks[:, :2])
    q += _half(blocks[:, 2:4])
    return q


def _q5_0(blocks: U8) -> F32:
    """d: f16, high bits: u32 (bit i of element i), nibbles: u8[16]; value = d (q - 16)."""
    q = _nibbles(blocks[:, 6:])
    q |= _fifth_bits(blocks[:, 2:6])
    values: F32 = (q.view(np.int8) - np.int8(16)).astype(np.float32)
    values *= _half(blocks[:, :2])
    return values


def _q5_1(blocks: U8) -> F32:
    """d, m: f16, high bits: u32, nibbles: u8[16]; value = d q + m."""
    q = _nibbles(blocks[:, 8:])
    q |= _fifth_bits(blocks[:, 4:8])
    values: F32 = q.astype(np.float32)
    values *= _half(blocks[:, :2])
    values += _half(blocks[:, 2:4])
    return values


def _q8_0(blocks: U8) -> F32:
    """d: f16, q: i8[32]; value = q d."""
    q: F32 = blocks[:, 2:].view(np.int8).astype(np.float32)
    q *= _half(blocks[:, :2])
    return q


def _two_bits(packed: U8) -> U8:
    """u8[n, 64], four groups in each half -> u8[n, 8, 32], one group after the other."""
    shifts = np.array([0, 2, 4, 6], np.uint8)[:, None]
    pairs: U8 = packed.reshape(-1, 2, 1, 32) >> shifts & np.uint8(3)
    return pairs.reshape(-1, 8, 32)


def _high_bits(packed: U8) -> U8:
    """u8[n, 32], bit g of byte i of element i of group g -> u8[n, 8, 32] of 0 and 1."""
    bits: U8 = packed[:, None, :] >> np.arange(8, dtype=np.uint8)[:, None] & np.uint8(1)
    return bits


def _q2_k(blocks: U8) -> F32:
    """Scale and minimum: u8[16] (nibbles), pairs: u8[2][32], d, dmin: f16; d s q - dmin m."""
    levels = blocks[:, :16]
    scale = (_half(blocks[:, 80:82]) * (levels & 15).astype(np.float32))[:, :, None]
    minimum = (_half(blocks[:, 82:84]) * (levels >> 4).astype(np.float32))[:, :, None]
    values: F32 = _two_bits(blocks[:, 16:80]).reshape(-1, 16, 16).astype(np.float32)
    values *= scale
    values -= minimum
    return values.reshape(-1, 256)


def q3_k_scales(packed: U8) -> NDArray[np.int8]:
    """Unpack Q3_K's U8[n, 12] into 16 scales I8[n, 16]: low nibbles of 8 bytes, pairs of 4."""
    low = np.concatenate([packed[:, :8] & 15, packed[:, :8] >> 4], axis=1)
    shifts = np.array([0, 2, 4, 6], np.uint8)[:, None]
    high: U8 = packed[:, None, 8:] >> shifts & np.uint8(3)
    bits: U8 = low | high.reshape(-1, 16) << np.uint8(4)
    signed: NDArray[np.int8] = bits.view(np.int8) - np.int8(32)
    return signed


def _q3_k(blocks: U8) -> F32:
    """High bits: u8[32], pairs: u8[2][32], scales: u8[12], d: f16; value = (d s) (q - 4)."""
    q = _two_bits(blocks[:, 32:96])
    q |= _high_bits(blocks[:, :32]) << np.uint8(2)
    scale = _half(blocks[:, 108:]) * q3_k_scales(blocks[:, 96:108]).astype(np.float32)
    values: F32 = (q.view(np.int8) - np.int8(4)).reshape(-1, 16, 16).astype(np.float32)
    values *= scale[:, :, None]
    return values.reshape(-1, 256)


def q4_k_scales(scales: U8) -> tuple[U8, U8]:
    """Unpack Q4_K's U8[n, 12] into the 6-bit scales U8[n, 8] and minimums U8[n, 8]."""
    low_d, low_m, rest = scales[:, 0:4], scales[:, 4:8], scales[:, 8:12]
    d = np.concatenate([low_d & 63, (rest & 15) | ((low_d >> 2) & 48)], axis=1)
    m = np.concatenate([low_m & 63, (rest >> 4) | ((low_m >> 2) & 48)], axis=1)
    return d, m


def _with_levels(q: U8, heads: U8) -> F32:
    """Quants u8[n, 8, 32] by d, dmin: f16, 8 scales, 8 minimums (6 bits); d s q - dmin m."""
    sc, m = q4_k_scales(heads[:, 4:16])
    values: F32 = q.astype(np.float32)
    values *= (_half(heads[:, 0:2]) * sc.astype(np.float32))[:, :, None]
    values -= (_half(heads[:, 2:4]) * m.astype(np.float32))[:, :, None]
    return values.reshape(-1, 256)


def _nibble_pairs(packed: U8) -> U8:
    """u8[n, 128], two groups in each 32 bytes -> u8[n, 8, 32], one group after the other."""
    nibbles = packed.reshape(-1, 4, 32)
    q = np.empty((len(nibbles), 4, 2, 32), np.uint8)
    np.bitwise_and(nibbles, 15, out=q[:, :, 0])
    np.right_shift(nibbles, 4, out=q[:, :, 1])
    return q.reshape(-1, 8, 32)


def _q4_k(blocks: U8) -> F32:
    """The 16 bytes of `_with_levels`, nibbles: u8[4][32]."""
    return _with_levels(_nibble_pairs(blocks[:, 16:]), blocks[:, :16])


def _q5_k(blocks: U8) -> F32:
    """The 16 bytes of `_with_levels`, high bits: u8[32], nibbles: u8[4][32]."""
    q = _nibble_pairs(blocks[:, 48:])
    q |= _high_bits(blocks[:, 16:48]) << np.uint8(4)
    return _with_levels(q, blocks[:, :16])


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


# ggml's kvalues_iq4nl: what the 16 quants of IQ4_NL and IQ4_XS stand for.
TABLE = np.array(
    [-127, -104, -83, -65, -49, -35, -22, -10, 1, 13, 25, 38, 53, 69, 89, 113], np.float32
)


def _iq4_nl(blocks: U8) -> F32:
    """d: f16, nibbles: u8[16]; value = d TABLE[q]."""
    values: F32 = TABLE[_nibbles(blocks[:, 2:])]
    values *= _half(blocks[:, :2])
    return values


def _iq4_xs(blocks: U8) -> F32:
    """d: f16, scales: high u16, low u8[4] (6 bits), nibbles: u8[8][16]; (d (s - 32)) TABLE[q]."""
    n = len(blocks)
    high = np.ascontiguousarray(blocks[:, 2:4]).view("<u2") >> (2 * np.arange(8, dtype=np.uint16))
    low = np.stack([blocks[:, 4:8] & 15, blocks[:, 4:8] >> 4], axis=2).reshape(n, 8)
    scales = (low | ((high & 3) << 4).astype(np.uint8)).view(np.int8) - np.int8(32)
    q = _nibbles(blocks[:, 8:].reshape(-1, 16)).reshape(n, 8, 32)
    values: F32 = TABLE[q]
    values *= (_half(blocks[:, :2]) * scales.astype(np.float32))[:, :, None]
    return values.reshape(n, 256)


# The levels of NF4 (Dettmers et al. 2023, QLoRA, appendix E; bitsandbytes' `get_4bit_type`) times
# 127, rounded to integers, which is qwick's own: a level moves by 0.4 % of the largest at most.
NF4_TABLE = np.array(
    [-127, -88, -67, -50, -36, -23, -12, 0, 10, 20, 31, 43, 56, 71, 92, 127], np.float32
)
# ggml's kvalues_mxfp4: twice the values of e2m1 (OCP Microscaling Formats 1.0, section 5.3.3).
FP4_TABLE = np.array([0, 1, 2, 3, 4, 6, 8, 12, 0, -1, -2, -3, -4, -6, -8, -12], np.float32)


def _nf4(blocks: U8) -> F32:
    """d: f16, nibbles: u8[16]; value = d NF4_TABLE[q]."""
    values: F32 = NF4_TABLE[_nibbles(blocks[:, 2:])]
    values *= _half(blocks[:, :2])
    return values


def _half_powers(e: U8) -> F32:
    """e8m0 numbers halved, 2^(e - 128), for a table of doubled values; exact."""
    powers: F32 = np.ldexp(np.float32(1), e.astype(np.int32) - 128)
    return powers


def _mxfp4(blocks: U8) -> F32:
    """e: u8 (e8m0), nibbles: u8[16]; value = 2^(e - 128) FP4_TABLE[q]."""
    values: F32 = FP4_TABLE[_nibbles(blocks[:, 1:])]
    values *= _half_powers(blocks[:, :1])
    return values


def _q4_z(blocks: U8) -> F32:
    """d: f16, zero: u8, nibbles: u8[16]; value = d q - d zero: exact, as d (q - zero) is."""
    d = _half(blocks[:, :2])
    values: F32 = _nibbles(blocks[:, 3:]).astype(np.float32)
    values *= d
    values -= d * blocks[:, 2:3].astype(np.float32)
    return values


_DECODERS: dict[StoredType, Callable[[U8], F32]] = {
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
