"""Tools told in plain messages, as Qwen-Agent and Qwen's own server write them."""

from __future__ import annotations

from typing import Any

import pytest

from qwick.errors import ParameterError, UnsupportedError
from qwick.family import ToolFormat
from qwick.text.tools import stop_strings, with_tools
from text.tools.corpus import tool

TOOLS = [tool("now"), tool("get_weather", city={"type": "string"})]
TOOLS[0]["function"]["description"] = "Tells the time."
CALL = {"function": {"name": "now", "arguments": {}}}
ASKED = {"role": "user", "content": "How late?"}
CALLED = {"role": "assistant", "content": "I look.", "tool_calls": [CALL]}
RESULT = {"role": "tool", "content": "Noon."}
ANSWERED = {"role": "assistant", "content": "It is noon."}


def contents(format: ToolFormat, *messages: dict[str, Any]) -> list[tuple[str, str]]:
    return [(m["role"], m["content"]) for m in with_tools(format, messages, [])]


def test_qwen_agents_system_message() -> None:
    told = with_tools(ToolFormat.QWEN_AGENT, [ASKED], TOOLS)
    assert [message["role"] for message in told] == ["system", "user"]
    assert told[0]["content"] == (
        "# Tools\n\n## You have access to the following tools:\n\n"
        "### now\n\nnow: Tells the time. Parameters: "
        '{"type": "object", "properties": {}} Format the arguments as a JSON object.\n\n'
        "### get_weather\n\nget_weather:  Parameters: "
        '{"type": "object", "properties": {"city": {"type": "string"}}} '
        "Format the arguments as a JSON object.\n\n"
        "## When you need to call a tool, please insert the following command in your reply, "
        "which can be called zero or multiple times according to your needs:\n\n"
        "✿FUNCTION✿: The tool to use, should be one of [now,get_weather]\n"
        "✿ARGS✿: The input of the tool\n✿RESULT✿: Tool results\n"
        "✿RETURN✿: Reply based on tool results. Images need to be rendered as ![](url)"
    )
    system = {"role": "system", "content": "Be brief."}
    both = with_tools(ToolFormat.QWEN_AGENT, [system, ASKED], TOOLS)
    assert both[0]["content"] == f"Be brief.\n\n{told[0]['content']}"
    assert system["content"] == "Be brief."


def test_reacts_question() -> None:
    told = with_tools(ToolFormat.REACT, [ASKED, ANSWERED, ASKED], TOOLS)
    assert [message["role"] for message in told] == ["user", "assistant", "user"]
    assert told[0]["content"] == "How late?"
    assert told[1]["content"] == "Thought: I now know the final answer.\nFinal Answer: It is noon."
    assert told[2]["content"] == (
        "Answer the following questions as best you can. You have access to the following APIs:"
        "\n\nnow: Call this tool to interact with the now API. "
        "What is the now API useful for? Tells the time. Parameters: "
        '{"type": "object", "properties": {}}\n\n'
        "get_weather: Call this tool to interact with the get_weather API. "
        "What is the get_weather API useful for?  Parameters: "
        '{"type": "object", "properties": {"city": {"type": "string"}}}\n\n'
        "Use the following format:\n\n"
        "Question: the input question you must answer\n"
        "Thought: you should always think about what to do\n"
        "Action: the action to take, should be one of [now, get_weather]\n"
        "Action Input: the input to the action\n"
        "Observation: the result of the action\n"
        "... (this Thought/Action/Action Input/Observation can be repeated zero or more times)\n"
        "Thought: I now know the final answer\n"
        "Final Answer: the final answer to the original input question\n\n"
        "Begin!\n\nQuestion: How late?"
    )


def test_history_in_qwen_agents_form() -> None:
    text = "I look.\n✿FUNCTION✿: now\n✿ARGS✿: {}"
    format = ToolFormat.QWEN_AGENT
    assert contents(format, ASKED, CALLED)[1:] == [("assistant", text)]
    assert contents(format, ASKED, CALLED, RESULT) == [
        ("user", f"How late?\n\n{text}\n✿RESULT✿: Noon.\n✿RETURN✿:")
    ]
    assert contents(format, ASKED, CALLED, RESULT, RESULT, ANSWERED, ASKED) == [
        ("user", "How late?"),
        ("assistant", f"{text}\n✿RESULT✿: Noon.\n✿RESULT✿: Noon.\n✿RETURN✿: It is noon."),
        ("user", "How late?"),
    ]
    silent = {**CALLED, "content": ""}
    assert contents(format, ASKED, silent)[1] == ("assistant", "✿FUNCTION✿: now\n✿ARGS✿: {}")
    assert contents(format, ASKED, silent, RESULT, silent)[1] == (
        "assistant",
        "✿FUNCTION✿: now\n✿ARGS✿: {}\n✿RESULT✿: Noon.\n✿RETURN✿: \n✿FUNCTION✿: now\n✿ARGS✿: {}",
    )


def test_history_in_reacts_form() -> None:
    text = "Thought: I look.\nAction: now\nAction Input: {}"
    format = ToolFormat.REACT
    assert contents(format, ASKED, CALLED)[1:] == [("assistant", text)]
    thought = {**CALLED, "content": "Thought: I look."}
    assert contents(format, ASKED, thought)[1:] == [("assistant", text)]
    assert contents(format, ASKED, CALLED, RESULT) == [
        ("user", f"How late?\n{text}\nObservation: Noon.\nThought:")
    ]
    assert contents(format, ASKED, CALLED, RESULT, ANSWERED) == [
        ("user", "How late?"),
        ("assistant", f"{text}\nObservation: Noon.\nIt is noon."),
    ]


def test_other_formats_leave_it_to_the_template() -> None:
    for format in (ToolFormat.HERMES, ToolFormat.XML, ToolFormat.NONE):
        assert with_tools(format, [ASKED], []) == [ASKED]
        with pytest.raises(UnsupportedError, match="no place for tools"):
            with_tools(format, [ASKED], TOOLS)


@pytest.mark.parametrize("format", [ToolFormat.QWEN_AGENT, ToolFormat.REACT])
def test_what_cannot_be_told_is_refused(format: ToolFormat) -> None:
    with pytest.raises(ParameterError, match=r"messages\[1\]\.role is 'tool'; allowed"):
        with_tools(format, [ASKED, RESULT], TOOLS)
    with pytest.raises(ParameterError, match=r"messages\[0\]"):
        with_tools(format, ["hello"], TOOLS)  # type: ignore[list-item]
    with pytest.raises(ParameterError, match=r"tools\[0\]"):
        with_tools(format, [ASKED], [{}])
    with pytest.raises(ParameterError, match="format"):
        with_tools("react", [ASKED], TOOLS)  # type: ignore[arg-type]


def test_react_needs_a_question() -> None:
    with pytest.raises(ParameterError, match="no user's"):
        with_tools(ToolFormat.REACT, [{"role": "system", "content": "x"}], TOOLS)


def test_where_answers_stop() -> None:
    assert stop_strings(ToolFormat.QWEN_AGENT) == ("✿RESULT✿",)
    assert stop_strings(ToolFormat.REACT) == ("Observation:",)
    assert stop_strings(ToolFormat.HERMES) == ()
    with pytest.raises(ParameterError):
        stop_strings("react")  # type: ignore[arg-type]
