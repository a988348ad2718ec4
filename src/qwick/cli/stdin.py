"""Arguments and standard input as text: valid UTF-8, and not without end."""

from __future__ import annotations

import sys

from qwick.errors import UsageError

__all__ = ["check_size", "read_all", "read_line", "valid_text"]

MOST_INPUT = 16 << 20  # bytes of standard input; a million tokens are about 4 MB


def valid_text(name: str, text: str) -> str:
    """Return `text`; UsageError when its bytes were not UTF-8."""
    try:
        text.encode("utf-8")
    except UnicodeEncodeError as error:
        raise UsageError(
            f"{name} is not valid UTF-8 (at character {error.start})",
            hint="convert it, for instance with iconv -t utf-8",
        ) from None
    return text


def read_all() -> str:
    """Return all of standard input, without one last line end; UsageError for bad bytes."""
    data = sys.stdin.buffer.read(MOST_INPUT + 1)
    return _text("standard input", data)


def read_line() -> str:
    """Return the next line of standard input without its end.

    EOFError where there is none, UsageError for bad bytes.
    """
    data = sys.stdin.buffer.readline(MOST_INPUT + 1)
    if not data:
        raise EOFError
    return _text("a line of standard input", data)


def check_size(name: str, size: int) -> None:
    """Raise UsageError for a text of more bytes than any context holds."""
    if size > MOST_INPUT:
        raise UsageError(
            f"{name} has more than {MOST_INPUT:,} bytes; no context holds so much",
            hint="pipe in the part that matters",
        )


def _text(name: str, data: bytes) -> str:
    check_size(name, len(data))
    return valid_text(name, data.decode("utf-8", "surrogateescape").removesuffix("\n"))
