"""Random answers that follow a grammar's masks, hurried to an end; and bits as ids."""

from __future__ import annotations

import random
from collections.abc import Iterable

import numpy as np

from qwick.text.grammar import Grammar, Matcher, Vocabulary
from qwick.text.tokenizer import Tokenizer

ENDS = (151_645, 151_643)  # <|im_end|>, <|endoftext|>
FREE = 25  # tokens before a walk begins to hurry
LONGEST = 500
# What tends to close something; tried token by token.
CLOSING = ('"', "}", "]", '"}', "1", "\n", "!", "b", "\n</parameter>\n", "</function>")


def ids_of(bits: np.ndarray) -> np.ndarray:
    return np.flatnonzero(np.unpackbits(bits, bitorder="little"))


def allows(bits: np.ndarray, id: int) -> bool:
    return bool(bits[id // 8] >> (id % 8) & 1)


def fits(matcher: Matcher, id: int) -> bool:
    """Whether a copy of llguidance's own state takes the token."""
    return matcher._compiled.deep_copy().consume_token(id)


class Walk:
    """One random answer: its ids, its text, and whether it came to an end."""

    def __init__(
        self,
        vocabulary: Vocabulary,
        tokenizer: Tokenizer,
        grammar: Grammar,
        seed: int,
        closing: Iterable[str] = CLOSING,
    ) -> None:
        self._random = random.Random(seed)
        self._tokenizer = tokenizer
        self._closing = [tokenizer.encode(text, parse_special=False) for text in closing]
        self._queue: list[int] = []
        self._jumps = seed % 2 == 0
        self.matcher = vocabulary.matcher(grammar, ENDS)
        self.ids: list[int] = []
        self.ended = self._go()
        self.text = tokenizer.decode(self.ids)

    def _go(self) -> bool:
        while len(self.ids) < LONGEST:
            if self._jumps:
                self.ids += self.matcher.forced()
            if self.matcher.finished:
                assert self.matcher.accepting
                return True
            bits = self.matcher.mask()
            assert allows(bits, ENDS[0]) == allows(bits, ENDS[1]) == self.matcher.accepting
            if len(self.ids) % 7 == 3:
                self._try(bits)
            if self.matcher.accepting and self._random.random() < 0.3:
                return True
            id = self._choose(bits)
            if id in ENDS:
                return True
            self.matcher.accept(id)
            self.ids.append(id)
        return False

    def _choose(self, bits: np.ndarray) -> int:
        if len(self.ids) > FREE:
            for _ in range(4):
                if not self._queue:
                    self._queue = list(self._random.choice(self._closing))
                id = self._queue.pop(0)
                if allows(bits, id):
                    return id
                self._queue = []
        return int(self._random.choice(ids_of(bits)))

    def _try(self, bits: np.ndarray) -> None:
        """Compare some bits with what llguidance says of the tokens one by one."""
        allowed = ids_of(bits)
        allowed = allowed[~np.isin(allowed, ENDS)]
        for at in self._random.sample(range(len(allowed)), min(4, len(allowed))):
            id = int(allowed[at])
            assert fits(self.matcher, id), self._tokenizer.decode([id])
        if self.matcher._forced:  # the mask leaves the tokenizer's own way only
            assert allowed.tolist() == self.matcher._forced[:1]
            return
        for id in self._random.sample(range(self._tokenizer.n_tokens), 4):
            if not allows(bits, id) and id not in self._tokenizer.control_ids:
                assert not fits(self.matcher, id), self._tokenizer.decode([id])


def walk_all(
    vocabulary: Vocabulary, tokenizer: Tokenizer, grammar: Grammar, seeds: int, **more: object
) -> list[Walk]:
    """Return the walks that came to an end, which most must."""
    walks = [Walk(vocabulary, tokenizer, grammar, seed, **more) for seed in range(seeds)]
    ended = [walk for walk in walks if walk.ended]
    assert 2 * len(ended) >= seeds, [walk.text[-80:] for walk in walks]
    return ended
