"""Many requests that each answer with their last event alone: scores, embeddings, judgements.

They are submitted a few at a time, so that whoever asks meanwhile does not wait for all of them.
Knows no texts.
"""

from __future__ import annotations

from collections import deque
from collections.abc import AsyncGenerator, Callable, Sequence
from functools import partial
from queue import SimpleQueue
from typing import TYPE_CHECKING

from qwick.engine.engine import TOKEN_BUDGET
from qwick.engine.request import Event, Finished, FinishReason, Request
from qwick.errors import EngineError, QwickError, RequestCancelled

if TYPE_CHECKING:
    import asyncio

    from qwick.engine.client import EngineClient, Ticket

TOKENS_AHEAD = 2 * TOKEN_BUDGET  # of prompts under way: while one step runs, the next is full
REQUESTS_AHEAD = 64  # as many as run at once

Told = tuple[int, Event]  # the number of a request among all, and its event


def check_all(requests: Sequence[Request], engine: EngineClient) -> None:
    """Raise as `Capacity.check` for what the engine cannot hold; of many ids it takes its time."""
    capacity = engine.capacity
    for request in requests:
        capacity.check(request)


class _Crowd:
    """All requests of one call: those to come, and the tickets of those under way."""

    def __init__(
        self, requests: Sequence[Request], engine: EngineClient, put: Callable[[Told], None]
    ) -> None:
        self._engine, self._put = engine, put
        self._left = deque(enumerate(requests))
        self._tickets: dict[int, tuple[Ticket, int]] = {}
        self._ahead = 0

    @property
    def done(self) -> bool:
        """Whether every answer was taken."""
        return not (self._left or self._tickets)

    def fill(self) -> None:
        """Submit what there is room for; one at least is always under way."""
        while self._left and len(self._tickets) < REQUESTS_AHEAD:
            number, request = self._left[0]
            size = len(request.ids)
            if self._tickets and self._ahead + size > TOKENS_AHEAD:
                return
            self._left.popleft()
            deliver = partial(_deliver, self._put, number)
            self._tickets[number] = self._engine.submit(request, deliver), size
            self._ahead += size

    def take(self, told: Told) -> Finished:
        """Return the answer of one that was under way; raises what ended it otherwise."""
        number, event = told
        assert isinstance(event, Finished)  # nothing else was asked for
        self._ahead -= self._tickets.pop(number)[1]
        if event.reason is FinishReason.CANCELLED:
            raise RequestCancelled("the model was closed before all of it was computed")
        if event.reason is FinishReason.ERROR:
            raise event.error or EngineError("the request failed")
        return event

    def cancel(self) -> None:
        """Ask for an end of all that is under way, and submit no more."""
        self._left.clear()
        for ticket, _ in self._tickets.values():
            ticket.cancel()


def _deliver(put: Callable[[Told], None], number: int, event: Event) -> None:
    put((number, event))


def gathered(requests: Sequence[Request], engine: EngineClient) -> list[Finished]:
    """Return the last events, in the order of the requests; whatever goes wrong, nothing is left.

    Raises as `Capacity.check`, before anything is computed; RequestCancelled when the engine is
    closed meanwhile; EngineError.
    """
    inbox: SimpleQueue[Told] = SimpleQueue()
    check_all(requests, engine)  # all of them before any is computed
    crowd = _Crowd(requests, engine, inbox.put)
    found: dict[int, Finished] = {}
    try:
        while not crowd.done:
            crowd.fill()
            told = inbox.get()
            found[told[0]] = crowd.take(told)
    finally:
        crowd.cancel()
    return [found[number] for number in range(len(requests))]


class AsyncGathering:
    """The same for one event loop: iterate over (number, last event), in the order they come.

    checked: whether whoever makes it has called `check_all`; otherwise a thread does so first.
    """

    def __init__(
        self, requests: Sequence[Request], engine: EngineClient, *, checked: bool = False
    ) -> None:
        import asyncio  # see AsyncStream

        self._requests, self._engine, self._checked = requests, engine, checked
        self._events: asyncio.Queue[Told | QwickError] = asyncio.Queue()

    async def answers(self) -> AsyncGenerator[tuple[int, Finished], None]:
        """Yield them; leaving the loop, or cancelling its task, cancels the rest."""
        from asyncio import get_running_loop, to_thread
        from threading import get_ident

        if not self._checked:
            await to_thread(check_all, self._requests, self._engine)

        loop, events, home = get_running_loop(), self._events, get_ident()

        def put(told: Told) -> None:
            if get_ident() == home:  # an engine that posts its events to this loop
                events.put_nowait(told)
            elif not loop.is_closed():
                loop.call_soon_threadsafe(events.put_nowait, told)

        crowd = _Crowd(self._requests, self._engine, put)
        try:
            while not crowd.done:
                crowd.fill()
                event = await events.get()
                if isinstance(event, QwickError):
                    raise event
                yield event[0], crowd.take(event)
        finally:
            crowd.cancel()

    def interrupt(self, error: QwickError) -> None:
        """End it with an error. From the event loop's thread."""
        self._events.put_nowait(error)

    async def all(self) -> list[Finished]:
        """Return the last events in the order of the requests."""
        from contextlib import aclosing

        found: dict[int, Finished] = {}
        async with aclosing(self.answers()) as answers:
            async for number, event in answers:
                found[number] = event
        return [found[number] for number in range(len(self._requests))]
