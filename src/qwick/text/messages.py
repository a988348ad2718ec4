"""The shape of a conversation: checked, with errors that name the place; made plain for templates.

Content parts become one string, tool-call arguments given as JSON text become objects (the form
that the family was trained on), a missing content becomes "". Knows nothing of templates or tokens.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

from qwick.errors import ParameterError, UnsupportedError, shown
from qwick.text.tokenizer import check_text

__all__ = ["ROLES", "check_json", "check_messages", "check_tools", "map_strings", "strings_of"]

ROLES = ("system", "user", "assistant", "tool")
_KEYS = ("role", "content", "name", "reasoning_content", "tool_calls", "tool_call_id")
_CALL_KEYS = ("id", "type", "function", "name", "arguments", "index")
_MAX_DEPTH = 64  # levels of lists and objects; deeper ones would exhaust Python's stack in json


def check_messages(messages: object) -> list[dict[str, Any]]:
    """Return the conversation as templates want it; the caller's objects are not changed.

    A message is a mapping with `role` (one of ROLES) and `content`, a str or a list of text parts
    ({"type": "text", "text": str}), which are joined without anything between. An assistant message
    with `tool_calls` or `reasoning_content` may go without content. Raises ParameterError, naming
    index and field, for anything else, and UnsupportedError for parts that are not text.
    """
    if isinstance(messages, str | bytes | Mapping) or not isinstance(messages, Sequence):
        raise ParameterError(
            f"messages is of type {type(messages).__name__}; it must be a list of messages",
            hint='for example [{"role": "user", "content": "Hello"}]',
        )
    if not messages:
        raise ParameterError("messages is empty; allowed: at least one message")
    return [_message(message, f"messages[{i}]") for i, message in enumerate(messages)]


def _message(message: object, where: str) -> dict[str, Any]:
    if not isinstance(message, Mapping):
        raise ParameterError(
            f"{where} is of type {type(message).__name__}; it must be a mapping with role, content"
        )
    unknown = [key for key in message if key not in _KEYS]
    if unknown:
        raise ParameterError(
            f"{where} has the unknown key {shown(unknown[0])}; known: {', '.join(_KEYS)}"
        )
    role = message.get("role")
    if not isinstance(role, str) or role not in ROLES:
        raise ParameterError(f"{where}.role is {shown(role)}; allowed: {', '.join(ROLES)}")
    checked: dict[str, Any] = {"role": role}
    optional = role == "assistant" and any(
        not _nothing(message.get(key)) for key in ("tool_calls", "reasoning_content")
    )
    checked["content"] = _content(message.get("content"), f"{where}.content", optional)
    for key in ("name", "reasoning_content", "tool_call_id"):
        if message.get(key) is not None:
            checked[key] = check_text(message[key], f"{where}.{key}")
    if message.get("tool_calls") is not None:
        if role != "assistant":
            raise ParameterError(
                f"{where}.tool_calls must be left out: only assistant messages have them"
            )
        checked["tool_calls"] = _tool_calls(message["tool_calls"], f"{where}.tool_calls")
    return checked


def _nothing(value: object) -> bool:
    return value is None or (isinstance(value, str | list | tuple) and not value)


def _content(content: object, where: str, optional: bool) -> str:
    if isinstance(content, str):
        return check_text(content, where)
    if content is None and optional:
        return ""
    if content is None or isinstance(content, bytes) or not isinstance(content, Sequence):
        raise ParameterError(
            f"{where} is {'missing' if content is None else 'of type ' + type(content).__name__};"
            " it must be a str or a list of text parts"
        )
    return "".join(_part(part, f"{where}[{i}]") for i, part in enumerate(content))


def _part(part: object, where: str) -> str:
    if not isinstance(part, Mapping):
        raise ParameterError(
            f"{where} is of type {type(part).__name__}; "
            'it must be {"type": "text", "text": "..."}'
        )
    kind = part.get("type", "text")
    if not isinstance(kind, str) or kind != "text":
        raise UnsupportedError(f"{where}.type is {shown(kind)}; only text parts can be read")
    unknown = [key for key in part if key not in ("type", "text")]
    if unknown:
        raise ParameterError(f"{where} has the unknown key {shown(unknown[0])}; known: type, text")
    return check_text(part.get("text"), f"{where}.text")


def _tool_calls(calls: object, where: str) -> list[dict[str, Any]]:
    if isinstance(calls, str | bytes | Mapping) or not isinstance(calls, Sequence):
        raise ParameterError(f"{where} is of type {type(calls).__name__}; it must be a list")
    return [_tool_call(call, f"{where}[{i}]") for i, call in enumerate(calls)]


def _tool_call(call: object, where: str) -> dict[str, Any]:
    """Check one call: {"function": {"name", "arguments"}}, or name and arguments themselves."""
    if not isinstance(call, Mapping):
        raise ParameterError(f"{where} is of type {type(call).__name__}; it must be a mapping")
    unknown = [key for key in call if key not in _CALL_KEYS]
    if unknown:
        raise ParameterError(
            f"{where} has the unknown key {shown(unknown[0])}; known: {', '.join(_CALL_KEYS)}"
        )
    check_json(call, where)
    if "function" in call:
        inner = call["function"]
        if not isinstance(inner, Mapping):
            raise ParameterError(f"{where}.function must be a mapping with name and arguments")
        return {**map_strings(call, str), "function": _function(inner, f"{where}.function")}
    return _function(call, where)


def _function(function: Mapping[str, Any], where: str) -> dict[str, Any]:
    name, arguments = function.get("name"), function.get("arguments", {})
    if not isinstance(name, str) or not name:
        raise ParameterError(f"{where}.name is {shown(name)}; it must be the name of a tool")
    if isinstance(arguments, str):
        arguments = _read_arguments(arguments, f"{where}.arguments")
    if not isinstance(arguments, Mapping):
        raise ParameterError(
            f"{where}.arguments is of type {type(arguments).__name__}; it must be an object, or the"
            " JSON text of one"
        )
    return {**map_strings(function, str), "arguments": map_strings(arguments, str)}


def check_tools(tools: object) -> list[dict[str, Any]] | None:
    """Return the tool definitions in plain dicts; None stays None. Raises ParameterError."""
    if tools is None:
        return None
    if isinstance(tools, str | bytes | Mapping) or not isinstance(tools, Sequence):
        raise ParameterError(f"tools is of type {type(tools).__name__}; it must be a list")
    for i, tool in enumerate(tools):
        if not isinstance(tool, Mapping):
            raise ParameterError(
                f"tools[{i}] is of type {type(tool).__name__}; it must be a mapping"
            )
        check_json(tool, f"tools[{i}]")
    return [map_strings(tool, str) for tool in tools]


def check_json(value: object, where: str, depth: int = 0) -> None:
    """Check that `value` is made of what JSON has, at most 64 levels deep; else ParameterError."""
    if depth > _MAX_DEPTH:
        raise ParameterError(
            f"{where:.80} ... is nested more than {_MAX_DEPTH} levels deep; allowed: {_MAX_DEPTH}"
        )
    if isinstance(value, str):
        check_text(value, where)
    elif isinstance(value, Mapping):
        for key, inner in value.items():
            check_text(key, f"a key of {where}")
            check_json(inner, f"{where}.{key:.60}", depth + 1)
    elif isinstance(value, list | tuple):
        for i, inner in enumerate(value):
            check_json(inner, f"{where}[{i}]", depth + 1)
    elif isinstance(value, float) and not math.isfinite(value):
        raise ParameterError(f"{where} is {value}; allowed: what JSON has")
    elif value is not None and not isinstance(value, bool | int | float):
        raise ParameterError(f"{where} is of type {type(value).__name__}; allowed: what JSON has")


def map_strings(value: Any, change: Callable[[str], str]) -> Any:
    """Return a copy of a checked value, every string changed, in plain dicts and lists."""
    if isinstance(value, str):
        return change(value)
    if isinstance(value, Mapping):
        return {change(key): map_strings(inner, change) for key, inner in value.items()}
    if isinstance(value, list | tuple):
        return [map_strings(inner, change) for inner in value]
    return value


def strings_of(value: object) -> Iterator[str]:
    """Yield every string in a checked value: itself, elements, keys and values at any depth."""
    if isinstance(value, str):
        yield value
    elif isinstance(value, Mapping):
        for key, inner in value.items():
            yield key
            yield from strings_of(inner)
    elif isinstance(value, list | tuple):
        for inner in value:
            yield from strings_of(inner)


def _read_arguments(text: str, where: str) -> Any:
    """Return arguments of their JSON text.

    What a model has written wrongly, or was cut off in, comes back in the history as it was: the
    conversation goes on, and templates are told it as the one argument `text`.
    """
    if not text.strip():
        return {}
    try:
        found = json.loads(text)
        check_json(found, where)
    except (ValueError, RecursionError, ParameterError):
        return {"text": text}
    return found if isinstance(found, Mapping) else {"text": text}
