"""Decoders against the gguf package bit for bit, and encoders against their own step size."""

from __future__ import annotations

import gguf
import numpy as np
import pytest
from gguf.quants import dequantize
from hypothesis import given, settings
from hypothesis import strategies as st

from quant.halves import HALVES
from qwick.errors import FormatError, ParameterError
from qwick.quant.decode import decode
from qwick.quant.encode import encode
from qwick.quant.types import GGUF_TYPES, StoredType, from_ggml, ggml_name

# The levels of NF4 as bitsandbytes has them (functional.py, get_4bit_type).
NF4 = [-1.0, -0.6961928, -0.5250731, -0.3949175, -0.2844414, -0.1847734, -0.0910500, 0.0]
NF4 += [0.0795803, 0.1609302, 0.2461123, 0.3379152, 0.4407098, 0.5626170, 0.7229568, 1.0]
GGML = list(GGUF_TYPES)


def random_blocks(stored: StoredType, rows: int, blocks: int, seed: int) -> np.ndarray:
    rng = np.random.default_rng(seed)
    raw = rng.integers(0, 256, (rows, blocks, stored.bytes), dtype=np.uint8)
    # Random bytes of a scale must not spell NaN or infinity, whose payloads NumPy does not keep.
    for at in HALVES.get(stored, []):
        # Clearing one exponent bit keeps the half finite, subnormals included.
        raw[..., at + 1] &= ~np.uint8(1 << rng.integers(2, 7))
    if stored in (StoredType.F32, StoredType.BF16):
        raw[..., -1] &= 0xBF
    return raw.reshape(rows, -1)


@pytest.mark.parametrize("stored", GGML, ids=lambda t: t.name)
@given(seed=st.integers(0, 2**32), rows=st.integers(1, 5), blocks=st.integers(1, 9))
@settings(deadline=None, max_examples=60)
def test_decode_equals_gguf(stored: StoredType, seed: int, rows: int, blocks: int) -> None:
    raw = random_blocks(stored, rows, blocks, seed)
    with np.errstate(over="ignore"):  # MXFP4 reaches beyond float32
        want = dequantize(raw, gguf.GGMLQuantizationType[stored.name])
    got = decode(stored, raw)
    assert got.dtype == np.float32
    assert got.shape == (rows, blocks * stored.block)
    np.testing.assert_array_equal(got.view(np.uint32), want.view(np.uint32))


@pytest.mark.parametrize("stored", GGML, ids=lambda t: t.name)
def test_decode_in_chunks_and_from_strided_rows(stored: StoredType) -> None:
    raw = random_blocks(stored, 67, 70_000 // stored.block // 16 + 1, 3)
    with np.errstate(over="ignore"):
        want = dequantize(raw, gguf.GGMLQuantizationType[stored.name])
    got = decode(stored, raw)
    np.testing.assert_array_equal(got.view(np.uint32), want.view(np.uint32))
    np.testing.assert_array_equal(decode(stored, raw[::2]), got[::2])


@pytest.mark.parametrize("stored", GGML, ids=lambda t: t.name)
@pytest.mark.filterwarnings("error")
def test_damaged_scales_pass_through_quietly(stored: StoredType) -> None:
    raw = np.random.default_rng(5).integers(0, 256, (64, 32 * stored.bytes), dtype=np.uint8)
    for at in HALVES.get(stored, []):
        raw[::2, at + 1] = 0x7C  # infinity or NaN
    with np.errstate(all="ignore"):
        want = dequantize(raw, gguf.GGMLQuantizationType[stored.name])
    assert not np.isfinite(want).all() or stored not in HALVES
    np.testing.assert_array_equal(decode(stored, raw), want)


@pytest.mark.parametrize("stored", GGML, ids=lambda t: t.name)
def test_table_agrees_with_gguf(stored: StoredType) -> None:
    assert stored.ggml_id is not None
    kind = gguf.GGMLQuantizationType(stored.ggml_id)
    assert kind.name == stored.name
    assert gguf.GGML_QUANT_SIZES[kind] == (stored.block, stored.bytes)
    assert from_ggml(stored.ggml_id) is stored
    assert stored.row_bytes(stored.block * 3) == stored.bytes * 3


@pytest.mark.parametrize("stored", [StoredType.Q4_Z, StoredType.NF4], ids=lambda t: t.name)
def test_types_of_our_own_decode_by_their_formula(stored: StoredType) -> None:
    """In float64, from the definition: scale (quant - zero point), scale level."""
    raw = random_blocks(stored, 5, 9, 1)
    blocks = raw.reshape(-1, stored.bytes)
    scale = np.ascontiguousarray(blocks[:, :2]).view("<f2").astype(np.float64)
    nibbles = blocks[:, -16:]
    q = np.concatenate([nibbles & 15, nibbles >> 4], axis=1).astype(np.int64)
    if stored is StoredType.Q4_Z:
        want = scale * (q - blocks[:, 2:3].astype(np.int64))
    else:
        want = scale * np.rint(127 * np.array(NF4))[q]
    np.testing.assert_array_equal(decode(stored, raw).reshape(-1, 32), want)


def test_every_ggml_type_has_its_name() -> None:
    for kind in gguf.GGMLQuantizationType:
        assert ggml_name(kind.value) == kind.name
    assert from_ggml(17) is None
    assert ggml_name(999) == "number 999"


def test_bad_shapes_are_refused() -> None:
    with pytest.raises(FormatError, match=r"100 elements.*Q4_K.*multiple of 256"):
        StoredType.Q4_K.row_bytes(100)
    with pytest.raises(FormatError, match=r"21 bytes.*Q5_0"):
        decode(StoredType.Q5_0, np.zeros((1, 21), np.uint8))
    with pytest.raises(FormatError):
        decode(StoredType.Q5_0, np.zeros(22, np.uint8))
    with pytest.raises(FormatError):
        encode(StoredType.Q8_0, np.zeros((1, 33), np.float32))


@pytest.mark.parametrize("stored", StoredType, ids=lambda t: t.name)
def test_encode_refuses_what_it_cannot_store(stored: StoredType) -> None:
    bad = np.zeros((1, 256), np.float32)
    bad[0, 7] = np.nan
    with pytest.raises(ParameterError, match="not finite"):
        encode(stored, bad)
    with pytest.raises(ParameterError):
        encode(stored, np.zeros((1, 256), np.float64))  # type: ignore[arg-type]
    if stored not in (StoredType.F32, StoredType.MXFP4):
        bad[0, 7] = 3.4e38
        with pytest.raises(ParameterError, match="beyond"):
            encode(stored, bad)


# Largest distance of a value to the table of IQ4_NL, as a part of its extreme: beyond 113 of 127.
BEYOND_TABLE = 14 / 127
# Of the types with scales of scales: parts of a block, largest quant or extreme one, largest scale.
LEVELS = {"Q2_K": (16, 3, 15), "Q4_K": (8, 15, 63), "Q5_K": (8, 31, 63)}
STEPS = {"Q3_K": (16, 1 / 4, 31), "Q6_K": (16, 1 / 32, 127), "IQ4_XS": (8, BEYOND_TABLE, 31)}
SIGNED = {"Q4_0": 1 / 8, "Q5_0": 1 / 16, "Q8_0": 0.5 / 127, "IQ4_NL": BEYOND_TABLE}
# Half of the widest gap: of NF4 between -127 and -88; of e2m1 between 4 and 6, of at least 3.
SIGNED |= {"NF4": 19.5 / 127, "MXFP4": 1 / 3}
RANGED = {"Q4_1": 15, "Q5_1": 31, "Q4_Z": 7.5}  # a zero point may be off by half a step, too


def bound(stored: StoredType, x: np.ndarray) -> np.ndarray:
    """Most error per element: half a step of its (sub-)block, and what rounding the scales adds.

    Types with a zero in the middle are asymmetric (-16..15, -32..31): the end without a step of
    its own is off by a whole one.
    """
    if part := SIGNED.get(stored.name):
        top = np.abs(x.reshape(-1, 32)).max(axis=1, keepdims=True)
        return np.repeat(top * (part + 2**-9), 32, axis=1)
    if most := RANGED.get(stored.name):
        low = x.reshape(-1, 32).min(axis=1, keepdims=True)
        span = x.reshape(-1, 32).max(axis=1, keepdims=True) - low
        return np.repeat(span / most * 0.5 + (np.abs(low) + span) * 2**-9, 32, axis=1)
    if stored.name in STEPS:
        parts, step, top = STEPS[stored.name]
        sub = np.abs(x.reshape(-1, parts, 256 // parts)).max(axis=2)
        whole = sub.max(axis=1, keepdims=True)
        # A scale is off by half of the largest over `top`, times as many steps as there are.
        return np.repeat(sub * step + whole * (0.5 / top + 2**-9), 256 // parts, axis=1)
    parts, most, top = LEVELS[stored.name]
    sub = x.reshape(-1, parts, 256 // parts)
    low = np.maximum(-sub.min(axis=2), 0)
    span = np.maximum(sub.max(axis=2) + low, 0)
    scales = (span.max(axis=1, keepdims=True) + low.max(axis=1, keepdims=True)) * 0.5 / top
    return np.repeat(span / most * 0.5 + scales * 2 + span * 2**-9, 256 // parts, axis=1)


@pytest.mark.parametrize("power", [-20, 0, 3])
def test_the_levels_of_mxfp4_come_back(power: int) -> None:
    """Its extreme is the largest level: no scale above the least that holds it."""
    levels = np.ldexp(np.float32([6, 0.5, 1.5, -4, 3, -2, 1, 0]), power)
    x = np.tile(levels, 4).reshape(1, 32)
    np.testing.assert_array_equal(decode(StoredType.MXFP4, encode(StoredType.MXFP4, x)), x)


@pytest.mark.parametrize("name", [*SIGNED, *RANGED, *STEPS, *LEVELS])
@given(seed=st.integers(0, 2**32), scale=st.floats(0.01, 100), shift=st.floats(-1, 1))
@settings(deadline=None, max_examples=60)
def test_encode_error_is_bounded(name: str, seed: int, scale: float, shift: float) -> None:
    stored = StoredType[name]
    rng = np.random.default_rng(seed)
    x = ((rng.standard_normal((2, 512)) + shift) * scale).astype(np.float32)
    error = np.abs(decode(stored, encode(stored, x)) - x)
    limit = bound(stored, x).reshape(x.shape)
    worst = np.unravel_index((error / limit).argmax(), x.shape)
    assert (error <= limit).all(), (worst, error[worst], limit[worst], x[worst])


@pytest.mark.parametrize("stored", StoredType, ids=lambda t: t.name)
def test_zeros_stay_zeros(stored: StoredType) -> None:
    zeros = np.zeros((2, 256), np.float32)
    assert (decode(stored, encode(stored, zeros)) == 0).all()


@pytest.mark.parametrize("name", ["F32", "F16", "BF16"])
def test_floats_round_trip(name: str) -> None:
    stored = StoredType[name]
    raw = random_blocks(stored, 3, 200, 11)
    np.testing.assert_array_equal(encode(stored, decode(stored, raw)), raw)
