"""Definitions of tools as callers give them, checked: OpenAI's shape."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from qwick.errors import ParameterError, shown
from qwick.text.messages import check_tools
from qwick.text.tokenizer import check_text

MAX_TOOLS = 128  # as in the OpenAI API
_NAME = re.compile(r"[a-zA-Z0-9_.-]{1,64}")
_KEYS = ("name", "description", "parameters", "strict")


def check_tool_definitions(tools: object) -> list[dict[str, Any]]:
    """Return definitions in plain dicts; ParameterError, with the place, for what is none.

    `{"type": "function", "function": {"name", "description"?, "parameters"?, "strict"?}}`; names of
    letters, digits, `_`, `.` and `-`, each once; parameters a JSON schema of an object.
    """
    found = check_tools(tools) or []
    if len(found) > MAX_TOOLS:
        raise ParameterError(f"tools has {len(found)} entries; allowed: up to {MAX_TOOLS}")
    names: set[str] = set()
    for i, tool in enumerate(found):
        where = f"tools[{i}]"
        kind = tool.get("type", "function")
        if kind != "function":
            raise ParameterError(f"{where}.type is {shown(kind)}; allowed: function")
        function = tool.get("function")
        if not isinstance(function, Mapping):
            raise ParameterError(f"{where}.function must be a mapping with name and parameters")
        name = _checked(function, f"{where}.function")
        if name in names:
            raise ParameterError(f"{where}.function.name is {name!r} again; allowed: each once")
        names.add(name)
    return found


def _checked(function: Mapping[str, Any], where: str) -> str:
    unknown = [key for key in function if key not in _KEYS]
    if unknown:
        raise ParameterError(
            f"{where} has the unknown key {shown(unknown[0])}; known: {', '.join(_KEYS)}"
        )
    name = function.get("name")
    if not (isinstance(name, str) and _NAME.fullmatch(name)):
        raise ParameterError(
            f"{where}.name is {shown(name)}; allowed: 1 to 64 letters, digits, _, . and -"
        )
    if function.get("description") is not None:
        check_text(function["description"], f"{where}.description")
    parameters = function.get("parameters")
    if parameters is not None:
        if not isinstance(parameters, Mapping):
            raise ParameterError(f"{where}.parameters must be a JSON schema, an object")
        if parameters.get("type", "object") != "object":
            raise ParameterError(
                f"{where}.parameters.type is {shown(parameters['type'])}; allowed: object"
            )
    if not isinstance(function.get("strict"), bool | None):
        raise ParameterError(f"{where}.strict is {shown(function['strict'])}; allowed: a switch")
    return name
