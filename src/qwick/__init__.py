"""qwick runs the Qwen family, quickly, on the machine you have.

Names are loaded when they are first used, so that `import qwick` costs next to nothing.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from qwick.engine.request import Sampling
    from qwick.errors import (
        AuthenticationError,
        ConfigError,
        ContextLengthError,
        DigestError,
        DownloadError,
        EngineError,
        FormatError,
        LogitsError,
        ModelNotFoundError,
        NativeBuildError,
        OverloadedError,
        ParameterError,
        PermissionDeniedError,
        QwickError,
        RateLimitError,
        RefusedError,
        RequestCancelled,
        ResourceError,
        TemplateError,
        UnsupportedError,
        UsageError,
    )
    from qwick.llm import Qwen, Reply

    __version__: str

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
    "Qwen",
    "QwickError",
    "RateLimitError",
    "RefusedError",
    "Reply",
    "RequestCancelled",
    "ResourceError",
    "Sampling",
    "TemplateError",
    "UnsupportedError",
    "UsageError",
    "__version__",
]

_ELSEWHERE = {"Qwen": "qwick.llm", "Reply": "qwick.llm", "Sampling": "qwick.engine.request"}


def __getattr__(name: str) -> Any:
    """Load a public name from the module that defines it (PEP 562)."""
    if name == "__version__":
        from importlib.metadata import PackageNotFoundError, version

        try:
            value: Any = version("qwick")
        except PackageNotFoundError:  # used from a source tree that was never installed
            value = "0+source"
    elif name in __all__:
        value = getattr(import_module(_ELSEWHERE.get(name, "qwick.errors")), name)
    else:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    """List the public names, loaded or not."""
    return sorted({*globals(), *__all__})
