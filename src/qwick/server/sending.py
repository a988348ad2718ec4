"""How an answer goes out: as one JSON text, or as a stream of events.

A `Writer` of a dialect turns its pieces into bytes. A client that leaves ends its visit.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections.abc import AsyncIterator, Callable, Sequence
from typing import TYPE_CHECKING, Any, Protocol

from starlette.responses import Response

from qwick.errors import QwickError, RequestCancelled
from qwick.llm import Qwen, Reply
from qwick.llm.reply import Chunk
from qwick.server.guard import Message, Receive, Scope, Send
from qwick.server.options import LEAST_RATE
from qwick.server.problems import Problem, problem_of
from qwick.server.visit import Visit, ended_by_server

if TYPE_CHECKING:
    from qwick.server.desk import Desk

log = logging.getLogger("qwick.server")

# An event of nothing, which every reader skips. A comment would do by the book, but vLLM's load
# client joins it to what follows and hears no more.
KEEP_ALIVE = b"\n\n"
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
            visit.writing = _readable(body)
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
                done, _ = await asyncio.wait({task}, timeout=self._desk.options.keep_alive_seconds)
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
        visit.writing = _readable(data)
        if not self._opened:
            self._opened = True
            headers = {**self._extra, **_limits(visit)}
            headers.update({"content-type": EVENT_STREAM.decode(), "x-accel-buffering": "no"})
            await send(_start(200, headers))
        await send({"type": "http.response.body", "body": data, "more_body": True})
        visit.writing, visit.wrote = None, time.monotonic()


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


def _readable(data: bytes) -> float:
    """Return when a client that is just quick enough has read what is sent to it now."""
    return time.monotonic() + len(data) / LEAST_RATE


def _limits(visit: Visit) -> dict[str, str]:
    return {} if visit.admission is None else dict(visit.admission.headers)


def _start(status: int, headers: dict[str, str]) -> Message:
    pairs = [(name.encode("latin-1"), value.encode("latin-1")) for name, value in headers.items()]
    return {"type": "http.response.start", "status": status, "headers": pairs}
