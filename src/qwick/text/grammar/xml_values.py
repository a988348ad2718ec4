"""A parameter's value in the XML format of calls: a text, where JSON would put it into quotes.

Strings stand as they are, up to the closing tag; everything else is JSON. Which of both a schema
asks for is found out here. Knows nothing of the call around a value.
"""

from __future__ import annotations

import json
import re
import urllib.parse
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from qwick.errors import UnsupportedError
from qwick.text.grammar.lark import Rules, quoted
from qwick.values import refused

PARAMETER_END = "\n</parameter>\n"
# Any text that the closing tag is no part of. (`~` alone would let in what is no UTF-8.)
TEXT = r"/(?s:.*)/ & ~/(?s:.*)\n<\/parameter>(?s:.*)/"

_TYPES = ("string", "null", "boolean", "number", "array", "object")
_WORDS = {"null": ("null",), "boolean": ("true", "false")}
_OF_OTHERS = frozenset(("properties", "required", "additionalProperties", "items", "prefixItems"))
_COMBINED = frozenset(("$ref", "allOf", "anyOf", "oneOf", "enum", "const"))
_MAX_STEPS = 16  # from schema to schema, before a value is found


@dataclass(frozen=True, slots=True)
class _Branch:
    """One way to write a value: as one of these words, as a string with limits, or as JSON."""

    words: tuple[str, ...] = ()
    string: Mapping[str, Any] | None = None
    json: Any = None


def value_of(rules: Rules, schema: Any, root: Mapping[str, Any], where: str) -> str:
    """Return a grammar of one value with the tag that ends it, adding the rules it needs.

    schema, root: of the parameter and of all arguments, as `read_schema` gave them with references
    to "#/$defs/root". A string's `format` is an annotation here. Raises UnsupportedError for a
    schema that a text cannot be held to.
    """
    branches = list(_branches(schema, root, where, 0))
    texts = [quoted(word) for branch in branches for word in branch.words]
    strings = [branch.string for branch in branches if branch.string is not None]
    others = [branch.json for branch in branches if branch.json is not None]
    limited = [_limited(string, where) for string in strings]
    if "" in limited:  # a text may be anything, the JSON of other types included
        texts, limited, others = [], [""], []
    for limit in limited:
        texts.append(rules.once(f"{TEXT}{limit}"))
    options = []
    if texts:
        options.append(rules.terminal(f"({' | '.join(texts)}) {quoted(PARAMETER_END)}"))
    if others:
        whole = others[0] if len(others) == 1 else {"anyOf": others}
        if '"$ref"' in json.dumps(whole):
            whole = {"$defs": {"root": root}, **whole}
        options.append(f"{rules.json(whole)} {quoted(PARAMETER_END)}")
    if not options:
        raise refused(where, schema, "a schema that something matches")
    return f"({' | '.join(options)})"


def _branches(schema: Any, root: Mapping[str, Any], where: str, step: int) -> Iterator[_Branch]:
    """Yield the ways to write a value."""
    if schema is False:
        return
    keys = set() if schema is True else set(schema)
    if step > _MAX_STEPS:
        raise UnsupportedError(f"{where} refers from schema to schema without an end")
    if keys == {"$ref"}:
        yield from _branches(_target(schema["$ref"], root, where), root, where, step + 1)
    elif keys == {"allOf"} and len(schema["allOf"]) == 1:
        yield from _branches(schema["allOf"][0], root, where, step + 1)
    elif keys == {"anyOf"}:
        for option in schema["anyOf"]:
            yield from _branches(option, root, where, step + 1)
    elif keys == {"oneOf"}:
        yield from _exclusive(schema["oneOf"], root, where, step)
    elif keys & _COMBINED in ({"enum"}, {"const"}) and keys <= {"type", "enum", "const"}:
        yield from _constants(schema)
    elif keys & _COMBINED:
        raise UnsupportedError(
            f"{where} combines {', '.join(sorted(keys))}, to which a parameter in this"
            " checkpoint's format of calls cannot be held",
            hint="take one of them, or set the tool's strict to false",
        )
    else:
        for type in _types(schema, _TYPES[1:] if keys & _OF_OTHERS else _TYPES):
            if type == "string":
                yield _Branch(string={} if schema is True else schema)
            elif type in _WORDS:
                yield _Branch(words=_WORDS[type])
            else:
                yield _Branch(json={**({} if schema is True else schema), "type": type})


def _types(schema: Any, otherwise: tuple[str, ...]) -> tuple[str, ...]:
    types = otherwise if schema is True else schema.get("type", otherwise)
    return (types,) if isinstance(types, str) else tuple(types)


def _constants(schema: Mapping[str, Any]) -> Iterator[_Branch]:
    """Yield the strings among the constants as words, and the others as JSON."""
    values = [schema["const"]] if "const" in schema else list(schema["enum"])
    if "string" in _types(schema, _TYPES):
        yield _Branch(words=tuple(value for value in values if isinstance(value, str)))
    rest = [value for value in values if not isinstance(value, str)]
    if rest:
        yield _Branch(json={**schema, "enum": rest} if "enum" in schema else schema)


def _exclusive(
    options: list[Any], root: Mapping[str, Any], where: str, step: int
) -> Iterator[_Branch]:
    """Yield the ways of a oneOf, if no text can be two of them; llguidance sees to the JSON."""
    found = [branch for option in options for branch in _branches(option, root, where, step + 1)]
    words = [word for branch in found for word in branch.words]
    strings = [branch for branch in found if branch.string is not None]
    constants = [word for word in words if word not in ("null", "true", "false")]
    if len(set(words)) < len(words) or len(strings) + bool(constants) > 1:
        raise UnsupportedError(f"{where}/oneOf has texts that may fit several of its schemas")
    others = [branch.json for branch in found if branch.json is not None]
    yield from (branch for branch in found if branch.json is None)
    if others:
        yield _Branch(json=others[0] if len(others) == 1 else {"oneOf": others})


def _target(ref: str, root: Mapping[str, Any], where: str) -> Any:
    """Return the schema that a reference to "#/$defs/root/..." names."""
    target: Any = root
    for part in ref.split("/")[3:]:
        name = urllib.parse.unquote(part).replace("~1", "/").replace("~0", "~")
        if isinstance(target, list) and name.isdecimal() and int(name) < len(target):
            target = target[int(name)]
        elif isinstance(target, Mapping) and name in target:
            target = target[name]
        else:
            raise refused(f"{where}: $ref", ref, "the path of a schema")
    if not isinstance(target, (bool, Mapping)):
        raise refused(f"{where}: $ref", ref, "the path of a schema")
    return target


def _limited(string: Mapping[str, Any], where: str) -> str:
    """Return what a string has to match beside being text, as Lark; nothing: no limit."""
    limits = ""
    low, high = string.get("minLength", 0), string.get("maxLength", "")
    if low or high != "":
        limits += f" & /(?s:.{{{low},{high}}})/"
    if "pattern" in string:
        limits += f" & /{_anywhere(string['pattern'], where)}/"
    return limits


def _anywhere(pattern: str, where: str) -> str:
    """Return a pattern that is to be found somewhere in a text as one of the whole text."""
    from llguidance import regex_to_lark

    start, end = pattern.startswith("^"), re.search(r"(?<!\\)(?:\\\\)*\$$", pattern) is not None
    if (start or end) and "|" in pattern:
        raise UnsupportedError(
            f"{where}/pattern anchors a choice, to which a parameter in this checkpoint's format"
            " of calls cannot be held",
            hint="put the choice into brackets of its own: ^(?:a|b)$",
        )
    inner = pattern[1 if start else 0 : -1 if end else None]
    text = regex_to_lark(inner, "dw")
    return f"{'' if start else '(?s:.*)'}(?:{text}){'' if end else '(?s:.*)'}"
