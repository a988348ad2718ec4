"""Tools over a live server with the real default model: stop strings, cuts, strict arguments."""

from __future__ import annotations

import json
from typing import Any

import httpx
import pytest

from qwick.server.openai.fields import inert_fields
from server.live import MODEL, Server
from server.test_fields import chat
from server.test_openai import WEATHER

PARIS = "What is the weather in Paris? Use the tool."
FLIGHT: dict[str, Any] = {
    "type": "function",
    "function": {
        "name": "book_flight",
        "description": "Book a flight.",
        "strict": True,
        "parameters": {
            "type": "object",
            "properties": {"to": {"type": "string"}, "cabin": {"enum": ["Y", "J", "F"]}},
            "required": ["to", "cabin"],
            "additionalProperties": False,
        },
    },
}


def asked(server: Server, content: str, stream: bool = False, **fields: Any) -> tuple[Any, Any]:
    """Return the message and the choice of an answer; of a stream, its pieces put together."""
    body = {"model": MODEL, "messages": [{"role": "user", "content": content}], **fields}
    body = {"temperature": 0, "max_tokens": 100, "stream": stream, **body}
    answer = httpx.post(f"{server.url}/v1/chat/completions", json=body, timeout=120)
    assert answer.status_code == 200, answer.text
    assert "strict" not in answer.headers.get("x-qwick-inert", "")
    if not stream:
        (choice,) = answer.json()["choices"]
        return choice["message"], choice
    message: dict[str, Any] = {"content": "", "tool_calls": []}
    choice = None
    for line in answer.text.splitlines():
        if line.startswith("data: {") and (choices := json.loads(line[6:])["choices"]):
            (choice,) = choices
            message["content"] += choice["delta"].get("content") or ""
            for call in choice["delta"].get("tool_calls", ()):
                if "id" in call:
                    message["tool_calls"].append(call)
                else:
                    made = message["tool_calls"][call["index"]]["function"]
                    made["arguments"] += call["function"]["arguments"]
    return message, choice


def arguments_of(message: Any) -> list[Any]:
    return [json.loads(call["function"]["arguments"]) for call in message["tool_calls"]]


@pytest.mark.model
@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("choice", ["auto", "required"])
def test_a_stop_string_does_not_cut_a_call(server: Server, choice: str, stream: bool) -> None:
    message, ended = asked(
        server, PARIS, stream, tools=[WEATHER], tool_choice=choice, stop=["Paris"]
    )
    assert [one["city"] for one in arguments_of(message)] == ["Paris"]
    assert ended["finish_reason"] == "tool_calls"


@pytest.mark.model
@pytest.mark.parametrize("stream", [False, True])
def test_a_stop_string_in_content_ends_it(server: Server, stream: bool) -> None:
    question = "What is the capital of France? Say it in a sentence."
    message, ended = asked(server, question, stream, tools=[WEATHER], stop=["Paris"])
    assert "Paris" not in message["content"]
    assert ended["finish_reason"] == "stop"


@pytest.mark.model
@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("most", [1, 5, 8, 11])
def test_a_demanded_call_that_is_cut(server: Server, most: int, stream: bool) -> None:
    message, ended = asked(
        server, PARIS, stream, tools=[WEATHER], tool_choice="required", max_tokens=most
    )
    assert not message["content"]
    assert ended["finish_reason"] == "length"
    assert ended["warnings"] == ["a call was cut off"]


@pytest.mark.model
@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("more", [{}, {"parallel_tool_calls": False, "stop": ["Rome"]}])
def test_strict_arguments_fit_where_a_call_is_free_to_come(
    server: Server, more: dict[str, Any], stream: bool
) -> None:
    question = "Book a flight to Rome in Economy class. Use the tool."
    message, _ = asked(server, question, stream, tools=[FLIGHT], **more)
    (arguments,) = arguments_of(message)
    assert set(arguments) == {"to", "cabin"}
    assert arguments["cabin"] in ("Y", "J", "F")


@pytest.mark.model
def test_strict_arguments_that_cannot_be_held_to_are_refused(server: Server) -> None:
    parameters = {"type": "object", "properties": {"a": {"type": "string", "pattern": "(?=a)"}}}
    tool = {**FLIGHT, "function": {**FLIGHT["function"], "parameters": parameters}}
    answer = httpx.post(
        f"{server.url}/v1/chat/completions",
        json={"model": MODEL, "messages": [{"role": "user", "content": "x"}], "tools": [tool]},
        timeout=60,
    )
    assert answer.status_code == 400
    assert answer.json()["error"]["message"].startswith("tools[0].function.parameters cannot be")


NAMED = {"type": "function", "function": {"name": "get_weather"}}
ALLOWED = {
    "type": "allowed_tools",
    "allowed_tools": {"mode": "auto", "tools": [NAMED]},
}
SCHEMA = {"type": "json_schema", "json_schema": {"name": "a", "schema": {}}}
SAID = {"role": "assistant", "content": "a", "refusal": "b"}


@pytest.mark.parametrize(
    ("fields", "inert"),
    [
        ({"tools": [FLIGHT]}, []),
        ({"min_tokens": 30, "ignore_eos": True}, []),
        ({"min_tokens": 30, "guided_regex": "a"}, ["min_tokens"]),
        ({"ignore_eos": True, "response_format": {"type": "json_object"}}, ["ignore_eos"]),
        ({"ignore_eos": False, "min_tokens": 0, "response_format": SCHEMA}, []),
        ({"ignore_eos": True, "response_format": {"type": "text"}}, []),
        ({"min_tokens": 3, "structured_outputs": {"choice": ["a"]}}, ["min_tokens"]),
        ({"min_tokens": 3, "tool_choice": "required"}, ["min_tokens"]),
        ({"tool_choice": "required", "guided_regex": "a"}, ["guided_regex"]),
        ({"tool_choice": NAMED, "response_format": SCHEMA}, ["response_format"]),
        ({"tool_choice": ALLOWED, "response_format": SCHEMA}, []),
        ({"tool_choice": "auto", "response_format": SCHEMA}, []),
        ({"messages": [SAID]}, ["messages.refusal"]),
        ({"messages": [{**SAID, "content": None}]}, []),
    ],
)
def test_what_a_grammar_or_a_choice_leaves_without_effect_is_named(
    fields: dict[str, Any], inert: list[str]
) -> None:
    assert inert_fields(chat(**{"tools": [WEATHER], **fields})) == inert
