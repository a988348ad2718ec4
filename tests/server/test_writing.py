"""What the OpenAI writers make of an answer's pieces: streamed, the same as whole."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

import pytest

from llm.small import TOKENIZER
from qwick.engine.request import Progress
from qwick.llm import Chunk, Reply
from qwick.server.openai.bodies import CompletionBody
from qwick.server.openai.completions import CompletionWriter
from qwick.server.openai.writing import chat_logprobs, dumped
from server.written import PROMPT_TOKENS, assembled, chat_writer, data_of, ids_of

EMOJI = "a🦄🏳️‍🌈é b"
RUNNING = {"stream": True, "stream_options": {"continuous_usage_stats": True}}


def completion_writer(prompts: tuple[str, ...] = (), **fields: Any) -> CompletionWriter:
    body = CompletionBody.model_validate({"model": "m", "prompt": "x", **fields})
    return CompletionWriter(body, "1", prompts)


def sent(writer: Any, chunks: list[Chunk], reply: Reply) -> list[Any]:
    """Return the data of an answer's events."""
    parts = [*(writer.chunk(0, chunk) for chunk in chunks), writer.reply(0, reply)]
    return data_of(b"".join(parts) + writer.end([reply]))


def cuts(ids: list[int]) -> list[list[list[int]]]:
    """Return ways in which an engine may deliver ids."""
    return [[ids], [[id] for id in ids], [ids[:4], ids[4:]]]


@pytest.mark.parametrize(
    ("text", "shown"),
    [("\ud83d", "�"), ("a\ude00b", "a�b"), ("\ud83d\ud83e\udd84", "�🦄"), ("🦄é", "🦄é")],
)
def test_any_string_can_be_written(text: str, shown: str) -> None:
    assert json.loads(dumped({text: [text, 1]}).decode()) == {shown: [shown, 1]}


@pytest.mark.parametrize("i", range(3))
@pytest.mark.parametrize(
    ("prompt", "text"),
    [
        ("assistant\n", "<think>\nTwo and two.\n</think>\n\n4"),  # Qwen3
        ("assistant\n<think>\n", "Two and two.\n</think>\n\n4"),  # Thinking-2507, QwQ
    ],
)
def test_thinking_has_both_names_and_no_part_in_the_content(prompt: str, text: str, i: int) -> None:
    chunks, reply = assembled(cuts(ids_of(text))[i], prompt=prompt)
    message = json.loads(chat_writer().whole([reply]))["choices"][0]["message"]
    assert message["reasoning_content"] == message["reasoning"] == "Two and two."
    assert message["content"] == "4"
    told = {"reasoning_content": "", "reasoning": "", "content": ""}
    for part in sent(chat_writer(), chunks, reply):
        for name, value in part["choices"][0]["delta"].items():
            if name != "role":
                told[name] += value or ""
    assert told == {name: message[name] for name in told}


@pytest.mark.parametrize("i", range(3))
def test_the_bytes_of_tokens_are_those_of_the_text(i: int) -> None:
    """Tokens that are part of a character, chosen ones and candidates alike."""
    ids = ids_of(EMOJI)
    chunks, reply = assembled(cuts(ids)[i], logprobs=True)
    whole = json.loads(chat_writer().whole([reply]))["choices"][0]["logprobs"]
    parts = [one["choices"][0]["logprobs"] for one in sent(chat_writer(), chunks, reply)]
    assert [one for part in parts if part for one in part["content"]] == whole["content"]
    assert b"".join(bytes(one["bytes"]) for one in whole["content"]) == EMOJI.encode()
    assert "�" in {one["token"] for one in whole["content"]}
    for one in whole["content"]:
        same, other = one["top_logprobs"]
        assert same == {key: one[key] for key in same}
        assert (other["token"], other["bytes"]) == ("�", [0x84])


def test_bytes_of_control_tokens_and_forced_ones() -> None:
    control = TOKENIZER.id_of("<|fim_middle|>")
    assert control is not None
    _, reply = assembled([[control]], logprobs=True)
    found = chat_logprobs(reply.logprobs)
    assert found is not None
    assert bytes(found["content"][0]["bytes"]) == b"<|fim_middle|>"
    assert chat_logprobs([None]) == {"content": [], "refusal": None}
    assert chat_logprobs(None) is None


@pytest.mark.parametrize("i", range(3))
@pytest.mark.parametrize("before", ["", "the prompt"])
@pytest.mark.parametrize(
    ("text", "stop", "offsets"),
    [
        ("1, 2, 3", (), [0, 1, 2, 3, 4, 5, 6]),
        ("1, 2, 3", (", 2x", "3"), [0, 1, 2, 3, 4, 5, 6]),  # text is held back, or never shown
        ("é🦄!", (), [0, 0, 1, 1, 1, 1, 2]),  # all bytes of a character are where it is
        ("", (), []),
    ],
)
def test_offsets_of_a_stream_are_those_of_the_whole(
    text: str, stop: tuple[str, ...], offsets: list[int], before: str, i: int
) -> None:
    prompts = (before,) if before else ()
    chunks, reply = assembled(cuts(ids_of(text))[i], stop=stop, logprobs=True)
    whole = json.loads(completion_writer(prompts).whole([reply]))["choices"][0]
    assert (whole["logprobs"] or {}).get("text_offset", []) == [len(before) + n for n in offsets]
    choices = [part["choices"][0] for part in sent(completion_writer(prompts), chunks, reply)]
    assert "".join(choice["text"] for choice in choices) == whole["text"]
    for key in whole["logprobs"] or ():
        parts = [choice["logprobs"][key] for choice in choices if choice["logprobs"]]
        assert [one for part in parts for one in part] == whole["logprobs"][key]


def test_control_tokens_take_no_place_in_the_text() -> None:
    control = TOKENIZER.id_of("<|fim_middle|>")
    assert control is not None
    _, reply = assembled([[*ids_of("ab"), control, *ids_of("c")]], logprobs=True)
    assert [p and p.start for p in reply.logprobs or ()] == [0, 1, 2, 2]
    assert reply.text == "abc"


@pytest.mark.parametrize("make", [chat_writer, completion_writer])
def test_usage_so_far_is_in_every_piece(make: Any) -> None:
    chunks, reply = assembled([[id] for id in ids_of("hello")])
    parts = sent(make(**RUNNING), chunks, reply)
    counts = [part["usage"]["completion_tokens"] for part in parts]
    assert counts == [1, 2, 3, 4, 5, 6]  # and the stop id
    for part, count in zip(parts, counts, strict=True):
        assert part["usage"]["prompt_tokens"] == PROMPT_TOKENS
        assert part["usage"]["total_tokens"] == PROMPT_TOKENS + count
    assert ["prompt_tokens_details" in part["usage"] for part in parts] == [False] * 5 + [True]
    assert parts[-1]["usage"]["prompt_tokens_details"] == {"cached_tokens": 2}
    assert not any("usage" in part for part in sent(make(), chunks, reply))
    options = {**RUNNING["stream_options"], "include_usage": True}
    parts = sent(make(stream=True, stream_options=options), chunks, reply)
    assert [part["usage"]["completion_tokens"] for part in parts] == [*counts, 6]
    assert parts[-1]["choices"] == []


@pytest.mark.parametrize("make", [chat_writer, completion_writer])
def test_usage_of_pieces_that_have_none_of_their_own(make: Any) -> None:
    """While the prompt is computed, and of what a content policy has put in."""
    chunks, reply = assembled([ids_of("hello")])
    asked = [Chunk("", progress=Progress(4, PROMPT_TOKENS, 0)), *chunks, Chunk("!")]
    parts = sent(make(**RUNNING), asked, reply)
    assert [part["usage"]["completion_tokens"] for part in parts] == [0, 5, 5, 6]
    assert {part["usage"]["prompt_tokens"] for part in parts} == {PROMPT_TOKENS}
    bare = [replace(chunk, usage=None) for chunk in chunks]
    assert ["usage" in part for part in sent(make(**RUNNING), bare, reply)] == [False, True]


@pytest.mark.parametrize("make", [chat_writer, completion_writer])
def test_choices_count_their_own_tokens(make: Any) -> None:
    chunks, _ = assembled([[id] for id in ids_of("abc")])
    writer = make(n=2, **RUNNING)
    order = [(0, 0), (0, 1), (1, 0), (0, 2), (1, 1)]
    parts = [data_of(writer.chunk(index, chunks[i]))[0] for index, i in order]
    assert [part["usage"]["completion_tokens"] for part in parts] == [i + 1 for _, i in order]
    parts = [data_of(writer.chunk(index, Chunk("!")))[0] for index in (0, 1)]
    assert [part["usage"]["completion_tokens"] for part in parts] == [3, 2]
