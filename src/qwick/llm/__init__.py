"""The in-process API: `Qwen.load(...)`, then chat, complete, embed and so on, from any thread."""

from __future__ import annotations

from qwick.llm.pooling import Ranked
from qwick.llm.qwen import Qwen
from qwick.llm.reply import Chunk, Logprob, Reply, Timings, Usage
from qwick.llm.stream import AsyncStream, Stream

__all__ = [
    "AsyncStream",
    "Chunk",
    "Logprob",
    "Qwen",
    "Ranked",
    "Reply",
    "Stream",
    "Timings",
    "Usage",
]
