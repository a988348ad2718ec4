"""What was computed before is not computed again, and the answers are the same ones."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from engine.toy import ToyModel
from llm.small import TOKENIZER, small_qwen, write_small
from qwick.engine.engine import Engine
from qwick.engine.thread import EngineThread
from qwick.errors import ParameterError
from qwick.llm import Logprob, Qwen, Reply
from qwick.llm.load import Loaded

PAGE = 32  # tokens, of real models
FREE: dict[str, Any] = {"stop_ids": (), "temperature": 1.0, "top_k": 0, "top_p": 1.0}


def engine_of(qwen: Qwen) -> Engine:
    return qwen._engine._loop.engine


def computed(qwen: Qwen) -> int:
    """Rows that the model has computed so far."""
    return qwen.stats.prompt_rows + qwen.stats.decode_rows


def until_computed(qwen: Qwen, rows: int) -> None:
    """Wait until so many are: the last step of an answer is counted when the answer has gone."""
    end = time.monotonic() + 30
    while computed(qwen) != rows and time.monotonic() < end:
        time.sleep(0.01)
    assert computed(qwen) == rows


def rows_of(reply: Reply) -> int:
    """Rows that an answer took: of its prompt what was new, and of each token but the last."""
    usage = reply.usage
    return usage.prompt_tokens - usage.cached_tokens + usage.completion_tokens - 1


# -- with a vocabulary of bytes --------------------------------------------------------------------


@pytest.fixture
def small() -> Iterator[Qwen]:
    with small_qwen() as loaded:
        yield loaded


def test_usage_tells_what_was_found_and_the_rate_counts_the_rest(small: Qwen) -> None:
    prompt = "x" * 100
    first = small.complete(prompt, max_tokens=3, seed=1, **FREE)
    again = small.complete(prompt, max_tokens=3, seed=1, **FREE)
    assert (first.usage.cached_tokens, again.usage.cached_tokens) == (0, 96)  # pages of 16
    assert first.ids == again.ids
    assert again.usage.total_tokens == 103
    assert again.to_dict()["usage"]["cached_tokens"] == 96
    assert again.timings.prefill_tok_s == pytest.approx(4 / again.timings.prefill)
    assert (small.stats.prefix_hit_tokens, small.stats.prefix_miss_tokens) == (96, 104)


def test_namespaces_are_apart_in_every_way_of_asking(small: Qwen) -> None:
    text = "y" * 100
    for ask in (small.chat, small.complete):
        assert ask(text, max_tokens=1, namespace="a").usage.cached_tokens == 0
        assert ask(text, max_tokens=1, namespace="b").usage.cached_tokens == 0
        assert ask(text, max_tokens=1).usage.cached_tokens == 0
        assert ask(text, max_tokens=1, namespace="a").usage.cached_tokens >= 96
    small.score(TOKENIZER.encode("z" * 100, parse_special=False), namespace="a")
    small.perplexity("w" * 100, namespace="a")
    for letter in "zw":
        assert small.complete(letter * 100, max_tokens=1).usage.cached_tokens == 0
        found = small.complete(letter * 100, max_tokens=1, namespace="a").usage.cached_tokens
        assert found == 96
    with pytest.raises(ParameterError, match="namespace is 5; allowed: a string"):
        small.chat("x", namespace=5)


def test_switched_off_every_prompt_is_computed_whole(tmp_path: Path) -> None:
    path = write_small(tmp_path / "a.gguf")
    with Qwen.load(path, prefix_reuse=False) as qwen:
        for _ in range(2):
            assert qwen.complete("x" * 100, max_tokens=1).usage.cached_tokens == 0
        assert engine_of(qwen).pages_kept == 0
    with pytest.raises(ParameterError, match="prefix_reuse is 1; allowed: True or False"):
        Qwen.load(path, prefix_reuse=1)  # type: ignore[arg-type]


def test_a_cancelled_prompt_is_taken_up_where_it_was_left(tmp_path: Path) -> None:
    with Qwen.load(write_small(tmp_path / "a.gguf", max_position_embeddings=10_000)) as qwen:
        prompt = "x" * 6000
        stream = qwen.stream_complete(prompt, max_tokens=9)
        while qwen.stats.steps < 2:
            time.sleep(0.001)
        stream.close()
        found = qwen.complete(prompt, max_tokens=1).usage.cached_tokens
        assert 576 // PAGE * PAGE <= found < 6000


def test_many_conversations_in_a_small_cache_stay_right() -> None:
    """More than the cache holds, turn by turn and side by side, as without any reuse."""
    model = ToyModel(n_vocab=TOKENIZER.n_tokens, context=512, page_size=16)
    answers = {}
    for reuse in (True, False):
        with small_qwen(model=model, cache_tokens=1024, prefix_reuse=reuse) as qwen:
            heard = ["x" * 40 + f" in conversation {i} " + "x" * 40 for i in range(16)]
            for turn in range(3):
                replies = qwen.complete_batch(heard, max_tokens=20, seed=turn, **FREE)
                heard = [
                    f"{h}|{len(r.text)}" + "y" * 30 for h, r in zip(heard, replies, strict=True)
                ]
                answers.setdefault(reuse, []).append([r.ids for r in replies])
            engine = engine_of(qwen)
            assert engine.pages_used == 0
            engine.check()
            assert (qwen.stats.evicted_pages > 0) is reuse
            assert (qwen.stats.prefix_hit_tokens > 0) is reuse
    assert answers[True] == answers[False]


# -- with the default checkpoint -------------------------------------------------------------------

GREEDY: dict[str, Any] = {"temperature": 0, "repetition_penalty": 1.0, "logprobs": 2}
RULES = (
    "You are a careful assistant of a library. Answer in one short sentence. Never invent a book. "
    "If a question is not about books, say so politely. Opening hours are nine to five on weekdays "
    "and ten to two on Saturdays. Loans last four weeks and can be renewed twice by telephone."
)


@pytest.fixture(scope="module")
def reusing(default_checkpoint: Path) -> Iterator[Qwen]:
    with Qwen.load(default_checkpoint, ctx=1024, drafts=False) as loaded:  # rows are counted
        yield loaded


@pytest.fixture(scope="module")
def plain(default_checkpoint: Path) -> Iterator[Qwen]:
    with Qwen.load(default_checkpoint, ctx=1024, prefix_reuse=False) as loaded:
        yield loaded


def logprobs_of(reply: Reply) -> list[Logprob]:
    assert reply.logprobs is not None
    return [p for p in reply.logprobs if p is not None]


def agree(one: Reply, other: Reply) -> None:
    """The same ids; or the paths part where the two best lie closer than the paths do.

    Pages of an answer were computed row by row, and computed again they are rows of a prompt: an
    instruction set may have another kernel, which rounds otherwise, for each of the two.
    """
    apart = 0.0
    for a, b in zip(logprobs_of(one), logprobs_of(other), strict=False):
        if a.id != b.id:
            assert a.top[0][-1] - a.top[1][-1] <= apart
            return
        apart = max(apart, abs(a.logprob - b.logprob))
    assert apart < 0.1
    assert one.ids == other.ids


@pytest.mark.model
def test_a_second_turn_computes_only_what_is_new(reusing: Qwen, plain: Qwen) -> None:
    asked = {**GREEDY, "namespace": "turns"}
    messages = [
        {"role": "system", "content": RULES},
        {"role": "user", "content": "How long may I keep a book, and may I have it longer?"},
    ]
    time.sleep(0.1)  # as below, of the test before
    before = computed(reusing)
    first = reusing.chat(messages, max_tokens=40, **asked)
    until_computed(reusing, before + rows_of(first))
    messages += [
        {"role": "assistant", "content": first.text},
        {"role": "user", "content": "And when are you open?"},
    ]
    second = reusing.chat(messages, max_tokens=24, **asked)
    known = first.usage.prompt_tokens + len(first.ids)
    assert second.usage.cached_tokens == known // PAGE * PAGE
    until_computed(reusing, before + rows_of(first) + rows_of(second))
    fresh = plain.chat(messages, max_tokens=24, **asked)
    assert fresh.usage.cached_tokens == 0
    agree(second, fresh)


@pytest.mark.model
def test_a_shared_beginning_gives_the_same_numbers(reusing: Qwen, plain: Qwen) -> None:
    """Prompts only, more than a few rows each: the same kernels, so the same bits."""
    questions = ("May I bring my dog into the library?", "Which weekdays are you open, and when?")
    for number, question in enumerate(questions):
        messages = [{"role": "system", "content": RULES}, {"role": "user", "content": question}]
        found = reusing.chat(messages, max_tokens=12, namespace="beginnings", **GREEDY)
        fresh = plain.chat(messages, max_tokens=12, **GREEDY)
        assert (found.usage.cached_tokens > 0) is (number > 0)
        assert found.usage.prompt_tokens - found.usage.cached_tokens > 8
        assert found.ids == fresh.ids
        assert found.logprobs == fresh.logprobs


@pytest.mark.model
def test_side_by_side_and_evicted_the_answers_are_those_of_each_alone(
    default_checkpoint: Path, plain: Qwen
) -> None:
    """A cache of little more than one of five conversations: they share, wait and evict."""
    with Qwen.load(default_checkpoint, ctx=192) as roomy:
        model = engine_of(roomy).model
        loaded = Loaded(model, roomy.texts, cache_tokens=192)
        with Qwen(EngineThread(loaded.engine()), loaded.texts) as tight:
            prompts = [
                [
                    {"role": "system", "content": f"{RULES} You speak to guest {i % 2}."},
                    {"role": "user", "content": f"Name {i + 2} kinds of books, with commas."},
                ]
                for i in range(5)
            ]
            alone = [plain.chat(messages, max_tokens=48, **GREEDY) for messages in prompts]
            for _ in range(2):
                together = tight.chat_batch(prompts, max_tokens=48, **GREEDY)
                for reply, expected in zip(together, alone, strict=True):
                    agree(reply, expected)
            engine = engine_of(tight)
            assert engine.pages_used == 0
            engine.check()
            assert tight.stats.prefix_hit_tokens > 0
            assert tight.stats.evicted_pages > 0
