"""From an `Ask` to an answer: what every dialect's routes have in common.

In this order: the model, the sizes that the key allows, the prompt's tokens, the windows of key and
user, a place in the queue; then the pieces, as one JSON text or as a stream of events. Whatever
happens, the place is given back, the tokens are charged, and a record is left. Knows no dialect:
a `Writer` turns pieces into bytes.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections.abc import AsyncIterator, Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any, Protocol

from starlette.responses import Response

from qwick.errors import (
    OverloadedError,
    QwickError,
    RateLimitError,
    RefusedError,
    RequestCancelled,
)
from qwick.llm import Qwen, Reply
from qwick.llm.reply import Chunk
from qwick.server.admission import Admission, Gate
from qwick.server.ask import Ask, Flight, Piece
from qwick.server.audit import AuditLog
from qwick.server.caller import Caller
from qwick.server.guard import Message, Receive, Scope, Send
from qwick.server.models import Hosted, Models
from qwick.server.observing import Observer
from qwick.server.options import ServeOptions
from qwick.server.policy import policed
from qwick.server.problems import Problem, problem_of
from qwick.server.pseudonyms import Pseudonyms

log = logging.getLogger("qwick.server")

TICK_SECONDS = 0.5
KEEP_ALIVE = b": keep-alive\n\n"
EVENT_STREAM = b"text/event-stream; charset=utf-8"


class Writer(Protocol):
    """Turns the pieces of an answer into one dialect's bytes."""

    def chunk(self, index: int, chunk: Chunk) -> bytes:
        """Return what a stream says of a piece; empty: nothing."""
        ...

    def reply(self, index: int, reply: Reply) -> bytes:
        """Return what a stream says at the end of one answer."""
        ...

    def end(self, replies: Sequence[Reply]) -> bytes:
        """Return what a stream says after the last answer."""
        ...

    def failed(self, problem: Problem) -> bytes:
        """Return what a stream says, last, where an answer could not be finished."""
        ...

    def whole(self, replies: Sequence[Reply]) -> bytes:
        """Return the body of an answer that is not streamed; replies by choice."""
        ...


@dataclass(slots=True, eq=False)
class Visit:
    """One request of a client, from its route to its end."""

    caller: Caller
    hosted: Hosted
    ask: Ask
    streamed: bool
    begun: float
    deadline: float
    task: asyncio.Task[Any] | None = None  # what writes the answer
    flight: Flight | None = None
    admission: Admission | None = None
    wrote: float = 0.0  # when something was last written
    writing: float | None = None  # since when a piece waits for the client to read
    end: QwickError | None = None  # what the server ended it with
    waited: float = 0.0  # seconds before there was a place


class Desk:
    """Serves visits. For one event loop."""

    def __init__(
        self,
        options: ServeOptions,
        models: Models,
        gate: Gate,
        pseudonyms: Pseudonyms,
        audit: AuditLog,
        observer: Observer,
    ) -> None:
        self.models = models
        self._options = options
        self._gate = gate
        self._pseudonyms = pseudonyms
        self._audit = audit
        self._observer = observer
        self._visits: set[Visit] = set()
        self._draining: float | None = None  # when what is left will be ended

    @property
    def visits(self) -> int:
        """Requests under way."""
        return len(self._visits)

    # -- for the routes ------------------------------------------------------------------------

    def check(self, caller: Caller, ask: Ask) -> Ask:
        """Refuse what is too much for this key, before anything is computed for it."""
        bounds = self._options.bounds
        if ask.choices * len(ask.prompts) > bounds.choices:
            raise RefusedError(
                f"n is {ask.choices} for {len(ask.prompts)} prompts; allowed: {bounds.choices} "
                "answers in all",
                status=400,
                code="invalid_value",
            )
        if ask.characters > bounds.characters:
            raise RefusedError(
                f"the request has {ask.characters} characters; allowed: {bounds.characters}",
                status=413,
                code="too_many_characters",
                hint="shorten the messages",
            )
        most = caller.limits.check(
            model=ask.model, characters=ask.characters, max_tokens=ask.max_tokens
        )
        if most is None or ask.max_tokens is not None:
            return ask
        prompts = [replace(q, keywords={**q.keywords, "max_tokens": most}) for q in ask.prompts]
        return replace(ask, prompts=prompts, max_tokens=most)

    async def respond(
        self,
        caller: Caller,
        hosted: Hosted,
        ask: Ask,
        writer: Writer,
        *,
        stream: bool,
        headers: dict[str, str],
    ) -> Response:
        """Return the answer: whole, or as a response that streams when it is sent."""
        if self._draining is not None:
            raise OverloadedError("the server is about to end", retry_after=5.0)
        now = time.monotonic()
        seconds = self._options.bounds.request_seconds
        visit = Visit(caller, hosted, self.check(caller, ask), stream, now, now + seconds)
        if stream:
            return Streamed(self, visit, writer, headers)
        return Whole(self, visit, writer, headers)

    async def complete(self, caller: Caller, hosted: Hosted, ask: Ask) -> list[Reply]:
        """Return the answers to a question of the server's own, as a visit like any other."""
        now = time.monotonic()
        seconds = self._options.bounds.request_seconds
        visit = Visit(caller, hosted, ask, False, now, now + seconds)
        async with self.serving(visit):
            return await self.replies(visit)

    async def replies(self, visit: Visit) -> list[Reply]:
        """Return the whole answers of a visit, by choice."""
        with ended_by_server(visit):
            qwen, leave = await self.begin(visit)
        try:
            found: dict[int, Reply] = {}
            async for index, piece in self.pieces(visit, qwen):
                if isinstance(piece, Reply):
                    found[index] = piece
        finally:
            await leave()
        return [found[index] for index in sorted(found)]

    def pieces(self, visit: Visit, qwen: Qwen) -> AsyncIterator[Piece]:
        """Return the pieces of a visit's answers, as the content policy leaves them."""
        assert visit.flight is not None
        found = visit.flight.pieces(qwen)
        return policed(found) if self._options.policy else found

    # -- a visit -------------------------------------------------------------------------------

    @contextlib.asynccontextmanager
    async def serving(self, visit: Visit) -> AsyncIterator[None]:
        """Keep a visit in sight within a block, and leave its record whatever happens."""
        visit.task = asyncio.current_task()
        visit.wrote = time.monotonic()
        self._visits.add(visit)
        status, reason = 200, "stop"
        try:
            yield
            replies = visit.flight.tally.replies if visit.flight is not None else []
            reason = replies[0].finish_reason if replies else "stop"
        except asyncio.CancelledError:
            status, reason = 499, "cancelled"
            raise
        except QwickError as error:
            status = problem_of(error).status
            reason = "cancelled" if isinstance(error, RequestCancelled) else "error"
            self._note_refusal(visit, error)
            raise
        except BaseException:
            status, reason = 500, "error"
            raise
        finally:
            self._visits.discard(visit)
            self._settle(visit)
            self._observer.record(visit, status, reason)

    async def begin(self, visit: Visit) -> tuple[Qwen, Callable[[], Any]]:
        """Bring a visit to where its answer can begin; return the model, and how to leave it."""
        stack = contextlib.AsyncExitStack()
        try:
            hosted, ask = visit.hosted, visit.ask
            ready = await self.models.ready(hosted)
            asked = [await asyncio.to_thread(q.prepare, ready) for q in ask.prompts]
            await hosted.check_grammars(asked)
            flight = Flight(asked, ask.choices)
            user = None if ask.user is None else self._pseudonyms.of("user", ask.user)
            visit.admission = self._gate.admit(
                "" if visit.caller.key is None else visit.caller.key.id,
                visit.caller.limits,
                user=user,
                model=ask.model,
                characters=ask.characters,
                prompt_tokens=flight.prompt_tokens,
                max_tokens=ask.max_tokens,
            )
            try:
                qwen = await stack.enter_async_context(
                    self.models.place(hosted, visit.caller.tenant)
                )
            except OverloadedError:
                visit.admission.withdraw()
                raise
            visit.flight = flight
            visit.waited = time.monotonic() - visit.begun
            return qwen, stack.aclose
        except BaseException:
            await stack.aclose()
            raise

    def _settle(self, visit: Visit) -> None:
        """Charge what was generated, also of an answer that was broken off."""
        if visit.admission is None:
            return
        visit.admission.finish(0 if visit.flight is None else visit.flight.generated)

    def _note_refusal(self, visit: Visit, error: QwickError) -> None:
        if isinstance(error, RateLimitError):
            key = visit.caller.key
            self._audit.refused(
                error.limit,
                key=None if key is None else self._pseudonyms.of("key", key.id),
                user=None
                if visit.ask.user is None
                else self._pseudonyms.of("user", visit.ask.user),
            )

    # -- time ----------------------------------------------------------------------------------

    async def tick_forever(self) -> None:
        """Look after all visits, for as long as the server runs."""
        while True:
            await asyncio.sleep(min(TICK_SECONDS, self._options.keep_alive_seconds / 2))
            self._tick(time.monotonic())

    def _tick(self, now: float) -> None:
        for visit in list(self._visits):
            if visit.end is not None:
                self._insist(visit)
            elif now > visit.deadline:
                seconds = self._options.bounds.request_seconds
                self.end(
                    visit,
                    RefusedError(
                        f"the answer was not complete after {seconds:g} s",
                        status=504,
                        code="deadline_exceeded",
                        hint="ask for fewer tokens, or start the server with a longer --deadline",
                    ),
                )
            elif self._draining is not None and now > self._draining:
                self.end(visit, OverloadedError("the server is ending", retry_after=5.0))
            elif visit.writing is not None:
                if now - visit.writing > self._options.bounds.write_seconds:
                    self.end(visit, RequestCancelled("the client does not read its answer"))
                    self._insist(visit)
            elif visit.flight is not None and self._silent(visit, now):
                visit.flight.nudge()

    def _silent(self, visit: Visit, now: float) -> bool:
        """Whether a stream should say that it lives."""
        return visit.streamed and now - visit.wrote >= self._options.keep_alive_seconds

    def end(self, visit: Visit, error: QwickError) -> None:
        """End a visit's answers within a step; its client is told, if it listens."""
        visit.end = error
        if visit.flight is not None:
            visit.flight.abort(error)
        elif visit.task is not None:
            visit.task.cancel()

    def _insist(self, visit: Visit) -> None:
        """Cancel the task of a visit that was ended and hangs at its client."""
        if visit.writing is not None and visit.task is not None:
            visit.task.cancel()

    async def drain(self, seconds: float) -> None:
        """Take no more, and wait so long for what is under way; then end it."""
        self._draining = time.monotonic() + seconds
        while self._visits:
            await asyncio.sleep(0.05)


class Whole(Response):
    """An answer in one piece. Its status is known when it is done."""

    def __init__(self, desk: Desk, visit: Visit, writer: Writer, headers: dict[str, str]) -> None:
        self._desk, self._visit, self._writer = desk, visit, writer
        self._extra = headers
        self.background = None

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Compute the answer and send it; problems are the guard's to tell."""
        desk, visit = self._desk, self._visit
        async with desk.serving(visit), leaving(desk, visit, receive):
            body = self._writer.whole(await desk.replies(visit))
            headers = {**self._extra, **_limits(visit), "content-type": "application/json"}
            headers["content-length"] = str(len(body))
            await send(_start(200, headers))
            visit.writing = time.monotonic()
            await send({"type": "http.response.body", "body": body, "more_body": False})
            visit.writing = None


class Streamed(Response):
    """An answer as server-sent events.

    The status is sent with the first piece, or when nothing has come for a while: so what fails at
    once has the status of its error, and a long wait is kept alive.
    """

    def __init__(self, desk: Desk, visit: Visit, writer: Writer, headers: dict[str, str]) -> None:
        self._desk, self._visit, self._writer = desk, visit, writer
        self._extra = headers
        self._opened = False
        self.background = None

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Stream the answer; what fails after the beginning is told in the stream."""
        desk, visit = self._desk, self._visit
        try:
            async with desk.serving(visit), leaving(desk, visit, receive):
                await self._stream(send)
        except QwickError as error:
            if not self._opened:
                raise
            if isinstance(error, RequestCancelled):  # nobody reads it
                raise ConnectionResetError(error.message) from error
            await self._write(send, self._writer.failed(problem_of(error)))
        except asyncio.CancelledError:
            if visit.end is None:
                raise
            raise ConnectionResetError(visit.end.message) from None
        except Exception as error:
            if not self._opened:
                raise
            log.exception("fault", extra={"request": visit.caller.request_id})
            await self._write(send, self._writer.failed(problem_of(error)))
        if self._opened:
            await send({"type": "http.response.body", "body": b"", "more_body": False})

    async def _stream(self, send: Send) -> None:
        visit, writer = self._visit, self._writer
        with ended_by_server(visit):
            qwen, leave = await self._begin(send)
        try:
            replies: dict[int, Reply] = {}
            async for index, piece in self._desk.pieces(visit, qwen):
                if isinstance(piece, Reply):
                    replies[index] = piece
                    data = writer.reply(index, piece)
                elif piece.empty:
                    data = KEEP_ALIVE
                else:
                    data = writer.chunk(index, piece)
                if data:
                    await self._write(send, data)
        finally:
            await leave()
        await self._write(send, writer.end([replies[index] for index in sorted(replies)]))

    async def _begin(self, send: Send) -> tuple[Qwen, Callable[[], Any]]:
        task = asyncio.create_task(self._desk.begin(self._visit))
        try:
            while True:
                done, _ = await asyncio.wait({task}, timeout=self._desk._options.keep_alive_seconds)
                if done:
                    return task.result()
                await self._write(send, KEEP_ALIVE)
        except BaseException:
            if not task.done():
                task.cancel()
                with contextlib.suppress(BaseException):
                    await task
            elif not task.cancelled() and task.exception() is None:
                await task.result()[1]()
            raise

    async def _write(self, send: Send, data: bytes) -> None:
        visit = self._visit
        visit.writing = time.monotonic()
        if not self._opened:
            self._opened = True
            headers = {**self._extra, **_limits(visit)}
            headers.update({"content-type": EVENT_STREAM.decode(), "x-accel-buffering": "no"})
            await send(_start(200, headers))
        await send({"type": "http.response.body", "body": data, "more_body": True})
        visit.writing, visit.wrote = None, time.monotonic()


@contextlib.contextmanager
def ended_by_server(visit: Visit) -> Any:
    """Turn the cancelling of a visit that the server ended into the reason for that."""
    try:
        yield
    except asyncio.CancelledError:
        if visit.end is None:
            raise
        raise visit.end from None


@contextlib.asynccontextmanager
async def leaving(desk: Desk, visit: Visit, receive: Receive) -> AsyncIterator[None]:
    """End the visit within a step when its client leaves."""

    async def watch() -> None:
        message: Message = {"type": ""}
        while message["type"] != "http.disconnect":
            message = await receive()
        desk.end(visit, RequestCancelled("the client has left"))

    task = asyncio.create_task(watch())
    try:
        yield
    finally:
        task.cancel()


def _limits(visit: Visit) -> dict[str, str]:
    return {} if visit.admission is None else dict(visit.admission.headers)


def _start(status: int, headers: dict[str, str]) -> Message:
    pairs = [(name.encode("latin-1"), value.encode("latin-1")) for name, value in headers.items()]
    return {"type": "http.response.start", "status": status, "headers": pairs}
