"""Packed weights in a file: their bytes written, and mapped again.

What they are packed as, and what is computed with them, is in `ops.py`.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from qwick.native.ops import Packed, Part, extension, isa

if TYPE_CHECKING:
    from qwick.native.ops import U8

PACKING: int = extension.PACKING
"""The version of what packed weights look like as bytes: the same on every instruction set."""

Shape = tuple[str, int, int]  # stored type, n, k


def packed_bytes(shapes: Sequence[Shape]) -> int:
    """Return the bytes that matrices packed side by side take; ValueError as `pack`."""
    return extension.packed_bytes(list(shapes))


def pack_to(
    matrices: Sequence[Sequence[Part]], offsets: Sequence[int], out: U8, *, mapped: bool = False
) -> None:
    """Write what `pack_all` makes into `out`, U8[bytes], each matrix at its offset; zeros between.

    out and offsets, which ascend, are multiples of 64; ValueError where it does not fit.
    """
    isa()  # which threads and kernels to use is decided at the first use
    extension.pack_to([list(m) for m in matrices], list(offsets), out, mapped)


class Mapping:
    """The first bytes of an open file, mapped to be read; the file may not become shorter.

    ValueError where it is shorter already, RuntimeError where it cannot be mapped.
    """

    __slots__ = ("handle",)

    def __init__(self, file: int, size: int) -> None:
        self.handle = extension.Mapping(file, size)

    def ask(self, begin: int, size: int) -> None:
        """Begin to read bytes that are about to be used; a hint."""
        self.handle.ask(begin, size)

    def give_back(self, begin: int, size: int) -> None:
        """Let whole pages leave this process's memory; they come again when they are read."""
        self.handle.give_back(begin, size)

    def packed(self, matrices: Sequence[Sequence[Shape]], offsets: Sequence[int]) -> list[Packed]:
        """Return what `pack_to` has written at these offsets. They keep the mapping alive."""
        every = extension.packed_at([list(m) for m in matrices], list(offsets), self.handle)
        return [Packed(handle) for handle in every]
