"""Tools as a conversation meets them: beside a grammar for the answer, and in a history alone."""

from __future__ import annotations

from typing import Any

import pytest

from llm.small import small_qwen
from llm.test_thinking import HYBRID, PLAIN, asked
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
