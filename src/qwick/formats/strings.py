"""String arrays of GGUF files: stepped over fast, decoded when first asked for.

A vocabulary is 300,000 strings behind 8-byte lengths, each of which must be read to find the next.
Stepping over them in NumPy takes a tenth of a Python loop's time. Knows nothing of tokens.
"""

from __future__ import annotations

import mmap
import struct
from collections.abc import Sequence
from pathlib import Path
from typing import overload

import numpy as np
from numpy.typing import NDArray

from qwick.errors import FormatError
from qwick.formats.mapped import Cursor, damaged

_U64 = struct.Struct("<Q")
_WINDOW = 1 << 17
_FEW = 64
_LOOP = 512


Table = tuple[NDArray[np.uint8], NDArray[np.int64]]
"""Strings as a GGUF file has them: U8[bytes], and I64[count] where in it each one's length stands,
8 bytes before its own."""


class StringArray(Sequence[str]):
    """`count` strings of a mapped file; `decode()` makes the list, `table()` makes nothing."""

    def __init__(
        self, path: Path, what: str, data: mmap.mmap, starts: NDArray[np.int64], end: int
    ) -> None:
        self._path = path
        self._what = what
        self._data = data
        self._starts = starts  # [count] where each string's length is stored
        self._end = end

    def __len__(self) -> int:
        return len(self._starts)

    @overload
    def __getitem__(self, index: int) -> str: ...
    @overload
    def __getitem__(self, index: slice) -> list[str]: ...

    def __getitem__(self, index: int | slice) -> str | list[str]:
        """Return one string or some; FormatError when one is not UTF-8. For many: `decode`."""
        chosen = range(len(self))[index]
        if isinstance(chosen, int):
            return self._text(chosen)
        return [self._text(i) for i in chosen]

    __hash__ = None  # type: ignore[assignment]

    def __eq__(self, other: object) -> bool:
        """Whether `other` is a sequence of the same strings."""
        if isinstance(other, str) or not isinstance(other, Sequence):
            return NotImplemented
        return len(self) == len(other) and self.decode() == list(other)

    def table(self, count: int | None = None) -> Table:
        """Return the first `count` strings (default: all) as they lie in the file, not copied."""
        starts = self._starts[:count]
        if not len(starts):
            return np.empty(0, np.uint8), np.empty(0, np.int64)
        first = int(starts[0])
        return np.frombuffer(self._data, np.uint8, self._end - first, first), starts - first

    def decode(self) -> list[str]:
        """Return the strings; FormatError when one is not UTF-8."""
        if not len(self):
            return []
        first = int(self._starts[0])
        region = np.frombuffer(self._data, np.uint8, self._end - first, first).copy()
        at = self._starts - first
        # Blank the lengths, so that 8 zero bytes stand before each string, and decode in one go.
        for byte in range(8):
            region[at + byte] = 0
        if len(region) - np.count_nonzero(region) == 8 * len(self):
            try:
                text: str = region.tobytes().decode("utf-8")
                return text.split("\0" * 8)[1:]
            except UnicodeDecodeError:
                pass
        return self._one_by_one()

    def _one_by_one(self) -> list[str]:
        """The slow way, for strings that hold zero bytes, and to name the one that is not UTF-8."""
        return [self._text(index) for index in range(len(self))]

    def _text(self, index: int) -> str:
        start = int(self._starts[index])
        begin = start + 8
        raw = self._data[begin : begin + _U64.unpack_from(self._data, start)[0]]
        try:
            return raw.decode("utf-8")
        except UnicodeDecodeError as error:
            raise damaged(
                self._path,
                f"string {index} of {self._what} at byte {start} is not UTF-8: {error.reason}",
            ) from None


def table_of(strings: Sequence[str], count: int | None = None) -> Table:
    """Return the first `count` of any strings as a table."""
    if isinstance(strings, StringArray):
        return strings.table(count)
    coded = [string.encode("utf-8", "surrogatepass") for string in strings[:count]]
    data = b"".join(_U64.pack(len(string)) + string for string in coded)
    sizes = np.array([0, *(8 + len(string) for string in coded)], np.int64)
    return np.frombuffer(data, np.uint8), np.cumsum(sizes)[:-1]


def scan(cursor: Cursor, count: int, what: str) -> StringArray:
    """Step over `count` strings at the cursor; FormatError when one leaves the file.

    The caller has checked `8 * count` against the bytes left, which bounds the memory used here.
    """
    begin = cursor.at
    starts = np.empty(count, np.int64)
    done = 0
    while done < count:
        taken = _leap(cursor, starts[done:])
        done += taken
        if taken < _FEW:
            done += _walk(cursor, starts[done : done + _LOOP], what)
    if cursor.at > cursor.size:
        raise _outside(cursor, int(starts[-1]), what)
    end, cursor.at = cursor.at, begin
    cursor.take(end - begin, what)
    return StringArray(cursor.path, what, cursor.data, starts, end)


def _leap(cursor: Cursor, out: NDArray[np.int64]) -> int:
    """Fill `out` with the starts of a run of strings shorter than 256 bytes; return how many.

    Where seven zero bytes follow a byte there may be a length. A guess counts only when it stands
    exactly where the string before it ends, so the result is that of the loop in `_walk`.
    """
    width = min(_WINDOW, cursor.size - cursor.at - 7)
    if width <= 0 or not len(out):
        return 0
    # An 8-byte number at each byte; x86-64 and ARM64 both load from any address.
    words = np.ndarray((width,), "<u8", cursor.data, cursor.at, (1,))
    at = np.flatnonzero(words < 256)[: len(out)]
    if not len(at) or at[0] != 0:
        return 0
    ends = at + 8 + words[at].astype(np.int64)
    breaks = np.flatnonzero(at[1:] != ends[:-1])
    good = int(breaks[0]) + 1 if len(breaks) else len(at)
    out[:good] = at[:good] + cursor.at
    cursor.at += int(ends[good - 1])
    return good


def _walk(cursor: Cursor, out: NDArray[np.int64], what: str) -> int:
    """The plain loop: fill `out` with the starts of the next strings."""
    at, data, read = cursor.at, cursor.data, _U64.unpack_from
    for index in range(len(out)):
        try:
            out[index] = at
            at += 8 + read(data, at)[0]
        except (struct.error, OverflowError):
            raise _outside(cursor, at, what) from None
    cursor.at = at
    return len(out)


def _outside(cursor: Cursor, at: int, what: str) -> FormatError:
    return damaged(
        cursor.path,
        f"a string of {what} leaves the file: byte {at}, but the file ends at byte {cursor.size}",
    )
