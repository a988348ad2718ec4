"""Values of callers, checked: a refusal is a ParameterError with name, value, what is allowed.

Knows no field of its own: the names and the limits come from whoever asks.
"""

from __future__ import annotations

import numbers
import os
import re
from pathlib import Path
from typing import Any

from qwick.errors import ParameterError, shown


def refused(name: str, value: object, allowed: str) -> ParameterError:
    """Return the error for a value that is not allowed."""
    return ParameterError(f"{name} is {shown(value)}; allowed: {allowed}")


def whole(name: str, value: Any, low: int, high: int, allowed: str = "") -> int:
    """Return a whole number of any library as an int from `low` to `high`; True is none."""
    fits = isinstance(value, numbers.Integral) and not isinstance(value, bool)
    if not (fits and low <= value <= high):
        raise refused(name, value, allowed or f"whole numbers from {low} to {high}")
    return int(value)


def real(name: str, value: Any, low: float, high: float, allowed: str = "") -> float:
    """Return a real number of any library as a float from `low` to `high`; True and NaN are none.

    Compared before it becomes a float, which not every number can; NaN compares false.
    """
    fits = isinstance(value, numbers.Real) and not isinstance(value, bool)
    if fits and not isinstance(value, numbers.Rational):  # a float of NumPy may be a narrow one
        value = float(value)
    if not (fits and low <= value <= high):
        raise refused(name, value, allowed or f"numbers from {low:g} to {high:g}")
    return float(value)


_UNITS = {"b": 1, "kb": 10**3, "mb": 10**6, "gb": 10**9, "tb": 10**12}
_UNITS |= {"kib": 1 << 10, "mib": 1 << 20, "gib": 1 << 30, "tib": 1 << 40}
# ASCII digits alone: float() takes those of every script, and underscores.
_SIZE = re.compile(r"([+-]?(?:[0-9]+(?:\.[0-9]*)?|\.[0-9]+)(?:e[+-]?[0-9]+)?)\s*(b|[kmgt]i?b)?")


def size_in_bytes(name: str, value: Any) -> int:
    """Return a size as a whole number of bytes from 1: a number, or a text such as 8GB or 512MiB.

    Raises ParameterError for anything else.
    """
    if not isinstance(value, str):
        return whole(name, value, 1, 1 << 62, "a size such as 8GB or 512MiB, or a number of bytes")
    match = _SIZE.fullmatch(value.strip().lower())
    if match is None:
        raise refused(name, value, "a size such as 8GB or 512MiB")
    size = float(match[1]) * _UNITS[match[2] or "b"]
    if not 1 <= size <= 1 << 62:
        raise refused(name, value, "sizes above 0, up to 4611686018427 MB")
    return int(size)


def check_switch(name: str, value: object) -> None:
    """Raise ParameterError unless `value` is True or False."""
    if not isinstance(value, bool):
        raise refused(name, value, "True or False")


def check_kind(name: str, value: object, kind: type | tuple[type, ...], allowed: str) -> None:
    """Raise ParameterError unless `value` is an instance of `kind`."""
    if not isinstance(value, kind):
        raise refused(name, value, allowed)


def a_path(name: str, value: Any, allowed: str = "a path") -> Path:
    """Return a str or os.PathLike as a Path; ParameterError for anything else, bytes included."""
    try:
        text = os.fspath(value)
    except Exception:  # no path, or a stranger's that fails
        raise refused(name, value, allowed) from None
    if not isinstance(text, str) or "\0" in text:
        raise refused(name, value, f"{allowed}, a str without NUL")
    try:
        os.fsencode(text)
    except UnicodeEncodeError:  # half of a UTF-16 pair that stands for no byte
        raise refused(name, value, f"{allowed}, of valid Unicode") from None
    return Path(text)
