"""Grammars of requests, compiled before the engine tries: a bad one is its client's error alone."""

from __future__ import annotations

import threading
from collections.abc import Sequence

from qwick.llm.steers import Guide
from qwick.llm.texts import Asked
from qwick.text.grammar import Vocabulary
from qwick.text.tokenizer import Tokenizer


class Grammars:
    """Of one model. Threads may share it."""

    def __init__(self) -> None:
        self._vocabulary: Vocabulary | None = None  # made for the first grammar
        self._making = threading.Lock()

    def check(self, asked: Sequence[Asked], tokenizer: Tokenizer) -> None:
        """Raise ParameterError for a grammar that cannot be compiled."""
        guides = [a.request.guide for a in asked if isinstance(a.request.guide, Guide)]
        grammars = [grammar for guide in guides for grammar in guide.grammars]
        if not grammars:
            return
        with self._making:
            if self._vocabulary is None:
                self._vocabulary = Vocabulary(tokenizer)
        for grammar in grammars:
            self._vocabulary.check(grammar)
