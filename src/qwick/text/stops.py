"""Stop strings over streamed text: what may be shown, and when to stop.

The one matcher for both ends: the engine asks it when to stop sampling, the caller's side what to
show. Works on characters, so a stop may begin or end inside a token. Knows nothing of tokens, stop
ids or requests.
"""

from __future__ import annotations

from collections.abc import Sequence

from qwick.values import check_kind, refused

__all__ = ["StopMatcher"]


class StopMatcher:
    """Finds the first of several stop strings in text that arrives in pieces.

    First is the one that is complete first, and among those the one that begins first. However the
    text is cut, the pieces returned, joined, are the text before that stop; the stop and what
    follows are never returned. ParameterError for an empty string, or what is none.
    """

    def __init__(self, strings: Sequence[str]) -> None:
        if not isinstance(strings, (list, tuple)):
            raise refused("strings", strings, "a list of strings")
        for string in strings:
            if not isinstance(string, str) or not string:
                raise refused("a stop string", string, "strings of 1 character or more")
        self._stops = tuple(strings)
        self._longest = max(map(len, self._stops), default=0)
        self._held = ""
        self.matched: str | None = None  # the stop string that was found

    def push(self, text: str) -> tuple[str, bool]:
        """Take the next piece; return (text that is safe to show, whether a stop was found).

        Text that may be the beginning of a stop is held back until it is decided. After a stop
        every further piece is swallowed.
        """
        check_kind("text", text, str, "a str")
        if self.matched is not None:
            return "", True
        if not self._stops:
            return text, False
        buffer = self._held + text
        hits = [
            (start + len(stop), start, stop)
            for stop in self._stops
            if (start := buffer.find(stop)) >= 0
        ]
        if hits:
            _, start, self.matched = min(hits)
            self._held = ""
            return buffer[:start], True
        cut = self._undecided(buffer)
        self._held = buffer[cut:]
        return buffer[:cut], False

    def flush(self) -> str:
        """Return what is still held back: the text has ended, so it is no stop."""
        held, self._held = self._held, ""
        return held

    def _undecided(self, buffer: str) -> int:
        """Return where the longest end of `buffer` begins that is the beginning of a stop."""
        for start in range(max(0, len(buffer) - self._longest + 1), len(buffer)):
            end = buffer[start:]
            if any(stop.startswith(end) for stop in self._stops):
                return start
        return len(buffer)
