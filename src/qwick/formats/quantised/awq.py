"""AWQ folders (Lin et al. 2023) in AutoAWQ's layout "gemm": 4 bits.

Of a matrix [n, k] with groups of g columns: qweight I32[k, n / 8] holds the quants of eight outputs
in a word, from the lowest nibble those of 0, 2, 4, 6, 1, 3, 5, 7; so does qzeros I32[k / g, n / 8];
scales [k / g, n].

Source: dequantize_gemm in awq/utils/packing_utils.py (AutoAWQ): (q - zero) * scale.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from qwick.formats.checkpoint import Tensor
from qwick.formats.quantised.integers import Integers, nibbles, octets
from qwick.formats.quantised.parts import FLOATS, U8, Parts, Settings, fault

PLACE = [0, 4, 1, 5, 2, 6, 3, 7]  # in which nibble of a word each of eight outputs lies

# How a checkpoint was made, and how others run it.
IDLE = (
    "do_fuse",
    "exllama_config",
    "fuse_max_seq_len",
    "modules_to_fuse",
    "modules_to_not_convert",  # whether there is a qweight says it
)


def read(settings: Settings, parts: Parts) -> dict[str, Tensor]:
    """Return the quantised matrices; errors as `read_quantised`."""
    settings.one_of("bits", 4, 4)
    settings.one_of("w_bit", 4, 4)
    settings.one_of("version", "gemm", "gemm", "GEMM")
    settings.one_of("format", "gemm", "gemm")
    settings.one_of("zero_point", True, True)
    settings.one_of("backend", "auto", "auto", "autoawq", "gemm")
    group_size = settings.group_size(128)
    settings.finish(*IDLE)
    found = {}
    for stem in parts.ending(".qweight"):
        matrix = _matrix(parts, stem, group_size)
        found[matrix.name] = matrix.tensor(parts)
    return found


def _matrix(parts: Parts, stem: str, group_size: int) -> Integers:
    qweight = parts.take(stem + ".qweight", ("I32",), (None, None))
    k, n = qweight.shape[0], 8 * qweight.shape[1]
    size = k if group_size == -1 else group_size
    if k % size:
        raise fault(
            parts, qweight.name, f"has {k} inputs; a multiple of group_size {size} is expected"
        )
    scales = parts.take(stem + ".scales", FLOATS, (k // size, n))
    qzeros = parts.take(stem + ".qzeros", ("I32",), (k // size, n // 8))

    def in_order(words: NDArray[np.int32]) -> U8:
        """I32[rows, m] -> U8[rows, 8 m]."""
        eight = nibbles(octets(words)).reshape(len(words), -1, 8)
        return eight[:, :, PLACE].reshape(len(words), -1)

    def quants(a: int, b: int) -> U8:
        return np.ascontiguousarray(in_order(qweight.numbers()[:, a // 8 : b // 8]).T)

    def zeros(a: int, b: int) -> NDArray[np.int16]:
        return in_order(qzeros.numbers()[:, a // 8 : b // 8]).astype(np.int16)

    group_of = np.arange(k, dtype=np.int32) // np.int32(size)
    return Integers(stem + ".weight", (n, k), 4, quants, zeros, scales, group_of, symmetric=False)
