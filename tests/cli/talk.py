"""A chat in this process: the real loop and engine over a model whose answers are written down."""

from __future__ import annotations

import io
import os
import signal
import time
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from engine.toy import ToyModel
from llm.small import TEMPLATE, TOKENIZER, small_qwen
from qwick.cli.chat import Chat
from qwick.cli.chat_reply import Interrupts
from qwick.cli.chat_screen import Screen

END = 258  # <|im_end|>


class ScriptedModel(ToyModel):
    """Says the next text of a list each time it is asked, whatever it was asked.

    before[i] runs on the engine's thread before token i of an answer is computed.
    """

    def __init__(self, answers: Sequence[str], *, context: int = 512) -> None:
        super().__init__(n_vocab=TOKENIZER.n_tokens, context=context, page_size=16, exact_rows=1)
        self._answers = [[*answer.encode(), END] for answer in answers]
        self.ids: list[int] = []
        self.before: dict[int, Callable[[], None]] = {}
        self.said = 0
        self.change_logits = self._force

    def next_answer(self) -> None:
        """Begin the next answer (the last one stopped where it was)."""
        self.ids, self.said = self._answers.pop(0), 0

    def _force(self, logits: NDArray[np.float32]) -> None:
        assert len(logits) == 1
        if self.said in self.before:
            self.before.pop(self.said)()
        logits[:] = 0.0
        logits[0, self._id()] = 100.0
        self.said += 1

    def _id(self) -> int:
        # The vocabulary holds one-byte tokens in the order of their bytes.
        return self.ids[self.said]


class Lines:
    """A reader of texts that were typed beforehand. An exception among them is raised."""

    recalls = True

    def __init__(self, texts: Sequence[str | BaseException]) -> None:
        self._texts = list(texts)

    def read(self) -> str:
        if not self._texts:
            raise EOFError
        text = self._texts.pop(0)
        if isinstance(text, BaseException):
            raise text
        return text


class Talk:
    """A chat with its screen as text."""

    def __init__(
        self, answers: Sequence[str] = (), *, context: int = 512, styled: bool = False, **more: Any
    ) -> None:
        self.model = ScriptedModel(answers, context=context)
        more.setdefault("template", TEMPLATE)
        self.qwen = small_qwen(model=self.model, context=context, **more)
        self.out = io.StringIO()
        screen = Screen(self.out)
        screen.styled = screen.terminal = styled
        screen.notes = self.out
        self.interrupts = Interrupts()
        self.chat = Chat(self.qwen, screen, self.interrupts, Lines(()))
        self.chat.take_over(self.chat.session, None)

    def __enter__(self) -> Talk:
        self.interrupts.__enter__()
        return self

    def __exit__(self, *_: object) -> None:
        self.interrupts.__exit__()
        self.qwen.close()

    def interrupt(self, token: int, times: int = 1) -> None:
        """Send Ctrl-C when the first `token` tokens of the next answer are shown, none after."""

        def ctrl_c() -> None:  # on the engine's thread, which computes nothing meanwhile
            said = "".join(map(chr, self.model.ids[:token]))
            _wait_until(lambda: self.out.getvalue().endswith(said))
            for _ in range(times):
                _wait_until(interrupted)

        def interrupted() -> bool:
            os.kill(os.getpid(), signal.SIGINT)  # again, where it came just before a wait began
            time.sleep(0.01)
            return self.interrupts.asked

        self.model.before[token] = ctrl_c

    def say(self, text: str) -> str:
        """Type a text; return what appears."""
        start = len(self.out.getvalue())
        if text == "/retry" or not text.startswith("/"):
            self.model.next_answer()
        self.chat.take(text)
        while self.qwen._engine._loop.engine.has_work:  # an interrupted step, which would go on
            time.sleep(0.001)  # in the next answer of the script
        return self.out.getvalue()[start:]


def _wait_until(true: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 30
    while not true():
        assert time.monotonic() < deadline
        time.sleep(0.001)
