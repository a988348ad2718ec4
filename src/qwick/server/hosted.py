"""One model that a server serves: loaded when it is first asked for, its engine and its queue.

Knows no dialect and no other model; `models.py` decides who may load.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable
from contextlib import AbstractAsyncContextManager

from qwick import hub
from qwick.errors import EngineError, QwickError
from qwick.llm import Qwen
from qwick.llm.load import start_process, weight_bytes_of
from qwick.monitor.health import SILENT
from qwick.monitor.memory import resident_bytes
from qwick.server.grammars import Grammars
from qwick.server.options import ServeOptions
from qwick.server.waiting import FairQueue

log = logging.getLogger("qwick.server")

RETRY_LOAD_SECONDS = 10.0  # after a load that failed, the same error is told for so long
RESTART_SECONDS = 300.0  # that a request waits for an engine that is being replaced
LOOK_SECONDS = 0.05  # between two looks at what is waited for

Room = Callable[["Hosted"], AbstractAsyncContextManager[None]]


class Hosted:
    """A served model, loaded or not. For one event loop."""

    def __init__(self, name: str, source: str | None, options: ServeOptions) -> None:
        self.name = name
        self.source = source  # a catalogue name, a file, a folder; None: the default checkpoint
        self.created = int(time.time())
        self.queue = FairQueue(options.places, options.waiting)
        self.used = 0.0  # when it was asked last
        self.users = 0  # requests that need it, also those that wait for it
        self.lives = 0  # how often it was loaded
        self._least = 0  # bytes of its weights, once somebody looked
        self._options = options
        self._qwen: Qwen | None = None
        self._loading: asyncio.Task[Qwen] | None = None
        self._failure: tuple[float, QwickError] | None = None
        self.grammars = Grammars()

    @property
    def qwen(self) -> Qwen | None:
        """The loaded model, or None."""
        return self._qwen

    @property
    def state(self) -> str:
        """One of cold, loading, ready, failed."""
        if self._loading is not None:
            return "loading"
        if self._qwen is None:
            return "cold" if self._failure is None else "failed"
        return str(self._qwen.engine.pulse.state.value)

    @property
    def patience(self) -> float:
        """Seconds for which its engine may give no sign of life: longer while it computes."""
        pulse = None if self._qwen is None else self._qwen.engine.pulse
        if pulse is None or not pulse.computing:
            return SILENT
        return max(SILENT, self._options.stuck_seconds)

    @property
    def idle(self) -> bool:
        """Whether it is loaded and nobody needs it to stay so."""
        return self._qwen is not None and not self.users

    def load(self) -> asyncio.Task[Qwen]:
        """Begin to load, unless that is under way."""
        if self._loading is None:
            self._loading = asyncio.create_task(self._load())
            self._loading.add_done_callback(self._loaded)
        return self._loading

    async def ready(self, room: Room) -> Qwen:
        """Return the model, loaded and with a living engine; raises what prevents that.

        room: a block in which nobody else begins to load, entered when there is room for this one.
        """
        if self._qwen is not None and self._qwen.engine.closed:  # given up
            await self.unload()
        if self._qwen is None:
            if self._failure is not None and time.monotonic() < self._failure[0]:
                raise self._failure[1].again()
            async with room(self):
                if self.qwen is None:  # nobody has loaded it while this waited
                    self.load()
        if self._loading is not None:
            return await asyncio.shield(self._loading)
        assert self._qwen is not None
        await _revived(self._qwen)
        return self._qwen

    @property
    def lost(self) -> bool:
        """Whether it could not be loaded, or its engine was given up, and it may be tried again."""
        if self._loading is not None:
            return False
        if self._qwen is not None:
            return self._qwen.engine.closed
        return self._failure is not None and time.monotonic() >= self._failure[0]

    def forget_failure(self) -> None:
        """Let the next request try to load it at once."""
        self._failure = None

    async def least(self) -> int:
        """Return the bytes that it takes at least: those of its weights, see `weight_bytes_of`.

        It is fetched first where it is not on disk. Raises what prevents it from being loaded.
        """
        if not self._least:
            self._least = await asyncio.to_thread(self._weigh, hub.SilentListener())
        return self._least

    def _weigh(self, listener: hub.Listener) -> int:
        return weight_bytes_of(hub.resolve(self.source, listener), self._options.loading)

    @property
    def weights(self) -> int:
        """Bytes of its weights in memory; known of a loaded one, else 0 until somebody looked."""
        return self._least

    async def taken(self) -> int:
        """Return the bytes that it takes: what its engine has, at least what it will have loaded.

        So one that is being loaded counts from the beginning.
        """
        if self._loading is None and self._qwen is None:
            return 0
        least = await self.least()
        pid = None if self._qwen is None else self._qwen.engine.pulse.pid
        return max(least, 0 if pid is None else resident_bytes(pid) or 0)

    async def unload(self) -> None:
        """End the engine and give its memory back."""
        qwen, self._qwen, self._least = self._qwen, None, 0
        if qwen is not None:
            await asyncio.to_thread(qwen.close)

    async def _load(self) -> Qwen:
        loop, options = asyncio.get_running_loop(), self._options
        begun = time.monotonic()

        def load() -> Qwen:
            listener = _Logged(self.name)
            self._least = self._least or self._weigh(listener)
            return Qwen(
                *start_process(
                    self.source,
                    options.loading,
                    listener,
                    post=loop.call_soon_threadsafe,
                    stuck_seconds=options.stuck_seconds,
                    on_death=self._log_death,
                )
            )

        qwen = await asyncio.to_thread(load)
        log.info(
            "model_loaded",
            extra={
                "model": self.name,
                "seconds": round(time.monotonic() - begun, 3),
                "context": qwen.context,
            },
        )
        return qwen

    def _log_death(self, pid: int, error: QwickError, restarts: int, last: bool) -> None:
        # An exception's own words, which stand third in a message, may quote a request.
        why = ": ".join(error.message.split(": ")[:2])
        log.error(
            "engine_given_up" if last else "engine_replaced",
            extra={"model": self.name, "pid": pid, "restarts": restarts, "error": why},
        )

    def _loaded(self, task: asyncio.Task[Qwen]) -> None:
        self._loading = None
        if task.cancelled():
            return
        error = task.exception()
        if error is None:
            self._qwen, self._failure = task.result(), None
            self.lives += 1
            return
        if not isinstance(error, QwickError):
            error = EngineError(f"{self.name} cannot be loaded: {error!r}")
        log.error("model_failed", extra={"model": self.name, "error": str(error)})
        self._failure = (time.monotonic() + RETRY_LOAD_SECONDS, error)


async def _revived(qwen: Qwen) -> None:
    """Wait while an engine is being replaced; no thread waits, so that none can be wanting."""
    end = time.monotonic() + RESTART_SECONDS
    while qwen.engine.pulse.state.value == "loading" and time.monotonic() < end:
        await asyncio.sleep(LOOK_SECONDS)
    qwen.engine.wait_ready(0)  # which says what has become of it


class _Logged(hub.SilentListener):
    """Tells the log what a fetch has to say to people."""

    shows = True

    def __init__(self, name: str) -> None:
        self._name = name

    def notice(self, text: str) -> None:
        """Log a notice."""
        log.info("notice", extra={"model": self._name, "notice": text})
