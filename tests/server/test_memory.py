"""The memory of all models together: never more engines than there is room for."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from qwick.errors import ResourceError
from qwick.monitor.memory import resident_bytes
from qwick.server.models import Models
from qwick.server.options import ServeOptions


def models_of(checkpoint: Path, *, files: float) -> Models:
    """Two names for a checkpoint, and memory for so many of its files."""
    memory = int(checkpoint.stat().st_size * files)
    return Models(ServeOptions([f"a={checkpoint}", f"b={checkpoint}"], memory=memory))


@pytest.mark.model
def test_a_model_that_is_being_loaded_counts(default_checkpoint: Path) -> None:
    """Asked for at once, one is loaded, and the other has to wait until that one is idle."""

    async def run() -> None:
        models = models_of(default_checkpoint, files=1.5)
        first, second = models.hosted.values()
        try:
            async with models.use(first):
                await models.ready(first)
                waiting = asyncio.create_task(models.ready(second))
                await asyncio.sleep(0.5)
                assert (first.state, second.state) == ("ready", "cold")
                # What it has is counted, not its file alone.
                assert first.qwen is not None
                has = resident_bytes(first.qwen.engine.pulse.pid)
                size = default_checkpoint.stat().st_size
                assert await first.taken() >= max(size, (has or 0) * 0.9)
                assert await second.taken() == 0
            await waiting
            assert (first.state, second.state) == ("cold", "ready")
        finally:
            await models.close()

    asyncio.run(run())


@pytest.mark.model
def test_a_busy_model_gives_way(default_checkpoint: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """One that is never idle by itself takes nobody new while another one waits for long."""
    monkeypatch.setattr("qwick.server.models.TURN_SECONDS", 0.3)

    async def run() -> None:
        models = models_of(default_checkpoint, files=1.5)
        first, second = models.hosted.values()
        served = 0

        async def ask() -> None:
            nonlocal served
            while True:
                async with models.use(first):
                    await models.ready(first)
                    await asyncio.sleep(0.1)
                    served += 1

        try:
            await models.ready(first)
            busy = [asyncio.create_task(ask()) for _ in range(4)]
            await asyncio.sleep(0.25)
            assert served
            async with models.use(second):
                await asyncio.wait_for(models.ready(second), 20)
                assert (first.state, second.state) == ("cold", "ready")
            before = served
            for _ in range(200):
                await asyncio.sleep(0.05)
                if served > before:
                    break
            assert first.state == "ready", "and it comes back"
            for task in busy:
                task.cancel()
            await asyncio.gather(*busy, return_exceptions=True)
        finally:
            await models.close()

    asyncio.run(run())


def test_a_model_that_never_fits_is_told_so(tmp_path: Path) -> None:
    checkpoint = tmp_path / "m.gguf"
    checkpoint.write_bytes(bytes(1000))

    async def run() -> None:
        models = models_of(checkpoint, files=0.5)
        with pytest.raises(ResourceError, match="raise --memory"):
            await models.ready(models.first)
        assert models.first.state == "cold"

    asyncio.run(run())
