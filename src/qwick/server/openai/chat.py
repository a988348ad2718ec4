"""/v1/chat/completions: the pieces of an answer as OpenAI's chat objects."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Any

from qwick.llm import Reply
from qwick.llm.reply import Chunk
from qwick.server.openai.bodies import ChatBody
from qwick.server.openai.writing import (
    DONE,
    RunningUsage,
    chat_logprobs,
    dumped,
    event,
    failed_event,
    progress_json,
    timings_of,
    usage_json,
    usage_of,
    warnings_of,
)
from qwick.server.problems import Problem


class ChatWriter:
    """Writes one answer; see `desk.Writer`."""

    def __init__(self, body: ChatBody, request_id: str) -> None:
        self._choices = body.n or 1
        options = body.stream_options
        self._usage = options is not None and options.include_usage is True
        self._running = RunningUsage(options)
        self._begun = time.monotonic()
        self._head = {
            "id": f"chatcmpl-{request_id}",
            "created": int(time.time()),
            "model": body.model,
        }
        self._roles: set[int] = set()  # choices that have begun

    def chunk(self, index: int, chunk: Chunk) -> bytes:
        """Return the event of a piece."""
        if chunk.progress is not None:
            progress = progress_json(chunk.progress, self._begun)
            running = self._running.of(index, chunk)
            return event({**self._part([]), **running, "prompt_progress": progress})
        delta: dict[str, Any] = {}
        if index not in self._roles:
            self._roles.add(index)
            delta["role"] = "assistant"
        if chunk.thinking:
            delta["reasoning_content"] = delta["reasoning"] = chunk.thinking
        if chunk.text:
            delta["content"] = chunk.text
        if chunk.calls:
            delta["tool_calls"] = [_call_delta(call) for call in chunk.calls]
        choice = {
            "index": index,
            "delta": delta,
            "finish_reason": None,
            "logprobs": chat_logprobs(chunk.logprobs),
        }
        return event({**self._part([choice]), **self._running.of(index, chunk)})

    def reply(self, index: int, reply: Reply) -> bytes:
        """Return the event that ends one answer."""
        delta = {} if index in self._roles else {"role": "assistant", "content": ""}
        choice = {
            "index": index,
            "delta": delta,
            "finish_reason": reply.finish_reason,
            "logprobs": None,
            **warnings_of(reply),
        }
        part = self._part([choice])
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
        return dumped(
            {
                **self._head,
                "object": "chat.completion",
                "choices": [_choice(index, reply) for index, reply in enumerate(replies)],
                "usage": usage_of(replies, self._choices),
                "timings": timings_of(replies[0]),
            }
        )

    def _part(self, choices: list[dict[str, Any]]) -> dict[str, Any]:
        part = {**self._head, "object": "chat.completion.chunk", "choices": choices}
        if self._usage:
            part["usage"] = None  # as OpenAI does in every piece but the last
        return part


def _choice(index: int, reply: Reply) -> dict[str, Any]:
    message: dict[str, Any] = {"role": "assistant", "content": reply.text, "refusal": None}
    if reply.thinking:
        message["reasoning_content"] = message["reasoning"] = reply.thinking
    if reply.tool_calls:
        message["content"] = reply.text or None
        message["tool_calls"] = [
            {
                "id": call.id,
                "type": "function",
                "function": {"name": call.name, "arguments": call.arguments},
            }
            for call in reply.tool_calls
        ]
    return {
        "index": index,
        "message": message,
        "finish_reason": reply.finish_reason,
        "logprobs": chat_logprobs(reply.logprobs),
        **warnings_of(reply),
    }


def _call_delta(call: Any) -> dict[str, Any]:
    if call.id is None:
        return {"index": call.index, "function": {"arguments": call.arguments}}
    function = {"name": call.name, "arguments": call.arguments}
    return {"index": call.index, "id": call.id, "type": "function", "function": function}
