"""An answer that says the same again and again, found while it does.

Small models under greedy decoding fall into such loops and leave them only at max_tokens. What a
loop is must not be met by what people ask for (tables, rules of "-", lists of zeros), so much is
asked for: the same block of at most LONGEST_PERIOD ids, at least REPEATS times, over at least
LEAST_TOKENS ids. Knows ids alone.
"""

from __future__ import annotations

import numpy as np

LONGEST_PERIOD = 128  # ids: a paragraph
REPEATS = 8
LEAST_TOKENS = 256  # two ids a zero: a list of 128 zeros


class LoopDetector:
    """Looks at one answer's ids as they come; some microseconds each, whatever the length."""

    def __init__(self) -> None:
        periods = np.arange(1, LONGEST_PERIOD + 1)
        whole = np.maximum(REPEATS * periods, LEAST_TOKENS)
        self._needed = whole - periods  # the first block repeats nothing
        self._run = np.zeros(LONGEST_PERIOD, np.int64)
        self._recent = np.full(LONGEST_PERIOD, -1, np.int64)  # the last ids, the latest first

    def push(self, token: int) -> bool:
        """Note an id; return whether the answer is in a loop with it."""
        self._run += 1  # run[p - 1]: the last ids that are equal to those p before them
        self._run *= self._recent == token
        self._recent[1:] = self._recent[:-1]
        self._recent[0] = token
        return bool((self._run >= self._needed).any())
