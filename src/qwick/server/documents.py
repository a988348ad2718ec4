"""The OpenAPI document: what each route takes and answers, as strict as the server is."""

from __future__ import annotations

from typing import Any

from fastapi import FastAPI
from fastapi.openapi.utils import get_openapi
from pydantic import BaseModel, ConfigDict
from starlette.responses import PlainTextResponse

from qwick.server.openai.replies import Error

REF = "#/components/schemas/{model}"
_BODIES: dict[str, type[BaseModel]] = {}  # by name: what `takes` was told

_REASONS = {
    400: "The request is wrong; the message names the field.",
    401: "There is no API key, or none that is good.",
    403: "The API key may not do this.",
    404: "There is no such model or path.",
    405: "The path has other methods.",
    408: "The body did not come in time.",
    413: "The request is too large.",
    415: "The body is not application/json.",
    421: "The host is another name than this machine's.",
    429: "More than this key or user may have now; retry-after says when.",
    431: "The headers are too large.",
    500: "A fault of the server, or a model that computes what is no number.",
    503: "The model cannot answer now; retry-after says when.",
    504: "The answer was not complete in time.",
}


def takes(kind: type[BaseModel]) -> dict[str, Any]:
    """Return a route's arguments that describe its body, which the route itself reads."""
    _BODIES[kind.__name__] = kind
    schema = {"$ref": REF.format(model=kind.__name__)}
    content = {"application/json": {"schema": schema}}
    return {"openapi_extra": {"requestBody": {"required": True, "content": content}}}


class Facts(BaseModel):
    """An object of facts, told by a page of the documentation."""

    model_config = ConfigDict(extra="allow")


def answers(
    kind: type[BaseModel] = Facts, *, events: bool = False, text: bool = False
) -> dict[str, Any]:
    """Return a route's arguments that describe its answers.

    events: it may stream them too. text: they are plain text instead.
    """
    responses: dict[int | str, dict[str, Any]] = {
        status: {"model": Error, "description": reason} for status, reason in _REASONS.items()
    }
    if events:
        stream = {"text/event-stream": {"schema": {"type": "string"}}}
        responses[200] = {"content": stream, "description": "The answer, whole or as events."}
    if text:
        content = {"text/plain": {"schema": {"type": "string"}}}
        responses[200] = {"content": content, "description": "Text."}
        return {"responses": responses, "response_class": PlainTextResponse}
    return {"response_model": kind, "responses": responses}


def document(app: FastAPI) -> dict[str, Any]:
    """Return the OpenAPI document of an application."""
    found = get_openapi(
        title=app.title,
        version=app.version,
        description=app.description,
        routes=app.routes,
    )
    schemas = found.setdefault("components", {}).setdefault("schemas", {})
    for name, kind in _BODIES.items():
        schema = kind.model_json_schema(ref_template=REF)
        schemas.update(schema.pop("$defs", {}))
        schemas[name] = schema
    for path in found["paths"].values():
        for operation in path.values():
            operation.get("responses", {}).pop("422", None)  # ours are 400
    found["components"]["securitySchemes"] = {"key": {"type": "http", "scheme": "bearer"}}
    found["security"] = [{"key": []}, {}]
    return found
