"""An answer's text told apart while it arrives: thinking, then content and calls of tools.

Puts the two readers in a row, so a call inside the thinking is thinking. Knows no tokens.
"""

from __future__ import annotations

from collections.abc import Sequence
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

__all__ = ["Answer", "CallArguments", "CallStart", "Content", "Piece", "Router", "Thinking"]
__all__ += ["Trouble"]


@dataclass(frozen=True, slots=True)
class Thinking:
    """More of the thinking."""

    text: str


OfAnswer = Content | CallStart | CallArguments | Trouble
Piece = Thinking | OfAnswer


class Answer:
    """Reads what comes behind the thinking, and finds where a stop string ends it.

    Both ends have one, so that the engine stops where the caller's side stops showing. reader:
    finds calls; None: there are no tools. stops: the caller's, which are about content and are not
    looked for in calls. ends: those of the format of calls, of which the whole text is full.
    """

    def __init__(
        self,
        reader: ToolReader | None,
        stops: StopMatcher | None = None,
        ends: StopMatcher | None = None,
    ) -> None:
        self.reader = reader
        self._stops = stops
        self._ends = ends
        self._may_stop = True

    @property
    def stop(self) -> str | None:
        """The stop string that was met."""
        met = (one.matched for one in (self._ends, self._stops) if one is not None)
        return next((stop for stop in met if stop is not None), None)

    def push(self, text: str, *, may_stop: bool = True) -> list[OfAnswer]:
        """Return what `text` completes, in order. may_stop: whether it may hold a stop string."""
        if not text:
            return []
        self._may_stop = may_stop
        if self._ends is not None and may_stop:
            text, _ = self._ends.push(text)
        return self._shown(self._read(text))

    def flush(self) -> list[OfAnswer]:
        """Return what was held back: the text has ended."""
        found = [] if self._ends is None else self._read(self._ends.flush())
        if self.reader is not None and (self._stops is None or self._stops.matched is None):
            found += self.reader.flush()
        found = self._shown(found)
        held = "" if self._stops is None else self._stops.flush()
        return [*found, Content(held)] if held else found

    def _read(self, text: str) -> list[OfAnswer]:
        if not text:
            return []
        return [Content(text)] if self.reader is None else [*self.reader.push(text)]

    def _shown(self, pieces: Sequence[OfAnswer]) -> list[OfAnswer]:
        """Leave out a stop string in the content, and all that follows it."""
        if self._stops is None:
            return list(pieces)
        shown: list[OfAnswer] = []
        for piece in pieces:
            if self._stops.matched is not None:
                break
            if isinstance(piece, Content) and self._may_stop:
                text, _ = self._stops.push(piece.text)
                shown += [Content(text)] if text else []
            else:
                shown.append(piece)
        return shown


class Router:
    """Takes an answer's text in pieces; joined, what it gives does not depend on how it was cut.

    splitter: tells thinking from the rest; None: there is none. The others: as for `Answer`.
    """

    def __init__(
        self,
        splitter: ThinkingSplitter | None,
        reader: ToolReader | None,
        stops: StopMatcher | None = None,
        ends: StopMatcher | None = None,
    ) -> None:
        self._splitter = splitter
        self._answer = Answer(reader, stops, ends)

    @property
    def thinking(self) -> bool:
        """Whether the thinking is under way."""
        return self._splitter is not None and self._splitter.thinking

    @property
    def stop(self) -> str | None:
        """The stop string that was met."""
        return self._answer.stop

    @property
    def cut(self) -> bool:
        """Whether the end of the text has cut a call off."""
        return self._answer.reader is not None and self._answer.reader.cut

    def push(self, text: str, *, may_stop: bool = True) -> list[Piece]:
        """Return what `text` completes, in order. may_stop: whether it may hold a stop string."""
        if self._splitter is None:
            return [*self._answer.push(text, may_stop=may_stop)]
        return self._sort(self._splitter.push(text), may_stop)

    def flush(self) -> list[Piece]:
        """Return what was held back: the text has ended."""
        found: list[Piece] = []
        if self._splitter is not None:
            found = self._sort(self._splitter.flush(), True)
        return [*found, *self._answer.flush()]

    def _sort(self, parts: list[tuple[bool, str]], may_stop: bool) -> list[Piece]:
        found: list[Piece] = []
        for thinking, text in parts:
            found += [Thinking(text)] if thinking else self._answer.push(text, may_stop=may_stop)
        return found
