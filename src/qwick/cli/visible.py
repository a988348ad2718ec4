"""Texts of strangers (models, files, callers) as a terminal may show them."""

from __future__ import annotations

__all__ = ["one_line", "visible"]

# C0 but for tab and line end, and DEL, become the pictures of Unicode's block at U+2400; C1 U+FFFD.
_SIGNS = {
    **{code: chr(0x2400 + code) for code in range(0x20) if chr(code) not in "\t\n"},
    0x7F: "\u2421",
    **dict.fromkeys(range(0x80, 0xA0), "\ufffd"),
}


def visible(text: str) -> str:
    """Return `text` with signs in place of control characters."""
    return text.translate(_SIGNS)


def one_line(text: str) -> str:
    """Return `text` with signs in place of control characters, tab and line end included."""
    return visible(text).replace("\t", "\u2409").replace("\n", "\u240a")
