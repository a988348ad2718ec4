"""What a child process builds: importable there by name, which a test's own functions are not."""

from __future__ import annotations

import os
import time
from collections.abc import Callable

from engine.toy import ToyModel, engine_of
from qwick.engine.engine import Engine
from qwick.errors import FormatError
from qwick.model.batch import Batch

Progress = Callable[[int, int], None]


def toy(progress: Progress, *, context: int = 4096, pause: float = 0.0) -> Engine:
    model = ToyModel(context=context)
    if pause:
        model.before_forward = lambda batch: time.sleep(pause)
    for done in range(11):
        progress(done, 10)
    return engine_of(model, cache_tokens=2 * context)


def refusing(progress: Progress) -> Engine:
    raise FormatError("the toy is damaged")


def failing(progress: Progress) -> Engine:
    raise ValueError("no such toy")


def crashing(progress: Progress, *, after: float) -> Engine:
    """Ready, and gone a moment later."""
    engine = toy(progress)

    def leave(batch: Batch) -> None:
        time.sleep(after)
        os._exit(3)

    assert isinstance(engine.model, ToyModel)
    engine.model.before_forward = leave
    return engine


def busy(progress: Progress, *, seconds: float) -> Engine:
    """Steps that compute for so long without an answer."""
    engine = toy(progress)

    def spin(batch: Batch) -> None:
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            pass

    assert isinstance(engine.model, ToyModel)
    engine.model.before_forward = spin
    return engine


def broken(progress: Progress) -> Engine:
    """An engine whose own state is in doubt after the first step."""
    engine = toy(progress)

    def lose() -> None:
        raise RuntimeError("the scheduler lost a page")

    engine._propose = lose  # type: ignore[method-assign]
    return engine
