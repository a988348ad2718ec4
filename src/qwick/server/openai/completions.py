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

Told = Sequence[Logprob | None]  # log probabilities by token


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
        self._told: dict[int, Told] = {}  # of each prompt, by its first choice

    def chunk(self, index: int, chunk: Chunk) -> bytes:
        """Return the event of a piece."""
        if chunk.progress is not None:
            progress = progress_json(chunk.progress, self._begun)
            running = self._running.of(index, chunk)
            return event({**self._part([]), **running, "prompt_progress": progress})
        text, logprobs = self._next(index, chunk.text, chunk.logprobs, chunk.prompt_logprobs)
        choice = _choice(index, text, None, logprobs)
        return event({**self._part([choice]), **self._running.of(index, chunk)})

    def reply(self, index: int, reply: Reply) -> bytes:
        """Return the event that ends one answer."""
        text, logprobs = self._next(index, "", self._last(reply))
        choice = _choice(index, text, reply.finish_reason, logprobs)
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
            tokens, last = reply.logprobs, self._last(reply)
            if last is not None:
                tokens = (*(tokens or ()), *last)
            text, logprobs = self._next(index, reply.text, tokens, reply.prompt_logprobs)
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

    def _next(
        self, index: int, text: str, tokens: Told | None, told: Told | None = None
    ) -> tuple[str, dict[str, Any] | None]:
        """Return a choice's next text, and what is told of it; first its prompt, if wanted.

        told: of the prompt, by the first of its choices, which begins before the others.
        """
        prompt = index // self._choices
        if told is not None:
            self._told[prompt] = told
        before = self._echo[prompt] if self._echo else ""
        if index in self._opened:
            return text, _logprobs(tokens, before)
        self._opened.add(index)
        return before + text, _logprobs(tokens, before, self._told.get(prompt))

    def _last(self, reply: Reply) -> Told | None:
        """Return the stop id's row: whoever scores a prompt counts on one row behind it."""
        return (reply.stop_logprob,) if self._echo and reply.stop_logprob is not None else None

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
    of_answer: Told | None, before: str, of_prompt: Told | None = None
) -> dict[str, Any] | None:
    """Return what is told of an answer's tokens, behind `before`, and of its prompt's, if any."""
    if of_answer is None and of_prompt is None:
        return None
    rows = [_row(p, len(before)) for p in of_answer or () if p is not None]
    if of_prompt is not None:
        others = [_row(p, 0) for p in of_prompt if p is not None]
        end = others[0][-1] if others else len(before)
        first = before[:end] or "\ufffd"  # part of a character
        rows = [(first, None, None, 0), *others, *rows]  # the first follows nothing
    names = ("tokens", "token_logprobs", "top_logprobs", "text_offset")
    return {name: [row[i] for row in rows] for i, name in enumerate(names)}


def _row(p: Logprob, offset: int) -> tuple[str, float | None, dict[str, float] | None, int]:
    top: dict[str, float] = {}
    for _, token, logprob in p.top:  # parts of characters may look alike: the best one stays
        top.setdefault(token, finite(logprob))
    return p.token, finite(p.logprob), top, offset + p.start
