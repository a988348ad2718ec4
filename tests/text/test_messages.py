"""The shape of conversations: what is accepted, and errors that name the place."""

from __future__ import annotations

import copy

import pytest

from qwick.errors import ParameterError, UnsupportedError
from qwick.text.messages import check_messages, check_tools


def deep(levels: int) -> list:
    value: list = []
    for _ in range(levels):
        value = [value]
    return value


def call(**function: object) -> dict:
    return {"role": "assistant", "content": None, "tool_calls": [{"function": function}]}


def test_accepted_forms() -> None:
    messages = (
        {"role": "system", "content": ""},
        {"role": "user", "content": [{"type": "text", "text": "a"}, {"text": "b"}], "name": "me"},
        {"role": "assistant", "reasoning_content": "hm", "tool_call_id": None},
        {**call(name="f", arguments='{"x": [1, "é"]}'), "name": None},
        call(name="f"),
        {"role": "assistant", "content": "x", "tool_calls": [{"name": "g", "arguments": {"y": 1}}]},
        {"role": "tool", "content": "1", "tool_call_id": "id"},
    )
    before = copy.deepcopy(messages)
    assert check_messages(messages) == [
        {"role": "system", "content": ""},
        {"role": "user", "content": "ab", "name": "me"},
        {"role": "assistant", "content": "", "reasoning_content": "hm"},
        {
            "role": "assistant",
            "content": "",
            "tool_calls": [{"function": {"name": "f", "arguments": {"x": [1, "é"]}}}],
        },
        {
            "role": "assistant",
            "content": "",
            "tool_calls": [{"function": {"name": "f", "arguments": {}}}],
        },
        {"role": "assistant", "content": "x", "tool_calls": [{"name": "g", "arguments": {"y": 1}}]},
        {"role": "tool", "content": "1", "tool_call_id": "id"},
    ]
    assert messages == before


USER = {"role": "user", "content": "x"}


@pytest.mark.parametrize(
    ("messages", "words"),
    [
        ("hello", "must be a list of messages"),
        (b"hello", "must be a list of messages"),
        (None, "must be a list of messages"),
        (USER, "must be a list of messages"),
        (iter([USER]), "must be a list of messages"),
        ([], "messages is empty"),
        ([USER, "x"], r"messages\[1\] is of type str"),
        ([{}], r"messages\[0\].role is None"),
        ([USER, {"role": "developer", "content": "x"}], r"messages\[1\].role is 'developer'"),
        ([{"role": ["user"], "content": "x"}], r"messages\[0\].role"),
        ([{"role": "user"}], r"messages\[0\].content is missing"),
        ([{"role": "user", "content": None}], r"messages\[0\].content is missing"),
        ([{"role": "assistant", "content": None}], r"messages\[0\].content is missing"),
        ([{"role": "user", "content": 3}], r"messages\[0\].content is of type int"),
        ([{"role": "user", "content": b"x"}], r"messages\[0\].content is of type bytes"),
        ([{"role": "user", "content": {"text": "x"}}], r"messages\[0\].content is of type dict"),
        ([{"role": "user", "content": ["x"]}], r"messages\[0\].content\[0\] is of type str"),
        ([{"role": "user", "content": [{"type": "text"}]}], r"content\[0\].text"),
        ([{"role": "user", "content": [{"text": "x", "y": 1}]}], r"unknown key 'y'"),
        ([{"role": "user", "content": "a\ud800"}], r"messages\[0\].content holds a lone surrogate"),
        ([{**USER, "weight": 1}], r"messages\[0\] has the unknown key 'weight'"),
        ([{**USER, "name": 3}], r"messages\[0\].name is of type int"),
        ([{**USER, "tool_calls": []}], "only assistant messages"),
        ([{"role": "assistant", "content": "", "tool_calls": {}}], "tool_calls is of type dict"),
        ([{"role": "assistant", "content": "", "tool_calls": ["x"]}], r"tool_calls\[0\] is of"),
        ([call()], "name is None"),
        ([call(name="")], "name is ''"),
        ([call(name="f", arguments=[1])], r"arguments is of type list"),
        ([call(name="f", arguments={"a": float("nan")})], r"arguments.a is nan"),
        ([call(name="f", arguments={"x": {1, 2}})], r"arguments.x is of type set"),
        ([call(name="f", arguments={1: 2})], "a key of"),
        ([call(name="f", arguments={"x": deep(99)})], "nested more than 64"),
        ([call(name="f", arguments={"x": "\udcff"})], "lone surrogate"),
        ([call(name="f", arguments={"\udcff": 1})], "lone surrogate"),
        (
            [{"role": "assistant", "content": "", "tool_calls": [{"function": 3}]}],
            "function must be a mapping",
        ),
        (
            [{"role": "assistant", "content": "", "tool_calls": [{"nam": "f"}]}],
            "unknown key 'nam'",
        ),
    ],
)
def test_refused(messages: object, words: str) -> None:
    with pytest.raises(ParameterError, match=words):
        check_messages(messages)


@pytest.mark.parametrize("kind", ["image_url", "input_audio", None, 7])
def test_other_parts_are_not_supported(kind: object) -> None:
    with pytest.raises(UnsupportedError, match=r"messages\[0\].content\[1\].type"):
        check_messages([{"role": "user", "content": [{"text": "x"}, {"type": kind}]}])


@pytest.mark.parametrize(
    ("tools", "words"),
    [
        ({}, "tools is of type dict"),
        ("x", "tools is of type str"),
        (["x"], r"tools\[0\] is of type str"),
        ([{}, {"x": float("inf")}], r"tools\[1\].x is inf"),
        ([{"x": {"y": "\ud800"}}], r"tools\[0\].x.y holds a lone surrogate"),
    ],
)
def test_tools_refused(tools: object, words: str) -> None:
    with pytest.raises(ParameterError, match=words):
        check_tools(tools)


def test_tools_are_copied() -> None:
    tools = ({"x": ({"y": True}, None, 1.5)},)
    assert check_tools(tools) == [{"x": [{"y": True}, None, 1.5]}]
    assert check_tools(None) is None
    assert check_tools([]) == []


@pytest.mark.parametrize("text", ["{", "[1]", '{"a": NaN}', "[" * 9999, "as I said", '{"a": 1'])
def test_arguments_that_a_model_wrote_wrongly_come_back_as_text(text: str) -> None:
    (message,) = check_messages([call(name="f", arguments=text)])
    assert message["tool_calls"][0]["function"]["arguments"] == {"text": text}
