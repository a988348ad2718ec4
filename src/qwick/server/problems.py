"""Errors as HTTP answers, in the form that the OpenAI clients read.

`{"error": {"message", "type", "param", "code"}}`, with the status that the error's class has; a
context that is too small has llama.cpp's `n_prompt_tokens` and `n_ctx` too, which clients parse.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

from qwick.errors import (
    ContextLengthError,
    EngineError,
    ModelNotFoundError,
    ParameterError,
    QwickError,
    ResourceError,
    TemplateError,
    UnsupportedError,
    UsageError,
)

_TYPES = {
    400: "invalid_request_error",
    401: "authentication_error",
    403: "permission_error",
    404: "not_found_error",
    405: "invalid_request_error",
    408: "timeout_error",
    413: "invalid_request_error",
    415: "invalid_request_error",
    421: "invalid_request_error",
    429: "rate_limit_error",
    431: "invalid_request_error",
    503: "unavailable_error",
    504: "timeout_error",
}
_CODES: tuple[tuple[type[QwickError], str], ...] = (
    (ContextLengthError, "context_length_exceeded"),
    (ModelNotFoundError, "model_not_found"),
    (UnsupportedError, "unsupported_value"),
    (TemplateError, "template_error"),
    (ParameterError, "invalid_value"),
    (ResourceError, "out_of_memory"),
    (EngineError, "engine_error"),
)
_PARAM = re.compile(
    r"(?:an? (?:string|key|id|entry) (?:in|of) )?(?!there |the )([a-z_]+(?:\[\d+\])?"
    r"(?:\.[a-z_]+(?:\[\d+\])?)*)(?:/\S.*?| of id \d+)?"  # within a schema; of a bias
    r" (?:is|has|holds|names|asks|goes|must|belongs|allows|cannot|uses|costs)\b"
)


@dataclass(frozen=True, slots=True)
class Problem:
    """An error as it is sent."""

    status: int
    error: dict[str, Any]
    headers: dict[str, str] = field(default_factory=dict)

    @property
    def body(self) -> bytes:
        """The JSON text."""
        return json.dumps({"error": self.error}, ensure_ascii=False).encode("utf-8", "replace")


@contextmanager
def of_field(
    name: str | None, spelled: Mapping[str, str] | None = None, otherwise: str | None = None
) -> Iterator[None]:
    """Name the field of a body that errors within the block are about.

    name: the field; None: the one that the message names, under the name that the body had for it.
    otherwise: the field of a wrong request whose message names none.
    """
    try:
        yield
    except QwickError as error:
        found = param_of(error)
        if found is None and isinstance(error, UsageError):
            found = otherwise
        error.field = name or (spelled or {}).get(found or "", found)
        raise


def problem_of(error: BaseException) -> Problem:
    """Return how an error is told to a client; of one that is a fault, no more than that it is."""
    if not isinstance(error, QwickError):
        return Problem(
            500,
            {
                "message": "this is a fault in the server; its log says more",
                "type": "server_error",
                "param": None,
                "code": "internal_error",
            },
        )
    status = _status(error)
    found: dict[str, Any] = {
        "message": str(error),
        "type": _TYPES.get(status, "server_error"),
        "param": param_of(error),
        "code": _code(error),
    }
    if isinstance(error, ContextLengthError) and error.context is not None:
        found.update(n_prompt_tokens=error.prompt_tokens, n_ctx=error.context)
    headers: dict[str, str] = dict(getattr(error, "headers", ()))
    wait = getattr(error, "retry_after", None)
    if wait is not None:
        headers.setdefault("retry-after", str(max(1, math.ceil(wait))))
    elif status == 503:
        headers["retry-after"] = "5"
    if status == 401:
        headers["www-authenticate"] = 'Bearer realm="qwick"'
    return Problem(status, found, headers)


def _status(error: QwickError) -> int:
    """Return the status: what is wrong with a model, or with memory, is not the client's doing."""
    if error.status in (422, 502, 507):
        return 503
    return error.status


def _code(error: QwickError) -> str:
    code: str | None = getattr(error, "code", None)
    if code is not None:
        return code
    return next((code for kind, code in _CODES if isinstance(error, kind)), "error")


def param_of(error: QwickError) -> str | None:
    """Return the field that an error is about: as it was noted, or as its message begins."""
    if error.field is not None or not isinstance(error, ParameterError | UnsupportedError):
        return error.field
    found = _PARAM.match(error.message)
    return found[1] if found else None
