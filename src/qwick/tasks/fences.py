"""Fenced code blocks read out of Markdown, as CommonMark has them. Knows no language."""

from __future__ import annotations

import re
from dataclasses import dataclass

_OPEN = re.compile(r"^ {0,3}(`{3,}|~{3,})[ \t]*([^\s`]*)[^`\n]*$")


@dataclass(frozen=True, slots=True)
class Block:
    """A fenced block; language: its first word, in lower case; closed: whether its end is there."""

    code: str
    language: str
    closed: bool


def split_fences(text: str) -> tuple[list[Block], str]:
    """Return the fenced blocks of a text, and the text without them.

    A fence is closed by one of the same sign that is at least as long; one that is not closed
    reaches to the end.
    """
    blocks: list[Block] = []
    rest: list[str] = []
    inside: list[str] | None = None
    fence = language = ""
    for line in text.splitlines(keepends=True):
        bare = line.rstrip("\r\n")
        if inside is None:
            opening = _OPEN.match(bare)
            if opening is None:
                rest.append(line)
            else:
                fence, language, inside = opening[1], opening[2].lower(), []
        elif _closes(bare, fence):
            blocks.append(Block("".join(inside), language, True))
            inside = None
        else:
            inside.append(line)
    if inside is not None:
        blocks.append(Block("".join(inside), language, False))
    return blocks, "".join(rest).strip()


def _closes(line: str, fence: str) -> bool:
    bare = line.strip(" \t")
    indent = len(line) - len(line.lstrip(" "))
    return indent < 4 and len(bare) >= len(fence) and set(bare) == {fence[0]}
