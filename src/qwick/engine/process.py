"""An engine in a process of its own: submit and cancel from any thread, events by callback.

The interpreter that serves HTTP and text would take turns with the engine's: a busy thread beside
it makes each step many times slower. So the engine has its own process (`life.py`, `child.py`). It
is watched: it answers pings between its steps. One that died, or neither answers nor computes, is
replaced; requests under way end with EngineError. Knows no text.
"""

from __future__ import annotations

import atexit
import contextlib
import os
import threading
import time
import weakref
from collections.abc import Callable
from dataclasses import dataclass
from itertools import count
from multiprocessing.reduction import ForkingPickler

from qwick.engine.capacity import Capacity
from qwick.engine.child import Build
from qwick.engine.client import Pulse, State
from qwick.engine.life import COMPUTING, PING_SECONDS, Life
from qwick.engine.request import Deliver, Event, Finished, FinishReason, Request, Timings
from qwick.engine.stats import Snapshot, Stats
from qwick.engine.wire import (
    Cancel,
    Close,
    Command,
    Events,
    Loading,
    Pong,
    Ready,
    Report,
    Submit,
)
from qwick.errors import EngineError, QwickError

STUCK_SECONDS = 60.0  # silent for so long and not computing: stuck
QUICK_DEATHS = 3  # so many within SHORT_LIFE seconds or while loading, and it is given up
SHORT_LIFE = 30.0
EXIT_SECONDS = 10.0  # from the request to end to the kill

Post = Callable[[Callable[[], None]], object]
OnLoading = Callable[[int, int], None]
OnDeath = Callable[[int, QwickError, int, bool], None]


class ProcessTicket:
    """One submitted request, to be cancelled with."""

    def __init__(self, process: _Supervisor, number: int) -> None:
        self._process = process
        self._number = number

    def cancel(self) -> None:
        """Ask for an end before the next step; nothing happens if the request has ended."""
        self._process.send(Cancel(self._number))


class EngineProcess:
    """Starts the process, loads into it what `build` makes, and runs it until closed.

    build: picklable; it gets a function to tell the progress of loading (bytes done, in all).
    post: runs a callback where the events are wanted (an event loop's call_soon_threadsafe): one
    call for all events of a step. Without it they come on a thread of this object: short ones that
    do not block. on_loading: hears of the first loading only. on_death: hears of each death once
    the model was loaded, on that thread and before the requests do: the pid, why, how often one was
    replaced by now, and whether this one is not.
    """

    def __init__(
        self,
        build: Build,
        *,
        post: Post | None = None,
        on_loading: OnLoading | None = None,
        on_death: OnDeath | None = None,
        stuck_seconds: float = STUCK_SECONDS,
    ) -> None:
        self._supervisor = _Supervisor(build, post, on_loading, on_death, stuck_seconds)
        self._pid = os.getpid()
        weakref.finalize(self, self._supervisor.abandon).atexit = False
        self._supervisor.start()

    def wait_ready(self, timeout: float | None = None) -> None:
        """Wait for the model to be loaded; raises what prevented it, EngineError after timeout."""
        self._supervisor.wait_ready(timeout)

    def submit(self, request: Request, deliver: Deliver) -> ProcessTicket:
        """Queue a request; `deliver` gets its events, exactly one Finished last.

        Raises as `Capacity.check`, at once and on this thread; EngineError when there is no engine.
        """
        if os.getpid() != self._pid:
            raise EngineError(
                "this engine belongs to the process that loaded it, and this is a fork of it",
                hint="load the model in the child, or start children with 'spawn'",
            )
        return self._supervisor.submit(request, deliver)

    @property
    def capacity(self) -> Capacity:
        """What the engine can hold; EngineError before it was ready for the first time."""
        return self._supervisor.capacity

    @property
    def snapshot(self) -> Snapshot:
        """The engine's state as of its last answer, about a second old while it runs."""
        return self._supervisor.snapshot

    @property
    def stats(self) -> Stats:
        """The counters of this life of the engine, as of its last answer."""
        return self._supervisor.snapshot.stats

    @property
    def pulse(self) -> Pulse:
        """Whether the engine lives."""
        return self._supervisor.pulse()

    @property
    def closed(self) -> bool:
        """Whether new requests are refused for good."""
        return self._supervisor.ended

    def close(self, *, cancel: bool = True, timeout: float | None = None) -> bool:
        """Refuse new requests, cancel what runs (or let it finish), and wait for the process's end.

        May be called again and from any thread. Returns whether it has ended within `timeout`
        seconds (None: however long it takes). With cancel, a process that does not end in time is
        killed.
        """
        return self._supervisor.close(cancel=cancel, timeout=timeout)


@dataclass(slots=True)
class _Waiting:
    """One request under way, as the asking side knows it."""

    deliver: Deliver
    prompt_tokens: int


class _Supervisor:
    """What the threads work on. Apart from EngineProcess, so that the latter can be collected."""

    def __init__(
        self,
        build: Build,
        post: Post | None,
        on_loading: OnLoading | None,
        on_death: OnDeath | None,
        stuck_seconds: float,
    ) -> None:
        self._build = bytes(ForkingPickler.dumps(build))
        self._post = post
        self._on_loading = on_loading
        self._on_death = on_death
        self._stuck_seconds = stuck_seconds
        self._lock = threading.Lock()  # state, life and the table of requests belong together
        self._changed = threading.Condition(self._lock)
        self.state = State.LOADING
        self.snapshot = Snapshot()
        self._capacity: Capacity | None = None
        self._failure: QwickError | None = None
        self._closing = False
        self._life: Life | None = None
        self._restarts = 0
        self._restarted: float | None = None  # when the last time was
        self._numbers = count()
        self._waiting: dict[int, _Waiting] = {}
        self._thread = threading.Thread(target=self._run, name="qwick-supervisor", daemon=True)

    # -- for the asking side -------------------------------------------------------------------

    def start(self) -> None:
        _running.add(self)
        self._thread.start()

    @property
    def capacity(self) -> Capacity:
        if self._capacity is None:
            raise self._refusal()
        return self._capacity

    def wait_ready(self, timeout: float | None) -> None:
        with self._changed:
            done = self._changed.wait_for(
                lambda: self.state is not State.LOADING or self._closing, timeout
            )
            if self.state is State.READY:
                return
        if not done:
            raise EngineError(
                f"the model is not loaded after {timeout:g} s", hint="wait longer, or look why"
            )
        raise self._refusal()

    def submit(self, request: Request, deliver: Deliver) -> ProcessTicket:
        if self._capacity is not None:
            self._capacity.check(request)
        submitted = time.perf_counter()
        with self._lock:
            if self.state is not State.READY or self._life is None or self._closing:
                raise self._refusal()
            number = next(self._numbers)
            self._waiting[number] = _Waiting(deliver, len(request.ids))
            self._life.send(Submit(number, request, submitted))
        return ProcessTicket(self, number)

    def send(self, command: Command) -> None:
        life = self._life
        if life is not None:
            life.send(command)

    @property
    def ended(self) -> bool:
        return self._closing or self.state in (State.CLOSED, State.FAILED)

    def pulse(self) -> Pulse:
        life, last = self._life, self._restarted
        times = (self._restarts, None if last is None else time.monotonic() - last)
        if life is None:
            return Pulse(self.state, None, 0.0, False, *times)
        silent, busy = life.silence()
        computing = busy > COMPUTING * silent
        return Pulse(self.state, life.process.pid, silent, computing, *times)

    def abandon(self) -> None:
        """Ask for the end without taking a lock: a destructor may run anywhere."""
        self._closing = True
        self.send(Close(True))

    def close(self, *, cancel: bool, timeout: float | None = None) -> bool:
        with self._lock:
            self._closing = True
        self.send(Close(cancel))
        if threading.current_thread() is self._thread:
            return False
        if cancel:
            loads = self.state is State.LOADING  # then there is nothing to end in order
            self._thread.join(0.2 if loads else EXIT_SECONDS if timeout is None else timeout)
            life = self._life
            if life is not None:
                life.kill()
        self._thread.join(timeout)
        return not self._thread.is_alive()

    def _refusal(self) -> QwickError:
        if self._failure is not None:
            return self._failure.again()
        if self._closing:
            return EngineError("the engine is closed", hint="load the model again")
        return EngineError("the engine is being started", hint="ask again in a moment")

    # -- the supervisor's thread ---------------------------------------------------------------

    def _run(self) -> None:
        quick_deaths = 0
        failure: QwickError | None = None
        try:
            while not self._closing:
                begun = time.monotonic()
                cause = self._live_once()
                if self._closing:
                    break
                never = self._capacity is None
                quick = time.monotonic() - begun < SHORT_LIFE or self.state is not State.READY
                quick_deaths = quick_deaths + 1 if quick else 0
                last = never or quick_deaths >= QUICK_DEATHS
                if not last:
                    self.snapshot = Snapshot()  # the next one counts from 0
                    self._restarted = time.monotonic()
                    self._restarts += 1
                if self._on_death is not None and self._life is not None and not never:
                    self._on_death(self._life.process.pid, cause, self._restarts, last)
                if last:
                    failure = cause
                    break
                self._end_life(State.LOADING, cause)
        except QwickError as error:
            failure = error
        except Exception as error:
            failure = EngineError(f"the engine's process cannot be watched: {error!r}")
        finally:
            self._failure = failure
            self._end_life(State.FAILED if failure else State.CLOSED, self._refusal())
            _running.discard(self)

    def _end_life(self, state: State, cause: QwickError) -> None:
        """Take no request for the process that ended, and tell those who wait."""
        with self._changed:
            self.state, self._life = state, None
            left = list(self._waiting.items())
            self._changed.notify_all()
        timings = Timings(0.0, 0.0, 0.0)
        ends = (
            (number, Finished(FinishReason.ERROR, request.prompt_tokens, 0, timings, error=cause))
            for number, request in left
        )
        self._dispatch(tuple(ends))

    def _live_once(self) -> QwickError:
        """Start a process and serve until it ends; return why it did."""
        life = Life(self._build)
        self._life = life
        if self._closing:  # before there was anything to close
            life.send(Close(True))
        cause: QwickError | None = None
        try:
            while cause is None:
                report = life.receive(PING_SECONDS)
                if report is not None:
                    cause = self._hear(life, report)
                elif life.stuck(self._stuck_seconds):
                    silent, _ = life.silence()
                    cause = EngineError(
                        f"the engine was stuck: no answer for {silent:.0f} s",
                        hint="ask again; if it comes back, report it",
                    )
        except (EOFError, OSError):
            pass
        code = life.end()
        if cause is None:
            ended = f"signal {-code}" if code < 0 else f"exit code {code}"
            cause = EngineError(
                f"the engine's process ended with {ended}",
                hint="ask again; if it comes back, report it",
            )
        return cause

    def _hear(self, life: Life, report: Report) -> QwickError | None:
        if isinstance(report, Events):
            events = report.events
            self._dispatch(events)
        elif isinstance(report, Pong):
            life.beat()
            self.snapshot = report.snapshot
        elif isinstance(report, Loading):
            life.beat()
            if self._on_loading is not None and not self._restarts:
                self._on_loading(report.done, report.total)
        elif isinstance(report, Ready):
            life.beat()
            life.ready = True
            with self._changed:
                self._capacity, self.state = report.capacity, State.READY
                self._changed.notify_all()
        else:
            return report.error
        return None

    def _dispatch(self, events: tuple[tuple[int, Event], ...]) -> None:
        if not events:
            return
        if self._post is None:
            self._deliver(events)
            return
        with contextlib.suppress(RuntimeError):  # the event loop is closed: nobody listens
            self._post(lambda: self._deliver(events))

    def _deliver(self, events: tuple[tuple[int, Event], ...]) -> None:
        for number, event in events:
            ended = isinstance(event, Finished)
            request = self._waiting.pop(number, None) if ended else self._waiting.get(number)
            if request is None:  # it was answered already: with the failure of an earlier life
                continue
            try:
                request.deliver(event)
            except Exception:  # which may not harm the others
                self.send(Cancel(number))


_running: set[_Supervisor] = set()


@atexit.register
def _close_all() -> None:
    for supervisor in list(_running):
        supervisor.close(cancel=True, timeout=EXIT_SECONDS)
