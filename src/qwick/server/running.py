"""A server's process: socket, event loop, signals, and an orderly end.

SIGTERM, Ctrl-C and SIGHUP (a closed terminal): no new connection is taken, what is under way may
finish within the drain time, what is left then ends with an error that says so. A second Ctrl-C
does not wait. Under nohup, which ignores SIGHUP, it stays ignored.
"""

from __future__ import annotations

import asyncio
import contextlib
import functools
import logging
import resource
import signal
import socket
import sys
from collections.abc import Iterator
from dataclasses import replace
from types import FrameType

import uvicorn

from qwick.errors import ResourceError, UsageError
from qwick.server.app import Service
from qwick.server.logs import configure
from qwick.server.options import ServeOptions
from qwick.server.protocol import protocol_of

BACKLOG = 512  # connections that the system keeps until they are taken
OTHER_FILES = 512  # open files that are no connections, at most; of few, half
LEAST_FILES = 64  # half of them are what one model takes, loaded or replaced, and some to spare
LAST_SECONDS = 5.0  # after the drain time, for answers to be told that they end

log = logging.getLogger("qwick.server")


class _Server(uvicorn.Server):
    """uvicorn's server, which tells the desk when to drain."""

    def __init__(self, config: uvicorn.Config, service: Service) -> None:
        super().__init__(config)
        self._service = service
        self._drain: asyncio.Task[None] | None = None

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Bound what comes before HTTP too, for which uvicorn has no option."""
        if self.config.is_ssl:
            bounds = self._service.options.bounds
            loop = asyncio.get_running_loop()
            loop.create_server = functools.partial(  # type: ignore[method-assign]
                loop.create_server,
                ssl_handshake_timeout=bounds.header_seconds,
                ssl_shutdown_timeout=bounds.write_seconds,
            )
        await super().startup(sockets)

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Hear of SIGHUP too, unless whoever started this process had it ignored."""
        before = signal.getsignal(signal.SIGHUP)
        if before is not signal.SIG_IGN:
            signal.signal(signal.SIGHUP, self.handle_exit)
        try:
            with super().capture_signals():
                yield
        finally:
            signal.signal(signal.SIGHUP, before)

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        """Begin to drain; uvicorn does the rest."""
        super().handle_exit(sig, frame)
        self._captured_signals.clear()  # an end that was asked for is no failure

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """Take no more requests, and end what is under way in time."""
        seconds = self._service.options.drain_seconds
        self._drain = asyncio.create_task(self._service.desk.drain(seconds))
        await super().shutdown(sockets)


def serve(options: ServeOptions) -> None:
    """Serve until asked to end; raises UsageError, ResourceError and what Service raises."""
    files = _raise_files(options.bounds.connections + OTHER_FILES)
    wanted, most = options.bounds.connections, max(files - OTHER_FILES, files // 2)
    options = replace(options, bounds=replace(options.bounds, connections=min(wanted, most)))
    service = Service(options)
    configure()
    if most < wanted:
        notice = f"{most} connections, not {wanted}: a process may open {files} files (ulimit -n)"
        log.warning("fewer_connections", extra={"notice": notice})
    listener = _listen(options)
    tls = options.tls
    try:
        config = uvicorn.Config(
            service.app,
            http=protocol_of(options.bounds, service.observer.answered),
            loop="uvloop",
            ws="none",
            lifespan="on",
            log_config=None,
            access_log=False,  # ours has neither paths with content nor addresses
            server_header=False,
            proxy_headers=False,
            backlog=BACKLOG,
            timeout_graceful_shutdown=int(options.drain_seconds + LAST_SECONDS) + 1,
            ssl_certfile=None if tls is None else tls.certificate,
            ssl_keyfile=None if tls is None else str(tls.key),
        )
        config.load()
    except (OSError, ValueError) as error:
        listener.close()
        raise UsageError(
            f"the certificate or its key cannot be used: {error}",
            hint="give PEM files with --tls-certificate and --tls-key",
        ) from None
    host, port = listener.getsockname()[:2]
    scheme = "https" if tls else "http"
    where = f"[{host}]" if ":" in host else host
    print(f"qwick serves at {scheme}://{where}:{port}", file=sys.stderr, flush=True)
    with listener:
        _Server(config, service).run(sockets=[listener])


def _raise_files(wanted: int) -> int:
    """Let this process open so many files, if the system lets it: 1024 are few for a server.

    Returns how many of them it may open; ResourceError where those are too few to serve with.
    """
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft != resource.RLIM_INFINITY and soft < wanted:
        soft = wanted if hard == resource.RLIM_INFINITY else min(wanted, hard)
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    files = wanted if soft == resource.RLIM_INFINITY else min(wanted, soft)
    if files < LEAST_FILES:
        raise ResourceError(
            f"a process may open {files} files here; a server needs {LEAST_FILES}",
            hint="raise the limit: `ulimit -n 1024`",
        )
    return files


def _listen(options: ServeOptions) -> socket.socket:
    """Return a listening socket; UsageError or ResourceError where there can be none."""
    try:
        found = socket.getaddrinfo(options.host, options.port, type=socket.SOCK_STREAM)
    except OSError as error:
        raise UsageError(
            f"host is {options.host!r:.100}: {error}", hint="give an address of this machine"
        ) from None
    family, kind, protocol, _, address = found[0]
    listener = socket.socket(family, kind, protocol)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listener.bind(address)
        listener.listen(BACKLOG)  # so that whoever reads where it serves can connect
    except OSError as error:
        listener.close()
        raise ResourceError(
            f"port {options.port} of {options.host} cannot be had: {error.strerror}",
            hint="end the program that has it, or take another --port",
        ) from None
    listener.setblocking(False)
    return listener
