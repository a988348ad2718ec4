"""Every field of the official client's schema is honoured, inert with its reason, or refused."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, get_type_hints

import pytest
from openai.types import completion_create_params
from openai.types.chat import completion_create_params as chat_create_params

from qwick.errors import ParameterError, UnsupportedError
from qwick.llm.wishes import read_wishes
from qwick.server.caller import Caller
from qwick.server.openai.asking import chat_ask, completion_ask
from qwick.server.openai.bodies import ChatBody, CompletionBody, Sampled
from qwick.server.openai.fields import INERT, INERT_VALUES, REFUSED, fates, inert_fields
from qwick.server.problems import problem_of
from qwick.server.reading import parsed

PAGE = Path(__file__).parents[2] / "docs/reference/openai.md"
MESSAGE = {"role": "user", "content": "x"}
CALLER = Caller(None, "r")


def official(params: Any) -> set[str]:
    names = set(get_type_hints(params))
    assert len(names) > 10
    return names


@pytest.mark.parametrize(
    ("params", "body"),
    [
        (chat_create_params.CompletionCreateParamsNonStreaming, ChatBody),
        (chat_create_params.CompletionCreateParamsStreaming, ChatBody),
        (completion_create_params.CompletionCreateParamsNonStreaming, CompletionBody),
        (completion_create_params.CompletionCreateParamsStreaming, CompletionBody),
    ],
)
def test_no_field_of_the_client_is_unknown(params: Any, body: type[Sampled]) -> None:
    assert official(params) - set(body.model_fields) - set(REFUSED) == set()


def test_the_tables_name_fields_that_there_are() -> None:
    fields = {*ChatBody.model_fields, *CompletionBody.model_fields, "add_special_tokens"}
    assert {name.partition(".")[0] for name in INERT} <= fields
    assert set(INERT_VALUES) <= fields
    assert not set(REFUSED) & fields


def test_the_page_has_them_all() -> None:
    text = PAGE.read_text("utf-8")
    for body, heading in ((ChatBody, "chat"), (CompletionBody, "completion")):
        table = "\n".join(f"| `{name}` | {fate} |" for name, fate in fates(body))
        assert table in text, f"the table of {heading} fields should be:\n{table}"


def chat(**fields: Any) -> ChatBody:
    import json

    body = {"model": "m", "messages": [MESSAGE], **fields}
    return parsed(json.dumps(body).encode(), ChatBody, REFUSED)


@pytest.mark.parametrize("name", sorted(REFUSED))
def test_a_refused_field_is_named_with_its_reason(name: str) -> None:
    with pytest.raises(ParameterError, match=f"{name} is not supported: {REFUSED[name]}"):
        chat(**{name: {}})


SOUND = {
    "metadata": {"a": "b"},
    "prompt_cache_key": "x",
    "prompt_cache_options": {},
    "prompt_cache_retention": "24h",
    "prediction": {"type": "content", "content": "x"},
}


@pytest.mark.parametrize("name", sorted(set(INERT) & set(ChatBody.model_fields)))
def test_an_inert_field_is_named(name: str) -> None:
    assert inert_fields(chat(**{name: SOUND[name]})) == [name]
    assert inert_fields(chat()) == []


@pytest.mark.parametrize(
    ("name", "other"),
    [
        ("store", True),
        ("service_tier", "flex"),
        ("verbosity", "high"),
        ("modalities", ["text", "audio"]),
    ],
)
def test_a_wish_that_cannot_be_fulfilled_is_refused(name: str, other: Any) -> None:
    for value in INERT_VALUES[name][0]:
        assert inert_fields(chat(**{name: value})) == [name]
    with pytest.raises(UnsupportedError, match=f"{name} is"):
        inert_fields(chat(**{name: other}))


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"max_tokens": 3, "max_completion_tokens": 4}, "which mean the same"),
        ({"top_logprobs": 2}, "only with logprobs"),
        ({"stream_options": {"include_usage": True}}, "stream_options goes with stream"),
        ({"logit_bias": {"x": 1}}, "a key of logit_bias is 'x'"),
        ({"guided_regex": "a", "guided_choice": ["a"]}, "allowed: one of them"),
        ({"enable_thinking": True, "reasoning_effort": "none"}, "reasoning_effort is 'none'"),
        ({"enable_thinking": False, "reasoning_effort": "low"}, "reasoning_effort is 'low'"),
        ({"enable_thinking": True, "chat_template_kwargs": {"enable_thinking": False}}, "the same"),
        (
            {"tool_choice": {"type": "allowed_tools", "allowed_tools": {
                "mode": "auto", "tools": [{"type": "function", "function": {"name": "f"}}]}}},
            "tool_choice allows 'f'; allowed: no tool",
        ),
        ({"messages": [{**MESSAGE, "reasoning": "x"}]}, "belongs to the role user"),
    ],
)  # fmt: skip
def test_contradictions_are_refused(fields: dict[str, Any], words: str) -> None:
    with pytest.raises(ParameterError, match=words):
        chat_ask(chat(**fields), CALLER)


def test_one_setting_of_thinking_however_it_is_spelled() -> None:
    def keywords(**fields: Any) -> dict[str, Any]:
        found = dict(chat_ask(chat(**fields), CALLER).prompts[0].keywords)
        names = ("enable_thinking", "thinking_budget", "thinking_aim")
        return {k: found[k] for k in names if k in found}

    off = {"enable_thinking": False}
    assert keywords() == {}
    assert keywords(enable_thinking=False) == off
    assert keywords(chat_template_kwargs={"enable_thinking": False}) == off
    assert keywords(reasoning_effort="none") == keywords(reasoning_effort="minimal") == off
    assert keywords(reasoning_effort="low") == {"enable_thinking": True, "thinking_aim": 1024}
    exact = {"enable_thinking": True, "thinking_budget": 7}
    assert keywords(reasoning_effort="low", thinking_budget=7) == exact
    assert keywords(reasoning_effort="xhigh") == {"enable_thinking": True}
    assert keywords(thinking_token_budget=7) == keywords(thinking_budget=7)


def test_a_completion_has_the_clients_default_length() -> None:
    body = CompletionBody(model="m", prompt=["a", "b"])
    ask = completion_ask(body, CALLER, ["a", "b"])
    assert [q.keywords["max_tokens"] for q in ask.prompts] == [16, 16]
    assert len(ask.prompts) == 2


@pytest.mark.parametrize(
    ("fields", "field"),
    [
        ({"chat_template_kwargs": {"enable_thinking": []}}, "enable_thinking"),
        ({"logit_bias": {"9" * 5000: 1}}, "logit_bias"),
        ({"guided_choice": []}, "guided_choice"),
        ({"structured_outputs": {"regex": ""}}, "structured_outputs.regex"),
        ({"json_schema": {"type": "no"}}, "json_schema"),
    ],
)
def test_an_error_names_the_field_as_the_body_does(fields: dict[str, Any], field: str) -> None:
    def read() -> None:
        read_wishes(chat_ask(chat(**fields), CALLER).prompts[0].keywords, ())

    with pytest.raises((ParameterError, UnsupportedError)) as caught:
        read()
    assert problem_of(caught.value).error["param"] == field


def test_everything_that_is_said_counts() -> None:
    called = {"id": "i" * 5, "function": {"name": "n" * 7, "arguments": "a" * 11}}
    messages = [
        {"role": "user", "content": "c" * 13, "name": "u" * 17},
        {"role": "assistant", "content": None, "tool_calls": [called], "reasoning": "r" * 19},
        {"role": "tool", "content": "t" * 23, "tool_call_id": "i" * 5},
    ]
    body = ChatBody.model_validate({"model": "m", "messages": messages, "grammar": "root ::= [a]"})
    ask = chat_ask(body, CALLER)
    grammar = ask.prompts[0].keywords["grammar"]
    assert ask.characters == 5 + 7 + 11 + 13 + 17 + 19 + 23 + 5 + len(grammar.text)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"stop": ["a"] * 40}, "stop is wrong; allowed: List should have at most 32 items"),
        ({"tool_choice": {"type": "function"}}, "tool_choice.function is missing"),
        ({"tool_choice": "any"}, "tool_choice is 'any'; allowed: 'none', 'auto' or 'required'"),
        ({"response_format": {"type": "json_schema"}}, "response_format.json_schema is missing"),
        (
            {"messages": [{"role": "user", "content": [{"type": "text", "text": None}]}]},
            "messages[0].content[0].text is None; allowed: a valid string",
        ),
        (
            {"messages": [{"role": "user", "content": [{"type": "smell"}]}]},
            "messages[0].content[0] is wrong; allowed: Input tag 'smell'",
        ),
    ],
)
def test_what_is_wrong_is_said_of_the_type_that_was_meant(
    fields: dict[str, Any], message: str
) -> None:
    body = json.dumps({"model": "m", "messages": [MESSAGE], **fields}).encode()
    with pytest.raises(ParameterError) as caught:
        parsed(body, ChatBody, {})
    assert caught.value.message.startswith(message)


@pytest.mark.parametrize("kind", ["image", "image_url", "video", "audio", "input_audio", "file"])
def test_parts_of_other_kinds_name_what_is_read(kind: str) -> None:
    content = [{"type": "text", "text": "a"}, {"type": kind, kind: {"url": "http://no.example"}}]
    with pytest.raises(UnsupportedError, match=r"content\[1\]\.type .* this model reads: text"):
        chat_ask(chat(messages=[{"role": "user", "content": content}]), CALLER)
