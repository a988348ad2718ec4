"""The thinking of an answer told from the rest, however the text is cut into pieces.

Where an answer begins is told by the end of its prompt, not by the answer: some templates open the
block themselves, some close it at once, others leave it to the model. Works on text, so a
`</think>` that a model spells out inside its thinking ends it too. Knows no tokens and no families.
"""

from __future__ import annotations

import enum
import re
from collections.abc import Mapping, Sequence
from typing import Any

from qwick.values import check_kind

__all__ = ["EARLY_END", "ThinkingSplitter", "soft_switch"]

OPEN, CLOSE = "<think>", "</think>"

# What ends a thinking that has used up its budget: QwenLM/Qwen3,
# docs/source/getting_started/thinking_budget.md.
EARLY_END = (
    "\n\nConsidering the limited time by the user, I have to give the solution based on the "
    "thinking directly now.\n</think>\n\n"
)
_SWITCH = re.compile(r"(?<!\S)/(no_)?think(?!\S)")


def soft_switch(messages: Sequence[Mapping[str, Any]]) -> bool | None:
    """Return what the last `/think` or `/no_think` of system and user texts says; None: neither.

    Only a word of its own counts. (QwenLM/Qwen3, quickstart: the most recent one is followed.)
    """
    for message in reversed(messages):
        if message.get("role") in ("system", "user") and isinstance(message.get("content"), str):
            found = _SWITCH.findall(message["content"])
            if found:
                return not found[-1]
    return None


class _Part(enum.Enum):
    START = "start"  # white space so far: a block may still be opened
    THINKING = "thinking"
    ANSWER = "answer"


class ThinkingSplitter:
    """Takes an answer's text in pieces, gives pieces of its thinking and of what follows that.

    Joined, they do not depend on how the text was cut. Tags belong to neither, nor do the line ends
    just inside and just behind the block (templates strip the same ones); without a block every
    character is the answer's. An unclosed block is thinking to its end.
    """

    def __init__(self, prompt: str) -> None:
        """Begin after `prompt`, the text that the template made of the conversation."""
        check_kind("prompt", prompt, str, "a str")
        end = prompt.rstrip()
        self._part = _Part.START
        if end.endswith(OPEN):
            self._part = _Part.THINKING
        elif end.endswith(CLOSE):
            self._part = _Part.ANSWER
        self._held = ""
        self._fresh = self._part is _Part.THINKING  # line ends that come now are dropped

    @property
    def answering(self) -> bool:
        """Whether the thinking is over, or there was none."""
        return self._part is _Part.ANSWER

    @property
    def thinking(self) -> bool:
        """Whether a block is open."""
        return self._part is _Part.THINKING

    def push(self, text: str) -> list[tuple[bool, str]]:
        """Return what `text` completes, in order: (whether it is thinking, its characters)."""
        check_kind("text", text, str, "a str")
        self._held += text
        found: list[tuple[bool, str]] = []
        while True:
            if self._fresh:
                self._held = self._held.lstrip("\n")
            part = self._part
            if not self._held:
                return found
            if part is _Part.START:
                if not self._begin():
                    return found
                continue
            piece = self._held if part is _Part.ANSWER else self._thought()
            self._held = self._held[len(piece) :]
            if piece:
                self._fresh = False
                found.append((part is _Part.THINKING, piece))
            if part is _Part.ANSWER or not self._close():
                return found

    def flush(self) -> list[tuple[bool, str]]:
        """Return what was held back: the text has ended."""
        held, self._held = self._held, ""
        thinking = self._part is _Part.THINKING
        held = held.rstrip("\n") if thinking else held
        return [(thinking, held)] if held else []

    def _begin(self) -> bool:
        """Decide what the answer begins with; False while that is open."""
        rest = self._held.lstrip()
        if rest.startswith(OPEN):
            self._part, self._held, self._fresh = _Part.THINKING, rest[len(OPEN) :], True
        elif not OPEN.startswith(rest):
            self._part = _Part.ANSWER
        return self._part is not _Part.START

    def _thought(self) -> str:
        """Return what of the held text is thinking for certain."""
        end = self._held.find(CLOSE)
        if end < 0:
            begun = (n for n in range(len(CLOSE) - 1, 0, -1) if self._held.endswith(CLOSE[:n]))
            end = len(self._held) - next(begun, 0)
        return self._held[:end].rstrip("\n")

    def _close(self) -> bool:
        """End the thinking if all that is held before its end are line ends."""
        rest = self._held.lstrip("\n")
        if not rest.startswith(CLOSE):
            return False
        self._part, self._held, self._fresh = _Part.ANSWER, rest[len(CLOSE) :], True
        return True
