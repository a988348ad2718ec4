"""asyncio: many tasks batch; cancelling a task cancels its request."""

from __future__ import annotations

import asyncio
import gc
from typing import Any

import pytest

from engine.toy import ToyModel
from llm.small import TOKENIZER, small_qwen
from qwick.errors import EngineError, ParameterError, RequestCancelled, UsageError

FREE: dict[str, Any] = {"stop_ids": (), "temperature": 1.0, "top_k": 0, "top_p": 1.0}


def endless() -> ToyModel:
    return ToyModel(n_vocab=TOKENIZER.n_tokens, context=100_000)


async def until(condition: Any) -> None:
    for _ in range(3000):
        if condition():
            return
        await asyncio.sleep(0.01)
    raise AssertionError("it did not happen within 30 s")


def test_tasks_get_what_threads_get_and_share_steps() -> None:
    with small_qwen() as qwen:
        prompts = [f"p{i}" for i in range(16)]
        asked = {"seed": 4, "max_tokens": 20, **FREE}
        expected = [r.ids for r in qwen.chat_batch(prompts, **asked)]
        before = qwen.stats.steps

        async def main() -> list[tuple[int, ...]]:
            replies = await asyncio.gather(*(qwen.achat(p, **asked) for p in prompts))
            return [r.ids for r in replies]

        assert asyncio.run(main()) == expected
        assert qwen.stats.steps - before < 16 * 20 / 2, "they were not batched"


def test_astream_equals_chat() -> None:
    with small_qwen() as qwen:
        asked = {"seed": 4, "max_tokens": 30, **FREE}

        async def main() -> None:
            stream = qwen.astream("x", **asked)
            with pytest.raises(UsageError, match="not complete"):
                _ = stream.reply
            pieces = [chunk.text async for chunk in stream]
            assert all(pieces)
            assert "".join(pieces) == stream.reply.text == qwen.chat("x", **asked).text
            assert [chunk async for chunk in stream] == []

        asyncio.run(main())


def test_raw_prompts_from_asyncio_equal_complete() -> None:
    with small_qwen() as qwen:
        asked = {"seed": 4, "max_tokens": 30, **FREE}
        expected = qwen.complete("x<|im_end|>", **asked)

        async def main() -> None:
            assert (await qwen.acomplete("x<|im_end|>", **asked)).ids == expected.ids
            stream = qwen.astream_complete("x<|im_end|>", **asked)
            pieces = [chunk.text async for chunk in stream]
            assert "".join(pieces) == stream.reply.text == expected.text
            with pytest.raises(ParameterError, match="did you mean seed"):
                await qwen.acomplete("x", sed=3)

        asyncio.run(main())


def test_cancelling_the_task_cancels_the_request() -> None:
    with small_qwen(model=endless()) as qwen:

        async def main() -> None:
            task = asyncio.create_task(qwen.achat("x", max_tokens=2000, **FREE))
            await until(lambda: qwen.stats.generated > 3)
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task
            await until(lambda: qwen.stats.finished["cancelled"] == 1)

        asyncio.run(main())
        assert qwen.stats.generated < 2000


@pytest.mark.parametrize("how", ["aclose", "drop", "timeout"])
def test_leaving_a_stream_cancels_the_request(how: str) -> None:
    with small_qwen(model=endless()) as qwen:

        async def main() -> None:
            stream = qwen.astream("x", max_tokens=2000, **FREE)
            await stream.__anext__()
            if how == "aclose":
                await stream.aclose()
                assert [chunk async for chunk in stream] == []
            elif how == "drop":
                del stream
                gc.collect()
            else:
                with pytest.raises(asyncio.TimeoutError):
                    await asyncio.wait_for(stream.read(), 0.05)
            await until(lambda: qwen.stats.finished["cancelled"] == 1)

        asyncio.run(main())


def test_a_loop_that_ended_leaves_no_request_behind() -> None:
    with small_qwen(model=endless()) as qwen:
        kept = []

        async def main() -> None:
            kept.append(qwen.astream("x", max_tokens=2000, **FREE))
            await kept[0].__anext__()

        asyncio.run(main())
        asyncio.run(until(lambda: qwen.stats.finished["cancelled"] == 1))
        assert qwen.stats.failed_callbacks == 0


def test_errors_reach_the_task() -> None:
    with small_qwen() as qwen, pytest.raises(ParameterError, match="did you mean seed"):
        asyncio.run(qwen.achat("x", sed=3))
    with pytest.raises(EngineError, match="closed"):
        asyncio.run(qwen.achat("x"))


def test_an_answer_keeps_its_model_alive() -> None:
    """Nobody need hold the model while its answer is read."""

    def ask() -> Any:
        qwen = small_qwen()
        return qwen.stream("a", max_tokens=30, **FREE)

    stream = ask()
    gc.collect()
    assert len(stream.read().ids) == 30


def test_closing_while_a_stream_begins_sends_nothing() -> None:
    with small_qwen(model=endless()) as qwen:

        async def main() -> None:
            stream = qwen.astream("a", **FREE)
            reader = asyncio.ensure_future(anext(stream, None))
            await asyncio.sleep(0)  # it is in the thread that renders the prompt
            await stream.aclose()
            assert await reader is None

        asyncio.run(main())
        assert qwen.stats.steps == 0


def test_a_stream_has_one_reader() -> None:
    with small_qwen(model=endless()) as qwen:

        async def main() -> None:
            stream = qwen.astream("a", **FREE)
            readers = [asyncio.ensure_future(anext(stream)) for _ in range(2)]
            done = await asyncio.gather(*readers, return_exceptions=True)
            assert [isinstance(d, UsageError) for d in done] == [False, True]
            await stream.aclose()

        asyncio.run(main())


def test_a_second_reader_is_refused_at_any_time() -> None:
    with small_qwen(model=endless(), cache_tokens=60_000) as qwen:

        async def main() -> None:
            stream = qwen.astream("x", **{**FREE, "max_tokens": 50_000})
            await anext(stream)
            first = asyncio.create_task(stream.read())
            await asyncio.sleep(0.05)
            with pytest.raises(UsageError, match="another task reads"):
                await anext(stream)
            assert not first.done()
            await stream.aclose()
            with pytest.raises(RequestCancelled):
                await first

        asyncio.run(asyncio.wait_for(main(), 60))
