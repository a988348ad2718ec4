"""Matrices of small integers with a scale and a zero point per group of columns: GPTQ, AWQ.

w = scale (q - zero point). Where that fits a block of 32 columns, the matrix becomes such blocks
(Q4_0, Q4_Z, Q8_0), which hold exactly this, unrounded; elsewhere it is decoded as the schemes'
libraries decode it, rounded once to the dtype of the scales. Knows no scheme's layout.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from qwick.formats.checkpoint import Tensor
from qwick.formats.quantised.parts import U8, Part, Parts, fault, floats_of, in_pieces, rounded
from qwick.quant.types import StoredType

BLOCK = 32


@dataclass(frozen=True)
class Integers:
    """A matrix [n, k] of unsigned quants of 4 or 8 bits.

    quants(a, b): U8[b - a, k], of the outputs a to b - 1, a multiple of 8 each or the last.
    zeros(a, b): I16[groups, b - a], of the same outputs. scales: [groups, n]. group_of: I32[k], the
    group of each column. symmetric: every zero point is said to be half of the quants'
    range.
    """

    name: str
    shape: tuple[int, int]
    bits: int
    quants: Callable[[int, int], U8]
    zeros: Callable[[int, int], NDArray[np.int16]]
    scales: Part
    group_of: NDArray[np.int32]
    symmetric: bool

    def tensor(self, parts: Parts) -> Tensor:
        """Return the matrix as an ordinary tensor, made when it is asked for."""
        stored = self._stored()

        def make(a: int, b: int) -> U8:
            zeros = self.zeros(a, b)
            if self.symmetric and (zeros != 1 << (self.bits - 1)).any():
                raise fault(
                    parts,
                    self.name,
                    "has zero points off the middle, though quantization_config says sym",
                    "set sym to false in config.json",
                )
            return self._rows(stored, a, b, zeros)

        return Tensor(self.name, stored, self.shape, in_pieces(stored, self.shape, make))

    def _stored(self) -> StoredType:
        k = self.shape[1]
        runs = self.group_of.reshape(-1, BLOCK) if k % BLOCK == 0 else None
        if runs is not None and self.scales.dtype == "F16" and (runs == runs[:, :1]).all():
            if self.symmetric:
                return StoredType.Q4_0 if self.bits == 4 else StoredType.Q8_0
            if self.bits == 4:
                return StoredType.Q4_Z
        return StoredType[self.scales.dtype]

    def _rows(self, stored: StoredType, a: int, b: int, zeros: NDArray[np.int16]) -> U8:
        q, scales = self.quants(a, b), self.scales.numbers()[:, a:b]
        if stored.block == 1:
            each = floats_of(scales, self.scales.dtype)[self.group_of].T
            with np.errstate(invalid="ignore", over="ignore"):
                values = each * (q.astype(np.int16) - zeros[self.group_of].T).astype(np.float32)
            return rounded(values, stored)
        group = self.group_of[::BLOCK]
        blocks = q.reshape(b - a, -1, BLOCK)
        fields = [np.ascontiguousarray(scales[group].T).view(np.uint8).reshape(b - a, -1, 2)]
        if stored is StoredType.Q4_Z:
            fields.append(zeros[group].T.astype(np.uint8)[:, :, None])
        if self.bits == 8:
            fields.append(blocks ^ np.uint8(128))
        else:
            fields.append(blocks[:, :, :16] | blocks[:, :, 16:] << np.uint8(4))
        return np.concatenate(fields, axis=2).reshape(b - a, -1)


def nibbles(packed: U8) -> U8:
    """U8[..., m] -> U8[..., 2 m]: the low nibble of each byte, then its high one."""
    out = np.empty((*packed.shape[:-1], packed.shape[-1], 2), np.uint8)
    np.bitwise_and(packed, 15, out=out[..., 0])
    np.right_shift(packed, 4, out=out[..., 1])
    return out.reshape(*packed.shape[:-1], -1)


def octets(words: NDArray[np.int32]) -> U8:
    """I32[..., m] -> U8[..., 4 m]: the bytes of each word, the lowest first."""
    return np.ascontiguousarray(words).view(np.uint8)
