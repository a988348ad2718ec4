"""An answer's text told apart while it arrives: thinking, then content and calls of tools.

Puts the two readers in a row, so a call inside the thinking is thinking. Knows no tokens.
"""

from __future__ import annotations

from dataclasses import dataclass

from qwick.text.thinking import ThinkingSplitter
from qwick.text.tools import (
    CallArguments,
    CallStart,
    Content,
    ToolReader,
    Trouble,
)

__all__ = ["CallArguments", "CallStart", "Content", "Piece", "Router", "Thinking", "Trouble"]


@dataclass(frozen=True, slots=True)
class Thinking:
    """More of the thinking."""

    text: str


Piece = Thinking | Content | CallStart | CallArguments | Trouble


class Router:
    """Takes an answer's text in pieces; joined, what it gives does not depend on how it was cut.

    splitter: tells thinking from the rest; None: there is none. reader: finds calls; None: there
    are no tools.
    """

    def __init__(self, splitter: ThinkingSplitter | None, reader: ToolReader | None) -> None:
        self._splitter = splitter
        self._reader = reader

    @property
    def thinking(self) -> bool:
        """Whether the thinking is under way."""
        return self._splitter is not None and self._splitter.thinking

    def push(self, text: str) -> list[Piece]:
        """Return what `text` completes, in order."""
        if self._splitter is None:
            return self._read(text)
        return self._sort(self._splitter.push(text))

    def flush(self) -> list[Piece]:
        """Return what was held back: the text has ended."""
        found: list[Piece] = []
        if self._splitter is not None:
            found = self._sort(self._splitter.flush())
        if self._reader is not None:
            found += self._reader.flush()
        return found

    def _sort(self, parts: list[tuple[bool, str]]) -> list[Piece]:
        found: list[Piece] = []
        for thinking, text in parts:
            found += [Thinking(text)] if thinking else self._read(text)
        return found

    def _read(self, text: str) -> list[Piece]:
        if not text:
            return []
        if self._reader is None:
            return [Content(text)]
        return list(self._reader.push(text))
