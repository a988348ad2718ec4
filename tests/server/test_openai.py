"""The official openai client over a live server with the real default model."""

from __future__ import annotations

import json
import socket
import threading
import unicodedata
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import httpx
import openai
import pytest

from server.live import MODEL, Server

pytestmark = pytest.mark.model

GREETING: Any = [{"role": "user", "content": "Say hi."}]
WEATHER: Any = {
    "type": "function",
    "function": {
        "name": "get_weather",
        "description": "Tell the weather of a city.",
        "parameters": {
            "type": "object",
            "properties": {
                "city": {"type": "string"},
                "unit": {"type": "string", "enum": ["celsius", "fahrenheit"]},
            },
            "required": ["city", "unit"],
            "additionalProperties": False,
        },
    },
}
TIME: Any = {"type": "function", "function": {"name": "get_time", "description": "Tell the time."}}


@pytest.fixture(scope="module")
def client(server: Server) -> Iterator[openai.OpenAI]:
    with openai.OpenAI(base_url=f"{server.url}/v1", api_key="anything", max_retries=0) as found:
        yield found


def test_a_chat(client: openai.OpenAI) -> None:
    reply = client.chat.completions.create(
        model=MODEL, messages=GREETING, temperature=0, max_tokens=20
    )
    assert reply.object == "chat.completion"
    assert reply.model == MODEL
    (choice,) = reply.choices
    assert choice.message.role == "assistant"
    assert choice.message.content
    assert choice.finish_reason == "stop"
    assert reply.usage is not None
    assert reply.usage.total_tokens == reply.usage.prompt_tokens + reply.usage.completion_tokens
    again = client.chat.completions.create(
        model=MODEL, messages=GREETING, temperature=0, max_tokens=20
    )
    assert again.choices[0].message.content == choice.message.content
    assert again.usage is not None
    assert again.usage.prompt_tokens_details is not None
    assert reply.model_extra is not None
    assert reply.model_extra["timings"]["predicted_n"] == reply.usage.completion_tokens


def test_a_long_prompt_is_found_again(client: openai.OpenAI) -> None:
    messages: Any = [{"role": "user", "content": "Count these words: " + "word " * 200}]
    first = client.chat.completions.create(model=MODEL, messages=messages, max_tokens=1)
    second = client.chat.completions.create(model=MODEL, messages=messages, max_tokens=1)
    for reply, least in ((first, 0), (second, 200)):
        assert reply.usage is not None
        assert reply.usage.prompt_tokens_details is not None
        assert (reply.usage.prompt_tokens_details.cached_tokens or 0) >= least


def test_a_stream_is_the_whole_answer(client: openai.OpenAI) -> None:
    asked: Any = {"model": MODEL, "messages": GREETING, "temperature": 0, "max_tokens": 12}
    whole = client.chat.completions.create(**asked)
    stream = client.chat.completions.create(
        **asked, stream=True, stream_options={"include_usage": True}
    )
    chunks = list(stream)
    text = "".join(c.choices[0].delta.content or "" for c in chunks if c.choices)
    assert text == whole.choices[0].message.content
    assert chunks[0].choices[0].delta.role == "assistant"
    assert [c.choices[0].finish_reason for c in chunks if c.choices][-1] == (
        whole.choices[0].finish_reason
    )
    assert chunks[-1].choices == []
    assert chunks[-1].usage is not None
    assert whole.usage is not None
    assert chunks[-1].usage.completion_tokens == whole.usage.completion_tokens
    assert all(c.usage is None for c in chunks[:-1])
    assert len({c.id for c in chunks}) == 1


def test_several_choices_with_a_seed(client: openai.OpenAI) -> None:
    asked: Any = {
        "model": MODEL,
        "messages": [{"role": "user", "content": "Name a colour."}],
        "temperature": 1.5,
        "top_p": 1.0,
        "max_tokens": 12,
        "seed": 5,
        "n": 4,
    }
    replies = [client.chat.completions.create(**asked) for _ in range(2)]
    texts = [[c.message.content for c in reply.choices] for reply in replies]
    assert texts[0] == texts[1]
    assert len(set(texts[0])) > 1
    assert [c.index for c in replies[0].choices] == [0, 1, 2, 3]
    streamed = ["", "", "", ""]
    for chunk in client.chat.completions.create(**asked, stream=True):
        for choice in chunk.choices:
            streamed[choice.index] += choice.delta.content or ""
    assert streamed == texts[0]


def test_log_probabilities(client: openai.OpenAI) -> None:
    reply = client.chat.completions.create(
        model=MODEL, messages=GREETING, temperature=0, max_tokens=6, logprobs=True, top_logprobs=3
    )
    logprobs = reply.choices[0].logprobs
    assert logprobs is not None
    assert logprobs.content is not None
    assert "".join(p.token for p in logprobs.content) == reply.choices[0].message.content
    for p in logprobs.content:
        assert len(p.top_logprobs) == 3
        assert p.logprob <= 0
        assert p.token == p.top_logprobs[0].token
        assert bytes(p.bytes or ()).decode() == p.token


def test_bytes_of_tokens_that_are_part_of_a_character(client: openai.OpenAI) -> None:
    asked: Any = {
        "model": MODEL,
        "messages": [{"role": "user", "content": "Repeat: 🦄🏳️‍🌈"}],
        "temperature": 0,
        "max_tokens": 20,
        "logprobs": True,
        "top_logprobs": 3,
    }
    whole = client.chat.completions.create(**asked).choices[0]
    text = whole.message.content or ""
    assert not text.isascii()
    assert whole.logprobs is not None
    found = whole.logprobs.content or []
    assert any("�" in p.token for p in found)
    assert b"".join(bytes(p.bytes or ()) for p in found) == text.encode()
    for p in found:
        assert p.bytes == p.top_logprobs[0].bytes
        assert all("�" in t.token or bytes(t.bytes or ()).decode() for t in p.top_logprobs)
    streamed = []
    for chunk in client.chat.completions.create(**asked, stream=True):
        logprobs = chunk.choices[0].logprobs
        streamed += (logprobs and logprobs.content) or []
    assert [p.model_dump() for p in streamed] == [p.model_dump() for p in found]


@pytest.mark.parametrize("stop", [None, [" 8, 9"]])
def test_offsets_of_a_streamed_completion(client: openai.OpenAI, stop: Any) -> None:
    asked: Any = {
        "model": MODEL,
        "prompt": "1, 2, 3, 4,",
        "temperature": 0,
        "max_tokens": 16,
        "logprobs": 1,
        "stop": stop,
    }
    whole = client.completions.create(**asked).choices[0].logprobs
    assert whole is not None
    tokens = whole.tokens or []
    assert whole.text_offset == [len("".join(tokens[:i])) for i in range(len(tokens))]
    streamed: list[int] = []
    for chunk in client.completions.create(**asked, stream=True):
        found = chunk.choices[0].logprobs
        streamed += (found and found.text_offset) or []
    assert streamed == whole.text_offset


@pytest.mark.parametrize("n", [1, 2])
def test_usage_in_every_piece(client: openai.OpenAI, n: int) -> None:
    options: Any = {"include_usage": True, "continuous_usage_stats": True}
    more: Any = {"model": MODEL, "max_tokens": 8, "stream": True, "stream_options": options, "n": n}
    for stream in (
        client.chat.completions.create(messages=GREETING, temperature=0, **more),
        client.completions.create(prompt="1, 2, 3,", temperature=0, **more),
    ):
        *chunks, last = list(stream)
        assert last.usage is not None
        ends = 0
        for index in range(n):
            own = [c.usage for c in chunks if c.choices[0].index == index]
            assert {u and u.prompt_tokens for u in own} == {last.usage.prompt_tokens}
            counts = [u.completion_tokens for u in own if u is not None]
            assert 0 < counts[0] < counts[-1]
            assert counts == sorted(counts)
            ends += counts[-1]
        assert ends == last.usage.completion_tokens


def test_stop_strings_and_bias(client: openai.OpenAI) -> None:
    messages: Any = [{"role": "user", "content": "Count from 1 to 9, with commas."}]
    reply = client.chat.completions.create(
        model=MODEL, messages=messages, temperature=0, max_tokens=30, stop=["5"]
    )
    text = reply.choices[0].message.content or ""
    assert "4" in text
    assert "5" not in text
    assert reply.choices[0].finish_reason == "stop"
    biased = client.chat.completions.create(  # id 0 is "!"
        model=MODEL, messages=messages, temperature=0, max_tokens=3, logit_bias={"0": 100}
    )
    assert biased.choices[0].message.content == "!!!"


def test_a_completion_and_fill_in_the_middle(client: openai.OpenAI) -> None:
    reply = client.completions.create(
        model=MODEL, prompt="def add(a, b):\n    return", max_tokens=5, temperature=0, echo=True
    )
    assert reply.choices[0].text.startswith("def add(a, b):\n    return a + b")
    reply = client.completions.create(
        model=MODEL,
        prompt="def add(a, b):\n    return",
        suffix="\n\nprint(add(1, 2))",
        max_tokens=16,
        temperature=0,
    )
    assert reply.choices[0].text.strip() == "a + b"
    assert reply.choices[0].finish_reason == "stop"
    several = client.completions.create(
        model=MODEL, prompt=["1 + 1 =", "2 + 2 ="], n=2, max_tokens=2, temperature=0, logprobs=1
    )
    assert [c.index for c in several.choices] == [0, 1, 2, 3]
    assert several.choices[0].text == several.choices[1].text
    found = several.choices[0].logprobs
    assert found is not None
    assert "".join(found.tokens or ()) == several.choices[0].text


def test_a_prompt_is_echoed_with_its_log_probabilities(client: openai.OpenAI) -> None:
    """What evaluation harnesses ask for: each token's, as if it had been generated."""
    prompt = "def add(a, b):\n"
    asked = {"model": MODEL, "temperature": 0, "logprobs": 2}
    answer = client.completions.create(prompt=prompt, max_tokens=8, **asked).choices[0]
    whole = prompt + answer.text
    for given, n in ((whole, 1), (client_ids(client, whole), 2)):
        reply = client.completions.create(prompt=given, max_tokens=1, echo=True, n=n, **asked)
        for choice in reply.choices:
            told, generated = choice.logprobs, answer.logprobs
            assert told is not None
            assert generated is not None
            assert told.tokens is not None
            assert "".join(told.tokens) == choice.text
            assert choice.text.startswith(whole)
            starts = [len("".join(told.tokens[:i])) for i in range(len(told.tokens))]
            assert told.text_offset == starts
            assert (told.token_logprobs or ())[0] is None
            assert (told.top_logprobs or ())[0] is None
            assert told.token_logprobs is not None
            assert told.token_logprobs[-9:-1] == pytest.approx(generated.token_logprobs, abs=0.05)
            assert all(len(top) == 2 for top in (told.top_logprobs or ())[1:])
    stream = client.completions.create(prompt=whole, max_tokens=1, echo=True, stream=True, **asked)
    tokens: list[str] = []
    text = ""
    for event in stream:
        for part in event.choices:
            text += part.text
            tokens += (part.logprobs and part.logprobs.tokens) or []
    assert (text, tokens) == (choice.text, told.tokens)
    one = client.completions.create(prompt="x", max_tokens=1, echo=True, **asked).choices[0]
    assert one.logprobs is not None
    assert (one.logprobs.tokens or ())[0] == "x"
    assert (one.logprobs.token_logprobs or ())[0] is None


ENDED = "<|im_start|>user\nSay hi.<|im_end|>\n<|im_start|>assistant\nHi!"


@pytest.mark.parametrize("stream", [False, True])
def test_a_stop_behind_an_echoed_prompt_has_its_row(client: openai.OpenAI, stream: bool) -> None:
    """One row for each token that was computed: harnesses cut the last one off."""
    asked: dict[str, Any] = {"temperature": 0, "logprobs": 1, "echo": True, "max_tokens": 1}
    (end,) = client_ids(client, "<|im_end|>")
    asked["logit_bias"] = {str(end): 100}
    reply = client.completions.create(model=MODEL, prompt=ENDED, stream=stream, **asked)
    rows: list[str] = []
    text, reason = "", None
    for part in reply if stream else (reply,):
        for choice in part.choices:
            rows += (choice.logprobs and choice.logprobs.tokens) or []
            text += choice.text
            reason = choice.finish_reason or reason
    assert (text, reason) == (ENDED, "stop")
    assert len(rows) == len(client_ids(client, ENDED)) + 1
    assert rows[-1] == "<|im_end|>"


def test_texts_are_echoed_as_their_tokens_say(client: openai.OpenAI) -> None:
    """In NFC, and also where the first token is part of a character."""
    for prompt in ("e\u0301x is", "\U00010348 is", "caf\u0065\u0301"):
        reply = client.completions.create(
            model=MODEL, prompt=prompt, echo=True, logprobs=5, max_tokens=1, n=2, temperature=0
        )
        first, second = (choice.logprobs for choice in reply.choices)
        assert first is not None
        assert second is not None
        assert (first.tokens, first.text_offset) == (second.tokens, second.text_offset)
        text = reply.choices[0].text
        assert text.startswith(unicodedata.normalize("NFC", prompt))
        assert first.tokens is not None
        assert first.text_offset is not None
        for token, at in zip(first.tokens, first.text_offset, strict=True):
            assert "\ufffd" in token or text[at:].startswith(token)
        for top in (first.top_logprobs or ())[1:]:
            assert list(top.values()) == sorted(top.values(), reverse=True)


def client_ids(client: openai.OpenAI, text: str) -> list[int]:
    url = str(client.base_url).removesuffix("/v1/") + "/tokenize"
    found: list[int] = httpx.post(url, json={"prompt": text}, timeout=60).json()["tokens"]
    return found


def test_models(client: openai.OpenAI) -> None:
    (model,) = client.models.list().data
    assert model.id == MODEL
    assert client.models.retrieve(MODEL).id == MODEL


def test_a_json_schema(client: openai.OpenAI) -> None:
    schema = {
        "type": "object",
        "properties": {
            "name": {"type": "string", "maxLength": 20},
            "age": {"type": "integer", "minimum": 0, "maximum": 150},
            "tags": {"type": "array", "items": {"type": "string", "maxLength": 10}, "maxItems": 2},
        },
        "required": ["name", "age", "tags"],
        "additionalProperties": False,
    }
    for stream in (False, True):
        asked: Any = {
            "model": MODEL,
            "messages": [{"role": "user", "content": "Invent a person, as JSON."}],
            "temperature": 0,
            "max_tokens": 120,
            "response_format": {
                "type": "json_schema",
                "json_schema": {"name": "person", "schema": schema, "strict": True},
            },
        }
        if stream:
            chunks = client.chat.completions.create(**asked, stream=True)
            text = "".join(c.choices[0].delta.content or "" for c in chunks if c.choices)
        else:
            text = client.chat.completions.create(**asked).choices[0].message.content or ""
        person = json.loads(text)
        assert set(person) == {"name", "age", "tags"}
        assert 0 <= person["age"] <= 150


@pytest.mark.parametrize("stream", [False, True])
def test_a_required_tool(client: openai.OpenAI, stream: bool) -> None:
    asked: Any = {
        "model": MODEL,
        "messages": [{"role": "user", "content": "What is the weather in Paris, in celsius?"}],
        "temperature": 0,
        "max_tokens": 80,
        "tools": [WEATHER, TIME],
        "tool_choice": "required",
        "parallel_tool_calls": False,
    }
    if stream:
        name, arguments, id, reason = "", "", "", None
        for chunk in client.chat.completions.create(**asked, stream=True):
            for choice in chunk.choices:
                reason = choice.finish_reason or reason
                for call in choice.delta.tool_calls or ():
                    assert call.function is not None
                    id += call.id or ""
                    name += call.function.name or ""
                    arguments += call.function.arguments or ""
    else:
        (choice,) = client.chat.completions.create(**asked).choices
        (made,) = choice.message.tool_calls or ()
        assert made.type == "function"
        name, arguments, id = made.function.name, made.function.arguments, made.id
        reason = choice.finish_reason
    assert reason == "tool_calls"
    assert name in ("get_weather", "get_time")
    assert id.startswith("call_")
    assert isinstance(json.loads(arguments), dict)


def test_a_named_tool_and_its_result(client: openai.OpenAI) -> None:
    messages: Any = [{"role": "user", "content": "Weather in Rome?"}]
    reply = client.chat.completions.create(
        model=MODEL,
        messages=messages,
        temperature=0,
        max_tokens=80,
        tools=[TIME, WEATHER],
        tool_choice={"type": "function", "function": {"name": "get_weather"}},
    )
    message = reply.choices[0].message
    call = (message.tool_calls or [])[0]
    assert call.type == "function"
    assert call.function.name == "get_weather"
    assert set(json.loads(call.function.arguments)) == {"city", "unit"}
    messages += [
        message.model_dump(),
        {"role": "tool", "tool_call_id": call.id, "content": "sunny, 31 degrees"},
    ]
    answer = client.chat.completions.create(
        model=MODEL, messages=messages, temperature=0, max_tokens=40, tools=[TIME, WEATHER]
    )
    assert answer.choices[0].message.content or answer.choices[0].message.tool_calls


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("choice", ["auto", "required"])
def test_tools_and_a_schema_together(client: openai.OpenAI, stream: bool, choice: Any) -> None:
    """The schema is the answer's, the grammar of calls theirs; which it is, is the model's wish."""
    schema = {
        "type": "object",
        "properties": {"capital": {"type": "string", "maxLength": 20}},
        "required": ["capital"],
        "additionalProperties": False,
    }
    asked: dict[str, Any] = {
        "model": MODEL,
        "messages": [{"role": "user", "content": "What is the capital of France? As JSON."}],
        "temperature": 0,
        "max_tokens": 100,
        "tools": [WEATHER, TIME],
        "tool_choice": choice,
        "parallel_tool_calls": False,
        "response_format": {
            "type": "json_schema",
            "json_schema": {"name": "answer", "schema": schema, "strict": True},
        },
    }
    content, called = "", ""
    if stream:
        for chunk in client.chat.completions.create(**asked, stream=True):
            for one in chunk.choices:
                content += one.delta.content or ""
                for part in one.delta.tool_calls or ():
                    called += (part.function and part.function.arguments) or ""
    else:
        message = client.chat.completions.create(**asked).choices[0].message
        content = message.content or ""
        called = "".join(call.function.arguments for call in message.tool_calls or ())
    if choice == "required":
        assert not content
        assert isinstance(json.loads(called), dict)
    elif not called:
        assert set(json.loads(content)) == {"capital"}


def test_errors_are_those_of_the_client(client: openai.OpenAI) -> None:
    with pytest.raises(openai.NotFoundError) as missing:
        client.chat.completions.create(model="gpt-4o", messages=GREETING)
    assert missing.value.code == "model_not_found"
    with pytest.raises(openai.BadRequestError) as wrong:
        client.chat.completions.create(model=MODEL, messages=GREETING, temperature=3)
    assert wrong.value.param == "temperature"
    with pytest.raises(openai.BadRequestError) as unknown:
        client.chat.completions.create(model=MODEL, messages=GREETING, extra_body={"topk": 3})
    assert unknown.value.param == "topk"
    with pytest.raises(openai.BadRequestError) as long:
        client.chat.completions.create(
            model=MODEL, messages=[{"role": "user", "content": "word " * 40_000}]
        )
    assert long.value.code == "context_length_exceeded"
    body: Any = long.value.body
    assert body["n_ctx"] < body["n_prompt_tokens"]
    with socket.create_server(("127.0.0.1", 0)) as somewhere:
        url = f"http://127.0.0.1:{somewhere.getsockname()[1]}/x.png"
        parts = [
            {"type": "text", "text": "What is this?"},
            {"type": "image_url", "image_url": {"url": url}},
        ]
        picture: Any = [{"role": "user", "content": parts}]
        with pytest.raises(openai.BadRequestError, match="this model reads: text"):
            client.chat.completions.create(model=MODEL, messages=picture)
        somewhere.settimeout(0.5)
        with pytest.raises(TimeoutError):  # nobody came to fetch it
            somewhere.accept()


def test_inert_fields_are_named(client: openai.OpenAI) -> None:
    raw = client.chat.completions.with_raw_response.create(
        model=MODEL,
        messages=GREETING,
        max_tokens=1,
        store=False,
        metadata={"a": "b"},
        user="somebody",
        service_tier="auto",
    )
    assert raw.headers["x-qwick-inert"] == "metadata, store, service_tier"


def test_several_at_once_and_leaving(client: openai.OpenAI, server: Server) -> None:
    """Half of the clients leave in the middle: the others get what each gets alone."""
    alone = client.chat.completions.create(
        model=MODEL, messages=GREETING, temperature=0, max_tokens=10
    )

    def ask(i: int) -> str | None:
        asked: Any = {"model": MODEL, "messages": GREETING, "temperature": 0, "max_tokens": 10}
        if i % 2:
            with client.chat.completions.create(
                **{**asked, "max_tokens": 500, "messages": [{"role": "user", "content": "Go on."}]},
                stream=True,
            ) as stream:
                for _ in stream:
                    return None
        return client.chat.completions.create(**asked).choices[0].message.content

    with ThreadPoolExecutor(8) as pool:
        texts = list(pool.map(ask, range(16)))
    assert [t for t in texts if t is not None] == [alone.choices[0].message.content] * 8
    assert threading.active_count() < 50
