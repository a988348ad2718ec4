"""Who may have a place in a model's engine next, or a thread: bounded queues, fair to all tenants.

A tenant is a key, or everybody without one. Free places go round the tenants that wait, so one with
a thousand requests delays another's first by one place, not by a thousand. For one event loop.
"""

from __future__ import annotations

import asyncio
from collections import OrderedDict, deque
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

from qwick.errors import OverloadedError
from qwick.values import whole

T = TypeVar("T")

MOST = 1 << 20
FORGETS = 0.9  # weight of the past in the mean time that a request takes
FIRST_GUESS = 5.0  # seconds


class FairQueue:
    """`places` requests at once; `waiting` more may wait, of one tenant at most half of them.

    A tenant that is alone may use all the room there is.
    """

    def __init__(self, places: int, waiting: int) -> None:
        self.places = whole("places", places, 1, MOST)
        self.room = whole("waiting", waiting, 0, MOST)
        self.running = 0
        self._queues: OrderedDict[str, deque[asyncio.Future[None]]] = OrderedDict()
        self._seconds = FIRST_GUESS

    @property
    def waiting(self) -> int:
        """Requests that wait for a place."""
        return sum(map(len, self._queues.values()))

    async def enter(self, tenant: str) -> None:
        """Wait for a place, which `leave` gives back; OverloadedError when too many wait.

        Cancelling the wait gives up the turn.
        """
        if self.running < self.places and not self._queues:
            self.running += 1
            return
        self._check_room(tenant)
        turn: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._queues.setdefault(tenant, deque()).append(turn)
        try:
            await turn
        except asyncio.CancelledError:
            if turn.done() and not turn.cancelled():  # the place came at the same moment
                self.leave()
            else:
                self._drop(tenant, turn)
            raise

    def leave(self, seconds: float | None = None) -> None:
        """Give a place back; seconds: how long it was held, from which waits are estimated."""
        if seconds is not None:
            self._seconds = FORGETS * self._seconds + (1 - FORGETS) * seconds
        self.running -= 1
        while self._queues and self.running < self.places:
            tenant, queue = next(iter(self._queues.items()))
            turn = queue.popleft()
            # To the end of the round, or out of it.
            del self._queues[tenant]
            if queue:
                self._queues[tenant] = queue
            if not turn.done():
                self.running += 1
                turn.set_result(None)

    def _check_room(self, tenant: str) -> None:
        waiting = self.waiting
        own = len(self._queues.get(tenant, ()))
        share = self.room if own == waiting else max(1, self.room // 2)
        if waiting < self.room and own < share:
            return
        rounds = (waiting + 1) / self.places
        wait = min(max(1.0, rounds * self._seconds), 600.0)
        raise OverloadedError(
            f"{self.running} requests are being answered and {waiting} wait, {own} of them yours; "
            f"allowed: {self.room} that wait, {share} of one key",
            hint=f"ask again in about {wait:.0f} s",
            retry_after=wait,
        )

    def _drop(self, tenant: str, turn: asyncio.Future[None]) -> None:
        queue = self._queues.get(tenant)
        if queue is None or turn not in queue:
            return
        queue.remove(turn)
        if not queue:
            del self._queues[tenant]


class FairThreads:
    """Threads for what takes a while and needs no engine, such as reading prompts; fair as above.

    They are nobody else's: the event loop's own threads parse bodies and end the server.
    """

    def __init__(self, threads: int, waiting: int) -> None:
        self._queue = FairQueue(threads, waiting)
        self._threads = ThreadPoolExecutor(threads, "qwick-reading")

    async def run(self, tenant: str, work: Callable[[], T]) -> T:
        """Return what `work` returns, once it had its turn; OverloadedError if too many wait.

        A thread cannot be stopped: whoever leaves meanwhile holds the turn until it has ended.
        """
        await self._queue.enter(tenant)
        done = asyncio.get_running_loop().run_in_executor(self._threads, work)
        done.add_done_callback(self._ended)
        return await asyncio.shield(done)

    def close(self) -> None:
        """Begin nothing more."""
        self._threads.shutdown(wait=False, cancel_futures=True)

    def _ended(self, done: asyncio.Future[T]) -> None:
        self._queue.leave()
        if not done.cancelled():
            done.exception()  # it has been looked at, though nobody may be waiting for it
