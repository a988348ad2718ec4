"""Every field of the official client's schema is honoured, inert with its reason, or refused."""

from __future__ import annotations

from pathlib import Path
from typing import Any, get_type_hints

import pytest
from openai.types import completion_create_params
from openai.types.chat import completion_create_params as chat_create_params

from qwick.errors import ParameterError, UnsupportedError
from qwick.server.caller import Caller
from qwick.server.openai.asking import chat_ask, completion_ask
from qwick.server.openai.bodies import ChatBody, CompletionBody, Sampled
from qwick.server.openai.fields import INERT, INERT_VALUES, REFUSED, fates, inert_fields
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
    "safety_identifier": "x",
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
        return {k: found[k] for k in ("enable_thinking", "thinking_budget") if k in found}

    off = {"enable_thinking": False}
    assert keywords() == {}
    assert keywords(enable_thinking=False) == off
    assert keywords(chat_template_kwargs={"enable_thinking": False}) == off
    assert keywords(reasoning_effort="none") == keywords(reasoning_effort="minimal") == off
    assert keywords(reasoning_effort="low") == {"enable_thinking": True, "thinking_budget": 1024}
    assert keywords(reasoning_effort="xhigh") == {"enable_thinking": True}
    assert keywords(thinking_token_budget=7) == keywords(thinking_budget=7)


def test_a_completion_has_the_clients_default_length() -> None:
    body = CompletionBody(model="m", prompt=["a", "b"])
    ask = completion_ask(body, CALLER, None)
    assert [q.keywords["max_tokens"] for q in ask.prompts] == [16, 16]
    assert len(ask.prompts) == 2
