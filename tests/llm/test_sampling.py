"""Penalties, biases, lengths, loops and several answers, through the API and a real model."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from llm.small import write_small
from qwick.errors import ParameterError
from qwick.llm import Qwen


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Qwen]:
    path = tmp_path_factory.mktemp("small") / "small.gguf"
    write_small(path)
    with Qwen.load(path) as loaded:
        yield loaded


@pytest.fixture(scope="module")
def real(default_checkpoint: Path) -> Iterator[Qwen]:
    with Qwen.load(default_checkpoint, ctx=2048) as loaded:
        yield loaded


def test_choices_are_single_answers_with_seeds_one_apart(small: Qwen) -> None:
    asked: dict[str, Any] = {"temperature": 1.0, "max_tokens": 8, "ignore_eos": True}
    found = small.choices("hello " * 20, 5, seed=2**64 - 2, **asked)
    assert [reply.seed for reply in found] == [2**64 - 2, 2**64 - 1, 0, 1, 2]
    assert len({reply.ids for reply in found}) > 1
    for reply in found:
        assert reply.ids == small.chat("hello " * 20, seed=reply.seed, **asked).ids
    for reply in found[1:]:  # all but the prompt's last page
        assert reply.usage.cached_tokens >= reply.usage.prompt_tokens - 64
    raw = small.complete_choices("abc", 3, temperature=0.0, max_tokens=4)
    assert len({reply.ids for reply in raw}) == 1
    unseeded = small.choices("hello", 4, **asked)
    assert len({reply.seed for reply in unseeded}) == 4


@pytest.mark.parametrize("n", [0, -1, 129, True, 1.0, "2", None])
def test_a_bad_number_of_choices(small: Qwen, n: Any) -> None:
    with pytest.raises(ParameterError, match=r"n is .*; allowed: whole numbers from 1 to 128"):
        small.choices("hello", n)


def test_a_bad_field_of_choices_is_named(small: Qwen) -> None:
    with pytest.raises(ParameterError, match="seed is 'x'"):
        small.choices("hello", 2, seed="x")


def test_a_stop_string_counts_after_min_tokens_only(small: Qwen) -> None:
    asked: dict[str, Any] = {"temperature": 0, "max_tokens": 24, "ignore_eos": True}
    free = small.complete("abc", **asked)
    texts = [small.tokenizer.decode([id]) for id in free.ids]
    stop = texts[2]
    at_once = small.complete("abc", stop=[stop], **asked)
    assert len(at_once.ids) <= 3
    for least in (4, 10, 24):
        reply = small.complete("abc", stop=[stop], min_tokens=least, **asked)
        assert len(reply.ids) >= least
        assert reply.text.startswith(small.tokenizer.decode(free.ids[: least - 1]))


@pytest.mark.model
def test_biases_ban_and_force_real_tokens(real: Qwen) -> None:
    question, asked = "What is the capital of France?", {"temperature": 0, "max_tokens": 12}
    plain = real.chat(question, **asked)
    assert "Paris" in plain.text
    paris = [id for id in plain.ids if "Paris" in real.tokenizer.decode([id])]
    banned = real.chat(question, logit_bias=dict.fromkeys(paris, -100), **asked)
    assert not set(paris) & set(banned.ids)
    assert real.chat(question, logit_bias={paris[0]: 100}, **asked).ids == (paris[0],) * 12


@pytest.mark.model
def test_a_loop_is_broken_by_a_penalty_or_ended_by_its_own_reason(real: Qwen) -> None:
    prompt = "x = 1\n" * 40
    asked: dict[str, Any] = {
        "temperature": 0,
        "max_tokens": 400,
        "ignore_eos": True,
        "repetition_penalty": 1.0,
    }
    stuck = real.complete(prompt, **asked)
    assert stuck.finish_reason == "length"
    most = Counter(stuck.ids).most_common(1)[0][1]
    assert most > 60, "the model repeats itself without a penalty"
    ended = real.complete(prompt, loop_detection=True, **asked)
    assert ended.finish_reason == "repetition"
    assert len(ended.ids) < 400
    assert stuck.ids[: len(ended.ids)] == ended.ids, "until then the same"
    freed = real.complete(prompt, **{**asked, "frequency_penalty": 1.0, "max_tokens": 100})
    assert Counter(freed.ids).most_common(1)[0][1] < 40


@pytest.mark.model
def test_the_least_and_the_ends_of_a_real_answer(real: Qwen) -> None:
    asked: dict[str, Any] = {"temperature": 0, "max_tokens": 40}
    plain = real.chat("Say yes.", **asked)
    assert plain.finish_reason == "stop"
    assert len(plain.ids) < 20
    longer = real.chat("Say yes.", min_tokens=20, **asked)
    assert len(longer.ids) >= 20
    endless = real.chat("Say yes.", ignore_eos=True, **asked)
    assert (endless.finish_reason, len(endless.ids)) == ("length", 40)


@pytest.mark.model
def test_penalised_requests_draw_the_same_in_any_company(real: Qwen) -> None:
    asked: dict[str, Any] = {
        "seed": 3,
        "temperature": 0.8,
        "max_tokens": 12,
        "presence_penalty": 0.7,
        "frequency_penalty": 0.4,
        "logit_bias": {11: -5.0},
        "min_tokens": 4,
    }
    alone = real.chat("Name a colour.", namespace="alone", **asked)
    crowd = ["Name a colour.", "Count to five.", "What is 2 + 2?"]
    together = real.chat_batch(crowd, namespace="crowd", **asked)
    assert together[0].ids == alone.ids
