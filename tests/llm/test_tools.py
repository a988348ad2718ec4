"""Tools as a conversation meets them: beside a grammar for the answer, and in a history alone."""

from __future__ import annotations

import json
from typing import Any

import pytest

from llm.small import small_qwen
from llm.test_thinking import HYBRID, OWN, PLAIN, asked
from qwick.errors import UnsupportedError
from qwick.family import FAMILIES, Thinking, ToolFormat
from qwick.text.grammar import Grammar

CALL = '<tool_call>\n{"name": "f", "arguments": {}}\n</tool_call>'
TOOLS = [{"type": "function", "function": {"name": "f"}}]
WITH_TOOLS = HYBRID.replace("{% for", "{% if tools %}tools{% endif %}{% for", 1)
NUMBER = Grammar.regex("[0-9]{2}")
CALLED: list[dict[str, Any]] = [
    {"role": "user", "content": "What is it?"},
    {
        "role": "assistant",
        "content": None,
        "tool_calls": [{"id": "1", "function": {"name": "look", "arguments": '{"at": 5}'}}],
    },
    {"role": "tool", "content": "a heron", "tool_call_id": "1"},
    {"role": "assistant", "content": "A heron."},
    {"role": "user", "content": "Sure?"},
]


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("thinking", ["", "I ponder."])
@pytest.mark.parametrize(("said", "text", "calls"), [(CALL, "", ["f"]), ("42", "42", [])])
def test_calls_or_an_answer_by_the_grammar(
    said: str, text: str, calls: list[str], thinking: str, stream: bool
) -> None:
    before = f"<think>\n{thinking}\n</think>" if thinking else ""
    reply, _ = asked(
        before + said,
        "qwen3",
        WITH_TOOLS,
        stream=stream,
        tools=TOOLS,
        grammar=NUMBER,
        parallel_tool_calls=False,
        enable_thinking=bool(thinking),
    )
    assert (reply.thinking, reply.text) == (thinking, text)
    assert [call.name for call in reply.tool_calls] == calls
    assert reply.finish_reason == ("tool_calls" if calls else "stop")


def test_a_call_that_is_demanded_has_no_content_for_a_grammar_to_hold() -> None:
    reply, _ = asked(
        CALL, "qwen3", WITH_TOOLS, tools=TOOLS, grammar=NUMBER, tool_choice="required",
        enable_thinking=False, parallel_tool_calls=False,
    )  # fmt: skip
    assert [call.name for call in reply.tool_calls] == ["f"]
    assert reply.text == ""


@pytest.mark.parametrize("more", [{}, {"tools": TOOLS, "tool_choice": "none"}])
def test_calls_of_a_history_are_told_where_the_template_cannot(
    more: dict[str, Any],
) -> None:
    told = '✿FUNCTION✿: look\n✿ARGS✿: {"at": 5}\n✿RESULT✿: a heron\n✿RETURN✿: A heron.'
    with small_qwen(family="qwen2", template=PLAIN) as qwen:
        tools = more.get("tools")
        given = {name: value for name, value in more.items() if name != "tools"}
        prompt = qwen.texts.render(CALLED, tools, given)
        assert told in prompt.text
        assert "None" not in prompt.text
        plain = [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}] * 2
        assert qwen.texts.render(plain, tools, given).text.count("assistant\nb") == 2


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize(
    "said",
    [
        f"{CALL}\n{CALL}",
        '[{"name": "f", "arguments": {}}, {"name": "f", "arguments": {}}]',
        "\n".join(['```json\n{"name": "f", "arguments": {}}\n```'] * 2),
        CALL.replace("{}}", '{"a": "</tool_call>"}}') + f"\n{CALL}",
    ],
)
def test_one_call_where_no_more_are_wanted(said: str, stream: bool) -> None:
    reply, _ = asked(
        said, "qwen2.5", WITH_TOOLS, stream=stream, tools=TOOLS, parallel_tool_calls=False
    )
    assert [call.name for call in reply.tool_calls] == ["f"]
    assert reply.tool_calls[0].arguments in ("{}", '{"a": "</tool_call>"}')
    assert reply.finish_reason == "tool_calls"
    both, _ = asked(said, "qwen2.5", WITH_TOOLS, stream=stream, tools=TOOLS)
    assert len(both.tool_calls) == 2


# -- every family with its own template ------------------------------------------------------

# What tells the tools in its prompt, and two calls between words as it was trained to write them.
FORMS = {
    ToolFormat.HERMES: (
        "within <tools></tools> XML tags",
        "Well, 好.\n<tool_call>\n{0}\n</tool_call>\n<tool_call>\n{1}\n</tool_call>\nSo.",
        '{{"name": "look", "arguments": {0}}}',
    ),
    ToolFormat.XML: (
        "<function>\n<name>look</name>",
        "Well, 好.\n<tool_call>\n{0}\n</tool_call>\n<tool_call>\n{1}\n</tool_call>\nSo.",
        "<function=look>\n{1}</function>",
    ),
    ToolFormat.QWEN_AGENT: (
        "✿FUNCTION✿: The tool to use, should be one of [look]",
        "Well, 好.\n{0}\n{1}\nSo.",
        "✿FUNCTION✿: look\n✿ARGS✿: {0}",
    ),
    ToolFormat.REACT: (
        "Action: the action to take, should be one of [look]",
        "Thought: Well, 好.\n{0}\n{1}\nThought: So.",
        "Action: look\nAction Input: {0}",
    ),
}
LOOK = {
    "type": "function",
    "function": {
        "name": "look",
        "description": "Looks.",
        "parameters": {
            "type": "object",
            "properties": {"at": {"type": "string"}, "deep": {"type": "object"}},
        },
    },
}
WISHED = [{"at": '北京 "é" \\ 😀', "deep": {"a": [1, {"b": None}], "}": "{"}}, {"at": "✿ <b> }"}]
# Nothing tells these of tools: they were not trained to call any.
NO_CALLS = ("codeqwen1.5", "qwen2-math")


def told(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)


def written(format: ToolFormat, arguments: dict[str, Any]) -> str:
    parameters = (f"<parameter={k}>\n{told(v)}\n</parameter>\n" for k, v in arguments.items())
    return FORMS[format][2].format(told(arguments), "".join(parameters))


# Of those that share template, format and thinking, one.
CALLERS = {(FAMILIES[name].tools, OWN[name]): name for name in OWN if name not in NO_CALLS}


@pytest.mark.parametrize("family", CALLERS.values())
def test_every_family_is_told_of_tools_and_calls_them(family: str) -> None:
    format = FAMILIES[family].tools
    if format is ToolFormat.NONE:
        format = ToolFormat.HERMES  # what the template tells, though nothing is published of it
    marker, words, _ = FORMS[format]
    with small_qwen(family=family, template=OWN[family]) as qwen:
        assert marker in qwen.render("Look.", tools=[LOOK])
        assert marker not in qwen.render("Look.")
    calls = [written(format, arguments) for arguments in WISHED]
    said, thinking = words.format(*calls), ""
    if FAMILIES[family].thinking is not Thinking.NONE:
        thinking = f"I may say {calls[0]}."
        opened = "" if FAMILIES[family].thinking is Thinking.ALWAYS else "<think>\n"
        said = f"{opened}{thinking}\n</think>\n\n{said}"
    reply, pieces = asked(said, family, OWN[family], stream=True, tools=[LOOK])
    assert pieces == (reply.thinking, reply.text) == (thinking, "Well, 好.\nSo.")
    assert [call.name for call in reply.tool_calls] == ["look", "look"]
    assert [json.loads(call.arguments) for call in reply.tool_calls] == WISHED
    assert not reply.troubles
    assert reply.finish_reason == "tool_calls"


@pytest.mark.parametrize("family", NO_CALLS)
def test_tools_are_refused_where_nothing_tells_of_them(family: str) -> None:
    with pytest.raises(UnsupportedError, match="no place for tools"):
        asked("x", family, OWN[family], tools=[LOOK])
    assert asked("x", family, OWN[family], tools=[LOOK], tool_choice="none")[0].text == "x"
