"""A model without weights that still notices everything a cache can get wrong.

The logits of a row are random numbers keyed by a hash over (index, token, position) of every entry
that the page table leads to, so a wrong slot, page, position, length or a stale entry changes them.
Padding columns hold the largest logits. Both returned buffers are overwritten by the next call.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from qwick.engine.engine import Engine
from qwick.engine.request import Event, Finished, Request, Sampling, TokenLogprob, Tokens
from qwick.model.batch import Batch
from qwick.model.positions import Rotations

F32 = NDArray[np.float32]
U64 = NDArray[np.uint64]
Cache = NDArray[np.int64]  # [pages, page_size, 2]: token, position; -1 where nothing was written


def _mix(x: U64) -> U64:
    """The finaliser of splitmix64."""
    x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    mixed: U64 = x ^ (x >> np.uint64(31))
    return mixed


def hash_of(tokens: NDArray[np.int64], positions: NDArray[np.int64]) -> int:
    index = np.arange(len(tokens), dtype=np.int64)
    parts = (index * 1_000_003 + tokens) * 1_000_003 + positions
    return int(_mix(parts.astype(np.uint64)).sum(dtype=np.uint64))


class ToyModel:
    def __init__(
        self,
        *,
        n_vocab: int = 40,
        context: int = 64,
        page_size: int = 4,
        scale: float = 3.0,
        exact_rows: int = 1 << 20,
        rotations: Rotations | None = None,
        has_head: bool = True,
    ) -> None:
        self.n_vocab = n_vocab
        self.width = n_vocab + 7
        self.context = context
        self.rotations = rotations or Rotations((context,))
        self.page_size = page_size
        self.exact_rows = exact_rows
        self.hidden = 4
        self.has_head = has_head
        self.scale = scale
        self.before_forward: Callable[[Batch], None] = lambda batch: None
        self.change_logits: Callable[[F32], None] = lambda logits: None
        self.batches: list[Batch] = []
        self._hidden: F32 = np.empty((0, 4), np.float32)
        self._logits: F32 = np.empty((0, self.width), np.float32)

    expert_use = None

    def new_cache(self, pages: int) -> Cache:
        return np.full((pages, self.page_size, 2), -1, np.int64)

    def forward(self, batch: Batch, cache: Cache) -> F32:
        self.before_forward(batch)
        self.batches.append(batch)
        for name in ("ids", "positions", "slots", "starts", "lengths", "logit_rows", "pages"):
            array = getattr(batch, name)
            assert array.dtype == np.int32, name
            assert array.flags.c_contiguous, name
        assert batch.starts[0] == 0
        assert batch.starts[-1] == len(batch.ids) == len(batch.positions) == len(batch.slots)
        assert len(set(batch.slots.tolist())) == len(batch.slots)
        assert (np.diff(batch.logit_rows) > 0).all()
        cache.reshape(-1, 2)[batch.slots] = np.stack([batch.ids, batch.positions], axis=1)
        self._hidden.fill(np.nan)
        self._hidden = np.empty((len(batch.logit_rows), 4), np.float32)
        owner = np.searchsorted(batch.starts, batch.logit_rows, side="right") - 1
        for i, (row, sequence) in enumerate(zip(batch.logit_rows, owner, strict=True)):
            last = batch.positions[batch.starts[sequence + 1] - 1]
            assert batch.lengths[sequence] == last + 1
            entries = cache[batch.pages[sequence]].reshape(-1, 2)[: batch.positions[row] + 1]
            value = self.value_of(entries[:, 0], entries[:, 1])
            self._hidden[i] = [(value >> shift) & 0xFFFF for shift in (0, 16, 32, 48)]
        return self._hidden

    def value_of(self, tokens: NDArray[np.int64], positions: NDArray[np.int64]) -> int:
        """What the logits after these entries of the cache depend on."""
        return hash_of(tokens, positions)

    def logits(self, hidden: F32) -> F32:
        assert 1 <= len(hidden) <= 64
        self._logits.fill(np.nan)
        self._logits = np.empty((len(hidden), self.width), np.float32)
        for row, parts in zip(self._logits, hidden, strict=True):
            key = sum(int(part) << (16 * i) for i, part in enumerate(parts))
            row[:] = np.random.Generator(np.random.Philox(key=key)).standard_normal(self.width)
            row *= self.scale
            row[self.n_vocab :] = 1e4
        self.change_logits(self._logits)
        return self._logits

    def best(self, hidden: F32, n_vocab: int) -> NDArray[np.int32]:
        logits = self.logits(hidden)[:, :n_vocab]
        finite = np.isfinite(logits).all(axis=1)
        return np.where(finite, logits.argmax(axis=1), -1).astype(np.int32)

    def state_after(self, ids: Sequence[int]) -> list[float]:
        """The final state after `ids`, computed without any cache."""
        value = hash_of(np.asarray(ids, np.int64), np.arange(len(ids), dtype=np.int64))
        return [float((value >> shift) & 0xFFFF) for shift in (0, 16, 32, 48)]

    def row_after(self, ids: Sequence[int]) -> F32:
        """The logits after `ids`, computed without any cache: what the engine must reproduce."""
        value = hash_of(np.asarray(ids, np.int64), np.arange(len(ids), dtype=np.int64))
        row = np.random.Generator(np.random.Philox(key=value)).standard_normal(self.width)
        scaled: F32 = row.astype(np.float32)[: self.n_vocab] * np.float32(self.scale)
        return scaled


@dataclass
class Sink:
    """Collects the events of one request."""

    ids: list[int] = field(default_factory=list)
    logprobs: list[TokenLogprob | None] = field(default_factory=list)
    prompt_logprobs: list[tuple[TokenLogprob, ...]] = field(default_factory=list)  # each time told
    finished: Finished | None = None

    def __call__(self, event: Event) -> None:
        assert self.finished is None, "an event after the last one"
        if isinstance(event, Tokens):
            self.ids += event.ids
            self.logprobs += event.logprobs or ()
            if event.prompt_logprobs is not None:
                assert len(self.ids) == len(event.ids), "told later than with the first ids"
                self.prompt_logprobs.append(event.prompt_logprobs)
        else:
            self.finished = event

    @property
    def end(self) -> Finished:
        assert self.finished is not None, "not finished"
        return self.finished


def engine_of(model: ToyModel, **more: Any) -> Engine:
    return Engine(model, n_vocab=model.n_vocab, **more)


def run(engine: Engine, requests: Sequence[Request]) -> list[Sink]:
    """Submit all, step until nothing is left, check every invariant after every step."""
    sinks = [Sink() for _ in requests]
    for request, sink in zip(requests, sinks, strict=True):
        engine.submit(request, sink)
    while engine.step():
        engine.check()
    assert engine.pages_used == 0
    return sinks


def greedy(ids: Sequence[int], max_tokens: int | None = 8, **more: object) -> Request:
    return Request(ids, sampling=Sampling(temperature=0, max_tokens=max_tokens, **more))  # type: ignore[arg-type]
