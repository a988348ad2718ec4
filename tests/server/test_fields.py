"""Every field of the official client's schema is honoured, inert with its reason, or refused."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any, get_type_hints

import pytest
from openai.types import completion_create_params
from openai.types.chat import completion_create_params as chat_create_params

from qwick.engine.request import Sampling
from qwick.errors import ParameterError, UnsupportedError
from qwick.llm.wishes import read_wishes
from qwick.server.caller import Caller
from qwick.server.openai.asking import chat_ask, completion_ask
from qwick.server.openai.bodies import (
    ChatBody,
    CompletionBody,
    EmbeddingBody,
    RerankBody,
    Sampled,
    TokenizeBody,
)
from qwick.server.openai.fields import (
    INERT,
    INERT_VALUES,
    NOTES,
    REFUSED,
    fates,
    inert_fields,
    inner_fates,
)
from qwick.server.problems import problem_of
from qwick.server.reading import parsed
from qwick.text.grammar import Grammar
from qwick.text.grammar.schema import _NOT_HELD

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
    assert official(params) - set(body.model_fields) == set()


def test_the_tables_name_fields_that_there_are() -> None:
    fields = {*ChatBody.model_fields, *CompletionBody.model_fields}
    inert = {name.partition(".")[0] for name in INERT}
    assert inert <= {*fields, *TokenizeBody.model_fields}
    assert set(INERT_VALUES) <= fields
    assert set(REFUSED) <= set(ChatBody.model_fields)
    assert all(set(notes) <= set(body.model_fields) for body, notes in NOTES.items())


def test_the_page_has_them_all() -> None:
    text = PAGE.read_text("utf-8")
    tables = {
        "chat": fates(ChatBody),
        "completion": fates(CompletionBody),
        "embedding": fates(EmbeddingBody),
        "rerank": fates(RerankBody),
        "inner": inner_fates(),
    }
    for heading, rows in tables.items():
        table = "---|\n" + "".join(f"| `{name}` | {fate} |\n" for name, fate in rows) + "\n"
        assert table in text, f"the table of {heading} fields should be:\n{table}"
    listed = dict(tables["chat"] + tables["completion"] + tables["inner"])
    assert {*INERT, *INERT_VALUES, *REFUSED} <= set(listed)


def test_the_page_has_the_refused_keywords_of_schemas() -> None:
    table = PAGE.read_text("utf-8").split("## JSON schemas\n")[1].split("|---|---|\n")[1]
    told = {word for row in table.splitlines() for word in re.findall(r"`([^` ]+)`", row[:90])}
    assert told >= _NOT_HELD
    for keyword in (*_NOT_HELD, "$ref"):
        with pytest.raises((ParameterError, UnsupportedError)):
            Grammar.json_schema({keyword: "other.json"})


def chat(**fields: Any) -> ChatBody:
    body = {"model": "m", "messages": [MESSAGE], **fields}
    return parsed(json.dumps(body).encode(), ChatBody, REFUSED)


@pytest.mark.parametrize("name", sorted(REFUSED))
def test_a_refused_field_is_named_with_its_reason(name: str) -> None:
    with pytest.raises(ParameterError, match=f"{name} is not supported: {REFUSED[name]}"):
        chat(**{name: {}})
    assert inert_fields(chat(**{name: None})) == []  # null asks for nothing
    with pytest.raises(ParameterError, match=f"{name} is no field"):
        parsed(json.dumps({"model": "m", "prompt": "x", name: {}}).encode(), CompletionBody, {})


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
        ({"user": "a", "safety_identifier": "b"}, "user is 'a' and safety_identifier is 'b'"),
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


def test_whom_it_is_for_in_either_word() -> None:
    for fields, user in (
        ({}, None),
        ({"user": "a"}, "a"),
        ({"safety_identifier": "a"}, "a"),
        ({"user": "a", "safety_identifier": "a"}, "a"),
    ):
        body = chat(**fields)
        assert chat_ask(body, CALLER).user == user
        assert inert_fields(body) == []


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
        ({"guided_json": {"properties": {"a": {"not": {}}}}}, "guided_json"),
        ({"guided_regex": "a", "grammar": 'root ::= "a"'}, "grammar"),
        ({"logit_bias": {"10": 200}}, "logit_bias"),
        ({"chat_template_kwargs": {"foo": 1}}, "chat_template_kwargs"),
        (
            {"response_format": {"type": "json_object", "schema": {"type": "no"}}},
            "response_format.schema",
        ),
    ],
)
def test_an_error_names_the_field_as_the_body_does(fields: dict[str, Any], field: str) -> None:
    def read() -> None:
        Sampling(**read_wishes(chat_ask(chat(**fields), CALLER).prompts[0].keywords, ()).sampling)

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
            "messages[0].content[0].type is 'smell'; allowed: 'text', ",
        ),
        ({"messages": [{"role": "user", "content": [{"text": "x"}]}]},
            "messages[0].content[0].type is missing"),
        ({"tool_choice": {"type": "any"}}, "tool_choice.type is 'any'; allowed: 'function', "),
        ({"response_format": {"type": "json_schema", "schema": {}}},
            'response_format.schema is no field .*did you mean {"json_schema": {"schema": ...}}?'),
        ({"response_format": {"type": "json_schema", "schema": {}, "json_schema": {"name": "n",
            "schema": {}}}}, "response_format.schema is no field"),
        ({"response_format": {"type": "text", "schema": {}}}, "response_format.schema is no field"),
        ({"tool_choice": {"type": "function", "name": "get_time"}},
            'tool_choice.name is no field .*did you mean {"function": {"name": ...}}?'),
        ({"tools": [{"type": "function", "name": "f"}]},
            'tools[0].name is no field .*did you mean {"function": {"name": ...}}?'),
        ({"tools": [{"type": "function", "function": {"name": "f", "parametrs": {}}}]},
            "tools[0].function.parametrs is no field .*did you mean parameters?"),
        ({"messages": [{"role": "user", "content": [{"type": "text", "text": "x", "texts": 1}]}]},
            "messages[0].content[0].texts is no field .*did you mean text?"),
        ({"messages": [{"role": "assistant", "stop_token_id": 1}]},
            "messages[0].stop_token_id is no field .*leave it out"),
        ({"a b": 1}, "'a b' is no field"),
        ({"metadata": {"a": 1}}, "metadata.a is 1; allowed: a valid string"),
        ({"temperature": float("nan")}, "temperature is nan; allowed: a finite number"),
        ({"temperature": 3}, "temperature is 3; allowed: 2 or less"),
        ({"max_tokens": 0}, "max_tokens is 0; allowed: 1 or more"),
    ],
)  # fmt: skip
def test_what_is_wrong_is_said_of_the_type_that_was_meant(
    fields: dict[str, Any], message: str
) -> None:
    body = json.dumps({"model": "m", "messages": [MESSAGE], **fields}).encode()
    with pytest.raises(ParameterError) as caught:
        parsed(body, ChatBody, {})
    assert re.match(re.escape(message).replace(r"\.\*", ".*"), str(caught.value))
    told = problem_of(caught.value).error["param"]
    assert told == caught.value.field
    assert message.startswith(told)


CUSTOM = {"type": "custom", "custom": {"name": "x"}}


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"tools": [CUSTOM]}, "tools[0]"),
        ({"tool_choice": CUSTOM}, "tool_choice"),
        (
            {"messages": [MESSAGE, {"role": "assistant", "tool_calls": [{"id": "i", **CUSTOM}]}]},
            "messages[1].tool_calls[0]",
        ),
    ],
)
def test_custom_tools_are_refused_by_name(fields: dict[str, Any], param: str) -> None:
    with pytest.raises(ParameterError, match="only functions are supported") as caught:
        chat(**fields)
    assert problem_of(caught.value).error["param"] == param


def test_marks_of_a_cache_are_inert() -> None:
    content = [{"type": "text", "text": "a", "cache_control": {"type": "ephemeral"}}]
    body = chat(messages=[{"role": "user", "content": [*content, {"type": "text", "text": "b"}]}])
    assert inert_fields(body) == ["messages.content.cache_control"]
    (question,) = chat_ask(body, CALLER).prompts
    assert question.messages == [{"role": "user", "content": "ab"}]


def test_a_schema_of_a_json_object() -> None:
    def grammar(asked: dict[str, Any]) -> Any:
        return chat_ask(chat(response_format=asked), CALLER).prompts[0].keywords["grammar"]

    schema = {"type": "object", "properties": {"a": {"type": "integer"}}, "required": ["a"]}
    own = {"type": "json_schema", "json_schema": {"name": "n", "schema": schema}}
    assert grammar({"type": "json_object", "schema": schema}).text == grammar(own).text
    for nothing in ({}, {"schema": {}}, {"schema": None}):
        assert grammar({"type": "json_object", **nothing}).text == Grammar.json_object().text


def test_no_log_probabilities_of_none() -> None:
    said = chat_ask(chat(logprobs=False, top_logprobs=0), CALLER).prompts[0].keywords
    assert "logprobs" not in said


def test_only_variables_of_the_template_are_named() -> None:
    body = chat(chat_template_kwargs={"foo": 1, "enable_thinking": True})
    with pytest.raises(ParameterError) as caught:
        read_wishes(chat_ask(body, CALLER).prompts[0].keywords, ["tone", "enable_thinking"])
    told = "chat_template_kwargs has 'foo'; allowed: enable_thinking, tone"
    assert caught.value.message == told
    body = chat(chat_template_kwargs={"tone": 1, "enable_thinking": True})
    wishes = read_wishes(chat_ask(body, CALLER).prompts[0].keywords, ["tone", "enable_thinking"])
    assert (wishes.variables, wishes.enable_thinking) == ({"tone": 1}, True)


@pytest.mark.parametrize("kind", ["image", "image_url", "video", "audio", "input_audio", "file"])
def test_parts_of_other_kinds_name_what_is_read(kind: str) -> None:
    content = [{"type": "text", "text": "a"}, {"type": kind, kind: {"url": "http://no.example"}}]
    with pytest.raises(UnsupportedError, match=r"content\[1\]\.type .* this model reads: text"):
        chat_ask(chat(messages=[{"role": "user", "content": content}]), CALLER)
