"""Where the float16 numbers of a stored block lie, in bytes."""

from __future__ import annotations

from qwick.quant.types import StoredType

HALVES = {
    StoredType.F16: [0],
    StoredType.Q4_0: [0],
    StoredType.Q4_1: [0, 2],
    StoredType.Q5_0: [0],
    StoredType.Q5_1: [0, 2],
    StoredType.Q8_0: [0],
    StoredType.Q2_K: [80, 82],
    StoredType.Q3_K: [108],
    StoredType.Q4_K: [0, 2],
    StoredType.Q5_K: [0, 2],
    StoredType.Q6_K: [208],
    StoredType.IQ4_NL: [0],
    StoredType.IQ4_XS: [0],
    StoredType.MXFP4: [],
    StoredType.Q4_Z: [0],
    StoredType.NF4: [0],
}
