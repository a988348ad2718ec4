"""Bodies read strictly: JSON of the right type, into the model that describes it.

Parsed by pydantic's own parser, after a look at the bytes that bounds depth and number of what they
hold: a few megabytes can be millions of objects, each with an error of its own, and building those
stops everything else. The first thing that is wrong is named.
"""

from __future__ import annotations

import asyncio
import difflib
import itertools
import re
from collections.abc import Mapping, Sequence
from types import UnionType
from typing import Annotated, Any, TypeVar, Union, get_args, get_origin

from pydantic import BaseModel, ValidationError
from pydantic.fields import FieldInfo
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
LONGEST_PLACE = 200  # that a message names
NOT_SUPPORTED = "not_supported"  # pydantic's type of an error: a wish that is known, and refused

_NO_BRACKETS = bytes(set(range(256)) - set(b"[]{}"))
_OF_TAGS = ("union_tag_invalid", "union_tag_not_found")  # an object's `type`, which tells its kind
_BOUND = re.compile(r"(greater|less) than or equal to (\S+)")
_BOUNDS = {"greater": "more", "less": "less"}


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
    check_shape(body)
    try:
        return kind.model_validate_json(body)
    except ValidationError as error:
        raise _named(error, kind, refused) from None


def check_shape(body: bytes) -> None:
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
    # Where a value may be of several types, the one that fits it best says what is wrong.
    first = max(found, key=lambda e: (_weight(e), len(e["loc"])))
    place, model = _place(first["loc"], kind)
    if first["type"] in _OF_TAGS:
        place += ".type"
    told = _told(first, place[:LONGEST_PLACE], model, refused)
    told.field = place[:LONGEST_PLACE] or None
    return told


def _weight(error: Mapping[str, Any]) -> int:
    """Return how much an error says: a wish that is refused most, a value of another type least."""
    kind = str(error["type"])
    if kind == NOT_SUPPORTED:
        return 3
    if kind == "extra_forbidden":
        return 2
    other = kind == "literal_error" and isinstance(error["input"], dict | list)
    return 0 if other or kind.endswith("_type") else 1


def _told(
    error: Mapping[str, Any], place: str, model: type[BaseModel], refused: Mapping[str, str]
) -> ParameterError:
    """Return the one error that is told; model: what is at the level of its place."""
    kind, words, context = error["type"], error["msg"], error.get("ctx", {})
    if kind == "json_invalid":
        reason = str(context.get("error", words))
        return ParameterError(f"the body is no JSON: {reason:.200}; allowed: a JSON object")
    if kind == NOT_SUPPORTED or place in refused:
        reason = refused.get(place, words)
        return ParameterError(f"{place} is not supported: {reason}; allowed: without")
    if kind in ("missing", "union_tag_not_found"):
        return ParameterError(f"{place} is missing; allowed: what the API reference says")
    if kind == "extra_forbidden":
        hint = _meant(str(error["loc"][-1]), model)
        return ParameterError(f"{place} is no field that is known here", hint=hint)
    if kind == "union_tag_invalid":
        tag, tags = shown(context["tag"], 60), context["expected_tags"]
        return ParameterError(f"{place} is {tag}; allowed: {tags}")
    value = "" if isinstance(error["input"], dict | list) else f" is {shown(error['input'], 60)};"
    if not place:
        return ParameterError(f"the body is no request; {words}; allowed: a JSON object")
    return ParameterError(f"{place}{value or ' is wrong;'} allowed: {_allowed(words)}")


def _place(location: Sequence[Any], kind: type[BaseModel]) -> tuple[str, type[BaseModel]]:
    """Return where in the body an error is, messages[0].content, and the model that is there.

    Walks the types, for pydantic puts labels into the location where a value may be of several.
    """
    text, model = "", kind
    inside: list[Any] = [kind]  # the types that may be at this place
    for part in location:
        models = _models(inside)
        if isinstance(part, int):
            text += f"[{part}]"
            inside = _within(inside, list)
        elif len(models) == 1 < len(inside) and part not in _fields(models[0]):
            # A label: that of the model, or of what else may be here.
            inside = models if part == models[0].__name__ else []
        elif len(models) > 1:  # a label: that of one of them, told by its `type`, or of them all
            named = [m for m in models if part in get_args(m.model_fields["type"].annotation)]
            inside = [*named] or inside
        elif models:
            model = models[0]
            name = part if part.isidentifier() else shown(part, LONGEST_NAME)
            text += f".{name}" if text else name
            field = _fields(model).get(part)
            inside = [] if field is None else _types(field.annotation)
        elif values := _within(inside, dict):
            if part.isidentifier():
                text += f".{part}"
            inside = values
    return text, model


def _types(annotation: Any) -> list[Any]:
    """Return the types that a value may have."""
    origin = get_origin(annotation)
    if origin is Annotated:
        return _types(get_args(annotation)[0])
    if origin in (Union, UnionType):
        return [one for inner in get_args(annotation) for one in _types(inner)]
    return [annotation]


def _within(types: Sequence[Any], container: type) -> list[Any]:
    """Return the types of what is in the lists, or in the dicts, among types."""
    found = [get_args(one)[-1] for one in types if get_origin(one) is container]
    return [one for inner in found for one in _types(inner)]


def _models(types: Sequence[Any]) -> list[type[BaseModel]]:
    plain = [one for one in types if get_origin(one) is None and isinstance(one, type)]
    return [one for one in plain if issubclass(one, BaseModel)]


def _fields(model: type[BaseModel]) -> dict[str, FieldInfo]:
    return {field.alias or name: field for name, field in model.model_fields.items()}


def _meant(name: str, model: type[BaseModel]) -> str:
    """Return what may have been meant by a field that a model does not have."""
    fields = _fields(model)
    for outer, field in fields.items():
        # Inside the one object that has such a field; the Responses API leaves some of them out.
        models = _models(_types(field.annotation))
        if len(models) == 1 and name in _fields(models[0]):
            return f'did you mean {{"{outer}": {{"{name}": ...}}}}?'
    close = difflib.get_close_matches(name[:LONGEST_NAME], fields, n=1)
    return f"did you mean {close[0]}?" if close else "leave it out"


def _allowed(words: str) -> str:
    """Return pydantic's sentence as what is allowed."""
    for begin in ("Input should be ", "Value should have "):
        if words.startswith(begin):
            words = words[len(begin) :]
    bound = _BOUND.fullmatch(words)
    return words if bound is None else f"{bound[2]} or {_BOUNDS[bound[1]]}"
