"""Parameters that were written as plain text, made JSON by the tool's schema.

Qwen3-Coder and later write every value as text; whether `12` is a number is the schema's to say.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from typing import Any

_INTEGER = re.compile(r"-?(0|[1-9][0-9]{0,300})")
MAX_DEPTH = 16  # of alternatives within alternatives


def parameter_schemas(
    tools: Sequence[Mapping[str, Any]],
) -> dict[str, Mapping[str, Any]]:
    """Return each tool's schema of parameters, by its name."""
    found: dict[str, Mapping[str, Any]] = {}
    for tool in tools:
        function = tool.get("function", tool)
        if isinstance(function, Mapping) and isinstance(function.get("name"), str):
            schema = function.get("parameters")
            found[function["name"]] = schema if isinstance(schema, Mapping) else {}
    return found


def types_of(schema: Mapping[str, Any], parameter: str) -> frozenset[str]:
    """Return the JSON types that a parameter may have; empty: the schema does not say."""
    properties = schema.get("properties")
    if not isinstance(properties, Mapping):
        return frozenset()
    return frozenset(_types(properties.get(parameter), schema, 0))


def _types(schema: Any, root: Mapping[str, Any], depth: int) -> set[str]:
    if not isinstance(schema, Mapping) or depth > MAX_DEPTH:
        return set()
    if isinstance(schema.get("$ref"), str):
        target: Any = root
        for step in schema["$ref"].removeprefix("#/").split("/"):
            target = target.get(step) if isinstance(target, Mapping) else None
        return _types(target, root, depth + 1)
    kind = schema.get("type")
    if isinstance(kind, str):
        return {kind}
    if isinstance(kind, list):
        return {one for one in kind if isinstance(one, str)}
    found: set[str] = set()
    for key in ("anyOf", "oneOf", "allOf"):
        for one in schema.get(key) or ():
            found |= _types(one, root, depth + 1)
    if isinstance(schema.get("enum"), list):
        found |= {_type_of(value) for value in schema["enum"]}
    if "const" in schema:
        found.add(_type_of(schema["const"]))
    return found


def _type_of(value: Any) -> str:
    if isinstance(value, bool):
        return "boolean"
    kinds = ((str, "string"), (int, "integer"), (float, "number"), (list, "array"))
    return next(
        (name for kind, name in kinds if isinstance(value, kind)),
        "null" if value is None else "object",
    )


def streams(types: frozenset[str]) -> bool:
    """Whether a value can only be text, so that it may be passed on before it is complete."""
    return types <= {"string"}


def as_json(text: str, types: frozenset[str]) -> tuple[str, bool]:
    """Return a complete value as JSON text, and whether it is of a type that is allowed."""
    word = text.strip()
    if "null" in types and word.lower() in ("null", "none"):
        return "null", True
    if streams(types) or "string" in types:
        return quoted(text), True
    if "boolean" in types and word.lower() in ("true", "false"):
        return word.lower(), True
    if types & {"integer", "number"} and _INTEGER.fullmatch(word):
        return word, True
    try:
        value = json.loads(word, parse_constant=_refuse)
    except (ValueError, RecursionError):
        return quoted(text), False
    kind = _type_of(value)
    if kind in types or (kind == "integer" and "number" in types):
        return word, True
    return quoted(text), False


def _refuse(word: str) -> float:
    raise ValueError(word)


def quoted(text: str) -> str:
    """Return a text as a JSON string."""
    return json.dumps(text, ensure_ascii=False)
