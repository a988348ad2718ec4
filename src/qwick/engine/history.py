"""What a request's own tokens and wishes do to its logits before anything is drawn.

Holds one request's ids with their counts, and applies what its Sampling asks for, in this order:

1. logit_bias: what is given is added to the logits of the given ids
2. repetition penalty (Keskar et al. 2019, CTRL): for each id of prompt and answer, once,
   l / penalty where l >= 0 and l * penalty where l < 0
3. presence and frequency penalty (OpenAI's definition): for each id of the answer alone,
   l - presence - frequency * (how often it came)
4. min_tokens: until the answer has so many, ids that would end it get -inf

Knows no other request, and not how an id is drawn.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from qwick.engine.request import Sampling

F32 = NDArray[np.float32]
I64 = NDArray[np.int64]


class History:
    """The ids of a prompt and its answer, as far as `sampling` asks about them."""

    def __init__(self, sampling: Sampling, prompt: tuple[int, ...]) -> None:
        self._sampling = sampling
        self._bias_ids: I64 = np.array([i for i, _ in sampling.logit_bias], np.int64)
        self._bias: F32 = np.array([value for _, value in sampling.logit_bias], np.float32)
        self._ends: I64 = np.array(sampling.stop_ids, np.int64)
        self._length = 0
        # What the repetition penalty looks at: np.unique would import numpy.ma first, 9 ms.
        self._known = set(prompt) if sampling.repetition_penalty != 1.0 else set[int]()
        self._seen: I64 = np.fromiter(self._known, np.int64, len(self._known))
        # And what the others do: the different ids of the answer, where each stands, how often.
        self._place: dict[int, int] = {}
        self._answer: I64 = np.empty(0, np.int64)
        self._counts: F32 = np.empty(0, np.float32)

    @staticmethod
    def of(sampling: Sampling, prompt: tuple[int, ...]) -> History | None:
        """Return a history, or None where no field of `sampling` would use it."""
        used = (
            sampling.repetition_penalty != 1.0
            or sampling.presence_penalty != 0.0
            or sampling.frequency_penalty != 0.0
            or sampling.logit_bias
            or sampling.min_tokens > 0
        )
        return History(sampling, prompt) if used else None

    def add(self, token: int) -> None:
        """Note a generated id."""
        self._length += 1
        sampling = self._sampling
        if sampling.repetition_penalty != 1.0 and token not in self._known:
            self._known.add(token)
            self._seen = np.append(self._seen, token)
        if sampling.presence_penalty != 0.0 or sampling.frequency_penalty != 0.0:
            at = self._place.setdefault(token, len(self._place))
            if at == self._answer.size:
                self._answer = np.append(self._answer, token)
                self._counts = np.append(self._counts, np.float32(0))
            self._counts[at] += 1

    def apply(self, row: F32) -> None:
        """Change `row: F32[n_vocab]` in place; its values are finite, and stay so but for 4."""
        sampling = self._sampling
        if self._bias.size:
            row[self._bias_ids] = _finite(row[self._bias_ids] + self._bias)
        if self._seen.size:
            penalty = np.float32(sampling.repetition_penalty)
            values = row[self._seen]
            values = np.where(values < 0, values * penalty, values / penalty)
            row[self._seen] = _finite(values)
        if self._answer.size:
            values = row[self._answer] - (
                np.float32(sampling.presence_penalty)
                + np.float32(sampling.frequency_penalty) * self._counts
            )
            row[self._answer] = _finite(values)
        if self._length < sampling.min_tokens:
            row[self._ends] = -np.inf


def _finite(values: F32) -> F32:
    """Bring what has left float32's range back to its ends."""
    ends = np.finfo(np.float32)
    return values.clip(ends.min, ends.max)
