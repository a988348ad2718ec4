"""HTTP itself, bounded: uvicorn's protocol with limits on the size and the time of headers.

uvicorn waits without end for a client that sends its headers a byte at a time, and keeps whatever
it sends. Here a connection has so long, and so many bytes, until its headers are complete.
"""

from __future__ import annotations

import asyncio
from typing import Any

from uvicorn.protocols.http.httptools_impl import STATUS_LINE, HttpToolsProtocol

from qwick.errors import RefusedError
from qwick.server.options import Bounds
from qwick.server.problems import problem_of


def protocol_of(bounds: Bounds) -> type[asyncio.Protocol]:
    """Return uvicorn's protocol class with these bounds."""

    class Bounded(HttpToolsProtocol):
        """A connection; see the head of this file."""

        _timer: asyncio.TimerHandle | None = None
        _head = 0  # bytes since the request began, until its headers are complete
        _complete = True

        def connection_made(self, transport: Any) -> None:
            """Refuse what is too many; begin to wait for headers."""
            super().connection_made(transport)
            if len(self.connections) > bounds.connections:
                self._turn_away(
                    503, "too_many_connections", f"there are {bounds.connections} connections"
                )
                return
            self._await_headers()

        def connection_lost(self, exc: Exception | None) -> None:
            """Wait no longer."""
            self._stop_timer()
            super().connection_lost(exc)

        def data_received(self, data: bytes) -> None:
            """Count what belongs to headers."""
            if self.transport.is_closing():
                return
            super().data_received(data)
            if not self._complete:
                self._head += len(data)
                if self._head > bounds.header_bytes:
                    self._turn_away(
                        431,
                        "headers_too_large",
                        f"the headers have more than {bounds.header_bytes} bytes",
                    )

        def on_message_begin(self) -> None:
            """Begin to wait for headers, also of a request that is sent before the answer."""
            super().on_message_begin()
            self._await_headers()

        def on_headers_complete(self) -> None:
            """Let the request begin."""
            self._complete, self._head = True, 0
            self._stop_timer()
            sizes = len(self.url) + sum(len(name) + len(value) for name, value in self.headers)
            if sizes > bounds.header_bytes:
                self._turn_away(
                    431,
                    "headers_too_large",
                    f"the headers have more than {bounds.header_bytes} bytes",
                )
                return
            super().on_headers_complete()

        def send_400_response(self, msg: str) -> None:
            """Answer what is no HTTP in the form of all errors."""
            self._turn_away(400, "bad_http", "this is no valid HTTP request")

        def _await_headers(self) -> None:
            self._complete, self._head = False, 0
            if self._timer is not None:  # since the connection was made
                return
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
                408, "header_timeout", f"the headers took longer than {bounds.header_seconds:g} s"
            )

        def _turn_away(self, status: int, code: str, message: str) -> None:
            """Answer and close: nothing more of this connection is read."""
            if self.transport.is_closing():
                return
            self._stop_timer()
            body = problem_of(RefusedError(message, status=status, code=code)).body
            self.transport.write(
                STATUS_LINE[status]
                + b"content-type: application/json\r\nconnection: close\r\ncontent-length: "
                + str(len(body)).encode()
                + b"\r\n\r\n"
                + body
            )
            self.transport.close()

    return Bounded
