"""The server's log: one JSON object a line on standard error, without content.

What is logged are words of this program, numbers, names of models, and pseudonyms of keys and
users. Texts of requests and answers appear only where `--log-content` asks for them.
"""

from __future__ import annotations

import json
import logging
import sys
import traceback
from typing import Any

from qwick.server.audit import utc_text

FIELDS = frozenset(
    {
        *("model", "seconds", "context", "error", "notice", "request", "path", "method"),
        *("status", "reason", "key", "user", "kind", "streamed", "finish", "prompt_tokens"),
        *("cached_tokens", "completion_tokens", "reasoning_tokens", "ttft", "tok_s", "queue"),
        *("prompt", "answer", "restarts", "pid"),
    }
)


class JsonLines(logging.Formatter):
    """A record as one line of JSON, with those of its extras that are known here."""

    def format(self, record: logging.LogRecord) -> str:
        """Return the line."""
        found: dict[str, Any] = {
            "time": utc_text(record.created, 3),
            "level": record.levelname.lower(),
            "event": record.getMessage(),
        }
        found.update({k: v for k, v in vars(record).items() if k in FIELDS and v is not None})
        if record.exc_info is not None and record.exc_info[1] is not None:
            # Where, and of what kind: an exception's words may quote a request.
            found["error"] = type(record.exc_info[1]).__name__
            frames = traceback.extract_tb(record.exc_info[2])
            found["trace"] = [f"{f.filename}:{f.lineno} {f.name}" for f in frames[-20:]]
        return json.dumps(found, ensure_ascii=False, default=str)


class _Broken(logging.Filter):
    """Drops what uvicorn says of answers that were broken off on purpose: they are in our log."""

    def filter(self, record: logging.LogRecord) -> bool:
        error = record.exc_info[1] if record.exc_info else None
        return not isinstance(error, ConnectionResetError)


def configure(level: int = logging.INFO) -> None:
    """Send the server's log, and uvicorn's warnings, to standard error."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(JsonLines())
    for name, least in (("qwick", level), ("uvicorn", logging.WARNING)):
        logger = logging.getLogger(name)
        logger.handlers[:] = [handler]
        logger.setLevel(least)
        logger.propagate = False
    logging.getLogger("uvicorn.error").addFilter(_Broken())
