"""What is wrong is told with the field of the body that it is in, also where a model finds it."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import httpx
import pytest

from server.live import MODEL, Server, chat_body

pytestmark = pytest.mark.model

CHAT = "/v1/chat/completions"
COMPLETE = "/v1/completions"
LONG = "word " * 34_000
MESSAGES = [{"role": "user", "content": "x"}]
TEXTS = [{"type": "string"}, {"const": "a"}]


def tool(**properties: Any) -> dict[str, Any]:
    parameters = {"type": "object", "properties": properties}
    return {"type": "function", "function": {"name": "f", "parameters": parameters}}


@pytest.fixture(scope="module")
def client(server: Server) -> Iterator[httpx.Client]:
    with server.client() as found:
        yield found


@pytest.mark.parametrize(
    ("path", "fields", "param", "words"),
    [
        (CHAT, {"logit_bias": {"999999": 5}}, "logit_bias", "999999"),
        (CHAT, {"logit_bias": {"10": 200}}, "logit_bias", "200"),
        (CHAT, {"messages": [{"role": "user", "content": LONG}]}, "messages", "the context holds"),
        (CHAT, {"max_tokens": 40_000}, "messages", "40000"),
        (
            CHAT,
            {"tools": [tool(x={"uniqueItems": True})], "tool_choice": "required"},
            "tools[0].function.parameters",
            "uniqueItems",
        ),
        (
            CHAT,
            {"response_format": {"type": "json_object", "schema": {"oneOf": TEXTS}}},
            "response_format.schema",
            "write it as anyOf",
        ),
        (CHAT, {"chat_template_kwargs": {"foo": 1}}, "chat_template_kwargs", "'foo'; allowed: ena"),
        (COMPLETE, {"prompt": LONG}, "prompt", "the context holds"),
        (COMPLETE, {"prompt": ""}, "prompt", "empty"),
        (COMPLETE, {"prompt": [10**7]}, "prompt", "10000000"),
        (
            COMPLETE,
            {"prompt": "x", "echo": True, "logprobs": 1, "suffix": "y"},
            "logprobs",
            "leave out suffix",
        ),
        (
            COMPLETE,
            {"prompt": [1] * 2000, "echo": True, "logprobs": 20, "n": 3},
            "logprobs",
            "126000 log probabilities of prompts are asked for; allowed: 100000",
        ),
        (COMPLETE, {"prompt": "x", "max_tokens": 0}, "max_tokens", "1 or more"),
        ("/tokenize", {"prompt": "x", "content": "x"}, "prompt", "content and prompt"),
        ("/tokenize", {}, "prompt", "no text"),
        (
            "/tokenize",
            {"messages": MESSAGES, "chat_template_kwargs": {"foo": 1}},
            "chat_template_kwargs",
            "'foo'; allowed: enable_thinking",
        ),
        ("/detokenize", {"tokens": [10**7]}, "tokens", "10000000"),
    ],
)
def test_the_field_is_named(
    client: httpx.Client, path: str, fields: dict[str, Any], param: str, words: str
) -> None:
    body = chat_body(**fields) if path == CHAT else {"model": MODEL, **fields}
    response = client.post(path, json=body)
    error = response.json()["error"]
    assert response.status_code == 400, error
    assert error["param"] == param, error
    assert words in error["message"]


def test_tokens_as_others_tell_them(client: httpx.Client) -> None:
    body = {"content": "a \N{SHRUG}b", "add_special": False}
    plain = client.post("/tokenize", json=body)
    assert plain.headers["x-qwick-inert"] == "add_special"
    ids = plain.json()["tokens"]
    found = client.post(
        "/tokenize", json={**body, "with_pieces": True, "return_token_strs": True}
    ).json()
    assert [token["id"] for token in found["tokens"]] == ids
    pieces = [token["piece"] for token in found["tokens"]]
    data = b"".join(p.encode() if isinstance(p, str) else bytes(p) for p in pieces)
    assert data.decode() == body["content"]
    assert pieces[0] == "a"
    assert any(isinstance(piece, list) for piece in pieces)
    strings = found["token_strs"]
    assert [s for s, p in zip(strings, pieces, strict=True) if isinstance(p, str)] == [
        piece for piece in pieces if isinstance(piece, str)
    ]


def test_a_schema_as_llama_cpp_takes_it(client: httpx.Client) -> None:
    schema = {"type": "object", "properties": {"n": {"const": 7}}, "required": ["n"]}
    asked = {"type": "json_object", "schema": {**schema, "additionalProperties": False}}
    reply = client.post(CHAT, json=chat_body(response_format=asked, max_tokens=30)).json()
    assert "".join(reply["choices"][0]["message"]["content"].split()) == '{"n":7}'
