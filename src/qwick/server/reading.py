"""Bodies read strictly: JSON of the right type, into the model that describes it.

Parsed by pydantic's own parser, after a look at the bytes that bounds depth and number of what they
hold: a few megabytes can be millions of objects, each with an error of its own, and building those
stops everything else. The first thing that is wrong is named.
"""

from __future__ import annotations

import asyncio
import difflib
import itertools
from collections.abc import Mapping
from typing import Any, TypeVar

from pydantic import BaseModel, ValidationError
from starlette.requests import Request

from qwick.errors import ParameterError, RefusedError, shown

B = TypeVar("B", bound=BaseModel)

# A conversation of 4096 turns, half of them calls of tools, has 23,000 fields; a prompt may be a
# million ids.
MOST_DEPTH = 64
MOST_OBJECTS = 1 << 15  # and lists
MOST_FIELDS = 1 << 15
MOST_STRINGS = 1 << 18
MOST_VALUES = (1 << 20) + (1 << 16)
MOST_ERRORS = 1000  # that are built to name the first
SMALL_BYTES = 1 << 16  # of bodies that are parsed at once; larger ones on a thread
LONGEST_NAME = 64  # of a field that is compared with those that are known

_NO_BRACKETS = bytes(set(range(256)) - set(b"[]{}"))
# Names that pydantic puts into the place of an error where a value may be of several types.
_TYPES = frozenset({"str", "int", "float", "bool", "dict", "none", "list"})


async def read_body(request: Request, kind: type[B], refused: Mapping[str, str]) -> B:
    """Return the body; RefusedError for another content type, ParameterError for what is wrong.

    refused: fields that are known and not supported, with the reason.
    """
    content_type = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if content_type != "application/json":
        raise RefusedError(
            f"content-type is {content_type!r:.100}; allowed: application/json",
            status=415,
            code="wrong_content_type",
            hint="send JSON, and say so",
        )
    body = await request.body()
    if len(body) <= SMALL_BYTES:
        return parsed(body, kind, refused)
    return await asyncio.to_thread(parsed, body, kind, refused)


def parsed(body: bytes, kind: type[B], refused: Mapping[str, str]) -> B:
    """Return a body's bytes as a model; ParameterError that names the field."""
    _check_shape(body)
    try:
        return kind.model_validate_json(body)
    except ValidationError as error:
        raise _named(error, kind, refused) from None


def _check_shape(body: bytes) -> None:
    """Refuse JSON that is too deep, or of too many parts; looks at the bytes, and builds nothing.

    What is no JSON may pass.
    """
    plain = body.replace(b"\\\\", b"").replace(b'\\"', b"")
    _check_count("strings", plain.count(b'"') // 2, MOST_STRINGS)
    outside = b"".join(plain.split(b'"')[::2])  # of strings
    _check_count("objects and lists", outside.count(b"{") + outside.count(b"["), MOST_OBJECTS)
    _check_count("fields", outside.count(b":"), MOST_FIELDS)
    _check_count("values", outside.count(b","), MOST_VALUES)
    brackets = outside.translate(None, _NO_BRACKETS)
    depth = max(itertools.accumulate(1 if c in b"[{" else -1 for c in brackets), default=0)
    _check_count("levels", depth, MOST_DEPTH)


def _check_count(what: str, count: int, most: int) -> None:
    if count > most:
        raise ParameterError(f"the body has {count} {what}; allowed: {most}", hint="send less")


def _named(
    error: ValidationError, kind: type[BaseModel], refused: Mapping[str, str]
) -> ParameterError:
    if error.error_count() > MOST_ERRORS:
        return ParameterError(
            f"the body is wrong in {error.error_count()} places; allowed: what the API reference "
            "says"
        )
    found = error.errors(include_url=False, include_context=True)
    unknown = next((e for e in found if e["type"] == "extra_forbidden"), None)
    # Where a value may be of several types, the one that fits it best says what is wrong.
    first = unknown or max(found, key=lambda e: (not _is_other_type(e), len(e["loc"])))
    place = _place(first["loc"])
    if first["type"] == "json_invalid":
        reason = str(first.get("ctx", {}).get("error", first["msg"]))
        return ParameterError(f"the body is no JSON: {reason:.200}; allowed: a JSON object")
    if first["type"] == "missing":
        return ParameterError(f"{place} is missing; allowed: what the API reference says")
    if first["type"] == "extra_forbidden":
        name = str(first["loc"][-1])
        if place in refused:
            return ParameterError(f"{place} is not supported: {refused[place]}; allowed: without")
        fields = _fields(kind)
        close = difflib.get_close_matches(name[:LONGEST_NAME], fields, n=1)
        hint = f"did you mean {close[0]}?" if close else "leave it out"
        return ParameterError(f"{place:.200} is no field that is known here", hint=hint)
    words = first["msg"]
    value = "" if isinstance(first["input"], dict | list) else f" is {shown(first['input'], 60)};"
    if not place:
        return ParameterError(f"the body is no request; {words}; allowed: a JSON object")
    return ParameterError(f"{place:.200}{value or ' is wrong;'} allowed: {_allowed(words)}")


def _is_other_type(error: Mapping[str, Any]) -> bool:
    """Whether the value is of another type altogether."""
    return str(error["type"]).endswith("_type")


def _place(location: tuple[Any, ...]) -> str:
    """Return where in the body an error is: messages[0].content."""
    text = ""
    for part, behind in zip(location, (*location, None)[1:], strict=True):
        if isinstance(part, int):
            text += f"[{part}]"
        elif part == behind or part in _TYPES or not part.isidentifier() or part[:1].isupper():
            continue
        else:
            text += f".{part}" if text else part
    return text


def _allowed(words: str) -> str:
    """Return pydantic's sentence as what is allowed."""
    for begin in ("Input should be ", "Value should have "):
        if words.startswith(begin):
            return words[len(begin) :]
    return words


def _fields(kind: type[BaseModel]) -> list[str]:
    return [field.alias or name for name, field in kind.model_fields.items()]
