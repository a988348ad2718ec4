"""The in-process API over the toy model: text, streams, batches, errors, ends."""

from __future__ import annotations

import gc
import json
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from engine.toy import ToyModel
from llm.small import CONTROL, TOKENIZER, TOKENIZER_DATA, byte_alphabet, small_qwen
from qwick.errors import (
    ContextLengthError,
    EngineError,
    ParameterError,
    RequestCancelled,
    UnsupportedError,
    UsageError,
)
from qwick.llm import Qwen
from qwick.text.tokenizer import Tokenizer

# No stop ids, no top_k: every byte and every control token may come.
FREE: dict[str, Any] = {"stop_ids": (), "temperature": 1.0, "top_k": 0, "top_p": 1.0}


@pytest.fixture(scope="module")
def qwen() -> Iterator[Qwen]:
    with small_qwen() as loaded:
        yield loaded


def until(condition: Callable[[], bool]) -> None:
    for _ in range(3000):
        if condition():
            return
        time.sleep(0.01)
    raise AssertionError("it did not happen within 30 s")


def test_a_reply_has_everything(qwen: Qwen) -> None:
    reply = qwen.chat("Hi", seed=3, max_tokens=20, namespace="nobody else's", **FREE)
    assert reply.text == str(reply) == TOKENIZER.decode(reply.ids, skip_control=True)
    assert (reply.finish_reason, reply.seed, reply.model) == ("length", 3, "small")
    prompt = len(qwen.render_ids("Hi"))
    assert (reply.usage.prompt_tokens, reply.usage.completion_tokens) == (prompt, 20)
    assert reply.usage.total_tokens == prompt + 20
    t = reply.timings
    assert min(t.queue, t.prefill, t.decode) > 0
    assert t.ttft == pytest.approx(t.queue + t.prefill)
    assert t.prefill_tok_s == pytest.approx(prompt / t.prefill)
    assert t.decode_tok_s == pytest.approx(19 / t.decode)
    plain = json.loads(json.dumps(reply.to_dict()))
    assert plain["usage"] == {
        "prompt_tokens": prompt,
        "completion_tokens": 20,
        "cached_tokens": 0,
        "reasoning_tokens": 0,
        "total_tokens": prompt + 20,
    }
    assert plain["timings"]["decode_tok_s"] == t.decode_tok_s
    assert plain["text"] == reply.text


@settings(deadline=None, max_examples=40)
@given(seed=st.integers(0, 2**64 - 1), longest=st.integers(1, 60))
def test_streamed_and_whole_answers_are_the_same(qwen: Qwen, seed: int, longest: int) -> None:
    asked = {"seed": seed, "max_tokens": longest, **FREE}
    whole = qwen.chat("x", **asked)
    with qwen.stream("x", **asked) as stream:
        with pytest.raises(UsageError, match="not complete"):
            _ = stream.reply
        pieces = [chunk.text for chunk in stream]
    assert all(pieces)
    assert "".join(pieces) == stream.reply.text == whole.text
    assert stream.reply.ids == whole.ids
    assert list(stream) == []


def test_a_raw_prompt_streamed_is_the_same_as_whole(qwen: Qwen) -> None:
    asked = {"seed": 5, "max_tokens": 40, **FREE}
    whole = qwen.complete("a<|im_end|>b", **asked)
    stream = qwen.stream_complete("a<|im_end|>b", **asked)
    pieces = [chunk.text for chunk in stream]
    assert len(pieces) > 1
    assert "".join(pieces) == stream.reply.text == whole.text
    assert stream.reply.ids == whole.ids
    assert stream.reply.usage == whole.usage
    with pytest.raises(ParameterError, match="did you mean seed"):
        qwen.stream_complete("x", sed=1)


@settings(deadline=None, max_examples=60)
@given(data=st.data(), seed=st.integers(0, 10**6))
def test_a_stop_string_cuts_exactly_and_stops_the_engine(
    qwen: Qwen, data: st.DataObject, seed: int
) -> None:
    full = qwen.chat("x", seed=seed, max_tokens=40, **FREE)
    if not full.text:
        return
    start = data.draw(st.integers(0, len(full.text) - 1))
    stop = full.text[start : start + data.draw(st.integers(1, 6))]
    stream = qwen.stream("x", seed=seed, max_tokens=40, stop=[stop, "never \0 there"], **FREE)
    shown = "".join(chunk.text for chunk in stream)
    reply = stream.reply
    assert shown == reply.text == full.text[: full.text.find(stop)]
    assert reply.ids == full.ids[: len(reply.ids)]
    # The end of the full text may only come with the flush of a broken character.
    if stop in TOKENIZER.decode(full.ids, skip_control=True).rstrip("\ufffd"):
        assert (reply.finish_reason, reply.stop) == ("stop", stop)
        before = TOKENIZER.decode(reply.ids[:-1], skip_control=True)
        assert stop not in before.rstrip("\ufffd"), "a token too many"


def test_the_checkpoints_own_stop_strings_and_length_hold(qwen: Qwen) -> None:
    full = qwen.chat("x", seed=3, max_tokens=40, **FREE)
    stop = full.text[5:8]
    prompt = full.usage.prompt_tokens
    with small_qwen(generation={"stop_strings": [stop], "max_length": prompt + 30}) as other:
        reply = other.chat("x", seed=3, **FREE)
        assert reply.text == full.text[: full.text.find(stop)]
        assert (reply.finish_reason, reply.stop) == ("stop", stop)
        free = other.chat("x", seed=3, stop=[], **FREE)
        assert (free.finish_reason, free.usage.completion_tokens) == ("length", 30)
        assert other.chat("x", seed=3, stop=[], max_tokens=40, **FREE).ids == full.ids
        with pytest.raises(ContextLengthError, match="max_length"):
            other.chat("x" * 40)


def test_the_same_seed_gives_the_same_answer_alone_and_together(qwen: Qwen) -> None:
    prompts = [f"prompt {i}" for i in range(12)]
    asked = {"seed": 9, "max_tokens": 25, **FREE}
    alone = [qwen.chat(p, **asked).ids for p in prompts]
    assert [r.ids for r in qwen.chat_batch(prompts, **asked)] == alone
    with ThreadPoolExecutor(6) as pool:
        assert [r.ids for r in pool.map(lambda p: qwen.chat(p, **asked), prompts)] == alone
    raw = [qwen.complete(p, **asked).ids for p in prompts]
    assert [r.ids for r in qwen.complete_batch(prompts, **asked)] == raw
    assert raw != alone


def test_a_drawn_seed_is_reported_and_repeats_the_answer(qwen: Qwen) -> None:
    first = qwen.chat("x", max_tokens=20, **FREE)
    assert first.seed is not None
    assert qwen.chat("x", max_tokens=20, seed=first.seed, **FREE).ids == first.ids
    assert qwen.chat("x", max_tokens=5, temperature=0).seed is None


def test_logprobs(qwen: Qwen) -> None:
    stream = qwen.stream("x", seed=1, max_tokens=6, logprobs=3, **FREE)
    of_chunks = [p for chunk in stream for p in chunk.logprobs or ()]
    reply = stream.reply
    assert reply.logprobs == tuple(of_chunks)
    assert [p and p.id for p in reply.logprobs] == list(reply.ids)
    for p in reply.logprobs:
        assert p is not None
        assert len(p.top) == 3
        assert [v for *_, v in p.top] == sorted((v for *_, v in p.top), reverse=True)
        assert p.token == TOKENIZER.decode([p.id])
    plain = json.loads(json.dumps(reply.to_dict()))["logprobs"]
    assert [sorted(p["top"][0]) for p in plain] == [["id", "logprob", "token"]] * 6
    assert qwen.chat("x", seed=1, max_tokens=6, **FREE).logprobs is None


def test_log_probabilities_of_the_prompt(qwen: Qwen) -> None:
    text = "Ab\u00e9 <|im_end|> one two"
    ids = TOKENIZER.encode(text, parse_special=True)
    stream = qwen.stream_complete(text, seed=1, max_tokens=3, prompt_logprobs=2, **FREE)
    first, *others = list(stream)
    reply = stream.reply
    told = reply.prompt_logprobs
    assert told is not None
    assert first.prompt_logprobs == told
    assert [chunk.prompt_logprobs for chunk in others] == [None] * len(others)
    assert told[0] is None
    known = [p for p in told if p is not None]
    assert [p.id for p in known] == ids[1:]
    assert [p.logprob for p in known] == pytest.approx(qwen.score(ids).logprobs.tolist())
    assert [len(p.top) for p in known] == [2] * len(known)
    whole = [TOKENIZER.decode(ids[:i]).rstrip("\ufffd") for i in range(1, len(ids))]
    assert [p.start for p in known] == [len(before) for before in whole]
    plain = json.loads(json.dumps(reply.to_dict()))["prompt_logprobs"]
    assert plain[0] is None
    assert sorted(plain[1]) == ["id", "logprob", "token", "top"]
    chat = qwen.chat("x", seed=1, max_tokens=2, prompt_logprobs=0, logprobs=1, **FREE)
    assert chat.prompt_logprobs is not None
    assert len(chat.prompt_logprobs) == chat.usage.prompt_tokens
    assert [p and p.top for p in chat.prompt_logprobs[1:]] == [()] * (chat.usage.prompt_tokens - 1)


# -- what is asked ---------------------------------------------------------------------------


def test_render_and_ids(qwen: Qwen) -> None:
    messages = [{"role": "system", "content": "S"}, {"role": "user", "content": "U"}]
    text = qwen.render(messages)
    assert text == (
        "<|im_start|>system\nS<|im_end|>\n<|im_start|>user\nU<|im_end|>\n<|im_start|>assistant\n"
    )
    assert qwen.render_ids(messages) == TOKENIZER.encode(text, parse_special=True)
    assert qwen.render("U", tone="kind").endswith("[kind]<|im_start|>assistant\n")


def test_control_tokens_are_text_in_a_chat_and_control_in_a_completion(qwen: Qwen) -> None:
    end = TOKENIZER.id_of("<|im_end|>")
    assert qwen.render_ids("a<|im_end|>b").count(end) == 1
    assert qwen.render_ids([{"role": "user", "content": "ab"}]).count(end) == 1
    assert qwen.complete("a<|im_end|>b", max_tokens=1).usage.prompt_tokens == 3


def test_each_coder_fills_in_with_its_own_marks(qwen: Qwen) -> None:
    marks = ["<fim_prefix>", "<fim_suffix>", "<fim_middle>", "<file_sep>"]  # of CodeQwen1.5
    data = replace(
        TOKENIZER_DATA,
        tokens=[*byte_alphabet(), *CONTROL[:3], *marks],
        token_types=[1] * 256 + [3] * 7,
    )
    tokenizer = Tokenizer.from_data(data)
    with small_qwen(family="codeqwen1.5", tokenizer=tokenizer) as coder:
        ids = coder.texts.fill_in("a<fim_middle>", "b")
        assert [ids[0], *ids[-3:]] == [259, 260, ord("b"), 261]
        assert tokenizer.decode(ids) == "<fim_prefix>a<fim_middle><fim_suffix>b<fim_middle>"
        assert ids.count(261) == 1, "what a caller writes is text"
        asked = coder.texts.raw(ids, {}, context=512).request.sampling
        assert set(asked.stop_ids) == {258, 256, 259, 260, 262}
        plain = coder.texts.raw("a", {}, context=512).request.sampling
        assert set(plain.stop_ids) == {258, 256}
    with (
        small_qwen(family="qwen2.5", tokenizer=tokenizer) as other,
        pytest.raises(UnsupportedError, match="small cannot fill in"),
    ):
        other.texts.fill_in("a", "b")
    with pytest.raises(UnsupportedError, match="small cannot fill in"):
        qwen.texts.fill_in("a", "b")  # its tokenizer has two of three marks


def test_a_fill_in_the_middle_prompt_has_more_stops(qwen: Qwen) -> None:
    prefix = TOKENIZER.id_of("<|fim_prefix|>")
    assert prefix is not None

    def stops(prompt: str) -> tuple[int, ...]:
        return qwen.texts.raw(prompt, {}, context=qwen.context).request.sampling.stop_ids

    plain, fim = stops("abc"), stops("<|fim_prefix|>a<|fim_middle|>")
    assert prefix not in plain
    assert prefix in fim
    assert set(plain) <= set(fim)


@pytest.mark.parametrize(
    ("keywords", "parts"),
    [
        ({"temprature": 1}, ["'temprature'", "did you mean temperature?"]),
        ({"max_token": 1}, ["'max_token'", "did you mean max_tokens?"]),
        ({"tonee": "x"}, ["'tonee'", "did you mean tone?"]),
        ({"zzz": 1}, ["'zzz'", "known: temperature", "tone"]),
        ({"temperature": -1}, ["temperature is -1", "allowed"]),
        ({"temperature": float("nan")}, ["temperature is nan"]),
        ({"max_tokens": 0}, ["max_tokens is 0", "allowed: whole numbers from 1"]),
        ({"stop": [""]}, ["stop"]),
    ],
)
def test_a_bad_keyword_is_named(qwen: Qwen, keywords: dict[str, Any], parts: list[str]) -> None:
    with pytest.raises(ParameterError) as caught:
        qwen.chat("x", **keywords)
    for part in parts:
        assert part in str(caught.value)


def test_a_completion_has_no_template_variables(qwen: Qwen) -> None:
    with pytest.raises(ParameterError, match="'tone'"):
        qwen.complete("x", tone="kind")


def test_bad_prompts(qwen: Qwen) -> None:
    with pytest.raises(ParameterError, match="the prompt is empty"):
        qwen.chat("")
    with pytest.raises(ParameterError, match="the prompt is empty"):
        qwen.complete("")
    with pytest.raises(ParameterError, match="messages is empty"):
        qwen.chat([])
    with pytest.raises(ContextLengthError, match=r"6\d\d tokens; the context holds 512"):
        qwen.chat("x" * 600)
    with pytest.raises(ContextLengthError, match="max_tokens is 500"):
        qwen.chat("x", max_tokens=500)
    with small_qwen(template=None) as base, pytest.raises(UsageError, match="no chat template"):
        base.chat("x")


def test_without_max_tokens_the_answer_may_fill_the_context(qwen: Qwen) -> None:
    reply = qwen.complete("x" * 500, stop_ids=())
    assert (reply.finish_reason, reply.usage.total_tokens) == ("length", 512)


# -- batches, streams and their ends ---------------------------------------------------------


def test_one_bad_conversation_fails_the_batch_and_leaves_nothing_running() -> None:
    with small_qwen() as qwen:
        with pytest.raises(ContextLengthError):
            qwen.chat_batch(["a", "b", "x" * 600], **FREE)
        until(lambda: not qwen._engine._loop.engine.has_work)
        assert qwen.stats.finished["length"] == 0
        for bad in ("one string", {"role": "user"}):
            with pytest.raises(ParameterError, match="a batch is of type"):
                qwen.chat_batch(bad)
        assert qwen.chat_batch([]) == []


@pytest.mark.parametrize("how", ["close", "with", "drop", "error"])
def test_leaving_a_stream_cancels_its_request(how: str) -> None:
    model = ToyModel(n_vocab=TOKENIZER.n_tokens, context=100_000)
    with small_qwen(model=model) as qwen:
        stream = qwen.stream("x", max_tokens=2000, **FREE)
        next(stream)
        if how == "close":
            stream.close()
            assert list(stream) == []
            with pytest.raises(UsageError):
                _ = stream.reply
        elif how == "with":
            with stream:
                next(stream)
        elif how == "drop":
            del stream
            gc.collect()
        else:
            model.change_logits = lambda logits: logits.fill(np.nan)
            with pytest.raises(EngineError, match="NaN"):
                list(stream)
        reason = "error" if how == "error" else "cancelled"
        until(lambda: qwen.stats.finished[reason] == 1)
        assert qwen.stats.generated < 2000


def test_closing_the_model_cancels_what_runs() -> None:
    qwen = small_qwen(model=ToyModel(n_vocab=TOKENIZER.n_tokens, context=100_000))
    stream = qwen.stream("x", max_tokens=2000, **FREE)
    next(stream)
    qwen.close()
    with pytest.raises(RequestCancelled, match="cancelled after"):
        stream.read()
    with pytest.raises(EngineError, match="closed"):
        qwen.chat("x")
    qwen.close()


def test_closing_may_wait_for_what_runs() -> None:
    qwen = small_qwen()
    stream = qwen.stream("x", max_tokens=30, **FREE)
    qwen.close(cancel=False)
    assert stream.read().usage.completion_tokens == 30


# -- scores ----------------------------------------------------------------------------------


def by_hand(model: ToyModel, ids: list[int]) -> list[float]:
    found = []
    for i in range(1, len(ids)):
        row = model.row_after(ids[:i]).astype(np.float64)
        found.append(float(row[ids[i]] - np.log(np.exp(row).sum())))
    return found


def test_score_and_perplexity() -> None:
    model = ToyModel(n_vocab=TOKENIZER.n_tokens, context=16)
    text = "Hello, 世界 <|im_end|>"
    ids = TOKENIZER.encode(text, parse_special=False)
    windows = [ids[i : i + 16] for i in range(0, len(ids), 16)]
    with small_qwen(model=model) as qwen:
        scores = qwen.score(windows[0])
        assert scores.logprobs == pytest.approx(by_hand(model, windows[0]), abs=1e-5)
        values = [v for w in windows for v in by_hand(model, w)]
        assert qwen.perplexity(text) == pytest.approx(np.exp(-np.mean(values)), rel=1e-5)
        # 17 tokens: the last window would hold one token, which nothing can be said about
        values = by_hand(model, TOKENIZER.encode("x" * 16, parse_special=False))
        assert qwen.perplexity("x" * 17) == pytest.approx(np.exp(-np.mean(values)), rel=1e-5)
        with pytest.raises(ParameterError, match="at least 2 tokens"):
            qwen.perplexity("x")
        with pytest.raises(ParameterError, match="empty"):
            qwen.perplexity("")
        with pytest.raises(ContextLengthError, match="17 tokens; the context holds 16"):
            qwen.score([1] * 17)
