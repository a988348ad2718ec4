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
from collections.abc import AsyncIterator, Callable, Iterator, Mapping, Sequence
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
from qwick.text.grammar import Grammar, Vocabulary
from qwick.text.tokenizer import Tokenizer

log = logging.getLogger("qwick.server")

RETRY_LOAD_SECONDS = 10.0  # after a load that failed, the same error is told for so long
RESTART_SECONDS = 300.0  # that a request waits for an engine that is being replaced


Room = Callable[["Hosted"], AbstractAsyncContextManager[None]]


class Hosted:
    """One served model; made by `Models`. For one event loop."""

    def __init__(self, name: str, source: str | None, options: ServeOptions) -> None:
        self.name = name
        self.source = source  # a catalogue name, a file, a folder; None: the default checkpoint
        self.created = int(time.time())
        self.queue = FairQueue(options.places, options.waiting)
        self.used = 0.0  # when it was asked last
        self._users = 0  # blocks of `in_use`
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
        return self._qwen is not None and not self._users

    @contextlib.contextmanager
    def in_use(self) -> Iterator[None]:
        """Keep it from being unloaded for another one, within a block."""
        self._users += 1
        try:
            yield
        finally:
            self._users -= 1

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
        if self._qwen.engine.pulse.state.value == "loading":  # its engine is being replaced
            engine = self._qwen.engine
            await asyncio.to_thread(engine.wait_ready, RESTART_SECONDS)
        return self._qwen

    async def check_grammars(self, asked: Sequence[Asked]) -> None:
        """Raise ParameterError for a grammar that cannot be compiled, before the engine tries."""
        guides = [a.request.guide for a in asked if isinstance(a.request.guide, Guide)]
        grammars = [guide.grammar for guide in guides if guide.grammar is not None]
        if grammars and self._qwen is not None:
            await asyncio.to_thread(self._check, grammars, self._qwen.tokenizer)

    def _check(self, grammars: Sequence[Grammar], tokenizer: Tokenizer) -> None:
        with self._checking:
            if self._vocabulary is None:
                self._vocabulary = Vocabulary(tokenizer)
        for grammar in grammars:
            self._vocabulary.check(grammar)

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
        await asyncio.gather(*(hosted.unload() for hosted in self.hosted.values()))

    @contextlib.asynccontextmanager
    async def _room_for(self, wanted: Hosted) -> AsyncIterator[None]:
        """Hold the right to begin to load within a block, with room for `wanted`.

        Idle models, those unused for longest first, are unloaded where it would not fit.
        """
        most = self._options.memory
        async with self._room:
            while most is not None and await self._needed(wanted) > most:
                if not await self._unload_one(wanted):
                    raise OverloadedError(
                        f"there is no memory for {wanted.name} while other models are in use",
                        hint="ask again when they are idle, or raise --memory",
                        retry_after=10.0,
                    )
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
