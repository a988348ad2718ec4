"""Definitions of tools as callers give them, checked: OpenAI's shape."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from qwick.errors import ParameterError, shown
from qwick.text.messages import check_tools
from qwick.text.tokenizer import check_text
from qwick.values import check_kind, refused

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
        _known(tool, ("type", "function"), where)
        if tool.get("type", "function") != "function":
            raise refused(f"{where}.type", tool["type"], "function")
        function = tool.get("function")
        if not isinstance(function, Mapping):
            raise refused(f"{where}.function", function, "an object with a name")
        name = _checked(function, f"{where}.function")
        if name in names:
            raise refused(f"{where}.function.name", name, "names that no other tool has")
        names.add(name)
    return found


def _known(found: Mapping[str, Any], keys: tuple[str, ...], where: str) -> None:
    unknown = [key for key in found if key not in keys]
    if unknown:
        raise ParameterError(
            f"{where} has the unknown key {shown(unknown[0])}; known: {', '.join(keys)}"
        )


def _checked(function: Mapping[str, Any], where: str) -> str:
    _known(function, _KEYS, where)
    name = function.get("name")
    if not (isinstance(name, str) and _NAME.fullmatch(name)):
        raise refused(f"{where}.name", name, "1 to 64 letters, digits, _, . and -")
    if function.get("description") is not None:
        check_text(function["description"], f"{where}.description")
    parameters = function.get("parameters")
    if parameters is not None:
        check_kind(f"{where}.parameters", parameters, Mapping, "a JSON schema of an object")
        if parameters.get("type", "object") != "object":
            raise refused(f"{where}.parameters.type", parameters["type"], "object")
    strict = function.get("strict")
    check_kind(f"{where}.strict", strict, (bool, type(None)), "true, false or null")
    return name
