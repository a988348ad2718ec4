"""A parameter's value in the XML format of calls: a text, where JSON would put it into quotes.

Strings stand as they are, up to the closing tag; everything else is JSON. Which of both a schema
asks for is found out here. Knows nothing of the call around a value.
"""

from __future__ import annotations

import json
import re
import urllib.parse
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

from qwick.errors import ParameterError, UnsupportedError
from qwick.text.grammar.lark import Rules, quoted, too_long
from qwick.text.grammar.schema import HOLDERS, MAX_TEXT, NAMED
from qwick.values import refused

PARAMETER_END = "\n</parameter>\n"
# Any text that the closing tag is no part of. (`~` alone would let in what is no UTF-8.)
TEXT = r"/(?s:.*)/ & ~/(?s:.*)\n<\/parameter>(?s:.*)/"

_TYPES = ("string", "null", "boolean", "number", "array", "object")
_WORDS = {"null": ("null",), "boolean": ("true", "false")}
_TEXTS = frozenset(("string", *_WORDS))
_OF_OTHERS = frozenset(("properties", "required", "additionalProperties", "items", "prefixItems"))
_COMBINED = frozenset(("$ref", "allOf", "anyOf", "oneOf", "enum", "const"))
_MAX_STEPS = 16  # from schema to schema, before a value is found
MAX_WAYS = (
    500_000  # of writing values, in all tools: looked up, and put together; 0.3 s for the most
)


class _Ways(NamedTuple):
    """The ways to write a value: as one of some words, as a string with limits, or as JSON.

    limits: what a string has to match beside being text, as Lark; empty: nothing. others: schemas
    of the JSON. steps: how many schemas lie one in another before these are found.
    """

    words: tuple[str, ...] = ()
    limits: tuple[str, ...] = ()
    others: tuple[Any, ...] = ()
    steps: int = 0

    @property
    def number(self) -> int:
        """How many there are."""
        return len(self.words) + len(self.limits) + len(self.others)


class Values:
    """The values of one tool's parameters."""

    def __init__(self, rules: Rules, root: Mapping[str, Any]) -> None:
        """Begin with none.

        rules: what the values add theirs to. root: the schema of all arguments, as `read_schema`
        gave it with references to "#/$defs/root".
        """
        self._rules = rules
        self._root = root
        self._known: dict[int, _Ways] = {}  # by the id of a schema in the root

    def write(self, schema: Any, where: str) -> str:
        """Return a grammar of one value with the tag that ends it, adding the rules it needs.

        schema: of the parameter, a part of the root. A string's `format` is an annotation here.
        Raises UnsupportedError for a schema that a text cannot be held to, ParameterError for too
        many ways to write a value.
        """
        ways = self._ways(schema, where, 0)
        if "" in ways.limits:  # a text may be anything, the JSON of other types included
            ways = _Ways(limits=("",))
        self._count(ways.number + 1)
        texts = [quoted(word) for word in ways.words]
        for limit in ways.limits:
            texts.append(self._rules.once(f"{TEXT}{limit}"))
        options = []
        if texts:
            options.append(self._rules.terminal(f"({' | '.join(texts)}) {quoted(PARAMETER_END)}"))
        if ways.others:
            whole = ways.others[0] if len(ways.others) == 1 else {"anyOf": list(ways.others)}
            if _refers(whole):
                whole = {"$defs": {"root": self._root}, **whole}
            options.append(f"{self._rules.json(whole)} {quoted(PARAMETER_END)}")
        if not options:
            raise refused(where, schema, "a schema that something matches")
        return f"({' | '.join(options)})"

    def _ways(self, schema: Any, where: str, step: int) -> _Ways:
        """Return the ways to write a value, found once for each schema."""
        if schema is False:
            return _Ways(steps=-1)
        if schema == {}:  # often, after annotations were left out
            schema = True
        found = self._known.get(id(schema))
        if step + (found.steps if found else 0) > _MAX_STEPS:
            raise UnsupportedError(f"{where} refers from schema to schema without an end")
        if found is None:
            self._count(1)
            found = self._known[id(schema)] = self._find(schema, where, step)
        return found

    def _count(self, ways: int) -> None:
        self._rules.ways += ways
        if self._rules.ways > MAX_WAYS:
            raise ParameterError(
                f"tools have parameters with more than {MAX_WAYS} ways to write them in all;"
                " allowed: fewer"
            )

    def _find(self, schema: Any, where: str, step: int) -> _Ways:
        keys = set() if schema is True else set(schema)
        if keys == {"$ref"}:
            return self._any([_target(schema["$ref"], self._root, where)], where, step)
        if keys == {"allOf"} and len(schema["allOf"]) == 1:
            return self._any(schema["allOf"], where, step)
        if keys == {"anyOf"}:
            return self._any(schema["anyOf"], where, step)
        if keys == {"oneOf"}:
            return self._exclusive(schema["oneOf"], where, step)
        if keys & _COMBINED in ({"enum"}, {"const"}) and keys <= {"type", "enum", "const"}:
            return _constants(schema)
        if keys & _COMBINED:
            raise UnsupportedError(
                f"{where} combines {', '.join(sorted(keys))}, to which a parameter in this"
                " checkpoint's format of calls cannot be held",
                hint="take one of them, or set the tool's strict to false",
            )
        types = dict.fromkeys(_types(schema, _TYPES[1:] if keys & _OF_OTHERS else _TYPES))
        own = {} if schema is True else schema
        return _Ways(
            tuple(word for type in types for word in _WORDS.get(type, ())),
            (_limited(own, where),) if "string" in types else (),
            tuple({**own, "type": type} for type in types if type not in _TEXTS),
        )

    def _each(self, options: Sequence[Any], where: str, step: int) -> Iterator[_Ways]:
        """Yield the ways of each option, counted, as they are about to be put together."""
        for option in options:
            ways = self._ways(option, where, step + 1)
            self._count(ways.number)
            yield ways

    def _any(self, options: Sequence[Any], where: str, step: int) -> _Ways:
        """Return the ways of any of these, each once: they may refer to the same schemas."""
        if len(options) == 1:
            ways = self._ways(options[0], where, step + 1)
            return ways._replace(steps=ways.steps + 1)
        found = list(self._each(options, where, step))
        return _Ways(
            tuple(dict.fromkeys(word for ways in found for word in ways.words)),
            tuple(dict.fromkeys(limit for ways in found for limit in ways.limits)),
            tuple({id(json): json for ways in found for json in ways.others}.values()),
            max((ways.steps for ways in found), default=-1) + 1,
        )

    def _exclusive(self, options: Sequence[Any], where: str, step: int) -> _Ways:
        """Return the ways of a oneOf, if no text can be two of them.

        llguidance sees to the JSON.
        """
        found = list(self._each(options, where, step))
        words = tuple(word for ways in found for word in ways.words)
        limits = tuple(limit for ways in found for limit in ways.limits)
        constants = [word for word in words if word not in ("null", "true", "false")]
        if len(set(words)) < len(words) or len(limits) + bool(constants) > 1:
            raise UnsupportedError(f"{where}/oneOf has texts that may fit several of its schemas")
        others = tuple(json for ways in found for json in ways.others)
        if len(others) > 1:
            others = ({"oneOf": list(others)},)
        return _Ways(words, limits, others, max((ways.steps for ways in found), default=-1) + 1)


def _refers(schema: Any) -> bool:
    """Whether a schema holds a $ref; ParameterError if it is too long to be written.

    Told in the course of writing: schemas that refer to each other can be long without an end.
    """
    size, found = 0, False
    for piece in json.JSONEncoder(ensure_ascii=False).iterencode(schema):
        size += len(piece)
        found = found or '"$ref"' in piece
        if size > MAX_TEXT:
            raise too_long(MAX_TEXT)
    return found


def _types(schema: Any, otherwise: tuple[str, ...]) -> tuple[str, ...]:
    types = otherwise if schema is True else schema.get("type", otherwise)
    return (types,) if isinstance(types, str) else tuple(types)


def _constants(schema: Mapping[str, Any]) -> _Ways:
    """Return the strings among the constants as words, and the others as JSON."""
    values = [schema["const"]] if "const" in schema else list(schema["enum"])
    words: dict[str, None] = {}
    if "string" in _types(schema, _TYPES):
        words = dict.fromkeys(value for value in values if isinstance(value, str))
    rest = [value for value in values if not isinstance(value, str)]
    others = [{**schema, "enum": rest} if "enum" in schema else schema] if rest else []
    return _Ways(tuple(words), (), tuple(others))


def _target(ref: str, root: Mapping[str, Any], where: str) -> Any:
    """Return the schema that a reference to "#/$defs/root/..." names."""
    target: Any = root
    named = False  # whether it holds schemas by names of the caller's, and is none itself
    for part in ref.split("/")[3:]:
        name = urllib.parse.unquote(part).replace("~1", "/").replace("~0", "~")
        if isinstance(target, list) and re.fullmatch("[0-9]{1,5}", name):
            target = target[int(name)] if int(name) < len(target) else None
        elif isinstance(target, Mapping) and (named or name in HOLDERS):
            target = target.get(name)
            named = not named and name in NAMED
        else:
            target = None
    if named or not isinstance(target, (bool, Mapping)):
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
