"""Texts of strangers (models, files, callers) as a terminal may show them."""

from __future__ import annotations

import re

from qwick.errors import UNSHOWN

__all__ = ["one_line", "visible"]

_UNSHOWN = re.compile(f"(?![\\t\\n])[{UNSHOWN}]")


def visible(text: str) -> str:
    """Return `text` with signs in place of what no terminal gets, but for tab and line end."""
    return _UNSHOWN.sub(lambda found: _sign(found[0]), text)


def one_line(text: str) -> str:
    """Return `text` with signs in place of what no terminal gets, tab and line end included."""
    return visible(text).replace("\t", "\u2409").replace("\n", "\u240a")


def _sign(char: str) -> str:
    """Return the picture of a control character in Unicode's block at U+2400; else U+FFFD."""
    if char < " ":
        return chr(0x2400 + ord(char))
    return "\u2421" if char == "\x7f" else "\ufffd"
