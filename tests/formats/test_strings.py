"""The fast scan over string arrays against the plain meaning of the format."""

from __future__ import annotations

import mmap
import struct
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from formats.samples import text
from qwick.errors import FormatError
from qwick.formats.mapped import Cursor
from qwick.formats.strings import scan


def cursor_over(data: bytes, at: int) -> Cursor:
    memory = mmap.mmap(-1, len(data))
    memory[:] = data
    cursor = Cursor(Path("x.gguf"), memory)
    cursor.at = at
    return cursor


# Short and long around the 256 where the fast path gives way, zero bytes, and empty ones.
STRINGS = st.one_of(
    st.text(max_size=8),
    st.text("\0a", max_size=20),
    st.sampled_from(["", "x" * 255, "y" * 256, "é" * 200, "z" * 70_000]),
)


@given(
    values=st.lists(STRINGS, max_size=60),
    again=st.sampled_from([1, 1, 40]),
    before=st.binary(max_size=9),
    after=st.binary(max_size=9),
)
@settings(deadline=None, max_examples=150)
def test_scan_gives_the_strings(values: list[str], again: int, before: bytes, after: bytes) -> None:
    values = values * again
    data = before + b"".join(map(text, values))
    cursor = cursor_over(data + after + b"!", len(before))
    found = scan(cursor, len(values), "here")
    assert cursor.at == len(data)
    assert len(found) == len(values)
    assert found.decode() == values


def test_many_short_strings() -> None:
    rng = np.random.default_rng(0)
    values = ["w" * int(n) for n in rng.integers(0, 12, 50_000)]
    data = b"".join(map(text, values))
    assert scan(cursor_over(data, 0), len(values), "here").decode() == values


@given(
    values=st.lists(STRINGS, min_size=1, max_size=20), cut=st.integers(0, 10**6), huge=st.booleans()
)
@settings(deadline=None, max_examples=150)
def test_a_string_that_leaves_the_file(values: list[str], cut: int, huge: bool) -> None:
    whole = b"".join(map(text, values))
    if huge:
        data = bytearray(whole)
        at = sum(len(text(v)) for v in values[: cut % len(values)])
        data[at : at + 8] = struct.pack("<Q", 2**64 - 1 - cut % 40)
    else:
        data = bytearray(whole[: cut % len(whole)] or b"!")
    with pytest.raises(FormatError, match="here leaves the file"):
        scan(cursor_over(bytes(data), 0), len(values), "here")


@pytest.mark.parametrize("bad", [b"\xff", b"\0\xff", b"a\xc3"])
def test_not_utf8_is_named(bad: bytes) -> None:
    data = text("fine") + text(bad) + text("\xa9 fine")
    with pytest.raises(FormatError, match=r"string 1 of here at byte 12 is not UTF-8"):
        scan(cursor_over(data, 0), 3, "here").decode()
