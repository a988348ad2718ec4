"""The inner side of an engine's process: builds the engine, then steps it and answers the socket.

One thread does everything: it looks for commands between two steps, so no other thread ever takes
the interpreter from it. Knows no text and nobody's requests but its parent's, with whom it dies.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import select
import signal
from collections.abc import Callable
from multiprocessing.connection import Connection

from qwick.engine.engine import Engine
from qwick.engine.request import Event, Finished, FinishReason, Timings
from qwick.engine.wire import (
    Broken,
    Cancel,
    Command,
    Events,
    Loading,
    Ping,
    Pong,
    Ready,
    Report,
    Submit,
)
from qwick.errors import EngineError, QwickError, ResourceError

Progress = Callable[[int, int], None]
Build = Callable[[Progress], Engine]

PR_SET_PDEATHSIG = 1  # linux/prctl.h
PROGRESS_PARTS = 100  # messages about a load, at most


def main(handle: int) -> int:
    """Serve the parent over the socket of this handle until it closes; return an exit code."""
    _die_with_parent()
    with Connection(handle) as connection, contextlib.suppress(EOFError, OSError):
        build: Build = connection.recv()
        try:
            engine = build(_throttled(connection))
        except Exception as error:
            failure = _as_ours(error, "the model could not be loaded")
            connection.send(Broken(failure))
            return failure.exit_code
        connection.send(Ready(engine.capacity))
        return _Loop(connection, engine).run()
    return 0  # the parent has gone: there is nobody to tell


class _Loop:
    def __init__(self, connection: Connection, engine: Engine) -> None:
        self._connection = connection
        self._engine = engine
        self._out: list[tuple[int, Event]] = []
        self._numbers: dict[int, int] = {}  # the parent's name of a request -> the engine's
        self._closing = False
        self._poller = select.poll()
        self._poller.register(connection.fileno(), select.POLLIN)

    def run(self) -> int:
        """Step while there is work, sleep while there is none; return an exit code."""
        engine = self._engine
        try:
            while True:
                self._take_commands()
                if self._closing and not engine.has_work:
                    return 0
                engine.step()
                self._flush()
        except (EOFError, OSError):  # the parent has gone
            return 0
        except Exception as error:
            # Not a model's failure (step handles those): the engine's own state is in doubt.
            failure = _as_ours(error, "the engine stopped")
            self._send(Broken(failure))
            return failure.exit_code

    def _take_commands(self) -> None:
        """Carry out what has arrived; wait for something when there is nothing else to do."""
        while True:
            idle = not self._engine.has_work and not self._closing
            if not self._poller.poll(None if idle else 0):
                return
            self._carry_out(self._connection.recv())
            self._flush()

    def _carry_out(self, command: Command) -> None:
        if isinstance(command, Submit):
            self._submit(command)
        elif isinstance(command, Cancel):
            number = self._numbers.get(command.number)
            if number is not None:
                self._engine.cancel(number)
        elif isinstance(command, Ping):
            self._send(Pong(self._engine.snapshot()))
        else:
            self._closing = True
            if command.cancel:
                self._engine.cancel_all()

    def _submit(self, command: Submit) -> None:
        number, request = command.number, command.request

        def deliver(event: Event) -> None:
            self._out.append((number, event))
            if isinstance(event, Finished):
                self._numbers.pop(number, None)

        try:
            engines = self._engine.submit(request, deliver, submitted=command.submitted)
        except Exception as error:
            failure = _as_ours(error, "submitting failed")
            timings = Timings(0.0, 0.0, 0.0)
            event = Finished(FinishReason.ERROR, len(request.ids), 0, timings, error=failure)
            self._out.append((number, event))
        else:
            self._numbers[number] = engines

    def _flush(self) -> None:
        if self._out:
            self._send(Events(tuple(self._out)))
            self._out.clear()

    def _send(self, report: Report) -> None:
        self._connection.send(report)


def _throttled(connection: Connection) -> Progress:
    told = -1

    def tell(done: int, total: int) -> None:
        nonlocal told
        part = done * PROGRESS_PARTS // max(total, 1)
        if part != told:
            told = part
            connection.send(Loading(done, total))

    return tell


def _as_ours(error: Exception, what: str) -> QwickError:
    if isinstance(error, QwickError):
        return error
    if isinstance(error, MemoryError):
        return ResourceError(f"{what}: memory ran out: {error}")
    return EngineError(f"{what}: {type(error).__name__}: {error}")


def _die_with_parent() -> None:
    """Leave the keyboard's signals to the parent, and ask the kernel for an end with it.

    The parent's thread that started this process must live as long as the parent wants it to.
    """
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_IGN)
    parent = os.getppid()
    with contextlib.suppress(OSError, AttributeError):  # not on Linux: the socket's end must do
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent:  # it died meanwhile
        os._exit(1)
