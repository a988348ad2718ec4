"""The models that a server serves: by name, loaded when first asked for, within the memory allowed.

Each has an engine in a process of its own and a queue before it. Knows no dialect.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import threading
import time
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import AbstractAsyncContextManager
from pathlib import Path

from qwick import hub
from qwick.errors import (
    EngineError,
    ModelNotFoundError,
    OverloadedError,
    ParameterError,
    QwickError,
    ResourceError,
    shown,
)
from qwick.llm import Qwen
from qwick.llm.load import Options, start_process
from qwick.llm.steers import Guide
from qwick.llm.texts import Asked
from qwick.monitor.health import SILENT
from qwick.monitor.memory import resident_bytes
from qwick.server.options import ServeOptions
from qwick.server.waiting import FairQueue
from qwick.text.grammar import Vocabulary
from qwick.text.tokenizer import Tokenizer

log = logging.getLogger("qwick.server")

RETRY_LOAD_SECONDS = 10.0  # after a load that failed, the same error is told for so long
MOST_PATIENCE = 300.0  # seconds between two tries that nobody has asked for
RESTART_SECONDS = 300.0  # that a request waits for an engine that is being replaced
TURN_SECONDS = 5.0  # that a loaded model may go on taking requests while another one waits
LOOK_SECONDS = 0.05  # between two looks at what is waited for

Room = Callable[["Hosted"], AbstractAsyncContextManager[None]]


class Hosted:
    """One served model; made by `Models`. For one event loop."""

    def __init__(self, name: str, source: str | None, options: ServeOptions) -> None:
        self.name = name
        self.source = source  # a catalogue name, a file, a folder; None: the default checkpoint
        self.created = int(time.time())
        self.queue = FairQueue(options.places, options.waiting)
        self.used = 0.0  # when it was asked last
        self.users = 0  # requests that need it, also those that wait for it
        self.lives = 0  # how often it was loaded
        self._least = 0  # bytes of its files, once somebody looked
        self._options = options
        self._qwen: Qwen | None = None
        self._loading: asyncio.Task[Qwen] | None = None
        self._failure: tuple[float, QwickError] | None = None
        self._vocabulary: Vocabulary | None = None  # made for the first grammar
        self._checking = threading.Lock()

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

    def check_grammars(self, asked: Sequence[Asked], tokenizer: Tokenizer) -> None:
        """Raise ParameterError for a grammar that cannot be compiled, before the engine tries."""
        guides = [a.request.guide for a in asked if isinstance(a.request.guide, Guide)]
        grammars = [grammar for guide in guides for grammar in guide.grammars]
        if not grammars:
            return
        with self._checking:
            if self._vocabulary is None:
                self._vocabulary = Vocabulary(tokenizer)
        for grammar in grammars:
            self._vocabulary.check(grammar)

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
        """Return the bytes that it takes at least: those of its files."""
        if not self._least:
            self._least = await asyncio.to_thread(size_of, self.source)
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
            return Qwen(
                *start_process(
                    self.source,
                    Options(options.threads, options.ctx, options.kv, drafts=options.drafts),
                    _Logged(self.name),
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


class Models:
    """All served models, by name, in the order in which they were named."""

    def __init__(self, options: ServeOptions) -> None:
        self._options = options
        self._room = asyncio.Lock()  # one at a time decides about memory
        self._claim: tuple[Hosted, float] | None = None  # who waits for memory, and since when
        self._trying: asyncio.Task[Qwen] | None = None  # to bring the first one back
        self._patience = RETRY_LOAD_SECONDS  # until that is tried again
        self._again = 0.0  # when it will be
        self.hosted: Mapping[str, Hosted] = {
            name: Hosted(name, source, options) for name, source in _named(options.models)
        }

    def find(self, name: str) -> Hosted:
        """Return a model by the name it is served under; ModelNotFoundError."""
        found = self.hosted.get(name)
        if found is None:
            raise ModelNotFoundError(
                f"there is no model {shown(name)} here",
                hint=f"served: {', '.join(self.hosted)}",
            )
        return found

    @property
    def first(self) -> Hosted:
        """The one that is loaded at the start."""
        return next(iter(self.hosted.values()))

    async def ready(self, hosted: Hosted) -> Qwen:
        """Return a model, loaded; others that are idle make room for it, if need be."""
        hosted.used = time.monotonic()
        most = self._options.memory
        if most is not None and hosted.qwen is None and await hosted.least() > most:
            raise ResourceError(
                f"{hosted.name} needs {await hosted.least() / 1e6:.0f} MB and more; the server may "
                f"use {most / 1e6:.0f} MB",
                hint="raise --memory, or serve a smaller checkpoint",
            )
        while True:
            try:
                return await hosted.ready(self._room_for)
            except ResourceError:
                if not await self._unload_one(hosted):
                    raise
                hosted.forget_failure()

    @contextlib.asynccontextmanager
    async def use(self, hosted: Hosted) -> AsyncIterator[None]:
        """Keep a model from being unloaded for another one, within a block.

        A loaded one is lent to nobody new once another model has waited long enough for its memory.
        """
        if hosted.qwen is None and hosted.users >= self._options.waiting + self._options.places:
            raise OverloadedError(
                f"{hosted.users} requests wait for {hosted.name} to be loaded; allowed: "
                f"{self._options.waiting + self._options.places}",
                hint="ask again later",
                retry_after=TURN_SECONDS,
            )
        while hosted.qwen is not None and self._must_give_way(hosted):
            await asyncio.sleep(LOOK_SECONDS)
        hosted.users += 1
        try:
            yield
        finally:
            hosted.users -= 1

    def _must_give_way(self, hosted: Hosted) -> bool:
        if self._claim is None or self._claim[0] is hosted:
            return False
        return time.monotonic() - self._claim[1] > TURN_SECONDS

    def tend(self) -> None:
        """Bring the first model back where nothing is loaded any more and nobody asks."""
        now, under_way = time.monotonic(), self._trying is not None and not self._trying.done()
        if not self.first.lost:
            self._patience = self._patience if under_way else RETRY_LOAD_SECONDS
            return
        others = (h for h in self.hosted.values() if h is not self.first)
        if under_way or now < self._again or any(h.qwen is not None and not h.lost for h in others):
            return
        self._again, self._patience = now + self._patience, min(2 * self._patience, MOST_PATIENCE)
        self._trying = asyncio.create_task(self.ready(self.first))
        self._trying.add_done_callback(_look_at)

    @contextlib.asynccontextmanager
    async def place(self, hosted: Hosted, tenant: str) -> AsyncIterator[Qwen]:
        """Hold a place in a model's engine within a block; wait for it, and for the model.

        Raises OverloadedError, or what prevents the model from being loaded.
        """
        await hosted.queue.enter(tenant)
        begun = time.monotonic()
        try:
            yield await self.ready(hosted)
        finally:
            hosted.queue.leave(time.monotonic() - begun)

    async def close(self) -> None:
        """Unload all."""
        if self._trying is not None:
            self._trying.cancel()
        await asyncio.gather(*(hosted.unload() for hosted in self.hosted.values()))

    @contextlib.asynccontextmanager
    async def _room_for(self, wanted: Hosted) -> AsyncIterator[None]:
        """Hold the right to begin to load within a block, with room for `wanted`.

        Idle models, those unused for longest first, are unloaded where it would not fit; where none
        is idle, wait until one is.
        """
        most = self._options.memory
        async with self._room:
            self._claim = (wanted, time.monotonic())
            try:
                while most is not None and await self._needed(wanted) > most:
                    if not await self._unload_one(wanted):
                        await asyncio.sleep(LOOK_SECONDS)
            finally:
                self._claim = None
            yield

    async def _needed(self, wanted: Hosted) -> int:
        """Return the bytes of all that are loaded or being loaded, with `wanted` among them."""
        others = [await h.taken() for h in self.hosted.values() if h is not wanted]
        return await wanted.least() + sum(others)

    async def _unload_one(self, wanted: Hosted) -> bool:
        """Unload the idle model that was unused for longest; whether there was one."""
        others = (h for h in self.hosted.values() if h is not wanted)
        idle = [h for h in others if h.idle]
        if not idle:
            return False
        await min(idle, key=lambda hosted: hosted.used).unload()
        return True


async def _revived(qwen: Qwen) -> None:
    """Wait while an engine is being replaced; no thread waits, so that none can be wanting."""
    end = time.monotonic() + RESTART_SECONDS
    while qwen.engine.pulse.state.value == "loading" and time.monotonic() < end:
        await asyncio.sleep(LOOK_SECONDS)
    qwen.engine.wait_ready(0)  # which says what has become of it


def _look_at(task: asyncio.Task[Qwen]) -> None:
    """Leave no failure of a task unseen; the model has told the log already."""
    if not task.cancelled():
        task.exception()


class _Logged(hub.SilentListener):
    """Tells the log what a fetch has to say to people."""

    shows = True

    def __init__(self, name: str) -> None:
        self._name = name

    def notice(self, text: str) -> None:
        """Log a notice."""
        log.info("notice", extra={"model": self._name, "notice": text})


def size_of(source: str | None) -> int:
    """Return the bytes of a checkpoint's files: what its weights take, at least."""
    path = hub.resolve(source, hub.SilentListener())
    if path.is_dir():
        return sum(file.stat().st_size for file in path.iterdir() if file.is_file())
    return path.stat().st_size


def _named(models: object) -> list[tuple[str, str | None]]:
    """Return (name, source) of the models on a command line: SOURCE or NAME=SOURCE."""
    found: dict[str, str | None] = {}
    for word in list(models) or [None]:  # type: ignore[call-overload]
        if word is None:
            name, source = hub.DEFAULT, None
        else:
            name, equals, source = word.partition("=")
            if not equals or os.sep in name:
                name, source = _name_of(word), word
        if not name or name in found:
            raise ParameterError(
                f"the model name {shown(name)} is empty or given twice; allowed: NAME=MODEL with "
                "a name of its own"
            )
        found[name] = source
    return list(found.items())


def _name_of(word: str) -> str:
    entry = hub.find(word)
    if entry is not None:
        return entry.name
    if hub.existing_path(word) is None:
        raise ModelNotFoundError(
            f"there is no model called {hub.shortened(word)!r}",
            hint=f"did you mean {' or '.join(hub.near(word))}?" if hub.near(word) else None,
        )
    return Path(word).resolve().stem
