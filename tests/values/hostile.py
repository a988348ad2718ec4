"""What nobody should pass, and somebody does: one list of values for every test that passes them.

Knows nothing of who is asked.
"""

from __future__ import annotations

import itertools
import math
import pathlib
from collections import OrderedDict, UserDict, UserList, UserString, deque
from decimal import Decimal
from fractions import Fraction
from typing import Any

import numpy as np
from hypothesis import strategies as st


class Text(str):
    """A str of somebody's own."""


class Whole(int):
    """An int of somebody's own."""


class Rude:
    """Fails at whatever it is asked."""

    def _fail(self, *_: Any, **__: Any) -> Any:
        raise RuntimeError("rude")

    __repr__ = __str__ = __len__ = __iter__ = __int__ = __index__ = __float__ = __bool__ = _fail
    __eq__ = __lt__ = __le__ = __gt__ = __ge__ = __add__ = __getitem__ = __fspath__ = _fail
    __call__ = __contains__ = __enter__ = __exit__ = _fail

    def __hash__(self) -> int:
        raise RuntimeError("rude")


class Liar(list):  # type: ignore[type-arg]
    """A list whose length is not what it says."""

    def __len__(self) -> int:
        return 2**62


def nested(levels: int, dicts: bool = False) -> Any:
    """Return lists, or dicts, each in the next."""
    value: Any = "x"
    for _ in range(levels):
        value = {"a": value} if dicts else [value]
    return value


NUMBERS: tuple[Any, ...] = (
    *(math.nan, math.inf, -math.inf, -0.0, 1e-320, 1e308, 5e-324, 0, -1, 1, 1.0, 1.5),
    *(2**31 - 1, 2**31, 2**63, 2**64 - 1, 2**64, 10**400, -(10**400), -(2**63)),
    *(Fraction(1, 3), Fraction(10**400), Decimal("0.5"), Decimal("NaN"), 1j, complex(math.nan)),
    *(np.float32("nan"), np.float64(0.5), np.int64(3), np.uint64(2**64 - 1), np.bool_(True)),
    *(np.array(1), np.array([1.0, math.nan]), np.array([[1, 2]]), np.array([])),
    *(np.float16(1), np.datetime64("NaT"), np.str_("x"), np.array(["x", None], object)),
)
ODD: tuple[Any, ...] = (
    *(None, True, False, "", b"", b"abc", "x" * 10_000, "\ud800", "\0", object(), int, len, ...),
    *([], (), {}, set(), {1}, [[]], [None], [""], ["a", 1], {"a": 1}, [10**400], ["\udfff"]),
    *(range(10), range(2**40), [1] * 100, ["x"] * 100, frozenset({"a"}), memoryview(b"ab")),
    *("a\0b", "\U0010ffff", "\ufeff", "é", " ", "\n", "1", "nan", "None", "..", "/", "~", "~x/y"),
    *(Text("x"), Whole(3), UserString("x"), UserList([1]), UserDict(), OrderedDict(), deque([1])),
    *(pathlib.Path(), pathlib.Path("\udcff"), pathlib.Path("a" * 5000), bytearray(b"x")),
    *(nested(70), {1: 2}, {None: None}),
    *([True], [1.0], [-1], ["x", None], [{"role": "user"}], [{}], [b"x"], [np.int64(1)]),
    *(Exception, Exception("x"), NotImplemented, print, lambda: None, slice(1), type, Liar([1])),
)
UNSHOWABLE: tuple[Any, ...] = (  # Hypothesis could not show them either
    *(10**5000, -(10**5000), [10**5000], Fraction(10**5000), Rude(), [Rude()], {"a": Rude()}),
    *(nested(5000), nested(100_000), nested(5000, True)),
)


def endless() -> tuple[Any, ...]:
    """Return iterators, new each time: some never end."""
    return (
        itertools.count(),
        itertools.repeat("a"),
        (i for i in itertools.count()),
        iter([1, 2]),
        map(str, range(3)),
        iter(()),
    )


def everything() -> tuple[Any, ...]:
    """Return all of it."""
    return (*NUMBERS, *ODD, *UNSHOWABLE, *endless())


TREES = st.recursive(
    st.sampled_from(NUMBERS + ODD) | st.integers() | st.floats() | st.text(max_size=20),
    lambda inner: (
        st.lists(inner, max_size=4)
        | st.dictionaries(
            st.sampled_from(["role", "content", "type", "text", "tool_calls", "name"])
            | st.text(max_size=3)
            | st.integers(),
            inner,
            max_size=4,
        )
    ),
    max_leaves=8,
)
