"""The memory of all models together: never more engines than there is room for."""

from __future__ import annotations

import asyncio
import math
import time
from pathlib import Path

import pytest

from formats.quantisers import SCHEMES, quantised, write_parts
from llm.small import ARCH, random_tensors, write_small
from qwick.errors import FormatError, ModelNotFoundError, ResourceError
from qwick.formats.write import write_folder
from qwick.llm.load import Options
from qwick.monitor.memory import resident_bytes
from qwick.quant.types import StoredType
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
                # What it has is counted, not its weights alone.
                assert first.qwen is not None
                has = resident_bytes(first.qwen.engine.pulse.pid)
                assert first.weights > default_checkpoint.stat().st_size / 2
                assert await first.taken() >= max(first.weights, (has or 0) * 0.9)
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
    checkpoint = write_small(tmp_path / "m.gguf")

    async def run() -> None:
        models = models_of(checkpoint, files=0.5)
        with pytest.raises(ResourceError, match="raise --memory"):
            await models.ready(models.first)
        assert models.first.state == "cold"

    asyncio.run(run())


WIDE = {**ARCH, "hidden_size": 256, "intermediate_size": 1024, "num_hidden_layers": 4}


def weighed(source: Path, **options: object) -> int:
    loading = Options(**options)  # type: ignore[arg-type]
    models = Models(ServeOptions([f"a={source}"], memory=1 << 40, loading=loading))
    return asyncio.run(models.first.least())


def test_weights_count_as_they_will_be_in_memory(tmp_path: Path) -> None:
    """Not as their files: quantised while they are loaded, or bounded; others as they are."""
    tensors = random_tensors(WIDE)
    write_folder(tmp_path / "a", WIDE, tensors, StoredType.BF16, files={"notes": "x" * 10_000_000})
    matrices = sum(math.prod(t.shape) for n, t in tensors.items() if n.endswith("_proj.weight"))
    embedding = tensors["model.embed_tokens.weight"].size
    small = sum(t.size for n, t in tensors.items() if t.ndim == 1)
    assert (
        2 * (matrices + embedding)
        <= weighed(tmp_path / "a")
        <= 2 * (matrices + embedding) + (4 * small)
    )
    made = 64 << 20  # held beside what they become
    for quantize, bits in (("int4", 4.5), ("int8", 8.5)):
        low = made + int(matrices * bits / 8 + embedding * 8.5 / 8)
        assert low <= weighed(tmp_path / "a", quantize=quantize) <= low + 4 * small
    assert weighed(tmp_path / "a", weights_ram="1MB") == 1_000_000
    told = {"quantization_config": SCHEMES["bitsandbytes nf4"][0]}
    write_parts(tmp_path / "c", {**WIDE, **told}, quantised("bitsandbytes nf4", tensors)[0])
    low = made + 2 * matrices + 4 * embedding  # 4 bits in the file, their values in bfloat16
    assert low <= weighed(tmp_path / "c") <= low + 4 * small
    (tmp_path / "b.gguf").write_bytes(bytes(1000))
    with pytest.raises(FormatError):
        weighed(tmp_path / "b.gguf")


@pytest.mark.model
def test_what_fits_once_quantised_is_loaded(tmp_path: Path) -> None:
    """Though its files are larger than the memory allowed; and its weights are told."""
    path = write_small(tmp_path / "m.gguf", hidden_size=512, intermediate_size=16384)
    memory = path.stat().st_size - 1

    async def run() -> None:
        loading = Options(quantize="int4", ctx=64)
        models = Models(ServeOptions([f"a={path}"], memory=memory, loading=loading))
        try:
            assert models.first.weights == 0
            await models.ready(models.first)
            assert models.first.state == "ready"
            assert 0 < models.first.weights < memory
        finally:
            await models.close()

    asyncio.run(run())


@pytest.mark.alone
def test_a_first_model_that_cannot_be_had_is_tried_ever_more_rarely(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, tmp_path: Path
) -> None:
    """0.02, 0.04, 0.08 ... s between tries, not 0.02 each time."""
    for module in ("hosted", "models"):
        monkeypatch.setattr(f"qwick.server.{module}.RETRY_LOAD_SECONDS", 0.02)

    async def run() -> None:
        models = Models(ServeOptions([f"a={tmp_path / 'none.gguf'}"]))
        with pytest.raises(ModelNotFoundError):
            await models.ready(models.first)
        end = time.monotonic() + 1.5
        while time.monotonic() < end:
            models.tend()
            await asyncio.sleep(0.005)
        await models.close()

    with caplog.at_level("ERROR", "qwick.server"):
        asyncio.run(run())
    tries = sum(record.message == "model_failed" for record in caplog.records)
    assert 3 <= tries <= 9
