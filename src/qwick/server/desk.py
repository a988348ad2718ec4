"""From an `Ask` to an answer: what every dialect's routes have in common.

In this order: the model, the sizes that the key allows, the windows of key and user, the prompt's
tokens, a place in the queue; then the pieces, which `sending.py` sends. Whatever happens, the place
is given back, the tokens are charged, and a record is left. Knows no dialect.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator, Callable, Iterator
from dataclasses import replace
from typing import Any, TypeVar

from starlette.responses import Response

from qwick.errors import (
    OverloadedError,
    QwickError,
    RateLimitError,
    RefusedError,
    RequestCancelled,
    UsageError,
)
from qwick.llm import Qwen, Reply
from qwick.server.admission import Gate
from qwick.server.ask import Ask, Piece, check_size, prepare
from qwick.server.audit import AuditLog
from qwick.server.caller import Caller
from qwick.server.hosted import Hosted
from qwick.server.models import Models
from qwick.server.observing import Observer
from qwick.server.options import ServeOptions
from qwick.server.policy import policed
from qwick.server.problems import problem_of
from qwick.server.pseudonyms import Pseudonyms
from qwick.server.sending import Streamed, Whole, Writer
from qwick.server.visit import Visit, ended_by_server
from qwick.server.waiting import FairThreads

T = TypeVar("T")

TICK_SECONDS = 0.5
READING_THREADS = 2  # they take turns with the interpreter: more would only make each wait longer


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
        self.options = options
        self._gate = gate
        self._pseudonyms = pseudonyms
        self._audit = audit
        self._observer = observer
        self._visits: set[Visit] = set()
        self._draining: float | None = None  # when what is left will be ended
        self._reading = FairThreads(READING_THREADS, options.waiting)

    @property
    def visits(self) -> int:
        """Requests under way."""
        return len(self._visits)

    # -- for the routes ------------------------------------------------------------------------

    def check(self, caller: Caller, ask: Ask) -> Ask:
        """Refuse what is too much for this key or user, before anything is computed for it."""
        check_size(ask, self.options.bounds)
        limits = {"key": caller.limits}
        if ask.user is not None and self.options.user_limits is not None:
            limits["user"] = self.options.user_limits
        allowed = [
            its.check(
                model=ask.model,
                characters=ask.characters,
                max_tokens=ask.max_tokens,
                whose=whose,
            )
            for whose, its in limits.items()
        ]
        most = min((count for count in allowed if count is not None), default=None)
        if most is None or ask.max_tokens is not None or ask.pool is not None:
            return ask
        prompts = [replace(q, keywords={**q.keywords, "max_tokens": most}) for q in ask.prompts]
        return replace(ask, prompts=prompts, max_tokens=most)

    @contextlib.contextmanager
    def small(self, caller: Caller, hosted: Hosted, characters: int) -> Iterator[dict[str, str]]:
        """Admit a request that no model computes, as one of the key's; yield headers for it."""
        self.check(caller, Ask("small", hosted.name, (), characters=characters))
        try:
            admission = self._gate.admit(caller.tenant, caller.limits, prompt_tokens=0)
        except RateLimitError as error:
            self._note_refusal(caller, None, error)
            raise
        with admission:
            yield dict(admission.headers)

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
        visit = self._visit(caller, hosted, ask, streamed=stream)
        if stream:
            return Streamed(self, visit, writer, headers)
        return Whole(self, visit, writer, headers)

    async def complete(self, caller: Caller, hosted: Hosted, ask: Ask) -> list[Reply]:
        """Return the answers to a question of the server's own, as a visit like any other."""
        visit = self._visit(caller, hosted, ask, streamed=False)
        async with self.serving(visit):
            return await self.replies(visit)

    def _visit(self, caller: Caller, hosted: Hosted, ask: Ask, *, streamed: bool) -> Visit:
        """Return a visit for what is asked, if it is allowed and the server goes on."""
        if self._draining is not None:
            raise OverloadedError("the server is about to end", retry_after=5.0)
        now = time.monotonic()
        end = now + self.options.bounds.request_seconds
        return Visit(caller, hosted, self.check(caller, ask), streamed, now, end)

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
        return policed(found) if self.options.policy else found

    # -- a visit -------------------------------------------------------------------------------

    @contextlib.asynccontextmanager
    async def serving(self, visit: Visit) -> AsyncIterator[None]:
        """Keep a visit in sight within a block, and leave its record whatever happens."""
        visit.task = asyncio.current_task()
        visit.wrote = time.monotonic()
        self._visits.add(visit)
        status, reason = 200, "stop"
        failure: BaseException | None = None
        try:
            yield
            replies = visit.flight.tally.replies if visit.flight is not None else []
            reason = replies[0].finish_reason if replies else "stop"
        except asyncio.CancelledError:
            status, reason = 499, "cancelled"
            raise
        except QwickError as error:
            failure = error
            status = problem_of(error).status
            reason = "cancelled" if isinstance(error, RequestCancelled) else "error"
            self._note_refusal(visit.caller, visit.ask.user, error)
            raise
        except BaseException as error:
            failure = error
            status, reason = 500, "error"
            raise
        finally:
            self._visits.discard(visit)
            self._settle(visit)
            self._observer.record(visit, status, reason, failure)

    async def begin(self, visit: Visit) -> tuple[Qwen, Callable[[], Any]]:
        """Bring a visit to where its answer can begin; return the model, and how to leave it."""
        stack = contextlib.AsyncExitStack()
        try:
            hosted, ask, caller = visit.hosted, visit.ask, visit.caller
            visit.admission = self._gate.admit(
                caller.tenant,
                caller.limits,
                user=None if ask.user is None else self._pseudonyms.of("user", ask.user),
                prompt_tokens=0,  # as far as is known
                answers=ask.answers,
            )
            await stack.enter_async_context(self.models.use(hosted))
            ready = await self.models.ready(hosted)
            flight = await self.read(caller, lambda: prepare(ask, hosted.grammars, ready))
            visit.admission.read(flight.prompt_tokens)
            qwen = await stack.enter_async_context(self.models.place(hosted, caller.tenant))
            visit.flight = flight
            visit.waited = time.monotonic() - visit.begun
            return qwen, stack.aclose
        except BaseException as error:
            if visit.admission is not None and not _is_the_clients(error):
                visit.admission.withdraw()
            await stack.aclose()
            raise

    async def read(self, caller: Caller, work: Callable[[], T]) -> T:
        """Return what `work` makes of a caller's texts, on a thread, when it has its turn."""
        return await self._reading.run(caller.tenant, work)

    def _settle(self, visit: Visit) -> None:
        """Charge what was generated, also of an answer that was broken off."""
        if visit.admission is None:
            return
        visit.admission.finish(0 if visit.flight is None else visit.flight.generated)

    def _note_refusal(self, caller: Caller, user: str | None, error: QwickError) -> None:
        if isinstance(error, RateLimitError):
            self._audit.refused(
                error.limit,
                key=None if caller.key is None else self._pseudonyms.of("key", caller.key.id),
                user=None if user is None else self._pseudonyms.of("user", user),
            )

    # -- time ----------------------------------------------------------------------------------

    async def tick_forever(self) -> None:
        """Look after all visits, for as long as the server runs."""
        while True:
            await asyncio.sleep(min(TICK_SECONDS, self.options.keep_alive_seconds / 2))
            self.models.tend()
            self._tick(time.monotonic())

    def _tick(self, now: float) -> None:
        for visit in list(self._visits):
            if visit.end is not None:
                self._insist(visit)
            elif now > visit.deadline:
                seconds = self.options.bounds.request_seconds
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
                if now - visit.writing > self.options.bounds.write_seconds:
                    self.end(visit, RequestCancelled("the client does not read its answer"))
                    self._insist(visit)
            elif visit.flight is not None and self._silent(visit, now):
                visit.flight.nudge()

    def _silent(self, visit: Visit, now: float) -> bool:
        """Whether a stream should say that it lives."""
        return visit.streamed and now - visit.wrote >= self.options.keep_alive_seconds

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
        self._reading.close()


def _is_the_clients(error: BaseException) -> bool:
    """Whether a request that ended so is its client's doing, and counts."""
    return isinstance(error, UsageError | asyncio.CancelledError)
