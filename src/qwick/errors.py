"""Every error that qwick raises on purpose, and how each is shown.

    QwickError
    +-- UsageError                     the caller asked for something that cannot be (exit 2, 400)
    |   +-- ParameterError             a parameter outside its range
    |   +-- UnsupportedError           a valid wish that this checkpoint or build cannot grant
    |   +-- ContextLengthError         more tokens than the context holds
    |   +-- TemplateError              the chat template cannot render these messages
    +-- ModelNotFoundError             no such checkpoint, folder or file (exit 3, 404)
    +-- FormatError                    a damaged, truncated or hostile file (exit 4, 422)
    |   +-- ConfigError                a config lacking a key, or asking for what is not implemented
    |   +-- DigestError                the bytes are not the published ones
    +-- DownloadError                  no source could deliver (exit 5, 502)
    +-- ResourceError                  not enough memory, disk or pages (exit 6, 507)
    +-- RequestCancelled               the caller cancelled (exit 130, 499)
    +-- EngineError                    the engine stopped or broke (exit 7, 503)
    |   +-- LogitsError                the model computed what is no number (exit 7, 500)
    +-- NativeBuildError               the compiled kernels are missing or unusable (exit 8, 500)
    +-- OverloadedError                more requests than can wait, or no time left (exit 9, 503)
    +-- RefusedError                   what HTTP itself has a status for (exit 9, its own status)
    +-- RateLimitError                 more than a key or user may have now (exit 9, 429)
    +-- AuthenticationError            no API key, or none that is good (exit 10, 401)
    +-- PermissionDeniedError          a good API key that may not do this (exit 10, 403)

A message names the value, the limit and the way out; `hint` is the way out alone, shown on a line
of its own by the CLI. This file knows nothing about who shows the error.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, ClassVar

if TYPE_CHECKING:
    from typing_extensions import Self

__all__ = [
    "AuthenticationError",
    "ConfigError",
    "ContextLengthError",
    "DigestError",
    "DownloadError",
    "EngineError",
    "FormatError",
    "LogitsError",
    "ModelNotFoundError",
    "NativeBuildError",
    "OverloadedError",
    "ParameterError",
    "PermissionDeniedError",
    "QwickError",
    "RateLimitError",
    "RefusedError",
    "RequestCancelled",
    "ResourceError",
    "TemplateError",
    "UnsupportedError",
    "UsageError",
]

# Characters of strangers (models, hubs, callers) that no terminal gets as they are: controls, the
# ends of lines and paragraphs, and what reorders the text around it (the embeddings, overrides and
# isolates of Unicode's Bidi_Control; its three marks, which Arabic and Hebrew texts need, stay).
# For a class of a regular expression.
UNSHOWN = r"\x00-\x1f\x7f-\x9f\u2028-\u202e\u2066-\u2069"


def shown(value: object, most: int = 100) -> str:
    """Return a value as a message can quote it: its repr, cut to `most` characters; never fails."""
    try:
        text = repr(value)
    except Exception:  # a whole number beyond Python's limit of digits; a stranger's __repr__
        return f"a {type(value).__name__} that cannot be shown"
    return text if len(text) <= most else f"{text[: most - 4]} ..."


class QwickError(Exception):
    """Base of all errors raised on purpose. `status` is HTTP, `exit_code` the process's."""

    status: ClassVar[int] = 500
    exit_code: ClassVar[int] = 1
    way_out: ClassVar[str | None] = None  # the hint of an error that brings none of its own

    def __init__(self, message: str, *, hint: str | None = None) -> None:
        super().__init__(message)
        self.message = message
        self.hint = type(self).way_out if hint is None else hint
        self.field: str | None = None  # of a request, where a server has noted it

    def __str__(self) -> str:
        return f"{self.message} ({self.hint})" if self.hint else self.message

    def again(self) -> Self:
        """Return the same error afresh: one that is raised twice would gather tracebacks."""
        fresh = type(self).__new__(type(self), *self.args)
        fresh.__dict__.update(self.__dict__)
        return fresh


class UsageError(QwickError):
    """The caller asked for something that cannot be."""

    status = 400
    exit_code = 2


class ParameterError(UsageError):
    """A parameter outside its range: the message names it, its value and the range."""


class UnsupportedError(UsageError):
    """A well-formed wish that this checkpoint, format or build cannot grant."""

    way_out = "take another file of this model, or do without"


class ContextLengthError(UsageError):
    """Prompt and answer together need more positions than the context holds.

    prompt_tokens and context say how many there are, where that is known.
    """

    def __init__(
        self,
        message: str,
        *,
        hint: str | None = None,
        prompt_tokens: int | None = None,
        context: int | None = None,
    ) -> None:
        super().__init__(message, hint=hint)
        self.prompt_tokens = prompt_tokens
        self.context = context


class TemplateError(UsageError):
    """The checkpoint's chat template refuses these messages, or fails on them."""


class ModelNotFoundError(QwickError):
    """No checkpoint, folder or file of that name."""

    status = 404
    exit_code = 3
    way_out = "see `qwick models list`"


class FormatError(QwickError):
    """A model file, or a saved chat, that is damaged, truncated, hostile or of an unknown kind."""

    status = 422
    exit_code = 4
    way_out = "fetch it again, or take another file of this model"


class ConfigError(FormatError):
    """A model config that lacks a key or asks for a computation that is not implemented."""

    way_out = "take another file of this model, or correct its config"


class DigestError(FormatError):
    """The bytes that arrived, or lie in the store, are not the published ones."""


class DownloadError(QwickError):
    """No source could deliver the file, or the network is switched off."""

    status = 502
    exit_code = 5


class ResourceError(QwickError):
    """Memory, disk or cache pages do not suffice, or the store cannot be written or locked."""

    status = 507
    exit_code = 6
    way_out = "end other programs, or ask for less"


class RequestCancelled(QwickError):
    """The caller cancelled the request."""

    status = 499
    exit_code = 130
    way_out = "ask again"


class EngineError(QwickError):
    """The engine stopped, or broke while serving this request."""

    status = 503
    exit_code = 7
    way_out = "load the model again; if it comes back, report it"


class LogitsError(EngineError):
    """The model's logits are no numbers: of this request only, which ends without an answer."""

    status = 500


class NativeBuildError(QwickError):
    """The compiled kernels are missing, or this CPU cannot run the ones asked for."""

    exit_code = 8


class OverloadedError(QwickError):
    """A server has more to do than it takes on, or is about to end; `retry_after` is in seconds."""

    status = 503
    exit_code = 9
    code: ClassVar[str] = "overloaded"
    way_out = "ask again later"

    def __init__(self, message: str, *, hint: str | None = None, retry_after: float = 1.0) -> None:
        super().__init__(message, hint=hint)
        self.retry_after = retry_after


class RefusedError(QwickError):
    """A request that HTTP itself has a status for: too large, too slow, of the wrong type.

    `status` is its own, `code` is for programs.
    """

    exit_code = 9
    way_out = "change the request"

    def __init__(
        self, message: str, *, hint: str | None = None, status: int = 400, code: str = "refused"
    ) -> None:
        super().__init__(message, hint=hint)
        self.status = status  # type: ignore[misc]
        self.code = code


class RateLimitError(QwickError):
    """More than a key or user may have now.

    `limit` says of what: requests, tokens or concurrent. `retry_after` is in seconds; `headers` are
    what an HTTP answer should carry.
    """

    status = 429
    exit_code = 9
    code: ClassVar[str] = "rate_limit_exceeded"
    way_out = "wait as long as the message says"

    def __init__(
        self,
        message: str,
        *,
        hint: str | None = None,
        limit: str = "requests",
        retry_after: float = 1.0,
        headers: Mapping[str, str] | None = None,
    ) -> None:
        super().__init__(message, hint=hint)
        self.limit = limit
        self.retry_after = retry_after
        self.headers = dict(headers or {})


class AuthenticationError(QwickError):
    """There is no API key, or it is unknown, revoked or expired."""

    status = 401
    exit_code = 10
    code: ClassVar[str] = "invalid_api_key"
    way_out = "ask whoever runs this server for a key"


class PermissionDeniedError(QwickError):
    """The API key is good, but may not do this."""

    status = 403
    exit_code = 10
    code: ClassVar[str] = "permission_denied"
    way_out = "ask whoever runs this server for a key that may"
