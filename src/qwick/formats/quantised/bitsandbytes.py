"""bitsandbytes folders: NF4 and FP4 (Dettmers et al. 2023, QLoRA) and LLM.int8() (2022).

4 bits, of a matrix [n, k]: weight holds its values row after row, two places of a table in a byte,
the first in the high nibble; weight.quant_map F32[16] is the table; weight.absmax has a scale per
block of values, F32, or (double quantisation) U8, places in weight.nested_quant_map F32[256], under
scales weight.nested_absmax F32 of their own and a common offset;
weight.quant_state.bitsandbytes__nf4 (or fp4) is JSON with blocksize, shape and dtype.
8 bits: weight I8[n, k], SCB F32[n], the largest magnitude of each output.

Source: dequantize_4bit, dequantize_blockwise and int8_vectorwise_dequant in bitsandbytes'
backends/default/ops.py: float32 products, rounded to the dtype. LLM.int8() lets others round
activations to 8 bits, outlier columns (llm_int8_threshold) excepted; here none is rounded.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from qwick.errors import shown
from qwick.formats.checkpoint import Tensor
from qwick.formats.jsonfile import parse_object
from qwick.formats.quantised.parts import (
    DTYPES,
    F32,
    U8,
    Parts,
    Settings,
    fault,
    in_pieces,
    rounded,
)
from qwick.quant.types import StoredType

IDLE = (
    "bnb_4bit_compute_dtype",
    "bnb_4bit_quant_storage",  # bytes are bytes
    "bnb_4bit_use_double_quant",  # whether there is nested_absmax says it
    "llm_int8_enable_fp32_cpu_offload",
    "llm_int8_skip_modules",  # whether there is an absmax or SCB says it
    "llm_int8_threshold",
)
BY_127 = np.float32(7.874015718698502e-3)  # bitsandbytes multiplies by this, and does not divide
_STATE = ".weight.quant_state.bitsandbytes__"
_LARGEST = float(np.finfo(np.float32).max)
_MOST = 1 << 12  # bytes of a quant_state


def read(settings: Settings, parts: Parts) -> dict[str, Tensor]:
    """Return the quantised matrices; errors as `read_quantised`."""
    for key in ("load_in_4bit", "load_in_8bit", "_load_in_4bit", "_load_in_8bit"):
        settings.one_of(key, False, True, False)
    settings.one_of("bnb_4bit_quant_type", "fp4", "nf4", "fp4")
    settings.one_of("llm_int8_has_fp16_weight", False, False)
    settings.finish(*IDLE)
    found = [
        _four_bits(parts, stem, kind)
        for kind in ("nf4", "fp4")
        for stem in parts.ending(_STATE + kind)
    ]
    found += [_eight_bits(parts, stem, settings.dtype) for stem in parts.ending(".SCB")]
    return {tensor.name: tensor for tensor in found}


def _state(parts: Parts, name: str) -> dict[str, Any]:
    part = parts.take(name, ("U8",), (None,))
    try:
        if part.data.size > _MOST:
            raise fault(parts, name, f"has {part.data.size} bytes; the limit is {_MOST}")
        text = part.data.tobytes().decode("utf-8")
    except UnicodeDecodeError:
        raise fault(parts, name, "is not UTF-8") from None
    return parse_object(parts.path, text, name)


def _four_bits(parts: Parts, stem: str, kind: str) -> Tensor:
    name = stem + ".weight"
    state = _state(parts, stem + _STATE + kind)
    match state:
        case {"shape": [int(n), int(k)], "blocksize": int(block), "dtype": str(dtype)} if (
            0 < n < 1 << 31
            and 0 < k < 1 << 31
            and 0 < block < 1 << 31
            and dtype in DTYPES
            and state.get("quant_type") == kind
        ):
            stored = DTYPES[dtype]
        case _:
            raise fault(parts, stem + _STATE + kind, f"says {shown(state, 300)}; no matrix is that")
    weight = parts.take(name)
    if weight.data.size != -(-n * k // 2):
        raise fault(
            parts, name, f"has {weight.data.size} bytes; {n} x {k} values need {-(-n * k // 2)}"
        )
    table = parts.take(name + ".quant_map", ("F32",), (16,)).numbers()
    blocks = -(-n * k // block)
    absmax = parts.take(name + ".absmax", ("F32", "U8"), (blocks,))
    nested = _nested(parts, name, state, blocks) if absmax.dtype == "U8" else None

    def scales(first: int, last: int) -> F32:
        places = absmax.numbers()[first:last]
        if nested is None:
            return np.asarray(places, np.float32)
        codes, above, size, offset = nested
        with np.errstate(over="ignore", invalid="ignore"):
            out: F32 = codes[places] * above[np.arange(first, last) // size] + offset
        return out

    def make(a: int, b: int) -> U8:
        begin, end = a * k, b * k  # begin is even: a is
        packed = weight.data[begin // 2 : -(-end // 2)]
        values = table[np.stack([packed >> np.uint8(4), packed & np.uint8(15)], 1).reshape(-1)]
        first = begin // block
        at = np.arange(begin, end) // block - first
        with np.errstate(over="ignore", invalid="ignore"):
            values = values[: end - begin] * scales(first, -(-end // block))[at]
        return rounded(values.reshape(b - a, k), stored)

    return Tensor(name, stored, (n, k), in_pieces(stored, (n, k), make))


def _nested(
    parts: Parts, name: str, state: dict[str, Any], blocks: int
) -> tuple[F32, F32, int, np.float32]:
    """Return the table, scales, block size and offset of the scales."""
    size, offset = state.get("nested_blocksize"), state.get("nested_offset")
    if (
        type(size) is not int
        or not 0 < size < 1 << 31
        or not isinstance(offset, (int, float))
        or isinstance(offset, bool)
        or not abs(offset) <= _LARGEST
    ):
        raise fault(
            parts,
            name,
            f"has nested_blocksize {shown(size)} and nested_offset {shown(offset)}; allowed: from "
            "1, and a float32",
        )
    codes = parts.take(name + ".nested_quant_map", ("F32",), (256,)).numbers()
    above = parts.take(name + ".nested_absmax", ("F32",), (-(-blocks // size),)).numbers()
    return codes, above, size, np.float32(offset)


def _eight_bits(parts: Parts, stem: str, stored: StoredType) -> Tensor:
    weight = parts.take(stem + ".weight", ("I8",), (None, None))
    n, k = weight.shape
    top = parts.take(stem + ".SCB", ("F32",), (n,))
    if stem + ".weight_format" in parts:
        layout = parts.take(stem + ".weight_format", ("U8",))
        if layout.data.tolist() != [0]:
            raise fault(
                parts, layout.name, f"is {layout.data.tolist()[:4]}; allowed: 0 (row major)"
            )

    def make(a: int, b: int) -> U8:
        with np.errstate(over="ignore", invalid="ignore"):
            values = weight.numbers()[a:b].astype(np.float32) * top.numbers()[a:b, None]
            return rounded(values * BY_127, stored)

    return Tensor(weight.name, stored, (n, k), in_pieces(stored, (n, k), make))
