"""Texts of a model as the OpenAI writers send them, without a model and without a server."""

from __future__ import annotations

import json
from typing import Any

from llm.small import TOKENIZER
from qwick.engine.request import Finished, FinishReason, Sampling, Timings, TokenLogprob, Tokens
from qwick.llm import Chunk, Reply
from qwick.llm.reply import Assembler
from qwick.server.openai.bodies import ChatBody
from qwick.server.openai.chat import ChatWriter
from qwick.text.router import Router
from qwick.text.stops import StopMatcher
from qwick.text.thinking import ThinkingSplitter
from qwick.text.tools import ToolReader

PROMPT_TOKENS = 7


def assembled(
    pieces: list[list[int]],
    reader: ToolReader | None = None,
    stop: tuple[str, ...] = (),
    logprobs: bool = False,
    prompt: str | None = None,
) -> tuple[list[Chunk], Reply]:
    """Return what an answer's ids become, delivered in such pieces; its chunks are not empty.

    prompt: of a model that may think; None: of one that does not.
    """
    sampling = Sampling(stop=stop)
    splitter = None if prompt is None else ThinkingSplitter(prompt)
    router = Router(splitter, reader, StopMatcher(stop))
    assembler = Assembler(TOKENIZER, sampling, "m", router, [0] * PROMPT_TOKENS)
    chunks = []
    for ids in pieces:
        # Beside each id a byte that begins no character is nearly as probable.
        found = tuple(TokenLogprob(id, -0.5, ((id, -0.5), (0x84, -1.0))) for id in ids)
        chunks.append(assembler.push(Tokens(tuple(ids), found if logprobs else None)))
    count = sum(map(len, pieces))
    timings = Timings(0.0, 0.0, 0.0)
    last, reply = assembler.finish(
        Finished(FinishReason.STOP, PROMPT_TOKENS, count + 1, timings, cached_tokens=2)
    )
    return [chunk for chunk in (*chunks, last) if not chunk.empty], reply


def ids_of(text: str) -> list[int]:
    """Return the tokens of a text: its bytes."""
    return TOKENIZER.encode(text, parse_special=False)


def chat_writer(**fields: Any) -> ChatWriter:
    """Return the writer of a chat that asks so."""
    body = {"model": "m", "messages": [{"role": "user", "content": "x"}], **fields}
    return ChatWriter(ChatBody.model_validate(body), "1")


def data_of(events: bytes) -> list[Any]:
    """Return the data of server-sent events, but for the end mark; they must be JSON."""
    found = [one.removeprefix("data: ") for one in events.decode().split("\n\n") if one]
    return [json.loads(one) for one in found if one != "[DONE]"]


def written(pieces: list[str], reader: ToolReader) -> tuple[Any, dict[str, Any]]:
    """Return the content and the calls of a streamed chat, and the message of the whole one."""
    chunks, reply = assembled([ids_of(piece) for piece in pieces], reader)
    writer = chat_writer()
    sent = b"".join([*(writer.chunk(0, chunk) for chunk in chunks), writer.reply(0, reply)])
    content, calls = "", list[tuple[str, str]]()
    for part in data_of(sent + writer.end([reply])):
        delta = part["choices"][0]["delta"]
        content += delta.get("content", "")
        for call in delta.get("tool_calls", ()):
            if "id" in call:
                calls.append((call["function"]["name"], ""))
            name, arguments = calls[call["index"]]
            calls[call["index"]] = (name, arguments + call["function"]["arguments"])
    whole = json.loads(writer.whole([reply]))
    return (content, calls), whole["choices"][0]["message"]
