"""What a child process tells its parent (`children.py`): JSON lines on stdout.

Runs in any interpreter, a peer's too: the standard library alone.
"""

from __future__ import annotations

import json
import time
from typing import Any

_last = 0.0


def progress(done: int, total: int) -> None:
    """Tell how far the work is, ten times a second at most."""
    global _last
    now = time.monotonic()
    if now - _last > 0.1 or done >= total:
        _last = now
        tell("progress", [done, total])


def give(result: Any) -> None:
    """Hand over the result: the last thing to tell."""
    tell("result", result)


def tell(what: str, value: Any) -> None:
    """Tell one thing."""
    print(json.dumps({what: value}), flush=True)
