"""Calls written as the family's templates write them are read back equal."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from collected import TEMPLATES as PUBLISHED
from collected import collected
from qwick.family import ToolFormat
from qwick.text.template import ChatTemplate
from qwick.text.tools import read_calls, with_tools
from text.tools.corpus import TOOLS

TEMPLATES = {
    "qwen2.5-instruct": ToolFormat.HERMES,
    "qwen3": ToolFormat.HERMES,
    "qwen3-coder": ToolFormat.XML,
    "qwen3.5": ToolFormat.XML,
}

WORDS = ["<b>", "</parameter> x", "<tool_call>", "\r", "\n\n", '"', "\\", "✿ARGS✿", "é😀", "</x"]
TEXT = st.lists(
    st.sampled_from(WORDS) | st.text(st.characters(exclude_categories=("Cs",)), max_size=12),
    max_size=6,
).map("".join)
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | TEXT,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(TEXT, inner, max_size=3),
    max_leaves=8,
)
# Arguments of `edit` in the corpus, each of the type that its schema says. Not in them: what an
# XML value cannot hold, which is its own end.
ARGUMENTS = st.fixed_dictionaries(
    {},
    optional={
        "path": TEXT.filter(lambda text: "\n</" not in text),
        "text": TEXT.filter(lambda text: "\n</" not in text),
        "line": st.integers(),
        "force": st.booleans(),
        "tags": st.lists(JSON, max_size=3),
        "options": st.dictionaries(TEXT, JSON, max_size=3),
        "either": st.none() | st.integers(),
    },
)
CALLS = st.lists(ARGUMENTS, min_size=1, max_size=3)


def rendered(format: ToolFormat, calls: list[dict[str, Any]]) -> str:
    """Return calls of `edit` as templates write them."""
    return "\n".join(
        f"<tool_call>\n{_body(format, arguments)}\n</tool_call>" for arguments in calls
    )


def _body(format: ToolFormat, arguments: dict[str, Any]) -> str:
    if format is ToolFormat.HERMES:
        return json.dumps({"name": "edit", "arguments": arguments}, ensure_ascii=False)
    parameters = "".join(
        f"<parameter={name}>\n{_plain(value)}\n</parameter>\n" for name, value in arguments.items()
    )
    return f"<function=edit>\n{parameters}</function>"


def _plain(value: Any) -> str:
    """Return a value as the templates write it: what is no list or object as Python shows it."""
    is_json = isinstance(value, dict | list)
    return json.dumps(value, ensure_ascii=False) if is_json else str(value)


@settings(deadline=None, max_examples=200)
@given(st.sampled_from([ToolFormat.HERMES, ToolFormat.XML]), CALLS)
def test_calls_come_back(format: ToolFormat, calls: list[dict[str, Any]]) -> None:
    content, found, troubles = read_calls(format, TOOLS, rendered(format, calls))
    assert (content, troubles) == ("", [])
    assert [(name, json.loads(arguments)) for name, arguments in found] == [
        ("edit", arguments) for arguments in calls
    ]


@pytest.mark.parametrize("name", TEMPLATES)
def test_calls_in_real_templates_come_back(name: str) -> None:
    path = collected(PUBLISHED / f"{name}.jinja")
    template = ChatTemplate(path.read_text("utf-8"))

    @settings(deadline=None, max_examples=40)
    @given(CALLS)
    def check(calls: list[dict[str, Any]]) -> None:
        messages: list[dict[str, Any]] = [
            {"role": "user", "content": "Go."},
            {
                "role": "assistant",
                "content": "",
                "tool_calls": [
                    {"type": "function", "function": {"name": "edit", "arguments": arguments}}
                    for arguments in calls
                ],
            },
        ]
        text = template.render(messages, tools=TOOLS, add_generation_prompt=False)
        answer = text.rpartition("<|im_start|>assistant\n")[2].removesuffix("<|im_end|>\n")
        answer = answer.rpartition("</think>\n\n")[2]
        content, found, troubles = read_calls(TEMPLATES[name], TOOLS, answer)
        assert (content, troubles) == ("", [])
        assert [json.loads(arguments) for _, arguments in found] == calls

    check()


@settings(deadline=None)
@given(st.sampled_from([ToolFormat.QWEN_AGENT, ToolFormat.REACT]), CALLS)
def test_calls_told_in_messages_come_back(format: ToolFormat, calls: list[dict[str, Any]]) -> None:
    messages = [
        {"role": "user", "content": "Go."},
        {
            "role": "assistant",
            "content": "I go.",
            "tool_calls": [{"function": {"name": "edit", "arguments": a}} for a in calls],
        },
    ]
    answer = with_tools(format, messages, TOOLS)[-1]["content"]
    content, found, troubles = read_calls(format, TOOLS, answer)
    assert (content, troubles) == ("I go.", [])
    assert [json.loads(arguments) for _, arguments in found] == calls
