"""The content policy, off unless asked for: answers without script elements and javascript: URLs.

For pages that show answers as HTML although they should not. It is no sanitiser: a page must still
escape what it shows. Works on the text of answers only, never on thinking or calls, and says when
it acted. Streams and whole answers are treated by the same code, however they are cut.

Something visible stands in the place of what was taken out: else what stood before and after it
could join into what is forbidden.
"""

from __future__ import annotations

import re
from collections.abc import AsyncIterator
from dataclasses import replace

from qwick.llm import Reply
from qwick.llm.reply import Chunk
from qwick.server.ask import Piece

OPEN, CLOSE, SCHEME = "<script", "</script", "javascript:"
# No end of these begins anything forbidden, and no text before them becomes it: "<script" may
# stand before a scheme, so that one's begins with a letter.
NO_SCRIPT, NO_SCHEME = "[removed]", "removed:"

# Browsers skip control characters and white space within a scheme's name.
_SKIPPED = r"[\x00-\x20]*"


def _beginnings(word: str, between: str = "") -> str:
    """Return a pattern for the beginnings of a word, the whole of it too."""
    pattern = ""
    for letter in reversed(word):
        pattern = f"{letter}{between}(?:{pattern})?" if pattern else letter
    return pattern


_SCHEME = re.compile(_SKIPPED.join(SCHEME), re.IGNORECASE)
_OPEN = re.compile(OPEN + r"(?![a-z0-9-])", re.IGNORECASE)
_END = re.compile(CLOSE + r"[^>]*>", re.IGNORECASE)
# What stands at the end of a text so far and may become one of them.
_UNDECIDED = re.compile(
    rf"(?:{_beginnings(OPEN)}|{_beginnings(SCHEME, _SKIPPED)})\Z", re.IGNORECASE
)
_ENDING = re.compile(rf"{CLOSE}[^>]*\Z|{_beginnings(CLOSE)}\Z", re.IGNORECASE)


class Stripper:
    """Takes a text in pieces, gives it without what the policy forbids; joined, as of the whole.

    removed: how many elements and URLs' schemes were taken out so far.
    """

    def __init__(self) -> None:
        self.removed = 0
        self._held = ""
        self._in_script = False

    def push(self, text: str) -> str:
        """Return what is safe to show."""
        return self._take(text, last=False)

    def flush(self) -> str:
        """Return what was held back: the text has ended. A script that is open goes on to there."""
        return self._take("", last=True)

    def _take(self, text: str, *, last: bool) -> str:
        held = self._held + text
        shown: list[str] = []
        while True:
            if self._in_script:
                end = _END.search(held)
                if end is None:
                    # Only the beginning of its end matters any more.
                    ending = None if last else _ENDING.search(held)
                    held = "" if ending is None else ending[0][: len(CLOSE)]
                    break
                self._in_script, held = False, held[end.end() :]
                continue
            found = [m for m in (_OPEN.search(held), _SCHEME.search(held)) if m is not None]
            first = min(found, key=lambda m: m.start(), default=None)
            # What stands at the very end may go on: "<script" may be "<scripture".
            if first is not None and (last or first.end() < len(held) or first.re is _SCHEME):
                self.removed += 1
                self._in_script = first.re is _OPEN
                shown += held[: first.start()], NO_SCRIPT if self._in_script else NO_SCHEME
                held = held[first.end() :]
                continue
            undecided = None if last else _UNDECIDED.search(held)
            cut = len(held) if undecided is None else undecided.start()
            shown.append(held[:cut])
            held = held[cut:]
            break
        self._held = held
        return "".join(shown)


async def policed(pieces: AsyncIterator[Piece]) -> AsyncIterator[Piece]:
    """Yield an answer's pieces with their texts stripped; a reply that was changed says so."""
    strippers: dict[int, Stripper] = {}
    shown: dict[int, list[str]] = {}
    async for index, piece in pieces:
        stripper = strippers.setdefault(index, Stripper())
        texts = shown.setdefault(index, [])
        if isinstance(piece, Chunk):
            texts.append(stripper.push(piece.text))
            yield index, replace(piece, text=texts[-1])
            continue
        rest = stripper.flush()
        if rest:
            texts.append(rest)
            yield index, Chunk(rest)
        yield index, _told(piece, "".join(texts), stripper.removed)


def _told(reply: Reply, text: str, removed: int) -> Reply:
    if not removed:
        return reply
    note = f"the content policy took {removed} scripts or javascript: URLs out of this answer"
    return replace(reply, text=text, troubles=(*reply.troubles, note))
