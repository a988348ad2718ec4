"""The default checkpoint, loaded once for the tests of tasks; and replies written by hand."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from qwick.hub import SilentListener
from qwick.llm import Qwen, Reply, Timings, Usage
from qwick.llm.load import load_texts
from qwick.llm.texts import Texts


@pytest.fixture(scope="session")
def texts(default_checkpoint: Path) -> Texts:
    return load_texts(default_checkpoint, SilentListener())


@pytest.fixture(scope="session")
def qwen(default_checkpoint: Path) -> Iterator[Qwen]:
    from qwick.native import ops

    before = ops.threads()
    with Qwen.load(default_checkpoint, ctx=4096) as loaded:
        yield loaded
    ops.set_threads(before)


def reply_of(text: str, **changes: Any) -> Reply:
    """A finished answer of this text."""
    timings = Timings(0.0, 0.0, 0.0, 0.0, 0.0, 0.0)
    whole: dict[str, Any] = {"finish_reason": "stop", "usage": Usage(1, 7), "timings": timings}
    return Reply(text, **{**whole, "seed": None, "model": "x", "ids": (), **changes})
