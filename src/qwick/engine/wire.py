"""What an engine's process and the one that uses it tell each other, over one socket.

Pickled by `multiprocessing.connection`: both ends are ours, of one user, and the socket has no
name, so nobody else can write to it. Plain data, no behaviour.
"""

from __future__ import annotations

from dataclasses import dataclass

from qwick.engine.capacity import Capacity
from qwick.engine.request import Event, Request
from qwick.engine.stats import Snapshot
from qwick.errors import QwickError

# To the engine's process. Numbers are the asking side's names for requests.


@dataclass(frozen=True, slots=True)
class Submit:
    """Run a request; `submitted` is the asking side's perf_counter, which all processes share."""

    number: int
    request: Request
    submitted: float


@dataclass(frozen=True, slots=True)
class Cancel:
    """End a request before the next step; nothing happens if it has ended."""

    number: int


@dataclass(frozen=True, slots=True)
class Ping:
    """Answer between two steps: what the heartbeat is made of."""


@dataclass(frozen=True, slots=True)
class Close:
    """Take no more requests, cancel those under way or finish them, and end."""

    cancel: bool


Command = Submit | Cancel | Ping | Close

# From the engine's process.


@dataclass(frozen=True, slots=True)
class Loading:
    """So many bytes of the weights are ready."""

    done: int
    total: int


@dataclass(frozen=True, slots=True)
class Ready:
    """The model is loaded and requests are welcome."""

    capacity: Capacity


@dataclass(frozen=True, slots=True)
class Events:
    """What the requests have to tell since the last message, in order, by their numbers."""

    events: tuple[tuple[int, Event], ...]


@dataclass(frozen=True, slots=True)
class Pong:
    """The loop is alive; this is its state."""

    snapshot: Snapshot


@dataclass(frozen=True, slots=True)
class Broken:
    """The model could not be loaded, or the engine broke; the process ends."""

    error: QwickError


Report = Loading | Ready | Events | Pong | Broken
