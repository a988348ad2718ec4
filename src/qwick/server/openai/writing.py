"""From the pieces of an answer to OpenAI's JSON: what chats and completions share."""

from __future__ import annotations

import json
import math
import time
from collections.abc import Mapping, Sequence
from typing import Any

from qwick.engine.request import Progress
from qwick.llm import Logprob, Reply
from qwick.llm.reply import Chunk, Timings, Usage
from qwick.server.openai.bodies import StreamOptions
from qwick.server.problems import Problem

DONE = b"data: [DONE]\n\n"
LEAST_LOGPROB = -9999.0  # JSON has no minus infinity; OpenAI's word for "not at all"


def event(data: Mapping[str, Any]) -> bytes:
    """Return one server-sent event."""
    return b"data: " + dumped(data) + b"\n\n"


def dumped(data: Mapping[str, Any]) -> bytes:
    """Return the JSON text."""
    text = json.dumps(data, ensure_ascii=False, separators=(",", ":"))
    try:
        return text.encode()
    except UnicodeEncodeError:
        # Half of a UTF-16 pair, which has no UTF-8. Whoever let one in: models write the answers,
        # and nothing that they write may be the end of one.
        return text.encode("utf-16", "surrogatepass").decode("utf-16", "replace").encode()


def usage_of(replies: Sequence[Reply], choices: int) -> dict[str, Any]:
    """Return the tokens of all answers; a prompt counts once, however many answers it got."""
    firsts = replies[::choices]
    return usage_json(
        Usage(
            prompt_tokens=sum(r.usage.prompt_tokens for r in firsts),
            completion_tokens=sum(r.usage.completion_tokens for r in replies),
            cached_tokens=sum(r.usage.cached_tokens for r in firsts),
            reasoning_tokens=sum(r.usage.reasoning_tokens for r in replies),
        )
    )


def usage_json(usage: Usage) -> dict[str, Any]:
    """Return tokens under OpenAI's names."""
    return {
        "prompt_tokens": usage.prompt_tokens,
        "completion_tokens": usage.completion_tokens,
        "total_tokens": usage.total_tokens,
        "prompt_tokens_details": {"cached_tokens": usage.cached_tokens},
        "completion_tokens_details": {"reasoning_tokens": usage.reasoning_tokens},
    }


class RunningUsage:
    """The tokens of each choice so far, in every piece of a stream (continuous_usage_stats)."""

    def __init__(self, options: StreamOptions | None) -> None:
        self.wanted = options is not None and options.continuous_usage_stats is True
        self._last: dict[int, Usage] = {}

    def of(self, index: int, chunk: Chunk) -> dict[str, Any]:
        """Return the field of a piece: none where it is not wanted, or nothing is known.

        What was cached is left out, since only the end tells it.
        """
        usage = chunk.usage or self._last.get(index)
        if chunk.progress is not None:
            usage = Usage(chunk.progress.total, 0)
        if not self.wanted or usage is None:
            return {}
        self._last[index] = usage
        found = usage_json(usage)
        del found["prompt_tokens_details"]
        return {"usage": found}


def timings_of(reply: Reply) -> dict[str, Any]:
    """Return how fast it was, named as llama.cpp does."""
    t: Timings = reply.timings
    return {
        "prompt_n": reply.usage.prompt_tokens - reply.usage.cached_tokens,
        "cache_n": reply.usage.cached_tokens,
        "prompt_ms": round(t.prefill * 1e3, 3),
        "prompt_per_second": round(t.prefill_tok_s, 3),
        "predicted_n": reply.usage.completion_tokens,
        "predicted_ms": round(t.decode * 1e3, 3),
        "predicted_per_second": round(t.decode_tok_s, 3),
        "draft_n": t.drafted,
        "draft_n_accepted": t.accepted,
        "queue_ms": round(t.queue * 1e3, 3),
    }


def warnings_of(reply: Reply) -> dict[str, Any]:
    """Return what was wrong with an answer, or was changed in it, as a field of its choice."""
    return {"warnings": list(reply.troubles)} if reply.troubles else {}


def progress_json(progress: Progress, begun: float) -> dict[str, Any]:
    """Return how far a prompt is, in llama.cpp's form."""
    return {
        "total": progress.total,
        "cache": progress.cached,
        "processed": progress.done,
        "time_ms": round((time.monotonic() - begun) * 1e3),
    }


def finite(logprob: float) -> float:
    """Return a log probability that JSON has."""
    return logprob if math.isfinite(logprob) else LEAST_LOGPROB


def chat_logprobs(found: Sequence[Logprob | None] | None) -> dict[str, Any] | None:
    """Return the log probabilities of some tokens as chats have them."""
    if found is None:
        return None

    def one(token: str, logprob: float, data: bytes) -> dict[str, Any]:
        return {"token": token, "logprob": finite(logprob), "bytes": list(data)}

    content = [
        {
            **one(p.token, p.logprob, p.data),
            "top_logprobs": [
                one(token, logprob, data)
                for (_, token, logprob), data in zip(p.top, p.top_data, strict=True)
            ],
        }
        for p in found
        if p is not None
    ]
    return {"content": content, "refusal": None}


def failed_event(problem: Problem) -> bytes:
    """Return the last event of a stream that failed: its error, and the end mark."""
    return b"data: " + problem.body + b"\n\n" + DONE
