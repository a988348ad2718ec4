"""Answers that arrive piece by piece: for a thread, and for an asyncio task.

Leaving early (close, an exception, a cancelled task, a dropped iterator) cancels the request. Knows
how events travel from the engine's thread, not what was asked.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterable, Mapping
from queue import SimpleQueue
from typing import TYPE_CHECKING, Any

from qwick.engine.client import Ticket
from qwick.engine.request import SEED_BITS, Deliver, Event, Progress, Tokens
from qwick.errors import QwickError, RequestCancelled, UsageError
from qwick.llm.reply import Assembler, Chunk, Reply
from qwick.values import whole

if TYPE_CHECKING:
    import asyncio

Submit = Callable[[Deliver], Ticket]

MAX_CHOICES = 128  # as in the OpenAI API (n)


class _Answer:
    """What both kinds of stream share: from an event to a chunk, and the reply at the end."""

    def __init__(self) -> None:
        self._assembler: Assembler | None = None
        self._ticket: Ticket | None = None
        self._reply: Reply | None = None
        self._closed = False
        self._model: Submit | None = None  # holds the model, which must outlive its answers

    @property
    def reply(self) -> Reply:
        """The whole reply, once the stream has been read to its end; UsageError before."""
        if self._reply is None:
            raise UsageError("the answer is not complete", hint="read the stream to its end first")
        return self._reply

    @property
    def generated(self) -> int:
        """Ids of the answer that have arrived."""
        return 0 if self._assembler is None else self._assembler.generated

    def _cancel(self) -> None:
        self._closed = True
        self._model = None
        if self._ticket is not None and self._reply is None:
            self._ticket.cancel()

    def _take(self, event: Event) -> Chunk:
        if self._assembler is None:  # never: events come after the request was sent
            raise UsageError("the stream has not begun", hint="iterate over it first")
        if isinstance(event, Progress):
            return Chunk("", progress=event)
        if isinstance(event, Tokens):
            return self._assembler.push(event)
        self._closed = True
        self._model = None
        chunk, self._reply = self._assembler.finish(event)
        return chunk

    def __del__(self) -> None:
        self._cancel()


class Stream(_Answer):
    """Iterator over the chunks of one answer, for one thread at a time; chunks are never empty."""

    def __init__(self, assembler: Assembler, submit: Submit) -> None:
        super().__init__()
        self._events: SimpleQueue[Event] = SimpleQueue()
        self._assembler = assembler
        self._model = submit
        self._ticket = submit(self._events.put)

    def __iter__(self) -> Stream:
        return self

    def __next__(self) -> Chunk:
        """Wait for the next piece; raises EngineError or RequestCancelled if it ended so."""
        while not self._closed:
            chunk = self._take(self._events.get())
            if not chunk.empty:
                return chunk
        raise StopIteration

    def read(self) -> Reply:
        """Read to the end and return the reply. An interruption cancels the request."""
        try:
            for _ in self:
                pass
        finally:
            self.close()
        if self._reply is None:
            raise RequestCancelled("the stream was closed before its end")
        return self._reply

    def close(self) -> None:
        """Cancel the request unless it has ended; the iterator is empty from now on."""
        self._cancel()

    def __enter__(self) -> Stream:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


class AsyncStream(_Answer):
    """Asynchronous iterator over the chunks of one answer; it begins with the first."""

    def __init__(self, prepare: Callable[[], Awaitable[tuple[Assembler, Submit]]]) -> None:
        import asyncio  # 20 ms of a start that mostly has no use for it

        super().__init__()
        self._prepare = prepare
        self._reading = False
        self._events: asyncio.Queue[Event | QwickError | None] = asyncio.Queue()

    def __aiter__(self) -> AsyncStream:
        return self

    async def __anext__(self) -> Chunk:
        """Wait for the next piece; cancelling the waiting task cancels the request."""
        from asyncio import CancelledError

        if self._reading:  # it would take events that the other waits for
            raise UsageError("another task reads this stream", hint="one reader a stream")
        self._reading = True
        try:
            if self._ticket is None and not self._closed:
                try:
                    await self._begin()
                finally:
                    self._closed |= self._ticket is None
            while not self._closed:
                event = await self._events.get()
                if event is None:
                    return Chunk("")
                if isinstance(event, QwickError):
                    self._cancel()
                    raise event
                chunk = self._take(event)
                if not chunk.empty:
                    return chunk
        except CancelledError:
            self._cancel()
            raise
        finally:
            self._reading = False
        raise StopAsyncIteration

    async def _begin(self) -> None:
        self._assembler, submit = await self._prepare()
        if self._closed:  # meanwhile, by another task
            return
        self._model = submit
        from asyncio import get_running_loop
        from threading import get_ident

        loop, events, home = get_running_loop(), self._events, get_ident()
        tickets: list[
            Ticket
        ] = []  # and not self, which the engine would then keep from being dropped

        def deliver(event: Event) -> None:
            if get_ident() == home:  # an engine that posts its events to this loop
                events.put_nowait(event)
                return
            try:
                loop.call_soon_threadsafe(events.put_nowait, event)
            except RuntimeError:  # the loop is closed: nobody will ever read this
                for ticket in tickets:
                    ticket.cancel()

        self._ticket = submit(deliver)
        tickets.append(self._ticket)

    async def read(self) -> Reply:
        """Read to the end and return the reply."""
        try:
            async for _ in self:
                pass
        finally:
            self._cancel()
        if self._reply is None:
            raise RequestCancelled("the stream was closed before its end")
        return self._reply

    def interrupt(self, error: QwickError | None = None) -> None:
        """Let the task that waits go on: with an empty chunk, or raising `error`, which cancels.

        From the event loop's thread. Whoever must say something while a long prompt is computed
        (a server to its client) uses the first.
        """
        self._events.put_nowait(error)

    async def aclose(self) -> None:
        """Cancel the request unless it has ended; the iterator is empty from now on."""
        self._cancel()


def read_all(requests: Iterable[Callable[[], tuple[Assembler, Submit]]]) -> list[Reply]:
    """Send all, read all; whatever goes wrong, nothing is left running."""
    streams: list[Stream] = []
    try:
        streams.extend(Stream(*request()) for request in requests)
        return [stream.read() for stream in streams]
    finally:
        for stream in streams:
            stream.close()


def read_choices(
    ask: Callable[[Mapping[str, Any]], tuple[Assembler, Submit]],
    n: int,
    keywords: Mapping[str, Any],
) -> list[Reply]:
    """Ask n times; the first alone until it begins, so that the others find its prompt."""
    n = whole("n", n, 1, MAX_CHOICES)
    first = Stream(*ask(keywords))
    streams = [first]
    try:
        next(first, None)
        seed = keywords.get("seed")
        keywords = {**keywords, "prompt_logprobs": None}
        for i in range(1, n):
            more = keywords
            if seed is not None:  # of NumPy, perhaps, whose numbers are too narrow for the sum
                more = {**keywords, "seed": (int(seed) + i) % 2**SEED_BITS}
            streams.append(Stream(*ask(more)))
        return [stream.read() for stream in streams]
    finally:
        for stream in streams:
            stream.close()
