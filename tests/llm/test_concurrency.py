"""Many at once and leaving at any moment: what is left is an engine without pages or threads."""

from __future__ import annotations

import asyncio
import random
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from engine.toy import ToyModel
from llm.small import TOKENIZER, small_qwen, write_small
from qwick.engine.engine import TOKEN_BUDGET, Engine
from qwick.errors import RequestCancelled, UsageError
from qwick.llm import Qwen
from qwick.model.batch import Batch

FREE: dict[str, Any] = {"stop_ids": (), "temperature": 1.0, "top_k": 0, "top_p": 1.0}
LONG = "x" * 8000  # tokens: the vocabulary is of bytes


def engine_of(qwen: Qwen) -> Engine:
    return qwen._engine._loop.engine


def until(condition: Callable[[], bool]) -> None:
    for _ in range(3000):
        if condition():
            return
        time.sleep(0.01)
    raise AssertionError("it did not happen within 30 s")


@contextmanager
def nothing_left(qwen: Qwen) -> Iterator[None]:
    """No page, no request and no thread more than before."""
    threads = set(threading.enumerate())
    yield
    engine = engine_of(qwen)
    until(lambda: not engine.has_work)
    assert engine.pages_used == 0
    engine.check()
    until(lambda: not set(threading.enumerate()) - threads)


# -- cancelling in the middle of a prompt --------------------------------------------------------


class Gate:
    """Stops the model at the beginning of step `at`, until opened."""

    def __init__(self, model: ToyModel, at: int) -> None:
        self.reached, self.go = threading.Event(), threading.Event()
        self.steps = 0
        self.at = at
        model.before_forward = self.count

    def count(self, _: Batch) -> None:
        self.steps += 1
        if self.steps == self.at:
            self.reached.set()
            assert self.go.wait(30)


@pytest.fixture
def gated() -> Iterator[tuple[Qwen, Gate]]:
    model = ToyModel(n_vocab=TOKENIZER.n_tokens, context=10_000, page_size=16)
    gate = Gate(model, at=3)
    with small_qwen(model=model, cache_tokens=10_000) as qwen:
        yield qwen, gate
        gate.go.set()


@pytest.mark.parametrize("how", ["close", "drop", "other"])
def test_closing_a_stream_in_a_long_prompt_frees_its_pages_before_the_next_chunk(
    gated: tuple[Qwen, Gate], how: str
) -> None:
    qwen, gate = gated
    engine = engine_of(qwen)
    stream = qwen.stream_complete(LONG, max_tokens=50, **FREE)
    assert gate.reached.wait(30)
    assert engine.pages_used == len(LONG) // 16, "all pages of a prompt are taken when it starts"
    if how == "close":
        stream.close()
    elif how == "drop":
        del stream
    else:  # a request that shares the steps goes on
        other = qwen.stream_complete("abc", max_tokens=5, seed=1, **FREE)
        stream.close()
    gate.go.set()
    if how == "other":
        assert other.read().ids == qwen.complete("abc", max_tokens=5, seed=1, **FREE).ids
    until(lambda: not engine.has_work)
    assert engine.pages_used == 0
    engine.check()
    assert qwen.stats.finished["cancelled"] == 1
    assert qwen.stats.prompt_rows <= 3 * TOKEN_BUDGET + 20, "no chunk of it after the one under way"
    if how != "other":
        assert gate.steps == 3


def test_cancelling_a_task_in_a_long_prompt_does_so_too(gated: tuple[Qwen, Gate]) -> None:
    qwen, gate = gated

    async def main() -> None:
        task = asyncio.create_task(qwen.acomplete(LONG, max_tokens=50, **FREE))
        await asyncio.to_thread(gate.reached.wait, 30)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        gate.go.set()

    with nothing_left(qwen):
        asyncio.run(main())
    assert gate.steps == 3
    assert qwen.stats.finished["cancelled"] == 1


@pytest.mark.alone
def test_a_real_model_is_free_again_within_a_chunk(tmp_path: Path) -> None:
    """The same with kernels, by the clock: one chunk of many is what a cancel may wait for."""
    path = write_small(tmp_path / "a.gguf", max_position_embeddings=10_000, hidden_size=64)
    with Qwen.load(path, prefix_reuse=False) as qwen:
        qwen.complete(LONG, max_tokens=1)
        steps = qwen.stats.steps
        assert steps >= len(LONG) // TOKEN_BUDGET
        whole = qwen.stats.step_seconds
        stream = qwen.stream_complete(LONG, max_tokens=50)
        until(lambda: qwen.stats.steps >= steps + 2)
        begun = time.perf_counter()
        stream.close()
        until_quick(lambda: engine_of(qwen).pages_used == 0)
        waited = time.perf_counter() - begun
        assert qwen.stats.steps < 2 * steps - 2, "it was cancelled too late to tell"
        assert waited < max(0.25 * whole, 0.05), f"{waited:.3f} s of {whole:.3f} s"


def until_quick(condition: Callable[[], bool]) -> None:
    end = time.perf_counter() + 30
    while not condition():
        assert time.perf_counter() < end
        time.sleep(0.0005)


# -- asyncio -------------------------------------------------------------------------------------


@pytest.fixture
def qwen() -> Iterator[Qwen]:
    with small_qwen() as loaded:
        yield loaded


def test_a_task_cancelled_between_two_chunks(qwen: Qwen) -> None:
    """Not while it waits for the engine: while it does something else with a chunk in hand."""

    async def reader(chunks: list[str], busy: asyncio.Event) -> None:
        async for chunk in qwen.astream("x", max_tokens=300, **FREE):
            chunks.append(chunk.text)
            if len(chunks) == 3:
                busy.set()
                await asyncio.sleep(60)

    async def main() -> None:
        chunks: list[str] = []
        busy = asyncio.Event()
        task = asyncio.create_task(reader(chunks, busy))
        await asyncio.wait_for(busy.wait(), 30)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert len(chunks) == 3
        assert (await qwen.achat("y", max_tokens=2, **FREE)).usage.completion_tokens == 2

    with nothing_left(qwen):
        asyncio.run(main())
    assert sum(qwen.stats.finished.values()) == 2


def test_a_task_cancelled_before_its_request_was_sent(qwen: Qwen) -> None:
    async def main() -> None:
        tasks = [asyncio.create_task(qwen.achat("x", max_tokens=300, **FREE)) for _ in range(20)]
        for round in range(20):
            await asyncio.sleep(0)
            tasks[round].cancel()
        found = await asyncio.gather(*tasks, return_exceptions=True)
        assert all(isinstance(f, asyncio.CancelledError) for f in found)

    with nothing_left(qwen):
        asyncio.run(main())


def test_two_hundred_tasks_and_eight_threads_at_once(qwen: Qwen) -> None:
    asked = {"max_tokens": 12, **FREE}
    alone = {seed: qwen.chat("p", seed=seed, **asked).ids for seed in range(10)}

    def from_a_thread(number: int) -> None:
        for i in range(10):
            seed = (number + i) % 10
            assert qwen.chat("p", seed=seed, **asked).ids == alone[seed]

    async def main() -> None:
        replies = await asyncio.gather(*(qwen.achat("p", seed=i % 10, **asked) for i in range(200)))
        assert [r.ids for r in replies] == [alone[i % 10] for i in range(200)]

    with nothing_left(qwen), ThreadPoolExecutor(8) as pool:
        threads = [pool.submit(from_a_thread, number) for number in range(8)]
        asyncio.run(main())
        for thread in threads:
            thread.result(timeout=60)
    assert qwen.stats.finished == {"length": 10 + 200 + 80}
    assert qwen.stats.steps < 290 * 12 / 4, "they were not batched"


def test_tasks_that_leave_in_every_way_at_any_moment(qwen: Qwen) -> None:
    async def one(number: int) -> str:
        stream = qwen.astream("p", seed=number, max_tokens=60, **FREE)
        seen = 0
        async for _ in stream:
            seen += 1
            if seen == number % 7 + 1:
                if number % 3 == 0:
                    await stream.aclose()
                    with pytest.raises(UsageError):
                        _ = stream.reply
                    return "closed"
                if number % 3 == 1:
                    return "dropped"
                raise ZeroDivisionError
        return "ended"

    async def main() -> None:
        randomly = random.Random(5)
        tasks = [asyncio.create_task(one(number)) for number in range(120)]
        for task in randomly.sample(tasks, 30):
            await asyncio.sleep(randomly.random() * 0.005)
            task.cancel()
        found = await asyncio.gather(*tasks, return_exceptions=True)
        kinds = {f if isinstance(f, str) else type(f).__name__ for f in found}
        assert kinds == {"closed", "dropped", "ZeroDivisionError", "CancelledError"}

    with nothing_left(qwen):
        asyncio.run(main())


def test_closing_the_model_under_many_tasks() -> None:
    threads = set(threading.enumerate())
    qwen = small_qwen(model=ToyModel(n_vocab=TOKENIZER.n_tokens, context=100_000))

    async def main() -> None:
        asks = [qwen.achat("p", max_tokens=1500, **FREE) for _ in range(50)]
        tasks = [asyncio.create_task(ask) for ask in asks]
        # All are under way: what comes later is told that the engine is closed.
        while not (told := qwen.engine.snapshot).running or told.running + told.waiting < 50:
            await asyncio.sleep(0.001)
        await asyncio.to_thread(qwen.close)
        found = await asyncio.gather(*tasks, return_exceptions=True)
        assert all(isinstance(f, RequestCancelled) for f in found), found

    asyncio.run(main())
    engine = engine_of(qwen)
    assert engine.pages_used == 0
    engine.check()
    until(lambda: not set(threading.enumerate()) - threads)


def test_a_stream_that_failed_to_begin_is_over(qwen: Qwen) -> None:
    async def main() -> None:
        stream = qwen.astream("x", temperature=-1)
        with pytest.raises(UsageError, match="temperature"):
            await stream.__anext__()
        assert [chunk async for chunk in stream] == []

    with nothing_left(qwen):
        asyncio.run(main())
