"""The door: everything that happens to a request before its route, and to its answer after it.

Pure ASGI, around all routes, so that no route can be reached without it: a name for the request,
who sends it, how much of it, how fast; headers that every answer has; and an answer for whatever
goes wrong. A body is read whole here, within its limit, and after the key was looked at.
"""

from __future__ import annotations

import asyncio
import logging
import re
import secrets
from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any

from qwick.errors import (
    AuthenticationError,
    FormatError,
    OverloadedError,
    PermissionDeniedError,
    QwickError,
    RefusedError,
    ResourceError,
)
from qwick.server.audit import AuditLog
from qwick.server.caller import Caller
from qwick.server.keys import KeyRing, Refusal
from qwick.server.options import ServeOptions
from qwick.server.problems import Problem, problem_of
from qwick.server.pseudonyms import Pseudonyms

Scope = MutableMapping[str, Any]
Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
App = Callable[[Scope, Receive, Send], Awaitable[None]]

log = logging.getLogger("qwick.server")

# Whoever watches a machine asks these without a key; they say no more than yes or no.
PUBLIC = frozenset({"/health", "/v1/health", "/ready", "/ping"})
ADMINS = frozenset({"/metrics", "/v1/monitor", "/v1/monitor/probe", "/health_generate"})
BODIES_BYTES = 256 << 20  # of all bodies that are being read, together

SECURITY_HEADERS = (
    (b"x-content-type-options", b"nosniff"),
    (b"x-frame-options", b"DENY"),
    (b"referrer-policy", b"no-referrer"),
    (b"content-security-policy", b"default-src 'none'; frame-ancestors 'none'"),
    (b"cache-control", b"no-store"),
)
_REQUEST_ID = re.compile(rb"[A-Za-z0-9._:-]{1,64}")
_LOCAL = re.compile(r"(localhost|127(\.\d{1,3}){3}|\[::1\])(:\d{1,5})?", re.IGNORECASE)


class Guard:
    """Wraps the application; see the head of this file."""

    def __init__(
        self,
        app: App,
        *,
        options: ServeOptions,
        keys: KeyRing,
        audit: AuditLog,
        pseudonyms: Pseudonyms,
        observe: Callable[[str, str, int, str | None], None],
    ) -> None:
        """observe: hears method, path, status and the reason of a refusal, for the metrics."""
        self._app = app
        self._options = options
        self._bounds = options.bounds
        self._keys = keys
        self._audit = audit
        self._pseudonyms = pseudonyms
        self._observe = observe
        self._reading = 0  # bytes of bodies in memory that no route has yet

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        answer = _Answer(send, _request_id(scope))
        reason: str | None = None
        try:
            caller = self._let_in(scope, answer.request_id)
            scope.setdefault("state", {})["caller"] = caller
            body = await self._body(scope, receive)
            await self._app(scope, _Again(body, receive), answer)
        except QwickError as error:
            reason = self._refuse(scope, error)
            await answer.problem(problem_of(error))
        except (asyncio.CancelledError, ConnectionResetError):
            reason = "cancelled"
            raise
        except Exception as error:
            log.exception("fault", extra={"request": answer.request_id, "path": scope["path"]})
            reason = "fault"
            await answer.problem(problem_of(error))
        finally:
            self._observe(scope["method"], scope["path"], answer.status, reason)

    # -- who -----------------------------------------------------------------------------------

    def _let_in(self, scope: Scope, request_id: str) -> Caller:
        """Return who asks; AuthenticationError, PermissionDeniedError or RefusedError."""
        path: str = scope["path"]
        headers = scope["headers"]
        if path in PUBLIC:
            return Caller(None, request_id)
        try:
            if not self._keys.required():
                if self._options.loopback:
                    self._check_host(headers)
                return Caller(None, request_id, admin=True)
            found = self._keys.find(_bearer(headers))
        except (FormatError, ResourceError) as error:  # a damaged file lets nobody in
            log.error("keys_unreadable", extra={"error": error.message})
            raise OverloadedError(
                "the API keys of this server cannot be read",
                hint="whoever runs it finds the reason in its log",
                retry_after=60.0,
            ) from error
        if isinstance(found, Refusal):
            pseudonym = None if found.id is None else self._pseudonyms.of("key", found.id)
            self._audit.refused(found.reason, key=pseudonym)
            raise found.error
        if path in ADMINS:
            found.check_admin()
        return Caller(found, request_id, admin=found.admin)

    def _check_host(self, headers: list[tuple[bytes, bytes]]) -> None:
        """Refuse other names than this machine's: a web page may have made one lead here.

        Without keys, whoever runs on this machine is trusted; pages in its browser are not.
        """
        hosts = [value.decode("latin-1") for name, value in headers if name == b"host"]
        if len(hosts) > 1 or (hosts and not _LOCAL.fullmatch(hosts[0])):
            raise RefusedError(
                f"host is {hosts[0]!r:.100}; allowed: localhost or 127.0.0.1, while no API key is "
                "needed",
                status=421,
                code="wrong_host",
                hint="address it so, or make an API key",
            )
        origins = [value.decode("latin-1") for name, value in headers if name == b"origin"]
        allowed = self._options.cors_origins
        if origins and not ("*" in allowed or set(origins) <= set(allowed)):
            raise PermissionDeniedError(
                f"origin is {origins[0]!r:.100}; allowed: {', '.join(allowed) or 'none'}",
                hint="start the server with --cors-origin for the pages that may use it",
            )

    def _refuse(self, scope: Scope, error: QwickError) -> str | None:
        if isinstance(error, AuthenticationError):
            return "authentication"  # in the audit log already
        return getattr(error, "code", None) or type(error).__name__

    # -- how much ------------------------------------------------------------------------------

    async def _body(self, scope: Scope, receive: Receive) -> bytes:
        """Return the whole body; RefusedError for one too large or too slow."""
        headers = scope["headers"]
        lengths = [value for name, value in headers if name == b"content-length"]
        if not lengths and not any(name == b"transfer-encoding" for name, _ in headers):
            return b""
        most = self._bounds.body_bytes
        if lengths and int(lengths[0]) > most:
            raise _too_large(most)
        pieces: list[bytes] = []
        size = 0
        try:
            while True:
                message = await self._piece(receive)
                if message["type"] == "http.disconnect":
                    raise RefusedError(
                        "the body ended before its end", status=400, code="incomplete"
                    )
                piece = message.get("body", b"")
                size += len(piece)
                self._reading += len(piece)
                if size > most:
                    raise _too_large(most)
                if self._reading > BODIES_BYTES:
                    raise OverloadedError("too many large requests arrive at once")
                pieces.append(piece)
                if not message.get("more_body"):
                    return b"".join(pieces)
        finally:
            self._reading -= size

    async def _piece(self, receive: Receive) -> Message:
        seconds = self._bounds.body_seconds
        try:
            return await asyncio.wait_for(receive(), seconds)
        except asyncio.TimeoutError:
            raise RefusedError(
                f"nothing of the body came for {seconds:g} s", status=408, code="body_timeout"
            ) from None


def _too_large(most: int) -> RefusedError:
    return RefusedError(
        f"the body has more than {most} bytes; allowed: {most}",
        status=413,
        code="body_too_large",
        hint="send less at a time, or start the server with a larger --max-body",
    )


class _Again:
    """`receive` for the route: the body that was read, then the client's leaving."""

    def __init__(self, body: bytes, receive: Receive) -> None:
        self._body: bytes | None = body
        self._receive = receive

    async def __call__(self) -> Message:
        if self._body is not None:
            body, self._body = self._body, None
            return {"type": "http.request", "body": body, "more_body": False}
        while True:
            message = await self._receive()
            if message["type"] == "http.disconnect":
                return message


class _Answer:
    """`send` for the route: adds the headers that every answer has, and knows what was sent."""

    def __init__(self, send: Send, request_id: str) -> None:
        self._send = send
        self.request_id = request_id
        self.status = 0
        self.complete = False

    async def __call__(self, message: Message) -> None:
        if message["type"] == "http.response.start":
            self.status = message["status"]
            given = list(message.get("headers", ()))
            names = {name.lower() for name, _ in given}
            extra = [pair for pair in SECURITY_HEADERS if pair[0] not in names]
            extra.append((b"x-request-id", self.request_id.encode()))
            message = {**message, "headers": [*given, *extra]}
        await self._send(message)
        if message["type"] == "http.response.body" and not message.get("more_body"):
            self.complete = True

    async def problem(self, problem: Problem) -> None:
        """Answer with a problem, unless that was done, or an answer has begun: break that off."""
        if self.complete:
            return
        if self.status:
            raise ConnectionResetError("the answer broke off")
        body = problem.body
        headers = [(b"content-type", b"application/json")]
        headers.append((b"content-length", str(len(body)).encode()))
        # What is left of a body that was not read would be taken for the next request.
        headers.append((b"connection", b"close"))
        headers += [(n.encode("latin-1"), v.encode("latin-1")) for n, v in problem.headers.items()]
        await self({"type": "http.response.start", "status": problem.status, "headers": headers})
        await self({"type": "http.response.body", "body": body, "more_body": False})


def _request_id(scope: Scope) -> str:
    for name, value in scope["headers"]:
        if name == b"x-request-id" and _REQUEST_ID.fullmatch(value):
            return str(value.decode())
    return f"req_{secrets.token_hex(12)}"


def _bearer(headers: list[tuple[bytes, bytes]]) -> str | None:
    """Return the key that a request brings, None for none; two different ones are none that holds.

    As `Authorization: Bearer KEY`, or as `x-api-key: KEY` of llama.cpp's and Anthropic's clients.
    """
    found: set[str] = set()
    for name, value in headers:
        text = value.decode("latin-1").strip()
        if name == b"authorization":
            scheme, _, token = text.partition(" ")
            if scheme.lower() == "bearer":
                found.add(token.strip())
        elif name == b"x-api-key":
            found.add(text)
    found.discard("")
    if len(found) > 1:
        return "two different keys"
    return found.pop() if found else None
