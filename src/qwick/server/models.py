"""The models that a server serves, by name, within the memory allowed: who may load, who gives way.

Knows no dialect.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import time
from collections.abc import AsyncIterator, Mapping
from pathlib import Path

from qwick import hub
from qwick.errors import (
    ModelNotFoundError,
    OverloadedError,
    ParameterError,
    ResourceError,
    shown,
)
from qwick.llm import Qwen
from qwick.server.hosted import LOOK_SECONDS, RETRY_LOAD_SECONDS, Hosted
from qwick.server.options import ServeOptions

MOST_PATIENCE = 300.0  # seconds between two tries that nobody has asked for
TURN_SECONDS = 5.0  # that a loaded model may go on taking requests while another one waits


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
            name: Hosted(name, source, options) for name, source in named(options.models)
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
            if self.first.qwen is not None and not under_way:
                self._patience = RETRY_LOAD_SECONDS
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


def _look_at(task: asyncio.Task[Qwen]) -> None:
    """Leave no failure of a task unseen; the model has told the log already."""
    if not task.cancelled():
        task.exception()


def named(models: object) -> list[tuple[str, str | None]]:
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
    entry = None if hub.looks_like_path(word) else hub.Store().find(word)
    if entry is not None:
        return entry.name
    if hub.existing_path(word) is None:
        if hub.names_model(word, surely=False):
            return word
        close = hub.near_names(word)
        raise ModelNotFoundError(
            f"there is no model called {hub.shortened(word)!r}",
            hint=f"did you mean {' or '.join(close)}?" if close else None,
        )
    return Path(word).resolve().stem
