"""An answer's text told apart while it arrives: thinking, then content and calls of tools.

Puts the two readers in a row, so a call inside the thinking is thinking. Knows no tokens.
"""

from __future__ import annotations

from dataclasses import dataclass

from qwick.text.stops import StopMatcher
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
    are no tools. stops: hides what follows a stop string of the rest.
    """

    def __init__(
        self,
        splitter: ThinkingSplitter | None,
        reader: ToolReader | None,
        stops: StopMatcher | None = None,
    ) -> None:
        self._splitter = splitter
        self._reader = reader
        self._stops = stops

    @property
    def thinking(self) -> bool:
        """Whether the thinking is under way."""
        return self._splitter is not None and self._splitter.thinking

    @property
    def stop(self) -> str | None:
        """The stop string that was met."""
        return None if self._stops is None else self._stops.matched

    def push(self, text: str, *, may_stop: bool = True) -> list[Piece]:
        """Return what `text` completes, in order. may_stop: whether it may hold a stop string."""
        if self._splitter is None:
            return self._read(text, may_stop)
        return self._sort(self._splitter.push(text), may_stop)

    def flush(self) -> list[Piece]:
        """Return what was held back: the text has ended."""
        found: list[Piece] = []
        if self._splitter is not None:
            found = self._sort(self._splitter.flush(), True)
        if self._stops is not None:
            found += self._read(self._stops.flush(), False)
        if self._reader is not None:
            found += self._reader.flush()
        return found

    def _sort(self, parts: list[tuple[bool, str]], may_stop: bool) -> list[Piece]:
        found: list[Piece] = []
        for thinking, text in parts:
            found += [Thinking(text)] if thinking else self._read(text, may_stop)
        return found

    def _read(self, text: str, may_stop: bool) -> list[Piece]:
        if self._stops is not None and may_stop:
            text, _ = self._stops.push(text)
        if not text:
            return []
        if self._reader is None:
            return [Content(text)]
        return list(self._reader.push(text))
