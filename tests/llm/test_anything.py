"""Whatever is passed to the whole API, there comes an answer or one of our errors, and an end."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from itertools import count
from typing import Any

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from llm.small import write_small
from qwick.engine.request import Scores
from qwick.errors import ParameterError, QwickError, UnsupportedError
from qwick.llm import Qwen, Reply
from qwick.llm.wishes import SAMPLING
from values.hostile import NUMBERS, ODD, TREES, UNSHOWABLE
from values.kinds import patient

CONTEXT = 96

FITTING: dict[str, st.SearchStrategy[Any]] = {
    "temperature": st.floats(0, 100),
    "top_k": st.integers(0, 300),
    "top_p": st.floats(0, 1, exclude_min=True),
    "min_p": st.floats(0, 1),
    "repetition_penalty": st.floats(0.01, 100),
    "seed": st.integers(0, 2**64 - 1),
    "presence_penalty": st.floats(-2, 2),
    "frequency_penalty": st.floats(-2, 2),
    "logit_bias": st.dictionaries(st.integers(0, 260), st.floats(-100, 100), max_size=4),
    "max_tokens": st.integers(1, 40),
    "min_tokens": st.integers(0, 10),
    "ignore_eos": st.booleans(),
    "loop_detection": st.booleans(),
    "stop_ids": st.lists(st.integers(0, 260), max_size=5),
    "stop": st.text(min_size=1, max_size=4) | st.lists(st.text(min_size=1, max_size=3), max_size=3),
    "logprobs": st.integers(0, 20),
    "tone": st.text(max_size=5),
    "namespace": st.text(max_size=3),
}
assert set(SAMPLING) <= set(FITTING)
MESSAGES = st.lists(
    st.fixed_dictionaries(
        {"role": st.sampled_from(["system", "user", "assistant", "tool"])},
        optional={"content": st.text(max_size=20), "tool_calls": TREES, "name": TREES},
    ),
    min_size=1,
    max_size=3,
)


@st.composite
def keywords(draw: st.DrawFn) -> dict[str, Any]:
    """Mostly sound keywords with something odd among them, so that odd ones meet sound ones."""
    names = draw(st.lists(st.sampled_from(list(FITTING)), max_size=5, unique=True))
    chosen = {name: draw(FITTING[name] | FITTING[name] | TREES) for name in names}
    if draw(st.integers(0, 9)) == 0:
        chosen[draw(st.text(max_size=8).filter(lambda name: name not in ("self", "messages")))] = 1
    return chosen


@pytest.fixture(scope="module")
def qwen(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Qwen]:
    path = write_small(tmp_path_factory.mktemp("any") / "a.gguf", max_position_embeddings=CONTEXT)
    with Qwen.load(path) as loaded:
        yield loaded
        engine = loaded._engine._loop.engine
        assert not engine.has_work
        assert engine.pages_used == 0
        engine.check()


def check(found: Any) -> None:
    if isinstance(found, QwickError):
        assert len(str(found)) < 2000, "a message that nobody can read"
        return
    assert isinstance(found, Reply)
    found.text.encode()
    assert found.finish_reason in ("stop", "length")
    assert 1 <= found.usage.completion_tokens <= CONTEXT - found.usage.prompt_tokens
    assert found.to_dict()["ids"] == list(found.ids)


@settings(deadline=None, max_examples=300)
@given(prompt=st.text(max_size=30) | MESSAGES | TREES, tools=st.none() | TREES, given=keywords())
def test_chat(qwen: Qwen, prompt: Any, tools: Any, given: dict[str, Any]) -> None:
    check(patient(lambda: qwen.chat(prompt, tools=tools, **given)))


@settings(deadline=None, max_examples=300)
@given(prompt=st.text(max_size=30) | TREES, given=keywords())
@example(prompt="x", given={"temperature": 5e-324, "seed": 1})
@example(prompt="x", given={"temperature": 100, "top_p": 5e-324, "min_p": 1.0})
@example(prompt="x", given={"stop": ["a"] * 33})
@example(prompt="x", given={"stop_ids": range(2**40)})
def test_complete(qwen: Qwen, prompt: Any, given: dict[str, Any]) -> None:
    check(patient(lambda: qwen.complete(prompt, **given)))


@settings(deadline=None, max_examples=150)
@given(value=TREES | st.lists(TREES, max_size=5), given=keywords())
def test_batches_texts_and_scores(qwen: Qwen, value: Any, given: dict[str, Any]) -> None:
    for batch in (qwen.chat_batch, qwen.complete_batch):
        found = patient(lambda batch=batch: batch(value, **given))
        for reply in [found] if isinstance(found, QwickError) else found:
            check(reply)
    for ask in (
        lambda: qwen.render(value, tone=value),
        lambda: qwen.render_ids(value, tools=value),
        lambda: list(qwen.score(value).logprobs),
        lambda: qwen.perplexity(value),
        lambda: qwen.perplexity("some text", namespace=value),
        lambda: list(qwen.score([1, 2], namespace=value).logprobs),
    ):
        found = patient(ask)
        assert isinstance(found, (QwickError, str, list, float))
        if isinstance(found, float):
            assert found >= 1.0


@pytest.mark.parametrize("field", list(FITTING))
def test_every_odd_value_of_every_keyword(qwen: Qwen, field: str) -> None:
    for value in (*NUMBERS, *ODD, *UNSHOWABLE):
        given = {"max_tokens": 2, "temperature": 0.5, **{field: value}}
        check(patient(lambda given=given: qwen.chat("x", **given)))


def test_every_odd_value_as_a_prompt(qwen: Qwen) -> None:
    asked: tuple[Callable[[Any], Any], ...] = (
        *(qwen.chat, qwen.complete, qwen.render, qwen.score, qwen.perplexity),
        lambda odd: qwen.chat_batch(odd, max_tokens=2),
        lambda odd: qwen.complete_batch(odd, max_tokens=2),
        lambda odd: qwen.chat("x", tools=odd),
        lambda odd: qwen.chat([{"role": odd, "content": "x"}]),
        lambda odd: qwen.chat([{"role": "user", "content": odd}]),
        lambda odd: qwen.chat([{"role": "user", "content": [odd]}]),
        lambda odd: qwen.chat([{"role": "user", "content": [{"type": odd, "text": odd}]}]),
        lambda odd: qwen.chat([{"role": "assistant", "content": "x", "tool_calls": odd}]),
        lambda odd: qwen.chat([{"role": "user", "content": "x", "name": odd}]),
    )
    for value in (*NUMBERS, *ODD, *UNSHOWABLE):
        for ask in asked:
            found = patient(lambda ask=ask, value=value: ask(value))
            assert isinstance(found, (QwickError, Reply, str, list, float, Scores))
            if isinstance(found, QwickError):
                check(found)


def test_what_never_ends_is_not_waited_for(qwen: Qwen) -> None:
    asked: tuple[Callable[[], Any], ...] = (
        lambda: qwen.chat("x", stop=("a" for _ in count())),
        lambda: qwen.chat("x", stop_ids=count()),
        lambda: qwen.chat_batch("x" for _ in count()),
        lambda: qwen.complete_batch("x" for _ in count()),
        lambda: qwen.score(count()),
        lambda: qwen.chat({"role": "user", "content": "x"} for _ in count()),
    )
    for ask in asked:
        assert isinstance(patient(ask), QwickError)


@settings(deadline=None, max_examples=60)
@given(st.sampled_from(["threads", "ctx", "kv", "prefix_reuse"]), TREES)
def test_load(tmp_path_factory: pytest.TempPathFactory, name: str, value: Any) -> None:
    path = write_small(tmp_path_factory.mktemp("l") / "a.gguf", max_position_embeddings=CONTEXT)
    if name == "threads" and isinstance(value, int) and value > 8:
        return  # hundreds of threads are somebody else's test
    with contextlib.suppress(ParameterError, UnsupportedError):
        Qwen.load(path, **{name: value}).close()
