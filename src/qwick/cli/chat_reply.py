"""One reply: asked for, shown as it comes, ended by Ctrl-C if so wished.

Knows no commands and keeps no conversation.
"""

from __future__ import annotations

import contextlib
import signal
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from qwick.cli.chat_screen import Screen
from qwick.errors import QwickError, RequestCancelled, UsageError

if TYPE_CHECKING:
    from types import FrameType

    from qwick.llm import Qwen, Reply
    from qwick.llm.stream import Stream

__all__ = ["Interrupts", "Outcome", "ask"]


@dataclass(frozen=True, slots=True)
class Outcome:
    """What came of asking: the text so far, whatever ended it.

    reply: only of an answer that was read to its end. error: what ended it otherwise; both are
    None when it was interrupted.
    """

    thinking: str
    answer: str
    reply: Reply | None
    error: QwickError | None

    @property
    def nothing(self) -> bool:
        """Whether it ended before anything was said."""
        return self.reply is None and not (self.thinking or self.answer)


class Interrupts:
    """What Ctrl-C does: it ends the reply that is being computed, or the line that is being read.

    At any other moment it does nothing, however often it comes: no exception can surface where it
    would break something. (prompt_toolkit has a handler of its own while it reads.) A request to
    terminate (SIGTERM) ends the chat by way of SystemExit, so that the terminal is left in order.
    """

    def __init__(self) -> None:
        self.asked = False  # since the reply began
        self._stream: Stream | None = None
        self._reading = False

    def __enter__(self) -> Interrupts:
        self._before = signal.signal(signal.SIGINT, self._heard)
        self._before_term = signal.signal(signal.SIGTERM, _terminate)
        return self

    def __exit__(self, *_: object) -> None:
        signal.signal(signal.SIGINT, self._before)
        signal.signal(signal.SIGTERM, self._before_term)

    @contextlib.contextmanager
    def reading(self) -> Iterator[None]:
        """Let Ctrl-C raise KeyboardInterrupt within a block."""
        self._reading = True
        try:
            yield
        finally:
            self._reading = False

    def begin(self) -> None:
        """Forget what was asked before."""
        self.asked, self._stream = False, None

    def watch(self, stream: Stream) -> None:
        """Close `stream` when it is asked, or at once if that has happened."""
        self._stream = stream
        if self.asked:
            stream.close()

    def _heard(self, signum: int, frame: FrameType | None) -> None:
        if self._reading:
            self._reading = False
            raise KeyboardInterrupt
        self.asked = True
        if self._stream is not None:
            self._stream.close()


def _terminate(signum: int, frame: FrameType | None) -> None:
    raise SystemExit(128 + signum)  # as a shell reports a program that the signal ended


def ask(
    qwen: Qwen,
    messages: Sequence[Mapping[str, Any]],
    keywords: Mapping[str, Any],
    *,
    screen: Screen,
    interrupts: Interrupts,
) -> Outcome:
    """Ask for a reply and show it. keywords: those of `Qwen.stream`.

    Raises what `Qwen.stream` raises before anything is computed;
    all that happens later is part of the outcome.
    """
    interrupts.begin()
    stream = qwen.stream(messages, **keywords)
    thinking: list[str] = []
    answer: list[str] = []
    reply: Reply | None = None
    error: QwickError | None = None

    try:
        with stream:
            interrupts.watch(stream)
            try:
                for chunk in stream:
                    if interrupts.asked:  # a piece that was under way: it may be the last one
                        break
                    for parts, text in ((thinking, chunk.thinking), (answer, chunk.text)):
                        if text:
                            parts.append(text)
                            screen.piece(text, thinking=parts is thinking)
                else:
                    with contextlib.suppress(UsageError):  # closed by Ctrl-C before its end
                        reply = stream.reply
            except RequestCancelled as cancelled:
                error = None if interrupts.asked else cancelled
            except QwickError as failure:
                error = failure
    finally:
        screen.end_answer()
    return Outcome("".join(thinking), "".join(answer), reply, error)
