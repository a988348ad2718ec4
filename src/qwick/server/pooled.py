"""Embeddings and judgements as a visit's flight: many texts, one answer. Knows no JSON and no HTTP.

A dialect says what is wanted of a model and how the answer is written; what desk, queue, limits and
records do is what they do for any request.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import aclosing
from dataclasses import dataclass
from typing import Any

from qwick.engine.request import Finished
from qwick.errors import EngineError, QwickError, RequestCancelled
from qwick.llm import Qwen, Reply, Timings, Usage
from qwick.llm.gather import AsyncGathering, check_all
from qwick.llm.pooling import Pooled
from qwick.server.ask import Flight, Piece
from qwick.server.problems import of_field

Write = Callable[[Any, Usage], bytes]


@dataclass(frozen=True, slots=True)
class Pool:
    """What is to be computed, once there is a model, and how the answer to it is written.

    about: the field of a body that errors are about, if they name none. write: of what
    `Pooled.read` returns; both are called on a thread, for they may take their time.
    """

    about: str
    prepare: Callable[[Qwen], Pooled[Any]]
    write: Write

    def flight(self, qwen: Qwen) -> PooledFlight:
        """Read the texts; raises UsageErrors for what cannot be."""
        pooled = self.prepare(qwen)
        with of_field(None, otherwise=self.about):
            check_all(pooled.requests, qwen.engine)
        return PooledFlight(pooled, self.write)


@dataclass(frozen=True, slots=True)
class Written(Reply):
    """The answer: no text, but the bytes that go out."""

    body: bytes = b""


class PooledFlight(Flight):
    """All texts of one request under way, as one answer. For one event loop."""

    def __init__(self, pooled: Pooled[Any], write: Write) -> None:
        super().__init__((), 1)
        self._pooled = pooled
        self._write = write
        self._gathering: AsyncGathering | None = None

    @property
    def prompt_tokens(self) -> int:
        """Tokens of all texts."""
        return sum(len(request.ids) for request in self._pooled.requests)

    @property
    def answers(self) -> int:
        """One."""
        return 1

    def abort(self, error: QwickError) -> None:
        """End it within a step; the reader gets `error`."""
        if self._failure is None:
            self._failure = error
            if self._gathering is not None:
                self._gathering.interrupt(error)

    async def pieces(self, qwen: Qwen) -> AsyncIterator[Piece]:
        """Yield the answer. Raises what ends one of its texts, which ends all; see `Flight`."""
        begun = time.monotonic()
        self._gathering = AsyncGathering(self._pooled.requests, qwen.engine, checked=True)
        if self._failure is not None:
            self._gathering.interrupt(self._failure)
        found: dict[int, Finished] = {}
        try:
            async with aclosing(self._gathering.answers()) as answers:
                async for number, event in answers:
                    found[number] = event
        except RequestCancelled as error:
            raise self._failure or EngineError(
                "the answer was cancelled by the server", hint="ask again"
            ) from error
        events = [found[number] for number in range(len(found))]
        seconds = time.monotonic() - begun
        usage = _usage(events)
        body = await asyncio.to_thread(self._written, events, usage)
        reply = Written(
            text="",
            finish_reason="stop",
            usage=usage,
            timings=_timings(events, usage, seconds),
            seed=None,
            model=qwen.name,
            ids=(),
            body=body,
        )
        self.tally.replies.append(reply)
        yield 0, reply

    def _written(self, events: Sequence[Finished], usage: Usage) -> bytes:
        return self._write(self._pooled.read(events), usage)


def _usage(events: Sequence[Finished]) -> Usage:
    prompts = sum(event.prompt_tokens for event in events)
    return Usage(prompts, 0, sum(event.cached_tokens for event in events))


def _timings(events: Sequence[Finished], usage: Usage, seconds: float) -> Timings:
    """Return the times of all together: in the queue until the first of them began."""
    queue = min(event.timings.queue for event in events)
    prefill = max(seconds - queue, 0.0)
    computed = usage.prompt_tokens - usage.cached_tokens
    speed = computed / prefill if prefill > 0 else 0.0
    return Timings(queue, prefill, 0.0, queue + prefill, speed, 0.0)
