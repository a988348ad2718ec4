"""A small checkpoint and a real local server that offers it."""

from __future__ import annotations

import hashlib
import re
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import numpy as np

from qwick.hub import Entry, Listener

CONTENT = np.random.default_rng(7).bytes(5 << 20)


def entry_of(content: bytes = CONTENT, **changes: object) -> Entry:
    fields: dict[str, object] = {
        "name": "tiny",
        "title": "Tiny",
        "author": "Somebody",
        "license": "Apache-2.0",
        "repository": "some/tiny",
        "file": "tiny.gguf",
        "size": len(content),
        "sha256": hashlib.sha256(content).hexdigest(),
        "aliases": ("some/tiny",),
    }
    return Entry(**{**fields, **changes})  # type: ignore[arg-type]


class Recorder(Listener):
    """Remembers what it was told."""

    def __init__(self) -> None:
        self.steps: list[tuple[str, int, int]] = []
        self.notices: list[str] = []

    def progress(self, what: str, done: int, total: int) -> None:
        self.steps.append((what, done, total))

    def notice(self, text: str) -> None:
        self.notices.append(text)


class HubServer:
    """Serves `content` as every file; `cuts` breaks the connection after so many bytes, once each.

    With `gate` set, it stops half-way through the content until the gate opens. With `drip` set,
    the second half comes in small pieces, each after so many seconds.
    """

    def __init__(self) -> None:
        self.content = CONTENT
        self.status = 200
        self.ranges = True
        self.length = True  # announce the length; without it the end of the connection is the end
        self.cuts: list[int] = []
        self.gate: threading.Event | None = None
        self.drip: float | None = None  # seconds between pieces of 1000 bytes
        self.closed = threading.Event()
        self.half_sent = threading.Event()
        self.requests: list[tuple[str, str | None]] = []
        self.server = ThreadingHTTPServer(("127.0.0.1", 0), self.handler())
        self.endpoint = f"http://127.0.0.1:{self.server.server_address[1]}"
        self.thread = threading.Thread(target=self.server.serve_forever, args=(0.02,), daemon=True)
        self.thread.start()

    def handler(hub) -> type[BaseHTTPRequestHandler]:  # noqa: N805
        class Handler(BaseHTTPRequestHandler):
            def log_message(self, *_: object) -> None:
                pass

            def do_GET(self) -> None:
                asked = self.headers.get("Range")
                hub.requests.append((self.path, asked))
                if hub.status != 200:
                    self.send_error(hub.status)
                    return
                start = 0
                if asked and hub.ranges:
                    start = int(re.fullmatch(r"bytes=(\d+)-", asked)[1])  # type: ignore[index]
                body = hub.content[start:]
                self.send_response(206 if asked and hub.ranges else 200)
                if hub.length:
                    self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                if hub.cuts:
                    body = body[: hub.cuts.pop(0)]
                half = len(body) // 2
                try:
                    self.wfile.write(body[:half])
                    hub.half_sent.set()
                    if hub.gate is not None:
                        hub.gate.wait(20)
                    if hub.drip is not None:
                        while half < len(body) and not hub.closed.wait(hub.drip):
                            self.wfile.write(body[half : half + 1000])
                            half += 1000
                    self.wfile.write(body[half:])
                except OSError:
                    pass
                self.close_connection = True

        return Handler

    def close(self) -> None:
        self.closed.set()
        if self.gate is not None:
            self.gate.set()
        self.server.shutdown()
        self.server.server_close()
