"""The one internal request: what every dialect is turned into, and the answer's pieces.

A dialect makes an `Ask`; `prepare` makes engine requests of it, and a `Flight` yields the pieces of
all answers as they come, whoever the client is. Knows no JSON and no HTTP.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from qwick.errors import (
    ContextLengthError,
    EngineError,
    ParameterError,
    QwickError,
    RefusedError,
    RequestCancelled,
)
from qwick.llm import Qwen, Reply
from qwick.llm.reply import Chunk
from qwick.llm.stream import AsyncStream
from qwick.llm.texts import Asked
from qwick.server.grammars import Grammars
from qwick.server.options import Bounds
from qwick.server.problems import of_field
from qwick.text.messages import strings_of
from qwick.text.recognise import surely_longer

if TYPE_CHECKING:
    from qwick.server.pooled import Pool

Piece = tuple[int, Chunk | Reply]

MOST_TOLD = 100_000  # log probabilities of prompts in an answer: 2.6 MB of JSON


@dataclass(frozen=True, slots=True)
class Question:
    """One prompt: a conversation, or a raw prompt (text or ids).

    keywords: those of `Qwen.chat` or `Qwen.complete`. spelled: what the client calls those that it
    spelled otherwise, for messages.
    """

    keywords: Mapping[str, Any]
    messages: Sequence[Mapping[str, Any]] | None = None
    tools: Sequence[Mapping[str, Any]] | None = None
    prompt: str | Sequence[int] = ""
    spelled: Mapping[str, str] = field(default_factory=dict)

    def prepare(self, qwen: Qwen) -> Asked:
        """Return it as the engine takes it; raises UsageErrors for what cannot be."""
        about = "prompt" if self.messages is None else "messages"
        with of_field(None, self.spelled, about):
            return self._asked(qwen)

    def _asked(self, qwen: Qwen) -> Asked:
        self._check_length(qwen.context)
        if self.messages is None:
            asked = qwen.texts.raw(self.prompt, self.keywords, context=qwen.context)
        else:
            asked = qwen.texts.chat(self.messages, self.tools, self.keywords, context=qwen.context)
        qwen.engine.capacity.check(asked.request)
        return asked

    def _check_length(self, context: int) -> None:
        """Refuse what is far too long before it is read: seconds of work, for nothing."""
        if self.messages is not None:  # of earlier turns, templates leave the thinking out
            spoken = [{**message, "reasoning_content": ""} for message in self.messages]
            texts: Iterable[str] = strings_of((spoken, self.tools))
        else:
            texts = [self.prompt] if isinstance(self.prompt, str) else []
        if surely_longer(texts, context):
            raise ContextLengthError(
                f"the prompt has more than {context} tokens; the context holds {context}, the "
                "answer included",
                hint="shorten the prompt, or load the model with a larger context (--ctx)",
                prompt_tokens=context + 1,
                context=context,
            )


@dataclass(frozen=True, slots=True)
class Ask:
    """One request of a client, in no dialect.

    kind: "chat", "completion", "embedding" or "rerank", for the records. prompts: the questions
    that differ. choices: how many answers each gets; with a seed, answer i has seed + i. pool: of
    the last two kinds, what is computed instead: one answer for all prompts.
    """

    kind: str
    model: str
    prompts: Sequence[Question]
    choices: int = 1
    max_tokens: int | None = None
    characters: int = 0  # of all its texts; of what is read with each of many, as often
    user: str | None = None
    pool: Pool | None = None

    @property
    def answers(self) -> int:
        """How many are asked for."""
        return 1 if self.pool is not None else self.choices * len(self.prompts)


@dataclass(slots=True)
class Tally:
    """What a flight has used so far; times are of time.monotonic."""

    first: float | None = None  # when the first piece came
    last: float | None = None  # when the last one came
    gaps: list[float] = field(default_factory=list)  # seconds between pieces
    replies: list[Reply] = field(default_factory=list)


class Flight:
    """One Ask under way. For one event loop."""

    def __init__(self, asked: Sequence[Asked], choices: int) -> None:
        self.tally = Tally()
        self._asked = asked
        self._choices = choices
        self._streams: list[AsyncStream] = []
        self._live: list[AsyncStream] = []  # those of them that somebody reads
        self._failure: QwickError | None = None

    @property
    def prompt_tokens(self) -> int:
        """Tokens of all prompts, each counted once."""
        return sum(len(asked.request.ids) for asked in self._asked)

    @property
    def answers(self) -> int:
        """How many were asked for."""
        return len(self._asked) * self._choices

    @property
    def generated(self) -> int:
        """Tokens of all answers so far, also of those that were broken off."""
        return sum(stream.generated for stream in self._streams)

    def nudge(self) -> None:
        """Let the reader go on with an empty chunk."""
        for stream in self._live[:1]:
            stream.interrupt()

    def abort(self, error: QwickError) -> None:
        """End all answers within a step; the reader gets `error`."""
        if self._failure is None:
            self._failure = error
            for stream in self._streams:
                stream.interrupt(error)

    async def pieces(self, qwen: Qwen) -> AsyncIterator[Piece]:
        """Yield (choice, chunk) as they come and (choice, reply) at the end of each.

        Choices are numbered prompt by prompt. Raises what ends an answer, which ends all.
        """
        try:
            if self.answers == 1:
                async for piece in self._one(qwen, 0):
                    yield piece
            else:
                async for piece in self._many(qwen):
                    yield piece
        except RequestCancelled as error:
            raise self._failure or EngineError(
                "the answer was cancelled by the server", hint="ask again"
            ) from error
        finally:
            for stream in self._streams:
                await stream.aclose()

    async def _one(self, qwen: Qwen, index: int) -> AsyncIterator[Piece]:
        prompt, number = divmod(index, self._choices)
        stream = qwen.astream_asked(self._asked[prompt].choice(number))
        self._streams.append(stream)
        if self._failure is not None:
            stream.interrupt(self._failure)
        self._live.append(stream)
        try:
            async for chunk in stream:
                if not chunk.empty and chunk.progress is None:
                    self._note()
                yield index, chunk
        finally:
            self._live.remove(stream)
        self.tally.replies.append(stream.reply)
        yield index, stream.reply

    async def _many(self, qwen: Qwen) -> AsyncIterator[Piece]:
        """Run them together; of one prompt's choices the first begins alone: others find it."""
        queue: asyncio.Queue[Piece | BaseException] = asyncio.Queue()
        begun = [asyncio.Event() for _ in self._asked]
        left = self.answers

        async def run(index: int) -> None:
            prompt, number = divmod(index, self._choices)
            try:
                if number:
                    await begun[prompt].wait()
                async for piece in self._one(qwen, index):
                    if isinstance(piece[1], Reply) or not (piece[1].empty or piece[1].progress):
                        begun[prompt].set()
                    queue.put_nowait(piece)
            except BaseException as error:
                queue.put_nowait(error)
            finally:
                begun[prompt].set()

        tasks = [asyncio.create_task(run(index)) for index in range(left)]
        try:
            while left:
                piece = await queue.get()
                if isinstance(piece, BaseException):
                    raise piece
                left -= isinstance(piece[1], Reply)
                yield piece
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

    def _note(self) -> None:
        now, tally = time.monotonic(), self.tally
        if tally.first is None:
            tally.first = now
        elif tally.last is not None:
            tally.gaps.append(now - tally.last)
        tally.last = now


def check_size(ask: Ask, bounds: Bounds) -> None:
    """Raise RefusedError for more answers or characters than one request may have."""
    if ask.answers > bounds.choices:
        raise RefusedError(
            f"n is {ask.choices} for {len(ask.prompts)} prompts; allowed: {bounds.choices} "
            "answers in all",
            status=400,
            code="invalid_value",
        )
    if ask.characters > bounds.characters:
        raise RefusedError(
            f"the request has {ask.characters} characters; allowed: {bounds.characters}",
            status=413,
            code="too_many_characters",
            hint="shorten the messages; of embeddings and rankings, an instruction or a query "
            "counts with each text",
        )


def prepare(ask: Ask, grammars: Grammars, qwen: Qwen) -> Flight:
    """Return the answers to be, from prompts that are read and grammars that can be compiled."""
    if ask.pool is not None:
        return ask.pool.flight(qwen)
    asked = [question.prepare(qwen) for question in ask.prompts]
    grammars.check(asked, qwen.tokenizer)
    told = ask.choices * sum(map(_told, asked))
    if told > MOST_TOLD:
        with of_field("logprobs"):
            raise ParameterError(
                f"{told} log probabilities of prompts are asked for; allowed: {MOST_TOLD} at once",
                hint="send fewer prompts or tokens in a request, or set a smaller logprobs",
            )
    return Flight(asked, ask.choices)


def _told(asked: Asked) -> int:
    """Return how many log probabilities of its prompt a question asks for."""
    top = asked.request.prompt_logprobs
    return 0 if top is None else len(asked.request.ids) * (1 + top)
