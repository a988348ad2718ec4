"""How much of a text's words another one has, rare words counting for more. Knows no language."""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Sequence

# A word: letters and digits; of scripts without blanks between words, each character.
_WORD = re.compile(r"[\u3040-\u30ff\u3400-\u9fff\uac00-\ud7af]|[^\W_\u3040-\u30ff\u3400-\u9fff]+")


def words_of(text: str) -> set[str]:
    """Return the words of a text, in lower case."""
    return set(_WORD.findall(text.casefold()))


class Words:
    """The words of some texts, with the weight that each has: log(1 + texts / texts with it)."""

    def __init__(self, texts: Sequence[str]) -> None:
        self._texts = max(len(texts), 1)
        self._holders = Counter(word for text in texts for word in words_of(text))

    def share(self, text: str, others: Sequence[str]) -> float:
        """Return the share, by weight, of the words of `text` that the others have: 0 to 1."""
        words = words_of(text)
        theirs = {word for other in others for word in words_of(other)}
        whole = sum(map(self._weight, words))
        return sum(map(self._weight, words & theirs)) / whole if whole else 0.0

    def _weight(self, word: str) -> float:
        return math.log(1 + self._texts / max(self._holders[word], 1))
