"""Bodies read strictly: JSON of the right type, into the model that describes it.

Parsed by pydantic's own parser, in one pass over the bytes and bounded in depth, so that nothing
large is built of what is refused. The first thing that is wrong is named.
"""

from __future__ import annotations

import difflib
from collections.abc import Mapping
from typing import Any, TypeVar

from pydantic import BaseModel, ValidationError
from starlette.requests import Request

from qwick.errors import ParameterError, RefusedError, shown

B = TypeVar("B", bound=BaseModel)

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
    return parsed(await request.body(), kind, refused)


def parsed(body: bytes, kind: type[B], refused: Mapping[str, str]) -> B:
    """Return a body's bytes as a model; ParameterError that names the field."""
    try:
        return kind.model_validate_json(body)
    except ValidationError as error:
        raise _named(error, kind, refused) from None


def _named(
    error: ValidationError, kind: type[BaseModel], refused: Mapping[str, str]
) -> ParameterError:
    found = error.errors(include_url=False, include_context=True)
    first = next((e for e in found if e["type"] == "extra_forbidden"), found[0])
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
        close = difflib.get_close_matches(name, fields, n=1)
        hint = f"did you mean {close[0]}?" if close else "leave it out"
        return ParameterError(f"{place:.200} is no field that is known here", hint=hint)
    words = first["msg"]
    value = "" if isinstance(first["input"], dict | list) else f" is {shown(first['input'], 60)};"
    if not place:
        return ParameterError(f"the body is no request; {words}; allowed: a JSON object")
    return ParameterError(f"{place:.200}{value or ' is wrong;'} allowed: {_allowed(words)}")


def _place(location: tuple[Any, ...]) -> str:
    """Return where in the body an error is: messages[0].content."""
    text = ""
    for part in location:
        if isinstance(part, int):
            text += f"[{part}]"
        elif part in _TYPES or not part.isidentifier() or part[:1].isupper():
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
