"""One request of a client, from its route to its end: what desk, sending and observer share."""

from __future__ import annotations

import asyncio
import contextlib
from dataclasses import dataclass
from typing import Any

from qwick.errors import QwickError
from qwick.server.admission import Admission
from qwick.server.ask import Ask, Flight
from qwick.server.caller import Caller
from qwick.server.hosted import Hosted


@dataclass(slots=True, eq=False)
class Visit:
    """One request of a client, from its route to its end."""

    caller: Caller
    hosted: Hosted
    ask: Ask
    streamed: bool
    begun: float
    deadline: float
    task: asyncio.Task[Any] | None = None  # what writes the answer
    flight: Flight | None = None
    admission: Admission | None = None
    wrote: float = 0.0  # when something was last written
    writing: float | None = None  # since when a client could have read the piece it is sent
    end: QwickError | None = None  # what the server ended it with
    waited: float = 0.0  # seconds before there was a place


@contextlib.contextmanager
def ended_by_server(visit: Visit) -> Any:
    """Turn the cancelling of a visit that the server ended into the reason for that."""
    try:
        yield
    except asyncio.CancelledError:
        if visit.end is None:
            raise
        raise visit.end from None
