"""The memory of all models together: never more engines than there is room for."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from qwick.errors import OverloadedError, ResourceError
from qwick.llm import Qwen
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
        try:
            hosted = list(models.hosted.values())
            found = await asyncio.gather(*map(models.ready, hosted), return_exceptions=True)
            assert sorted(type(one).__name__ for one in found) == ["OverloadedError", "Qwen"]
            loaded, other = hosted if isinstance(found[0], Qwen) else hosted[::-1]
            assert (loaded.state, other.state) == ("ready", "cold")
            # What it has is counted, not its file alone.
            assert loaded.qwen is not None
            has = resident_bytes(loaded.qwen.engine.pulse.pid)
            assert await loaded.taken() >= max(default_checkpoint.stat().st_size, (has or 0) * 0.9)
            assert await other.taken() == 0
            no_room = pytest.raises(OverloadedError, match="there is no memory for")
            with loaded.in_use(), no_room:  # as from a request's first look at it
                await models.ready(other)
            await models.ready(other)
            assert (loaded.state, other.state) == ("cold", "ready")
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
