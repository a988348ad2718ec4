"""A JSON schema looked over before anything is compiled: bounded, and of keywords that are held to.

What comes out is a copy with nothing but those keywords. Annotations, which ask for nothing, are
left out: so are formats that JSON Schema leaves to the reader (2020-12, Validation, 7.2.1). Knows
no grammar; whether a schema can be compiled, and what it means, is llguidance's to say.
"""

from __future__ import annotations

import difflib
import json
import math
import re
from collections.abc import Callable, Mapping
from decimal import Decimal
from typing import Any

from qwick.errors import ParameterError, UnsupportedError
from qwick.values import refused

MAX_TEXT = 1 << 18  # bytes of a schema as JSON, without its annotations
MAX_DEPTH = 64  # levels; llguidance stops at 128
MAX_VALUES = 30_000  # keywords, names and values; llguidance stops at 50,000
MAX_STRING = 1 << 14  # characters of a constant, a pattern or a name
MAX_OPTIONAL = 480  # properties of an object that need not come: four ways to go on for each
MAX_COUNT = 1_000_000  # of a length or a number of items
# Divisibility is held to by counting remainders: one automaton state each, and one for each pair
# of remainders where two divisors meet.
MAX_DIVISOR, MAX_COMMON_DIVISOR = 10_000, 100_000
_HUGE = 1e308
_SURROGATE = re.compile("[\ud800-\udfff]")

# The formats that llguidance knows; every other one is an annotation.
FORMATS = frozenset(
    ("date-time", "time", "date", "duration", "email", "hostname", "ipv4", "ipv6", "uuid", "uri")
)
_ONE = ("items", "additionalItems", "additionalProperties")
_LISTS = ("anyOf", "oneOf", "allOf", "prefixItems", "items")
NAMED = ("properties", "patternProperties", "$defs", "definitions")
HOLDERS = frozenset((*_ONE, *_LISTS, *NAMED))  # what is in these is schemas
_COUNTS = ("minLength", "maxLength", "minItems", "maxItems", "minProperties", "maxProperties")
_BOUNDS = ("minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum")
_TYPES = ("null", "boolean", "integer", "number", "string", "array", "object")
_OTHERS = ("$ref", "const", "enum", "type", "required", "pattern", "format", "multipleOf")
_HELD = frozenset((*_ONE, *_LISTS, *NAMED, *_COUNTS, *_BOUNDS, *_OTHERS))
_ANNOTATIONS = (
    {"$anchor", "$comment", "$id", "$schema", "$vocabulary", "id"}
    | {"title", "description", "default", "example", "examples", "deprecated"}
    | {"readOnly", "writeOnly", "contentEncoding", "contentMediaType", "contentSchema"}
    | {"discriminator", "externalDocs", "xml"}  # OpenAPI's
)
# Keywords that change what fits, to which no grammar here can hold.
_NOT_HELD = (
    {"not", "if", "then", "else", "contains", "minContains", "maxContains", "uniqueItems"}
    | {"dependencies", "dependentRequired", "dependentSchemas", "propertyNames", "nullable"}
    | {"unevaluatedItems", "unevaluatedProperties", "$dynamicAnchor", "$dynamicRef"}
    | {"$recursiveAnchor", "$recursiveRef", "x-guidance"}
)
# These change nothing with these values.
_IDLE: Mapping[str, object] = {"uniqueItems": False, "nullable": False}


def read_schema(schema: object, name: str, ref_root: str = "#") -> Any:
    """Return a checked copy of a JSON schema, a dict or True.

    name: how messages call it. ref_root: what "#" in a $ref is to become, where the copy is put
    inside another schema. Raises ParameterError for what is no schema or is too large,
    UnsupportedError for a keyword that cannot be held to.
    """
    if schema is False:
        raise refused(name, schema, "a schema that something matches")
    copy = _Reader(ref_root).schema(schema, name, 0)
    size = len(json.dumps(copy, ensure_ascii=False).encode())
    if size > MAX_TEXT:
        raise ParameterError(f"{name} has {size} bytes of JSON; allowed: up to {MAX_TEXT}")
    return copy


class _Reader:
    """One walk over one schema, counting."""

    def __init__(self, ref_root: str) -> None:
        self._ref_root = ref_root
        self._values = 0
        self._divisor = 1

    def schema(self, value: object, path: str, depth: int) -> Any:
        """Return the copy of a schema at `path`."""
        self._count(path, depth)
        if isinstance(value, bool):
            return value
        if not isinstance(value, Mapping):
            raise refused(path, value, "a JSON schema: an object, true or false")
        copy: dict[str, Any] = {}
        for key, inner in value.items():
            if _asks_nothing(key):
                continue
            where = _inside(path, self._string(key, f"a keyword of {path}"))
            if self._held(key, inner, where):
                copy[key] = self._keyword(key, inner, where, depth + 1)
        optional = copy.get("properties", {}).keys() - set(copy.get("required", ()))
        if len(optional) > MAX_OPTIONAL:
            raise ParameterError(
                f"{path}/properties has {len(optional)} that are not required; allowed: up to"
                f" {MAX_OPTIONAL}"
            )
        return copy

    def _held(self, key: str, value: object, where: str) -> bool:
        """Whether a keyword is to be kept; refuse it where leaving it out would change anything."""
        if key in _IDLE and value is _IDLE[key]:
            return False
        if key == "format" and isinstance(value, str):
            return value in FORMATS
        if key in _HELD:
            return True
        if key in _NOT_HELD:
            raise UnsupportedError(
                f"{where} cannot be held to by a grammar", hint=f"leave {key} out of the schema"
            )
        close = difflib.get_close_matches(key[:100], _HELD, n=1)
        hint = f"did you mean {close[0]}?" if close else "leave it out of the schema"
        raise ParameterError(f"{where} is no keyword of JSON schemas", hint=hint)

    def _keyword(self, key: str, value: object, where: str, depth: int) -> object:
        """Return the copy of a keyword's value."""
        if key in _LISTS and isinstance(value, (list, tuple)):
            return [self.schema(one, _inside(where, i), depth) for i, one in enumerate(value)]
        if key in _ONE:
            return self.schema(value, where, depth)
        if key in NAMED:
            return self._named(value, where, depth)
        if key == "$ref":
            return self._ref(value, where)
        if key in _COUNTS:
            allowed = f"whole numbers from 0 to {MAX_COUNT}"
            return int(_number(value, where, lambda n: 0 <= n <= MAX_COUNT and n % 1 == 0, allowed))
        if key == "multipleOf":
            return self._multiple(value, where)
        if key in _LISTS:
            raise refused(where, value, "a list of schemas")
        _check_shape(key, value, where)
        return self._value(value, where, depth)

    def _named(self, value: object, where: str, depth: int) -> dict[str, object]:
        if not isinstance(value, Mapping):
            raise refused(where, value, "an object of schemas")
        return {
            self._string(key, f"a name in {where}"): self.schema(one, _inside(where, key), depth)
            for key, one in value.items()
        }

    def _ref(self, value: object, where: str) -> str:
        # Nothing is ever fetched, and an anchor would be one more way to say the same.
        if not isinstance(value, str) or not (value == "#" or value.startswith("#/")):
            raise refused(where, value, "# or a path within the schema, such as #/$defs/name")
        self._string(value, where)
        return self._ref_root + value[1:]

    def _multiple(self, value: object, where: str) -> object:
        allowed = f"numbers above 0 with digits that make at most {MAX_DIVISOR}"
        number = _number(value, where, lambda n: n > 0, allowed)
        exact = _digits(number)
        if exact > MAX_DIVISOR:
            raise refused(where, value, allowed)
        self._divisor = math.lcm(self._divisor, exact)
        if self._divisor > MAX_COMMON_DIVISOR:
            raise ParameterError(
                f"{where} and the schema's other multipleOf have the common multiple"
                f" {self._divisor}; allowed: up to {MAX_COMMON_DIVISOR}"
            )
        return number

    def _value(self, value: object, where: str, depth: int) -> object:
        """Return the copy of a plain JSON value."""
        self._count(where, depth)
        if isinstance(value, str):
            return self._string(value, where)
        if value is None or isinstance(value, bool):
            return value
        if isinstance(value, (int, float)):
            return _number(value, where, lambda n: True, "finite numbers")
        if isinstance(value, (list, tuple)):
            return [self._value(one, _inside(where, i), depth + 1) for i, one in enumerate(value)]
        if isinstance(value, Mapping):
            name = f"a name in {where}"
            return {
                self._string(key, name): self._value(one, _inside(where, key), depth + 1)
                for key, one in value.items()
            }
        raise refused(where, value, "a JSON value")

    def _string(self, value: object, where: str) -> str:
        if not isinstance(value, str):
            raise refused(where, value, "a str")
        if len(value) > MAX_STRING:
            raise ParameterError(
                f"{where} has {len(value)} characters; allowed: up to {MAX_STRING}"
            )
        if _SURROGATE.search(value):
            raise refused(where, value, "a str of valid Unicode")
        return value

    def _count(self, path: str, depth: int) -> None:
        if depth > MAX_DEPTH:
            raise ParameterError(f"{path} is {depth} levels deep; allowed: {MAX_DEPTH}")
        self._values += 1
        if self._values > MAX_VALUES:
            raise ParameterError(
                f"{path} is value {self._values} of its schema; allowed: up to {MAX_VALUES}"
            )


def _asks_nothing(key: object) -> bool:
    """Whether a keyword is an annotation whatever its value: there may be many of them."""
    if not isinstance(key, str):
        return False
    return key in _ANNOTATIONS or (key.startswith("x-") and key not in _NOT_HELD)


def _digits(number: int | float) -> int:
    """Return a number above 0 times the power of ten that makes it whole: 25 for 0.25."""
    if isinstance(number, int):
        return int(number)
    exact = Decimal(float.__repr__(number)).as_tuple()
    whole, exponent = int("".join(map(str, exact.digits))), int(exact.exponent)
    while exponent < 0 and whole % 10 == 0:
        whole, exponent = whole // 10, exponent + 1
    return int(whole * 10 ** max(exponent, 0))


def _inside(path: str, key: object) -> str:
    """Return the path of what lies under `key`, cut where it gets too long for a message."""
    text = f"{path}/{key}"
    return text if len(text) <= 160 else f"{text[:156]} ..."


def _check_shape(key: str, value: object, where: str) -> None:
    """Raise ParameterError for a value that its keyword cannot have."""
    listed = value if isinstance(value, (list, tuple)) else None
    if key in ("enum", "required") and listed is None:
        raise refused(where, value, "a list")
    if key == "required" and not all(isinstance(name, str) for name in listed or ()):
        raise refused(where, value, "a list of names")
    if key in ("pattern", "format") and not isinstance(value, str):
        raise refused(where, value, "a str")
    if key == "type" and any(type not in _TYPES for type in (listed or [value])):
        raise refused(where, value, f"{', '.join(_TYPES)}, or a list of them")


def _number(value: Any, where: str, fits: Callable[[Any], bool], allowed: str) -> Any:
    """Return a finite JSON number for which `fits` holds."""
    fine = isinstance(value, (int, float)) and not isinstance(value, bool)
    if not fine or not -_HUGE < value < _HUGE or not fits(value):
        raise refused(where, value, allowed)
    return value
