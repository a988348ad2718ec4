"""A real HTTP server on this machine that offers one file under every address, as a hub would.

It knows ranges and entity tags, and can be told to be slow, to break, to refuse and to lie.
"""

from __future__ import annotations

import contextlib
import re
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

PIECE = 16 << 10  # bytes written at once while `rate` limits them


class HubServer:
    """Serves `content` as every file; `cuts` breaks the connection after so many bytes, once each.

    With `gate` set, it stops half-way through the content until the gate opens. With `drip` set,
    the second half comes in small pieces, each after so many seconds.
    """

    def __init__(self, content: bytes) -> None:
        self.content = content
        self.status = 200
        self.ranges = True  # False: whatever is asked, the whole file is sent
        self.shift = 0  # bytes that a range begins too late
        self.etag: str | None = '"1"'
        self.heeds_if_range = True
        self.length = True  # announce the length; without it the end of the connection is the end
        self.cuts: list[int] = []
        self.gate: threading.Event | None = None
        self.drip: float | None = None  # seconds between pieces of 1000 bytes
        self.rate: float | None = None  # bytes a second
        self.sent = 0  # bytes of content, over all requests
        self.closed = threading.Event()
        self.half_sent = threading.Event()
        self.requests: list[tuple[str, str | None]] = []  # path and range
        self.if_ranges: list[str | None] = []  # of each request
        self.server = ThreadingHTTPServer(("127.0.0.1", 0), self.handler())
        self.endpoint = f"http://127.0.0.1:{self.server.server_address[1]}"
        self.thread = threading.Thread(target=self.server.serve_forever, args=(0.02,), daemon=True)
        self.thread.start()

    def handler(hub) -> type[BaseHTTPRequestHandler]:  # noqa: N805
        class Handler(BaseHTTPRequestHandler):
            def log_message(self, *_: object) -> None:
                pass

            def do_GET(self) -> None:
                hub.requests.append((self.path, self.headers.get("Range")))
                hub.if_ranges.append(self.headers.get("If-Range"))
                with contextlib.suppress(OSError):  # whoever asked has left
                    hub.answer(self)
                self.close_connection = True

        return Handler

    def answer(self, handler: BaseHTTPRequestHandler) -> None:
        """Send the one file there is."""
        self.send(handler, self.content)

    def send(self, handler: BaseHTTPRequestHandler, content: bytes) -> None:
        """Send headers and as much of the content as is asked for."""
        asked = handler.headers.get("Range") if self.ranges else None
        if self.heeds_if_range and handler.headers.get("If-Range") not in (None, self.etag):
            asked = None
        if self.status != 200:
            handler.send_error(self.status)
            return
        start, size = 0, len(content)
        if asked:
            start = int(re.fullmatch(r"bytes=(\d+)-", asked)[1]) + self.shift  # type: ignore[index]
            if start >= size:
                handler.send_error(416)
                return
        handler.send_response(206 if asked else 200)
        if asked:
            handler.send_header("Content-Range", f"bytes {start}-{size - 1}/{size}")
        if self.etag is not None:
            handler.send_header("ETag", self.etag)
        body = memoryview(content)[start:]
        if self.length:
            handler.send_header("Content-Length", str(len(body)))
        handler.end_headers()
        if self.cuts:
            body = body[: self.cuts.pop(0)]
        half = len(body) // 2
        self.write(handler, body[:half])
        self.half_sent.set()
        if self.gate is not None:
            self.gate.wait(20)
        if self.drip is not None:
            while half < len(body) and not self.closed.wait(self.drip):
                self.write(handler, body[half : half + 1000])
                half += 1000
        self.write(handler, body[half:])

    def write(self, handler: BaseHTTPRequestHandler, data: memoryview) -> None:
        """Send bytes and count them, no more than `rate` of them a second."""
        piece = len(data) if self.rate is None else PIECE
        while data:
            if self.rate is not None:
                time.sleep(PIECE / self.rate)
            handler.wfile.write(data[:piece])
            self.sent += len(data[:piece])
            data = data[piece:]

    def close(self) -> None:
        """Stop serving."""
        self.closed.set()
        if self.gate is not None:
            self.gate.set()
        self.server.shutdown()
        self.server.server_close()
