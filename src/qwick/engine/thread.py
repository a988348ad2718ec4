"""An engine on a thread of its own: submit and cancel from any thread, events by callback.

One thread owns the engine, so the engine needs no locks; the others put commands into its inbox,
which it empties between two steps. Knows no text.

How it ends: `close`; or the EngineThread is dropped (the thread keeps no reference to it); or the
interpreter exits (an atexit hook cancels what runs and waits for the step under way: the thread is
a daemon, so it cannot keep the interpreter alive, and it is gone before native code is torn down).
"""

from __future__ import annotations

import atexit
import contextlib
import os
import threading
import traceback
import weakref
from dataclasses import dataclass
from queue import Empty, SimpleQueue

from qwick.engine.capacity import Capacity
from qwick.engine.client import Pulse, State
from qwick.engine.engine import Engine
from qwick.engine.request import Deliver, Finished, FinishReason, Request, Timings
from qwick.engine.stats import Snapshot, Stats
from qwick.errors import EngineError, QwickError, ResourceError

EXIT_SECONDS = 10.0  # a step takes far less; a hung one may not keep the process


class ThreadTicket:
    """One submitted request, to be cancelled with."""

    def __init__(self, loop: _Loop) -> None:
        self._loop = loop
        self.number: int | None = None  # the engine's name for it; written by the engine's thread

    def cancel(self) -> None:
        """Ask for an end before the next step; nothing happens if the request has ended."""
        self._loop.inbox.put(_Cancel(self))


@dataclass(frozen=True, slots=True)
class _Submit:
    ticket: ThreadTicket
    request: Request
    deliver: Deliver
    submitted: float


@dataclass(frozen=True, slots=True)
class _Cancel:
    ticket: ThreadTicket


@dataclass(frozen=True, slots=True)
class _Close:
    cancel: bool


class EngineThread:
    """Runs `engine` until closed. Callbacks come on its thread: short ones that do not block."""

    def __init__(self, engine: Engine, *, name: str = "qwick-engine") -> None:
        self._loop = _Loop(engine)
        self._thread = threading.Thread(target=self._loop.run, name=name, daemon=True)
        self._pid = os.getpid()
        _running[self._loop] = self._thread
        # SimpleQueue.put may be called from a destructor; taking a lock there could deadlock.
        weakref.finalize(self, self._loop.inbox.put, _Close(cancel=True)).atexit = False
        try:
            self._thread.start()
        except RuntimeError as error:
            del _running[self._loop]
            raise ResourceError(f"the engine's thread cannot be started: {error}") from None

    @property
    def stats(self) -> Stats:
        """The engine's counters; only to be read."""
        return self._loop.engine.stats

    @property
    def capacity(self) -> Capacity:
        """What the engine can hold."""
        return self._loop.engine.capacity

    @property
    def snapshot(self) -> Snapshot:
        """The engine's state of now."""
        return self._loop.engine.snapshot()

    @property
    def pulse(self) -> Pulse:
        """Whether it is closed: a thread does not die by itself."""
        return Pulse(State.CLOSED if self.closed else State.READY, None, 0.0, False, 0)

    def wait_ready(self, timeout: float | None = None) -> None:
        """Return at once, for the model is loaded; EngineError when closed."""
        self._loop.check_open()

    @property
    def closed(self) -> bool:
        """Whether new requests are refused."""
        return self._loop.refusal is not None

    def submit(self, request: Request, deliver: Deliver) -> ThreadTicket:
        """Queue a request; `deliver` gets its events, exactly one Finished last.

        Raises as `Capacity.check`, at once and on this thread; EngineError when closed.
        """
        if os.getpid() != self._pid:
            raise EngineError(
                "this engine belongs to the process that loaded it, and this is a fork of it",
                hint="load the model in the child, or start children with 'spawn'",
            )
        loop = self._loop
        loop.check_open()
        loop.engine.capacity.check(request)
        ticket = ThreadTicket(loop)
        command = _Submit(ticket, request, deliver, loop.engine.clock())
        with loop.lock:
            loop.check_open()
            loop.inbox.put(command)
        return ticket

    def close(self, *, cancel: bool = True, timeout: float | None = None) -> bool:
        """Refuse new requests, cancel what runs (or let it finish), and wait for the thread to end.

        With the thread the engine ends: model and cache are let go, the stats stay. May be called
        again and from any thread; from a callback it does not wait. Returns whether the thread has
        ended within `timeout` seconds (None: however long it takes).
        """
        self._loop.refuse(EngineError("the engine is closed", hint="load the model again"))
        self._loop.inbox.put(_Close(cancel))
        if threading.current_thread() is self._thread or os.getpid() != self._pid:
            return False
        self._thread.join(timeout)
        return not self._thread.is_alive()


class _Loop:
    """What the thread works on. Apart from EngineThread, so that the latter can be collected."""

    def __init__(self, engine: Engine) -> None:
        self.engine = engine
        self.inbox: SimpleQueue[_Submit | _Cancel | _Close] = SimpleQueue()
        self.lock = threading.Lock()  # orders submissions before the refusal
        self.refusal: QwickError | None = None
        self._closing = False

    def refuse(self, error: QwickError) -> None:
        """Take no more requests; the first reason stands."""
        with self.lock:
            if self.refusal is None:
                self.refusal = error

    def check_open(self) -> None:
        """Raise EngineError with the reason if requests are refused."""
        if self.refusal is not None:
            raise EngineError(self.refusal.message, hint=self.refusal.hint)

    def run(self) -> None:
        """Step while there is work, sleep while there is none, until closed or broken."""
        failure: QwickError = EngineError("the engine is closed", hint="load the model again")
        try:
            while True:
                self._take_commands()
                if self._closing and not self.engine.has_work:
                    break
                self.engine.step()
        except BaseException as error:
            # Not a model's failure (step handles those): the engine's own state is in doubt.
            failure = EngineError(
                f"the engine stopped: {type(error).__name__}: {error}",
                hint="load the model again, and report this",
            )
            failure.__cause__ = error
            traceback.clear_frames(error.__traceback__)  # see engine.py: they hold the model
        finally:
            self.refuse(failure)
            self._abandon(failure)
            self.engine.close()
            _running.pop(self, None)

    def _take_commands(self) -> None:
        """Carry out what is in the inbox; wait for something when there is nothing else to do."""
        if not self.engine.has_work and not self._closing:
            self._carry_out(self.inbox.get())
        with contextlib.suppress(Empty):
            while True:
                self._carry_out(self.inbox.get_nowait())

    def _carry_out(self, command: _Submit | _Cancel | _Close) -> None:
        if isinstance(command, _Submit):
            try:
                command.ticket.number = self.engine.submit(
                    command.request, command.deliver, submitted=command.submitted
                )
            except Exception as error:
                _reject(command, error)
        elif isinstance(command, _Cancel):
            if command.ticket.number is not None:
                self.engine.cancel(command.ticket.number)
        else:
            self._closing = True
            self.refuse(EngineError("the engine is closed", hint="load the model again"))
            if command.cancel:
                self.engine.cancel_all()

    def _abandon(self, failure: QwickError) -> None:
        """Tell everyone who still waits; submissions are refused already, so the inbox is final."""
        with contextlib.suppress(Exception):
            self.engine.fail_all(failure)
        with contextlib.suppress(Empty):
            while True:
                command = self.inbox.get_nowait()
                if isinstance(command, _Submit):
                    _reject(command, failure)


def _reject(command: _Submit, cause: Exception) -> None:
    error = cause
    if not isinstance(error, QwickError):
        if isinstance(cause, MemoryError):
            error = ResourceError(f"memory ran out while submitting: {cause}")
        else:
            error = EngineError(f"submitting failed: {cause!r}")
    event = Finished(
        reason=FinishReason.ERROR,
        prompt_tokens=len(command.request.ids),
        completion_tokens=0,
        timings=Timings(0.0, 0.0, 0.0),
        seed=command.request.sampling.seed,
        error=error,
    )
    with contextlib.suppress(Exception):  # nobody is left to tell about a broken callback
        command.deliver(event)


_running: dict[_Loop, threading.Thread] = {}


@atexit.register
def _close_all() -> None:
    for loop, thread in list(_running.items()):
        loop.inbox.put(_Close(cancel=True))
        thread.join(EXIT_SECONDS)
