r"""The answer that a solution puts into \boxed{}, as LaTeX reads it: braces nested, escapes heeded.

Knows no model and no mathematics: what is in the box comes back as it was written.
"""

from __future__ import annotations

import re

from qwick.values import check_kind

__all__ = ["boxed"]

_COMMAND = re.compile(r"\\(?:boxed|fbox)(?![A-Za-z])\s*")
# What a box without braces holds: a number, which TeX would take the first digit of.
_NUMBER = re.compile(r"[-+]?(?:\d[\d,]*(?:\.\d+)?|\.\d+)(?:/\d+)?(?:\\?%)?")
_NAME = re.compile(r"\\(?:[A-Za-z]+|.)", re.DOTALL)
_WORD = re.compile(r"[^\s$\\{}.,;:!?]+")


def boxed(text: str) -> str | None:
    r"""Return what the last \boxed{...} or \fbox{...} of a solution holds; None: there is none.

    Boxes in thinking do not count, nor do empty ones; of boxes in boxes it is the outer one,
    without inner ones that are all it holds. Without braces (`\boxed 5`, `\boxed\frac{1}{2}`) it is
    a number, a command with its arguments, or a word. A box that is never closed is none.
    """
    check_kind("text", text, str, "a str")
    text = _after_thinking(text)
    found, at = None, 0
    while command := _COMMAND.search(text, at):
        at = command.end()
        end = _group_end(text, at)
        if end is not None:
            inner, at = text[at + 1 : end - 1].strip(), end
        elif text[at : at + 1] == "{":  # never closed
            continue
        else:
            inner, at = _bare(text, at)
        found = inner or found
    return None if found is None else _unwrapped(found)


def _after_thinking(text: str) -> str:
    """Return what comes after a block of thinking; before it, if it is never closed."""
    _, end, behind = text.rpartition("</think>")
    return (behind if end else text).partition("<think>")[0]


def _group_end(text: str, start: int) -> int | None:
    """Return where the group in braces that begins at `start` ends; None: there is none."""
    if text[start : start + 1] != "{":
        return None
    depth, at = 0, start
    while at < len(text):
        sign = text[at]
        if sign == "\\":
            at += 1  # and what it escapes: a brace, or a backslash before one
        elif sign in "{}":
            depth += 1 if sign == "{" else -1
            if depth == 0:
                return at + 1
        at += 1
    return None


def _bare(text: str, at: int) -> tuple[str, int]:
    """Return what a box without braces holds, and where it ends."""
    number = _NUMBER.match(text, at)
    if number is not None:
        return number[0].rstrip(","), number.end()
    name = _NAME.match(text, at)
    if name is None:
        word = _WORD.match(text, at)
        return ("", at) if word is None else (word[0], word.end())
    end = name.end()
    while (further := _group_end(text, end)) is not None:
        end = further
    return text[at:end], end


def _unwrapped(inner: str) -> str:
    """Take off boxes that hold all of it."""
    while command := _COMMAND.match(inner):
        end = _group_end(inner, command.end())
        if end != len(inner):
            break
        inner = inner[command.end() + 1 : -1].strip()
    return inner
