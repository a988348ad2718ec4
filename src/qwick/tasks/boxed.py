r"""The answer that a solution puts into \boxed{}, as LaTeX reads it: braces nested, escapes heeded.

Knows no model and no mathematics: what is in the box comes back as it was written.
"""

from __future__ import annotations

import re
from collections.abc import Mapping

from qwick.values import check_kind

__all__ = ["boxed"]

_BRACE = re.compile(r"\\.|[{}]", re.DOTALL)  # what a backslash escapes is none
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
    groups = _groups(text)
    found, at = None, 0
    while command := _COMMAND.search(text, at):
        at = command.end()
        end = groups.get(at)
        if end is not None:
            inner, at = text[at + 1 : end - 1].strip(), end
        elif text[at : at + 1] == "{":  # never closed
            continue
        else:
            inner, at = _bare(text, at, groups)
        found = inner or found
    return None if found is None else _unwrapped(found)


def _after_thinking(text: str) -> str:
    """Return what comes after a block of thinking; before it, if it is never closed."""
    _, end, behind = text.rpartition("</think>")
    return (behind if end else text).partition("<think>")[0]


def _groups(text: str) -> dict[int, int]:
    """Return where each group in braces ends, by where it begins."""
    found: dict[int, int] = {}
    opened: list[int] = []
    for sign in _BRACE.finditer(text):
        if sign[0] == "{":
            opened.append(sign.start())
        elif sign[0] == "}" and opened:
            found[opened.pop()] = sign.end()
    return found


def _bare(text: str, at: int, groups: Mapping[int, int]) -> tuple[str, int]:
    """Return what a box without braces holds, and where it ends."""
    number = _NUMBER.match(text, at)
    if number is not None:
        return number[0].rstrip(","), number.end()
    name = _NAME.match(text, at)
    if name is None:
        word = _WORD.match(text, at)
        return ("", at) if word is None else (word[0], word.end())
    end = name.end()
    while end in groups:
        end = groups[end]
    return text[at:end], end


def _unwrapped(inner: str) -> str:
    """Take off boxes that hold all of it."""
    while (command := _COMMAND.match(inner)) and _groups(inner).get(command.end()) == len(inner):
        inner = inner[command.end() + 1 : -1].strip()
    return inner
