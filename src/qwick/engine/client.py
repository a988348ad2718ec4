"""What whoever asks sees of an engine, on a thread (`thread.py`) or in a process (`process.py`)."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum
from typing import Protocol

from qwick.engine.capacity import Capacity
from qwick.engine.request import Deliver, Request
from qwick.engine.stats import Snapshot, Stats


class State(Enum):
    """Where an engine is in its life."""

    LOADING = "loading"
    READY = "ready"
    FAILED = "failed"  # given up; `failure` says why
    CLOSED = "closed"


@dataclass(frozen=True, slots=True)
class Pulse:
    """Whether an engine lives.

    pid: of its process, None where it has none of its own. silent: seconds since it last gave a
    sign of life. computing: whether it has used a core since then. restarts: how often it was
    replaced. restarted: seconds since the last time, None for never.
    """

    state: State
    pid: int | None
    silent: float
    computing: bool
    restarts: int
    restarted: float | None = None


class Ticket(Protocol):
    """One submitted request."""

    def cancel(self) -> None:
        """Ask for an end before the next step; nothing happens if the request has ended."""
        ...


class EngineClient(Protocol):
    """Submit and cancel from any thread; events come by callback."""

    def submit(self, request: Request, deliver: Deliver) -> Ticket:
        """Queue a request; `deliver` gets its events, exactly one Finished last.

        Raises as `Capacity.check`, at once; EngineError when there is no engine.
        """
        ...

    @property
    def capacity(self) -> Capacity:
        """What the engine can hold."""
        ...

    @property
    def stats(self) -> Stats:
        """The engine's counters."""
        ...

    @property
    def snapshot(self) -> Snapshot:
        """The engine's state: of now, or as of about a second ago."""
        ...

    @property
    def pulse(self) -> Pulse:
        """Whether it lives."""
        ...

    @property
    def closed(self) -> bool:
        """Whether new requests are refused for good."""
        ...

    def wait_ready(self, timeout: float | None = None) -> None:
        """Wait until requests are taken; raises what prevents that, EngineError after timeout."""
        ...

    def close(self, *, cancel: bool = True, timeout: float | None = None) -> bool:
        """Refuse new requests, cancel what runs or let it finish, wait; whether it has ended."""
        ...
