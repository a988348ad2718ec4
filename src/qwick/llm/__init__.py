"""The in-process API: `Qwen.load(...)`, then chat, stream, complete, score, from any thread."""

from __future__ import annotations

from qwick.llm.qwen import Qwen
from qwick.llm.reply import Chunk, Logprob, Reply, Timings, Usage
from qwick.llm.stream import AsyncStream, Stream

__all__ = [
    "AsyncStream",
    "Chunk",
    "Logprob",
    "Qwen",
    "Reply",
    "Stream",
    "Timings",
    "Usage",
]
