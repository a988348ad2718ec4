"""Tools for families whose chat template has no place for them: told in plain messages.

The forms are those that the families were trained on, to the letter: QwenLM/Qwen-Agent,
qwen_agent/llm/fncall_prompts/qwen_fncall_prompt.py (its English form for one call after another),
and QwenLM/Qwen, openai_api.py. Calls and results of the history become the same text. Where a
result is the last thing said, the turn that is to go on is put behind the user's words, as
Qwen-Agent (qwen_agent/llm/function_calling.py) and QwenLM/Qwen (examples/react_prompt.md) do it.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

from qwick.errors import ParameterError, UnsupportedError
from qwick.family import ToolFormat
from qwick.text.messages import check_messages
from qwick.text.tools.definitions import check_tool_definitions
from qwick.values import check_kind

_STOPS: Mapping[ToolFormat, tuple[str, ...]] = {
    # Not ✿RETURN✿, at which Qwen-Agent stops too: an answer may begin with it.
    ToolFormat.QWEN_AGENT: ("✿RESULT✿",),
    ToolFormat.REACT: ("Observation:",),
}
_RETURN = "\n✿RETURN✿: "


def stop_strings(format: ToolFormat) -> tuple[str, ...]:
    """Return the strings at which the answer ends: what would follow is not the model's to say."""
    check_kind("format", format, ToolFormat, "a ToolFormat")
    return _STOPS.get(format, ())


def with_tools(
    format: ToolFormat,
    messages: Sequence[Mapping[str, Any]],
    tools: Sequence[Mapping[str, Any]],
) -> list[dict[str, Any]]:
    """Return the messages with the tools told, and calls and results of the history as text.

    messages, tools: as for `check_messages` and `check_tool_definitions`; no tools: only the
    history is changed. Raises UnsupportedError for tools in a format that only templates tell, and
    ParameterError for what is no conversation, no tool, or a result that comes behind no call.
    """
    check_kind("format", format, ToolFormat, "a ToolFormat")
    messages, tools = check_messages(messages), check_tool_definitions(tools)
    if format not in _STOPS:
        if tools:
            raise UnsupportedError(
                "this checkpoint's chat template has no place for tools",
                hint="describe them in the system message, or use a checkpoint with tool calling",
            )
        return messages
    if format is ToolFormat.QWEN_AGENT:
        found = _agent_history(messages)
        if tools:
            _tell_agent(found, tools)
    else:
        found = _react_history(messages, told=bool(tools))
        if tools:
            _tell_react(found, tools)
    return _to_go_on(found, messages, "\n\n" if format is ToolFormat.QWEN_AGENT else "\n")


def _agent_history(messages: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Return messages in which an assistant's turn goes on over the results of its calls."""
    found: list[dict[str, Any]] = []
    for i, message in enumerate(messages):
        content = message.get("content") or ""
        if message["role"] == "tool":
            turn = _turn(found, i)
            turn["content"] = turn["content"].removesuffix(_RETURN)
            turn["content"] += f"\n✿RESULT✿: {content}{_RETURN}"
            continue
        for name, arguments in _calls(message):
            content += "\n" if content or (found and found[-1]["role"] == "assistant") else ""
            content += f"✿FUNCTION✿: {name}\n✿ARGS✿: {arguments}"
        if message["role"] == "assistant" and found and found[-1]["role"] == "assistant":
            found[-1]["content"] += content
        else:
            found.append(_plain(message, content))
    return found


def _react_history(messages: Sequence[Mapping[str, Any]], *, told: bool) -> list[dict[str, Any]]:
    """Return messages in which an assistant's turn goes on over the results of its calls.

    told: whether there are tools, so that an answer without a call is a final one.
    """
    found: list[dict[str, Any]] = []
    for i, message in enumerate(messages):
        content = message.get("content") or ""
        if message["role"] == "tool":
            _turn(found, i)["content"] += f"\nObservation: {content}"
            continue
        calls = _calls(message)
        if calls:
            content = content if content.startswith("Thought:") else f"Thought: {content}"
        elif message["role"] == "assistant" and told:
            content = f"Thought: I now know the final answer.\nFinal Answer: {content}"
        for name, arguments in calls:
            content += f"\nAction: {name}\nAction Input: {arguments}"
        if message["role"] == "assistant" and found and found[-1]["role"] == "assistant":
            found[-1]["content"] += f"\n{content}"
        else:
            found.append(_plain(message, content))
    if messages[-1]["role"] == "tool":
        found[-1]["content"] += "\nThought:"
    return found


def _turn(found: list[dict[str, Any]], i: int) -> dict[str, Any]:
    """Return the assistant's turn that message i, a result, belongs to."""
    if not found or found[-1]["role"] != "assistant":
        raise ParameterError(
            f"messages[{i}].role is 'tool'; allowed: that only behind an assistant's tool_calls"
        )
    return found[-1]


def _plain(message: Mapping[str, Any], content: str) -> dict[str, Any]:
    kept = {k: v for k, v in message.items() if k not in ("tool_calls", "tool_call_id")}
    return {**kept, "content": content}


def _calls(message: Mapping[str, Any]) -> list[tuple[str, str]]:
    """Return a message's calls: name, and JSON text of the arguments."""
    found = []
    for call in message.get("tool_calls") or ():
        function = call.get("function", call)
        arguments = function.get("arguments", {})
        if not isinstance(arguments, str):
            arguments = json.dumps(arguments, ensure_ascii=False)
        found.append((function["name"], arguments))
    return found


def _to_go_on(
    found: list[dict[str, Any]], messages: Sequence[Mapping[str, Any]], between: str
) -> list[dict[str, Any]]:
    """Put a turn that waits to go on behind the user's words: templates end every turn."""
    waits = messages[-1]["role"] == "tool" and len(found) > 1 and found[-2]["role"] == "user"
    if waits:
        said = found.pop()["content"].rstrip()
        found[-1]["content"] += between + said
    return found


def _functions(tools: Sequence[Mapping[str, Any]]) -> list[tuple[str, str, str]]:
    """Return each tool's name, description, and JSON text of its parameters."""
    return [
        (
            tool["function"]["name"],
            tool["function"].get("description") or "",
            json.dumps(tool["function"].get("parameters") or {}, ensure_ascii=False),
        )
        for tool in tools
    ]


def _tell_agent(found: list[dict[str, Any]], tools: Sequence[Mapping[str, Any]]) -> None:
    """Put the tools behind the system's words."""
    described = "\n\n".join(
        f"### {name}\n\n{name}: {description} Parameters: {parameters} "
        "Format the arguments as a JSON object."
        for name, description, parameters in _functions(tools)
    )
    names = ",".join(name for name, _, _ in _functions(tools))
    told = (
        f"# Tools\n\n## You have access to the following tools:\n\n{described}\n\n"
        "## When you need to call a tool, please insert the following command in your reply, "
        "which can be called zero or multiple times according to your needs:\n\n"
        f"✿FUNCTION✿: The tool to use, should be one of [{names}]\n"
        "✿ARGS✿: The input of the tool\n"
        "✿RESULT✿: Tool results\n"
        "✿RETURN✿: Reply based on tool results. Images need to be rendered as ![](url)"
    )
    if found and found[0]["role"] == "system":
        found[0]["content"] += f"\n\n{told}"
    else:
        found.insert(0, {"role": "system", "content": told})


def _tell_react(found: list[dict[str, Any]], tools: Sequence[Mapping[str, Any]]) -> None:
    """Put the tools before the user's last words."""
    described = "\n\n".join(
        f"{name}: Call this tool to interact with the {name} API. "
        f"What is the {name} API useful for? {description} Parameters: {parameters}"
        for name, description, parameters in _functions(tools)
    )
    names = ", ".join(name for name, _, _ in _functions(tools))
    told = (
        "Answer the following questions as best you can. You have access to the following APIs:"
        f"\n\n{described}\n\nUse the following format:\n\n"
        "Question: the input question you must answer\n"
        "Thought: you should always think about what to do\n"
        f"Action: the action to take, should be one of [{names}]\n"
        "Action Input: the input to the action\n"
        "Observation: the result of the action\n"
        "... (this Thought/Action/Action Input/Observation can be repeated zero or more times)\n"
        "Thought: I now know the final answer\n"
        "Final Answer: the final answer to the original input question\n\nBegin!"
    )
    last = next((message for message in reversed(found) if message["role"] == "user"), None)
    if last is None:
        raise ParameterError("messages have no user's; allowed with tools: at least one")
    last["content"] = f"{told}\n\nQuestion: {last['content']}"
