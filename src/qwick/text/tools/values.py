"""Parameters that were written as plain text, made JSON by the tool's schema.

Qwen3-Coder and later write every value as text; whether `12` is a number is the schema's to say.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from qwick.values import check_kind

_INTEGER = re.compile(r"-?(0|[1-9][0-9]{0,300})")
# How templates write what is neither text nor number: as JSON, or as Python does.
_WORDS = {
    **{"null": "null", "true": "true", "false": "false"},
    **{"None": "null", "True": "true", "False": "false"},
}
_KNOWN = frozenset(("string", "integer", "number", "boolean", "array", "object", "null"))


def parameter_schemas(tools: Sequence[Mapping[str, Any]]) -> dict[str, Mapping[str, Any]]:
    """Return each tool's schema of parameters, by its name; ParameterError for what is no tool."""
    found: dict[str, Mapping[str, Any]] = {}
    for i, tool in enumerate(tools):
        check_kind(f"tools[{i}]", tool, Mapping, "an object with type and function")
        function = tool.get("function", tool)
        check_kind(f"tools[{i}].function", function, Mapping, "an object with a name")
        name = function.get("name")
        check_kind(f"tools[{i}].function.name", name, str, "a str")
        schema = function.get("parameters")
        found[name] = schema if isinstance(schema, Mapping) else {}
    return found


def types_of(schema: Mapping[str, Any], parameter: str) -> frozenset[str]:
    """Return the JSON types that a parameter may have; empty: the schema does not say."""
    properties = schema.get("properties")
    of_one = properties.get(parameter) if isinstance(properties, Mapping) else None
    if of_one is None:
        of_one = schema.get("additionalProperties")
    return frozenset(_types(of_one, schema, set())) & _KNOWN


def _types(schema: Any, root: Mapping[str, Any], seen: set[int]) -> Iterator[str]:
    """Yield types; seen: the schemas that were visited, by their identity."""
    if not isinstance(schema, Mapping) or id(schema) in seen:
        return
    seen.add(id(schema))
    if isinstance(schema.get("$ref"), str):
        target: Any = root
        for step in schema["$ref"].removeprefix("#").strip("/").split("/"):
            target = target.get(step) if isinstance(target, Mapping) else None
        yield from _types(target, root, seen)
    kind = schema.get("type")
    if kind is not None:
        yield from (one for one in _listed(kind, [kind]) if isinstance(one, str))
        return
    for key in ("anyOf", "oneOf", "allOf"):
        for one in _listed(schema.get(key)):
            yield from _types(one, root, seen)
    yield from map(_type_of, _listed(schema.get("enum")))
    if "const" in schema:
        yield _type_of(schema["const"])


def _listed(value: Any, otherwise: Sequence[Any] = ()) -> Sequence[Any]:
    return value if isinstance(value, list | tuple) else otherwise


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
    """Return a complete value as JSON text, and whether it is of a type that is allowed.

    Where a string is one of several types, it is what no other type can be.
    """
    if streams(types):
        return quoted(text), True
    word, textual = text.strip(), "string" in types
    spellings = (word,) if textual else (word, word.lower(), word.capitalize())
    found = None if textual and word != text else _other(word, spellings, types)
    return (quoted(text), textual) if found is None else (found, True)


def _other(word: str, spellings: Sequence[str], types: frozenset[str]) -> str | None:
    """Return the JSON of a value that is no string, of one of these types; None: it is of none."""
    constant = next((_WORDS[one] for one in spellings if one in _WORDS), None)
    if constant is not None:
        return constant if ("null" if constant == "null" else "boolean") in types else None
    if types & {"integer", "number"} and _INTEGER.fullmatch(word):
        return word
    try:
        value = json.loads(word, parse_constant=refuse)
    except (ValueError, RecursionError):
        return None
    kind = _type_of(value)
    if kind == "number" and value.is_integer():
        kind = "integer"
    fits = kind in types or (kind == "integer" and "number" in types)
    return word if fits and kind != "string" else None


def quoted(text: str) -> str:
    """Return a text as a JSON string."""
    return json.dumps(text, ensure_ascii=False)


def refuse(word: str) -> float:
    """Refuse NaN and the infinities, which Python reads and JSON does not have."""
    raise ValueError(word)
