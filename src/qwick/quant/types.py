"""The stored types that qwick reads, and the one table from a stored type to its packed class.

Block layouts and type numbers are ggml's (`ggml-common.h`, `ggml.h`), but for two that only memory
holds: Q4_Z, what GPTQ and AWQ checkpoints become, and NF4, what `quantize="nf4"` makes. This file
does not know how a block is decoded (`decode.py`) nor how a packed class is laid out (the kernels
do).
"""

from __future__ import annotations

import enum

from qwick.errors import FormatError
from qwick.values import whole

MAX_ELEMENTS = 2**63 - 1  # of a row, or of anything in a file


class StoredType(enum.Enum):
    """A way of storing rows: GGUF type number, elements and bytes per block, packed class.

    The number is None for a type that no GGUF file has.
    """

    F32 = (0, 1, 4, "f32")
    F16 = (1, 1, 2, "f16")
    BF16 = (30, 1, 2, "bf16")
    Q4_0 = (2, 32, 18, "i4")
    Q4_1 = (3, 32, 20, "i4m")
    Q5_0 = (6, 32, 22, "i5")
    Q5_1 = (7, 32, 24, "i5m")
    Q8_0 = (8, 32, 34, "i8")
    Q2_K = (10, 256, 84, "i2k")
    Q3_K = (11, 256, 110, "i3s")
    Q4_K = (12, 256, 144, "i4k")
    Q5_K = (13, 256, 176, "i5k")
    Q6_K = (14, 256, 210, "i6s")
    IQ4_NL = (20, 32, 18, "i4n")
    IQ4_XS = (23, 256, 136, "i4ns")
    MXFP4 = (39, 32, 17, "i4e")
    Q4_Z = (None, 32, 19, "i4z")
    NF4 = (None, 32, 18, "i4f")

    ggml_id: int | None
    block: int
    bytes: int
    packed: str

    def __init__(self, ggml_id: int | None, block: int, nbytes: int, packed: str) -> None:
        self.ggml_id = ggml_id
        self.block = block
        self.bytes = nbytes
        self.packed = packed

    def row_bytes(self, k: int) -> int:
        """Return the bytes of one row of `k` elements; FormatError when blocks do not divide it."""
        k = whole("k", k, -MAX_ELEMENTS, MAX_ELEMENTS)
        if k < 0 or k % self.block:
            raise FormatError(
                f"a row of {k} elements cannot be stored as {self.name}: "
                f"its length must be a multiple of {self.block}"
            )
        return k // self.block * self.bytes


# All other type numbers of ggml.h, to name what is refused.
GGML_NAMES: dict[int, str] = {
    9: "Q8_1",
    15: "Q8_K",
    16: "IQ2_XXS",
    17: "IQ2_XS",
    18: "IQ3_XXS",
    19: "IQ1_S",
    21: "IQ3_S",
    22: "IQ2_S",
    24: "I8",
    25: "I16",
    26: "I32",
    27: "I64",
    28: "F64",
    29: "IQ1_M",
    34: "TQ1_0",
    35: "TQ2_0",
    40: "NVFP4",
    41: "Q1_0",
}

_BY_ID = {t.ggml_id: t for t in StoredType if t.ggml_id is not None}
GGUF_TYPES = tuple(_BY_ID.values())  # that a GGUF file may hold


def from_ggml(ggml_id: int) -> StoredType | None:
    """Return the stored type with this GGUF type number; None when qwick does not read it."""
    return _BY_ID.get(whole("ggml_id", ggml_id, 0, MAX_ELEMENTS))


def ggml_name(ggml_id: int) -> str:
    """Return ggml's name for a type number, known to qwick or not."""
    known = from_ggml(ggml_id)
    return known.name if known else GGML_NAMES.get(ggml_id, f"number {ggml_id}")
