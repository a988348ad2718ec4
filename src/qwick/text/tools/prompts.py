"""Tools for families whose chat template has no place for them: told in the system message.

The forms are those that the families were trained on: QwenLM/Qwen-Agent,
qwen_agent/llm/fncall_prompts/qwen_fncall_prompt.py (its English form), and QwenLM/Qwen,
openai_api.py and examples/react_prompt.md. Calls and results of the history become the same text.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

from qwick.family import ToolFormat

_STOPS: Mapping[str, tuple[str, ...]] = {
    "qwen_agent": ("✿RESULT✿",),
    "react": ("Observation:",),
}


def stop_strings(format: ToolFormat) -> tuple[str, ...]:
    """Return the strings at which the answer ends: what would follow is not the model's to say."""
    return _STOPS.get(format.value, ())


def with_tools(
    format: ToolFormat,
    messages: Sequence[Mapping[str, Any]],
    tools: Sequence[Mapping[str, Any]],
) -> list[dict[str, Any]]:
    """Return the messages with the tools told, and calls and results of the history as text.

    Formats whose templates do that themselves get the messages as they are.
    """
    if format.value not in _STOPS:
        return [dict(message) for message in messages]
    agent = format.value == "qwen_agent"
    found = _as_text(messages, agent=agent)
    if tools:
        told = _agent_system(tools) if agent else _react_system(tools)
        if found and found[0]["role"] == "system":
            found[0]["content"] = f"{found[0]['content']}\n\n{told}"
        else:
            found.insert(0, {"role": "system", "content": told})
    return found


def _as_text(messages: Sequence[Mapping[str, Any]], *, agent: bool) -> list[dict[str, Any]]:
    """Return messages without calls and results: an assistant's turn goes on over its results."""
    found: list[dict[str, Any]] = []
    open_turn = False  # whether the last message is an assistant's that waits for results
    for message in messages:
        role = message["role"]
        content = message.get("content") or ""
        if role == "tool":
            result = (
                f"\n✿RESULT✿: {content}\n✿RETURN✿: " if agent else f"\nObservation: {content}\n"
            )
            if found and found[-1]["role"] == "assistant":
                found[-1]["content"] += result
            else:
                found.append({"role": "assistant", "content": result.lstrip("\n")})
            open_turn = True
            continue
        calls = "".join(_call_text(call, agent=agent) for call in message.get("tool_calls") or ())
        if role == "assistant" and open_turn:
            found[-1]["content"] += content + calls
        else:
            kept = {k: v for k, v in message.items() if k not in ("tool_calls", "tool_call_id")}
            found.append({**kept, "content": (content + calls) or content})
        open_turn = role == "assistant" and bool(calls)
    return found


def _call_text(call: Mapping[str, Any], *, agent: bool) -> str:
    function = call.get("function", call)
    arguments = function.get("arguments", {})
    if not isinstance(arguments, str):
        arguments = json.dumps(arguments, ensure_ascii=False)
    if agent:
        return f"\n✿FUNCTION✿: {function['name']}\n✿ARGS✿: {arguments}"
    return f"\nAction: {function['name']}\nAction Input: {arguments}"


def _agent_system(tools: Sequence[Mapping[str, Any]]) -> str:
    functions = [tool["function"] for tool in tools]
    described = "\n\n".join(
        f"### {f['name']}\n\n{f['name']}: {f.get('description') or ''} Parameters: "
        f"{json.dumps(f.get('parameters') or {}, ensure_ascii=False)} "
        "Format the arguments as a JSON object."
        for f in functions
    )
    names = ",".join(f["name"] for f in functions)
    return (
        f"# Tools\n\n## You have access to the following tools:\n\n{described}\n\n"
        "## When you need to call a tool, please insert the following command in your reply, "
        "which can be called zero or multiple times according to your needs:\n\n"
        f"✿FUNCTION✿: The tool to use, should be one of [{names}]\n"
        "✿ARGS✿: The input of the tool\n"
        "✿RESULT✿: Tool results\n"
        "✿RETURN✿: Reply based on tool results. Images need to be rendered as ![](url)"
    )


def _react_system(tools: Sequence[Mapping[str, Any]]) -> str:
    functions = [tool["function"] for tool in tools]
    described = "\n\n".join(
        f"{f['name']}: Call this tool to interact with the {f['name']} API. "
        f"What is the {f['name']} API useful for? {f.get('description') or ''} "
        f"Parameters: {json.dumps(f.get('parameters') or {}, ensure_ascii=False)}"
        for f in functions
    )
    names = ",".join(f["name"] for f in functions)
    return (
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
