"""/v1/completions: the pieces of a continued text as OpenAI's completion objects."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Any

from qwick.llm import Logprob, Reply
from qwick.llm.reply import Chunk
from qwick.server.openai.bodies import CompletionBody
from qwick.server.openai.writing import (
    DONE,
    RunningUsage,
    dumped,
    event,
    failed_event,
    finite,
    progress_json,
    timings_of,
    usage_json,
    usage_of,
    warnings_of,
)
from qwick.server.problems import Problem


class CompletionWriter:
    """Writes one answer; see `desk.Writer`. prompts: their texts, where they are to be echoed."""

    def __init__(self, body: CompletionBody, request_id: str, prompts: Sequence[str] = ()) -> None:
        self._choices = body.n or 1
        self._echo = list(prompts)
        options = body.stream_options
        self._usage = options is not None and options.include_usage is True
        self._running = RunningUsage(options)
        self._begun = time.monotonic()
        self._head = {
            "id": f"cmpl-{request_id}",
            "object": "text_completion",
            "created": int(time.time()),
            "model": body.model,
        }
        self._opened: set[int] = set()  # choices that have begun

    def chunk(self, index: int, chunk: Chunk) -> bytes:
        """Return the event of a piece."""
        if chunk.progress is not None:
            progress = progress_json(chunk.progress, self._begun)
            running = self._running.of(index, chunk)
            return event({**self._part([]), **running, "prompt_progress": progress})
        before = self._before(index)
        text = chunk.text if index in self._opened else before + chunk.text
        self._opened.add(index)
        logprobs = _logprobs(chunk.logprobs, chunk.prompt_logprobs, before)
        choice = _choice(index, text, None, logprobs)
        return event({**self._part([choice]), **self._running.of(index, chunk)})

    def reply(self, index: int, reply: Reply) -> bytes:
        """Return the event that ends one answer."""
        text = "" if index in self._opened else self._before(index)
        choice = _choice(index, text, reply.finish_reason, None)
        part = self._part([{**choice, **warnings_of(reply)}])
        if self._running.wanted:
            part["usage"] = usage_json(reply.usage)
        return event({**part, "timings": timings_of(reply)})

    def end(self, replies: Sequence[Reply]) -> bytes:
        """Return the usage, if it is wanted, and the end mark."""
        if not self._usage:
            return DONE
        return event({**self._part([]), "usage": usage_of(replies, self._choices)}) + DONE

    def failed(self, problem: Problem) -> bytes:
        """Return the error and the end mark."""
        return failed_event(problem)

    def whole(self, replies: Sequence[Reply]) -> bytes:
        """Return the whole answer."""
        choices = []
        for index, reply in enumerate(replies):
            before = self._before(index)
            text = before + reply.text
            logprobs = _logprobs(reply.logprobs, reply.prompt_logprobs, before)
            choice = _choice(index, text, reply.finish_reason, logprobs)
            choices.append({**choice, **warnings_of(reply)})
        return dumped(
            {
                **self._head,
                "choices": choices,
                "usage": usage_of(replies, self._choices),
                "timings": timings_of(replies[0]),
            }
        )

    def _before(self, index: int) -> str:
        return self._echo[index // self._choices] if self._echo else ""

    def _part(self, choices: list[dict[str, Any]]) -> dict[str, Any]:
        part = {**self._head, "choices": choices}
        if self._usage:
            part["usage"] = None
        return part


def _choice(
    index: int, text: str, reason: str | None, logprobs: dict[str, Any] | None
) -> dict[str, Any]:
    return {"index": index, "text": text, "finish_reason": reason, "logprobs": logprobs}


def _logprobs(
    of_answer: Sequence[Logprob | None] | None,
    of_prompt: Sequence[Logprob | None] | None,
    before: str,
) -> dict[str, Any] | None:
    """Return what is told of an answer's tokens and, if it is echoed, of the prompt's before it."""
    if of_answer is None and of_prompt is None:
        return None
    rows = [_row(p, len(before)) for p in of_answer or () if p is not None]
    if of_prompt:
        others = [_row(p, 0) for p in of_prompt if p is not None]
        end = others[0][-1] if others else len(before)
        rows = [(before[:end], None, None, 0), *others, *rows]  # the first follows nothing
    names = ("tokens", "token_logprobs", "top_logprobs", "text_offset")
    return {name: [row[i] for row in rows] for i, name in enumerate(names)}


def _row(p: Logprob, offset: int) -> tuple[str, float | None, dict[str, float] | None, int]:
    top = {token: finite(logprob) for _, token, logprob in p.top}
    return p.token, finite(p.logprob), top, offset + p.start
