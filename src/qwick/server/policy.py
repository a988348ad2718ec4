"""The content policy, off unless asked for: answers without script elements and javascript: URLs.

For pages that show answers as HTML although they should not. It is no sanitiser: a page must still
escape what it shows. Works on the text of answers only, never on thinking or calls, and says when
it acted. Streams and whole answers are treated by the same code, however they are cut.
"""

from __future__ import annotations

import re
from collections.abc import AsyncIterator
from dataclasses import replace

from qwick.llm import Reply
from qwick.llm.reply import Chunk
from qwick.server.ask import Piece

OPEN, CLOSE, SCHEME = "<script", "</script", "javascript:"

# Browsers skip control characters and white space within a scheme's name.
_IGNORED = re.compile(r"[\x00-\x20]")
_SCHEME = re.compile(r"[\x00-\x20]*".join(SCHEME), re.IGNORECASE)
_OPEN = re.compile(re.escape(OPEN) + r"(?![a-z0-9-])", re.IGNORECASE)
_END = re.compile(re.escape(CLOSE) + r"[^>]*>", re.IGNORECASE)
MOST_HELD = 256  # characters that may be the beginning of a scheme with white space in it


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
                    at = max(held.lower().rfind("</"), held.rfind("<"))
                    held = "" if last or at < 0 else held[at:]
                    break
                self._in_script, held = False, held[end.end() :]
                continue
            found = [m for m in (_OPEN.search(held), _SCHEME.search(held)) if m is not None]
            first = min(found, key=lambda m: m.start(), default=None)
            # What stands at the very end may go on: "<script" may be "<scripture".
            if first is not None and (last or first.end() < len(held) or first.re is _SCHEME):
                shown.append(held[: first.start()])
                self.removed += 1
                self._in_script = first.re is _OPEN
                held = held[first.end() :]
                continue
            cut = len(held) if last else _undecided(held)
            shown.append(held[:cut])
            held = held[cut:]
            break
        self._held = held
        return "".join(shown)


def _undecided(text: str) -> int:
    """Return where the longest end of `text` begins that may become something forbidden."""
    for start in range(max(0, len(text) - MOST_HELD), len(text)):
        if text[start] not in "<jJ":
            continue
        end = text[start:].lower()
        if OPEN.startswith(end) or end == OPEN or SCHEME.startswith(_IGNORED.sub("", end)):
            return start
    return len(text)


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
