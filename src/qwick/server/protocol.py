"""HTTP itself, bounded: uvicorn's protocol with limits on size, time and number.

uvicorn waits without end for a client that sends its headers a byte at a time, keeps whatever it
sends, and keeps an answer for a client that does not read it. Here a connection has so long, and so
many bytes, until its headers are complete, and is cut where its client does not take what it is
sent. One address may hold a part of the connections.
"""

from __future__ import annotations

import asyncio
import ipaddress
import secrets
from collections import Counter
from collections.abc import Callable
from typing import Any

from uvicorn.protocols.http.httptools_impl import STATUS_LINE, HttpToolsProtocol

from qwick.errors import RefusedError
from qwick.server.guard import SECURITY_HEADERS, head_of
from qwick.server.options import LEAST_RATE, Bounds
from qwick.server.problems import problem_of

Observe = Callable[[str, str, int, "str | None"], None]


def protocol_of(bounds: Bounds, observe: Observe) -> type[asyncio.Protocol]:
    """Return uvicorn's protocol class with these bounds.

    observe: hears method, path, status and reason of what is turned away before it is a request.
    """
    held: Counter[str] = Counter()  # connections by address
    share = max(1, bounds.connections // 2)

    class Bounded(HttpToolsProtocol):
        """A connection; see the head of this file."""

        _address = ""
        _timer: asyncio.TimerHandle | None = None
        _head = 0  # bytes since the request began, until its headers are complete; of trailers too
        _complete = True
        _trailing = False  # between the head of a chunk and its bytes: after the last, trailers
        _reader: asyncio.TimerHandle | None = None
        _unread = 0  # bytes that the client left lying when `_reader` was set

        def connection_made(self, transport: Any) -> None:
            """Refuse what is too many; begin to wait for headers."""
            super().connection_made(transport)
            # So that `pause_writing` tells of every byte that is left lying. (uvloop's TLS takes
            # 0 for an empty buffer that is too full.)
            transport.set_write_buffer_limits(high=int(self.scheme == "https"), low=0)
            self._address = _network(self.client)
            held[self._address] += 1
            if len(self.connections) > bounds.connections:
                self._turn_away(
                    RefusedError(
                        f"there are {bounds.connections} connections, which is as many as may be",
                        status=503,
                        code="too_many_connections",
                        hint="ask again later",
                    )
                )
            elif held[self._address] > share:
                self._turn_away(
                    RefusedError(
                        f"this address has {share} connections, which is as many as it may",
                        status=503,
                        code="too_many_connections",
                        hint="close those that are not used, or ask again later",
                    )
                )
            else:
                self._await_headers()

        def connection_lost(self, exc: Exception | None) -> None:
            """Wait no longer."""
            held[self._address] -= 1
            if not held[self._address]:
                del held[self._address]
            self._stop_timer()
            self._stop_reader()
            super().connection_lost(exc)

        # -- what comes ------------------------------------------------------------------------

        def data_received(self, data: bytes) -> None:
            """Count what belongs to headers and trailers."""
            if self.transport.is_closing():
                return
            trailing = self._trailing
            super().data_received(data)
            if not self._complete or (trailing and self._trailing):
                self._head += len(data)
                if self._head > bounds.header_bytes:
                    self._too_large()
            elif self.cycle is None or self.cycle.response_complete:
                self._await_headers()  # line ends between requests: they stop uvicorn's own timer

        def on_message_begin(self) -> None:
            """Begin to wait for headers, also of a request that is sent before the answer."""
            super().on_message_begin()
            self._trailing = False
            self._await_headers()

        def on_header(self, name: bytes, value: bytes) -> None:
            """Keep a header. Trailers are counted and dropped: nobody reads them."""
            if not self._complete:
                super().on_header(name, value)

        def on_headers_complete(self) -> None:
            """Let the request begin."""
            self._complete, self._head = True, 0
            self._stop_timer()
            sizes = len(self.url) + sum(len(name) + len(value) for name, value in self.headers)
            codings = [value for name, value in self.headers if name == b"transfer-encoding"]
            if sizes > bounds.header_bytes:
                self._too_large()
            elif codings and [value.strip().lower() for value in codings] != [b"chunked"]:
                self._turn_away(
                    RefusedError(
                        f"transfer-encoding is {b', '.join(codings).decode('latin-1')!r:.100}; "
                        "allowed: chunked",
                        status=400,
                        code="wrong_transfer_encoding",
                        hint="send the body as it is",
                    )
                )
            else:
                super().on_headers_complete()

        def on_chunk_header(self) -> None:
            """Expect a chunk's bytes, or trailers."""
            self._trailing, self._head = True, 0

        def on_body(self, body: bytes) -> None:
            """Take a piece of the body, unless the request was turned away."""
            self._trailing = False
            if not self.transport.is_closing():
                super().on_body(body)

        def on_message_complete(self) -> None:
            """End the body."""
            self._trailing = False
            if not self.transport.is_closing():
                super().on_message_complete()

        def on_response_complete(self) -> None:
            """Go on to the next request, unless what is left of this one would have to be read."""
            super().on_response_complete()
            if self.cycle.response_complete and self.cycle.more_body:
                self.transport.close()

        def _await_headers(self) -> None:
            self._complete, self._head = False, 0
            if self._timer is None:  # else: since the connection was made
                self._timer = self.loop.call_later(bounds.header_seconds, self._too_slow)

        def _stop_timer(self) -> None:
            if self._timer is not None:
                self._timer.cancel()
                self._timer = None

        def _too_slow(self) -> None:
            self._timer = None
            if self._head == 0:  # it has said nothing at all
                self.transport.close()
                return
            self._turn_away(
                RefusedError(
                    f"the headers took longer than {bounds.header_seconds:g} s",
                    status=408,
                    code="header_timeout",
                    hint="send them at once",
                )
            )

        def _too_large(self) -> None:
            self._turn_away(
                RefusedError(
                    f"the headers have more than {bounds.header_bytes} bytes; "
                    f"allowed: {bounds.header_bytes}",
                    status=431,
                    code="headers_too_large",
                    hint="send fewer or shorter ones",
                )
            )

        def send_400_response(self, msg: str) -> None:
            """Answer what is no HTTP in the form of all errors."""
            self._turn_away(
                RefusedError("this is no valid HTTP request", status=400, code="bad_http")
            )

        def _turn_away(self, error: RefusedError) -> None:
            """Answer and close: nothing more of this connection is read."""
            if self.transport.is_closing():
                return
            self._stop_timer()
            problem = problem_of(error)
            observe("", "", problem.status, error.code)
            cycle = self.cycle
            if cycle is None or cycle.response_complete or not cycle.response_started:
                request = (b"x-request-id", f"req_{secrets.token_hex(12)}".encode())
                lines = [*head_of(problem), *SECURITY_HEADERS, request]
                head = b"".join(name + b": " + value + b"\r\n" for name, value in lines)
                self.transport.write(STATUS_LINE[problem.status] + head + b"\r\n" + problem.body)
            self.transport.close()

        # -- what goes -------------------------------------------------------------------------

        def pause_writing(self) -> None:
            """Begin to wait for the client to read."""
            super().pause_writing()
            self._await_reader()

        def resume_writing(self) -> None:
            """Wait no longer: it has read."""
            self._stop_reader()
            super().resume_writing()

        def _await_reader(self) -> None:
            self._unread = self.transport.get_write_buffer_size()
            self._reader = self.loop.call_later(bounds.write_seconds, self._reads_late)

        def _stop_reader(self) -> None:
            if self._reader is not None:
                self._reader.cancel()
                self._reader = None

        def _reads_late(self) -> None:
            """Cut a connection that has not taken enough; `close` would wait for it for ever."""
            taken = self._unread - self.transport.get_write_buffer_size()
            if taken < LEAST_RATE * bounds.write_seconds:
                self.transport.abort()
            else:
                self._await_reader()

    return Bounded


def _network(client: tuple[str, int] | None) -> str:
    """Return whose connection it is: an address, or a network of IPv6 as one subscriber has it."""
    if client is None:
        return ""
    host = client[0].partition("%")[0]
    if ":" not in host:
        return host
    address = ipaddress.IPv6Address(host)
    if address.ipv4_mapped is not None:
        return str(address.ipv4_mapped)
    return str(ipaddress.ip_network((address, 64), strict=False))
