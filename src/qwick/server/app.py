"""The application: every part made once and put together, the routes over them, the guard around.

`build` gives what an ASGI server runs. Knows no command line.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import AsyncIterator, Sequence

from fastapi import FastAPI, Request
from starlette.exceptions import HTTPException
from starlette.middleware.cors import CORSMiddleware
from starlette.responses import Response

from qwick.errors import QwickError, RefusedError, ResourceError
from qwick.server.admission import Gate
from qwick.server.audit import AuditLog
from qwick.server.desk import Desk
from qwick.server.documents import document
from qwick.server.guard import REFUSED, App, Guard
from qwick.server.keys import KeyRing
from qwick.server.models import Models
from qwick.server.observing import Observer
from qwick.server.openai.routes import routes as openai_routes
from qwick.server.options import ServeOptions
from qwick.server.problems import problem_of
from qwick.server.pseudonyms import Pseudonyms
from qwick.server.watching import routes as watching_routes

log = logging.getLogger("qwick.server")

FLUSH_SECONDS = 1.0  # between two writes of counted refusals
EXPOSED = (  # headers of answers that pages of other origins may read
    *("x-request-id", "x-qwick-inert", "retry-after"),
    *(
        f"x-ratelimit-{what}-{kind}"
        for what in ("limit", "remaining", "reset")
        for kind in ("requests", "tokens")
    ),
)


class Service:
    """One server's parts. Made outside the event loop, run by `app` within it."""

    def __init__(self, options: ServeOptions) -> None:
        """Raises UsageError for a door that would be open, FormatError for damaged keys."""
        self.options = options
        self.keys = KeyRing(options.state)
        options.check_door(keys=self.keys.required())
        self.pseudonyms = Pseudonyms(options.state)
        self.audit = AuditLog(options.state)
        self.models = Models(options)
        self.observer = Observer(options, self.models, self.pseudonyms, self.audit)
        self.desk = Desk(
            options,
            self.models,
            Gate(user_limits=options.user_limits),
            self.pseudonyms,
            self.audit,
            self.observer,
        )
        self.app = self._app()

    def _app(self) -> App:
        options = self.options
        app = FastAPI(
            title="qwick",
            version=options.version,
            description="Qwen models on the CPU, behind the OpenAI API.",
            docs_url=None,  # its page loads scripts from elsewhere
            redoc_url=None,
            redirect_slashes=False,  # it would redirect to whatever host the request names
            lifespan=self._lifespan,
        )
        app.openapi = lambda: document(app)  # type: ignore[method-assign]
        app.include_router(openai_routes(self.desk))
        app.include_router(watching_routes(self.desk, self.observer))
        app.add_exception_handler(QwickError, _answer_problem)
        app.add_exception_handler(HTTPException, _answer_http)
        app.add_exception_handler(Exception, _answer_problem)  # and the guard hears of it
        guard = Guard(
            app,
            options=options,
            keys=self.keys,
            audit=self.audit,
            pseudonyms=self.pseudonyms,
            observe=self.observer.answered,
        )
        return _for_pages(guard, options.cors_origins) if options.cors_origins else guard

    @contextlib.asynccontextmanager
    async def _lifespan(self, app: FastAPI) -> AsyncIterator[None]:
        self.audit.server_event("server_started")
        tasks = [
            asyncio.create_task(self.desk.tick_forever()),
            asyncio.create_task(self._flush_forever()),
        ]
        self.models.first.load()  # requests wait for it; /ready says when
        try:
            yield
        finally:
            for task in tasks:
                task.cancel()
            await self.models.close()
            await self._flush()
            try:
                self.audit.server_event("server_stopped")
            except ResourceError as error:
                log.error("audit_unwritten", extra={"error": error.message})

    async def _flush_forever(self) -> None:
        while True:
            await asyncio.sleep(FLUSH_SECONDS)
            await self._flush()

    async def _flush(self) -> None:
        """Write the counted refusals; tell where that begins to fail, and where it no longer does.

        It is tried each second, and a log that says so each second hides what else it says.
        """
        failed = self.audit.failure is not None
        await asyncio.to_thread(self.audit.flush)
        failure = self.audit.failure
        if failure is not None and not failed:
            log.error("audit_unwritten", extra={"error": failure.message})
        elif failure is None and failed:
            log.warning("audit_written", extra={"notice": "what was counted meanwhile is in it"})


def _for_pages(app: App, origins: Sequence[str]) -> App:
    """Let pages of these origins use the server.

    Around the guard: a browser asks what it may without the key, and shows a page the guard's
    answers only where these headers are. Any header may be sent, for no cookie lets anybody in.
    """
    return CORSMiddleware(
        app,
        allow_origins=origins,
        allow_methods=["GET", "HEAD", "POST"],
        allow_headers=["*"],
        expose_headers=EXPOSED,
    )


async def _answer_problem(request: Request, error: Exception) -> Response:
    problem = problem_of(error)
    setattr(request.state, REFUSED, error)
    return Response(problem.body, problem.status, problem.headers, "application/json")


async def _answer_http(request: Request, error: Exception) -> Response:
    """Answer what the router has to say: no such path, or another method."""
    assert isinstance(error, HTTPException)
    words = {
        404: f"there is no path {request.url.path!r:.100} here",
        405: f"{request.method} is no method of {request.url.path!r:.100}",
    }
    code = {404: "path_not_found", 405: "method_not_allowed"}
    found = RefusedError(
        words.get(error.status_code, str(error.detail)),
        status=error.status_code,
        code=code.get(error.status_code, "http_error"),
        hint="see /openapi.json",
    )
    setattr(request.state, REFUSED, found)
    problem = problem_of(found)
    headers = {**problem.headers, **(error.headers or {})}
    return Response(problem.body, problem.status, headers, "application/json")
