"""The door: everything that happens to a request before its route, and to its answer after it.

Pure ASGI, around all routes, so that no route can be reached without it: a name for the request,
who sends it, how much of it, how fast; headers that every answer has; and an answer for whatever
goes wrong. A body is read whole here, within its limit, and after the key was looked at. What is
refused, here or by a route, is counted and noted.
"""

from __future__ import annotations

import asyncio
import logging
import re
import secrets
import time
from collections import Counter
from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any

from qwick.errors import (
    AuthenticationError,
    FormatError,
    OverloadedError,
    PermissionDeniedError,
    QwickError,
    RefusedError,
    RequestCancelled,
    ResourceError,
)
from qwick.server.audit import AuditLog
from qwick.server.caller import Caller
from qwick.server.keys import KeyRing, Refusal
from qwick.server.options import LEAST_RATE, ServeOptions
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
BODIES_BYTES = 256 << 20  # of all bodies that are being read, together; of one key, a quarter
SMALL_BYTES = 4096  # of a body where none is expected: it is read, and dropped
REFUSED = "refused"  # where a route leaves, in the scope's state, the error that it has told

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
        self._reading: Counter[str] = Counter()  # bytes of bodies that no route has yet, by tenant

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        answer = _Answer(send, _request_id(scope))
        caller: Caller | None = None
        reason: str | None = None
        try:
            caller = self._let_in(scope, answer.request_id)
            if scope["path"] in ADMINS and caller.key is not None:
                caller.key.check_admin()
            state = scope.setdefault("state", {})
            state["caller"] = caller
            body = await self._body(scope, receive, caller)
            if scope["method"] == "HEAD" and scope["path"] in PUBLIC:
                # Load balancers ask so. The server below sends no body, for its scope says HEAD.
                scope = {**scope, "method": "GET"}
            await self._app(scope, _Again(body, receive), answer)
            if REFUSED in state:
                reason = self._note(scope["path"], caller, state[REFUSED])
        except QwickError as error:
            reason = self._note(scope["path"], caller, error)
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

    def _note(self, path: str, caller: Caller | None, error: QwickError) -> str | None:
        """Return why a request was refused, and note it; None for what failed otherwise.

        What is wrong with a request is nothing for the audit log; what somebody may not have is.
        """
        if isinstance(error, AuthenticationError):
            return "authentication"  # in the audit log already
        if isinstance(error, RequestCancelled):
            return "cancelled"
        if path in PUBLIC and isinstance(error, OverloadedError):
            return None  # that is the answer: not ready yet
        problem = problem_of(error)
        if problem.status >= 500 and not isinstance(error, OverloadedError | RefusedError):
            return None
        code = str(problem.error["code"])
        beyond = problem.status in (403, 413) or isinstance(error, OverloadedError)
        if caller is not None and beyond:
            key = None if caller.key is None else self._pseudonyms.of("key", caller.key.id)
            self._audit.refused(code, key=key)
        return code

    # -- how much ------------------------------------------------------------------------------

    async def _body(self, scope: Scope, receive: Receive, caller: Caller) -> bytes:
        """Return the whole body; RefusedError for one too large or too slow."""
        headers = scope["headers"]
        lengths = [value for name, value in headers if name == b"content-length"]
        if not lengths and not any(name == b"transfer-encoding" for name, _ in headers):
            return b""
        wanted = scope["method"] == "POST" and scope["path"] not in PUBLIC
        most = self._bounds.body_bytes if wanted else SMALL_BYTES
        if lengths and int(lengths[0]) > most:
            raise _too_large(most, wanted)
        tenant = caller.tenant
        pieces: list[bytes] = []
        size, begun = 0, time.monotonic()
        try:
            while True:
                message = await self._piece(receive, size, begun)
                if message["type"] == "http.disconnect":
                    raise RefusedError(
                        "the body ended before its end", status=400, code="incomplete"
                    )
                piece = message.get("body", b"")
                size += len(piece)
                self._reading[tenant] += len(piece)
                if size > most:
                    raise _too_large(most, wanted)
                self._check_room(caller)
                pieces.append(piece)
                if not message.get("more_body"):
                    return b"".join(pieces)
        finally:
            self._reading[tenant] -= size
            if not self._reading[tenant]:
                del self._reading[tenant]

    def _check_room(self, caller: Caller) -> None:
        """Refuse where bodies take too much memory: all together, or those of one key."""
        whole = max(BODIES_BYTES, 4 * self._bounds.body_bytes)
        if caller.key is not None and self._reading[caller.tenant] > whole // 4:
            raise OverloadedError("too many large requests of this key arrive at once")
        if self._reading.total() > whole:
            raise OverloadedError("too many large requests arrive at once")

    async def _piece(self, receive: Receive, size: int, begun: float) -> Message:
        """Return the next piece; RefusedError when nothing comes, or too little since it began."""
        patience = self._bounds.body_seconds
        left = begun + patience + size / LEAST_RATE - time.monotonic()
        try:
            return await asyncio.wait_for(receive(), min(patience, left))
        except asyncio.TimeoutError:
            raise RefusedError(
                f"the body comes too slowly, {size} bytes in {time.monotonic() - begun:.1f} s; "
                f"allowed: {patience:g} s without a piece, and {LEAST_RATE} bytes a second beyond",
                status=408,
                code="body_timeout",
                hint="send it faster, or start the server with a longer --body-seconds",
            ) from None


def _too_large(most: int, wanted: bool) -> RefusedError:
    return RefusedError(
        f"the body has more than {most} bytes; allowed: {most}",
        status=413,
        code="body_too_large",
        hint="send less at a time, or start the server with a larger --max-body"
        if wanted
        else "send none: nothing reads it here",
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
        start = {"status": problem.status, "headers": head_of(problem)}
        await self({"type": "http.response.start", **start})
        await self({"type": "http.response.body", "body": problem.body, "more_body": False})


def head_of(problem: Problem) -> list[tuple[bytes, bytes]]:
    """Return the headers of a problem, as the last answer of its connection.

    What is left of a body that was not read would be taken for the next request.
    """
    headers = {"content-type": "application/json", "content-length": str(len(problem.body))}
    headers |= {"connection": "close", **problem.headers}
    return [(name.encode("latin-1"), value.encode("latin-1")) for name, value in headers.items()]


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
