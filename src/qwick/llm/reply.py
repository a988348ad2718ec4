"""Events of the engine made into text: the pieces of a stream, and the whole reply.

One assembler serves streamed and whole replies, so they cannot differ. Knows no threads and no
engine, only its events.
"""

from __future__ import annotations

import secrets
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import TYPE_CHECKING, Any

from qwick.engine.request import (
    Finished,
    FinishReason,
    Progress,
    Sampling,
    TokenLogprob,
    Tokens,
)
from qwick.errors import EngineError, RequestCancelled
from qwick.text.router import CallArguments, CallStart, Content, Piece, Router, Thinking

if TYPE_CHECKING:
    from qwick.text.tokenizer import Tokenizer


@dataclass(frozen=True, slots=True)
class Usage:
    """Tokens; the one that ended the answer counts, though it is not in the text.

    cached_tokens: those of the prompt's that were not computed, because an earlier prompt or
    answer began with the same. reasoning_tokens: those of the completion's that were thinking.
    """

    prompt_tokens: int
    completion_tokens: int
    cached_tokens: int = 0
    reasoning_tokens: int = 0

    @property
    def total_tokens(self) -> int:
        """Prompt and completion."""
        return self.prompt_tokens + self.completion_tokens


@dataclass(frozen=True, slots=True)
class Timings:
    """Seconds, and rates in tokens per second (0 where nothing was measured).

    Of `drafted` tokens that were guessed and computed, `accepted` were what came, without a step of
    their own.
    """

    queue: float  # waiting for the first step
    prefill: float  # from then to the first token
    decode: float  # from the first token to the last
    ttft: float  # time to first token: queue + prefill
    prefill_tok_s: float  # prompt tokens that were not cached, per second of prefill
    decode_tok_s: float  # tokens after the first per second of decode
    drafted: int = 0
    accepted: int = 0


@dataclass(frozen=True, slots=True)
class Logprob:
    """One token with its natural log probability under the model, before any sampling setting.

    data: its bytes, which may be part of a character; top_data: those of the most probable. start:
    characters that the answer had before it, as generated: thinking and calls are counted too; of
    the prompt's tokens, those that the prompt has before it.
    """

    id: int
    token: str  # its text; U+FFFD for bytes that are no whole character
    logprob: float
    top: tuple[tuple[int, str, float], ...]  # the most probable: (id, token, logprob)
    data: bytes
    top_data: tuple[bytes, ...]
    start: int


@dataclass(frozen=True, slots=True)
class ToolCall:
    """One call that the model wishes for; arguments: JSON text, as the model wrote it."""

    id: str
    name: str
    arguments: str


@dataclass(frozen=True, slots=True)
class CallDelta:
    """A piece of a call: with its id and name first, then more of its arguments' JSON text."""

    index: int
    arguments: str
    id: str | None = None
    name: str | None = None


@dataclass(frozen=True, slots=True)
class Chunk:
    """A piece of an answer: whole characters, never part of a stop string.

    text: of the answer proper. thinking: of what comes before it. calls: of calls of tools.
    logprobs: of the ids behind this piece. progress: of the prompt; then there is nothing else.
    usage: the tokens so far, but for cached_tokens, which the reply tells; None: not known.
    prompt_logprobs: as in `Reply`, with the first piece.
    """

    text: str
    thinking: str = ""
    calls: tuple[CallDelta, ...] = ()
    logprobs: tuple[Logprob | None, ...] | None = None
    progress: Progress | None = None
    usage: Usage | None = None
    prompt_logprobs: tuple[Logprob | None, ...] | None = None

    @property
    def empty(self) -> bool:
        """Whether there is nothing to show."""
        shown = (self.text, self.thinking, self.calls, self.logprobs, self.prompt_logprobs)
        return not (any(shown) or self.progress)


@dataclass(frozen=True, slots=True)
class Reply:
    """A finished answer.

    text: the answer proper. finish_reason: "stop" (a stop id or string), "length" (max_tokens or
    the context), "tool_calls" (there are some, none of them cut off) or "repetition"
    (loop_detection). stop: the stop string that was met, if one was. seed: the one in use, None for
    greedy. ids: as generated, without the stop id. logprobs: one per id, None for an id that was
    forced. thinking: what came before the answer. tool_calls: what the model wishes to be called.
    troubles: what was wrong with the calls as the model wrote them, in words. prompt_logprobs: one
    per id of the prompt, None for the first, where they were asked for. stop_logprob: that of the
    stop id, which is in no other list, where log probabilities were asked for.
    """

    text: str
    finish_reason: str
    usage: Usage
    timings: Timings
    seed: int | None
    model: str
    ids: tuple[int, ...]
    stop: str | None = None
    logprobs: tuple[Logprob | None, ...] | None = None
    thinking: str = ""
    tool_calls: tuple[ToolCall, ...] = ()
    troubles: tuple[str, ...] = ()
    prompt_logprobs: tuple[Logprob | None, ...] | None = None
    stop_logprob: Logprob | None = None

    def __str__(self) -> str:
        """The text."""
        return self.text

    def to_dict(self) -> dict[str, Any]:
        """Return everything as plain data for JSON."""
        found = asdict(self)
        found["usage"]["total_tokens"] = self.usage.total_tokens
        for name in ("ids", "tool_calls", "troubles"):
            found[name] = list(found[name])
        for name in ("logprobs", "prompt_logprobs"):
            told = getattr(self, name)
            if told is not None:
                found[name] = [p and _logprob_dict(p) for p in told]
        found["stop_logprob"] = self.stop_logprob and _logprob_dict(self.stop_logprob)
        return found


def _logprob_dict(p: Logprob) -> Mapping[str, Any]:
    keys = ("id", "token", "logprob")
    return {
        "id": p.id,
        "token": p.token,
        "logprob": p.logprob,
        "top": [dict(zip(keys, entry, strict=True)) for entry in p.top],
    }


class Assembler:
    """Takes the events of one request, gives text, told apart by a router.

    prompt: the request's ids, for the usage of chunks, which have none without it, and for what is
    told of the prompt.
    """

    def __init__(
        self,
        tokenizer: Tokenizer,
        sampling: Sampling,
        model: str,
        router: Router,
        prompt: Sequence[int] | None = None,
    ) -> None:
        self._min_tokens = sampling.min_tokens  # as in StopSteer
        self._tokenizer = tokenizer
        self._stream = tokenizer.stream()
        self._model = model
        self._router = router
        self._prompt = prompt
        self._names: dict[int, tuple[str, bytes]] = {}
        self._prompt_logprobs: tuple[Logprob | None, ...] | None = None
        self._ids: list[int] = []
        self._characters = 0  # that the ids have made
        self._logprobs: list[Logprob | None] | None = None
        self._reasoning = 0
        self._text: list[str] = []
        self._thinking: list[str] = []
        self._calls: list[tuple[str, str, list[str]]] = []  # id, name, pieces of arguments
        self._troubles: list[str] = []

    @property
    def generated(self) -> int:
        """Ids so far."""
        return len(self._ids)

    def push(self, event: Tokens) -> Chunk:
        """Return what may be shown after these ids; it may be empty."""
        pieces: list[Piece] = []
        starts: list[int] = []
        for id in event.ids:
            thinking = self._router.thinking
            may_stop = len(self._ids) >= self._min_tokens
            self._ids.append(id)
            starts.append(self._characters)
            text = self._stream.push(id)
            self._characters += len(text)
            pieces += self._router.push(text, may_stop=may_stop)
            self._reasoning += thinking or self._router.thinking
        logprobs = None
        if event.logprobs is not None:
            found = zip(event.logprobs, starts, strict=True)
            logprobs = tuple(None if p is None else self._named(p, start) for p, start in found)
            self._logprobs = [*(self._logprobs or ()), *logprobs]
        chunk = self._show(pieces, logprobs, len(self._ids))
        if event.prompt_logprobs is None:
            return chunk
        self._prompt_logprobs = self._of_prompt(event.prompt_logprobs)
        return replace(chunk, prompt_logprobs=self._prompt_logprobs)

    def finish(self, event: Finished) -> tuple[Chunk, Reply]:
        """Return the rest of the text and the reply; raises what ended the request otherwise."""
        if event.reason is FinishReason.CANCELLED:
            raise RequestCancelled(f"cancelled after {event.completion_tokens} tokens")
        if event.reason is FinishReason.ERROR:
            raise event.error or EngineError("the request failed")
        may_stop = len(self._ids) > self._min_tokens
        rest = self._router.push(self._stream.flush(), may_stop=may_stop)
        chunk = self._show([*rest, *self._router.flush()], None, event.completion_tokens)
        reason = event.reason
        if reason is FinishReason.LENGTH and self._router.stop is not None:
            reason = FinishReason.STOP  # what the reader of calls held back ended with it
        last = event.stop_logprob
        called = self._calls and reason is FinishReason.STOP and not self._router.cut
        reply = Reply(
            text="".join(self._text),
            finish_reason="tool_calls" if called else reason.value,
            usage=Usage(
                event.prompt_tokens, event.completion_tokens, event.cached_tokens, self._reasoning
            ),
            timings=_timings(event),
            seed=event.seed,
            model=self._model,
            ids=tuple(self._ids),
            stop=self._router.stop,
            logprobs=None if self._logprobs is None else tuple(self._logprobs),
            thinking="".join(self._thinking),
            tool_calls=tuple(ToolCall(id, name, "".join(a)) for id, name, a in self._calls),
            troubles=tuple(self._troubles),
            prompt_logprobs=self._prompt_logprobs,
            stop_logprob=None if last is None else self._named(last, self._characters),
        )
        return chunk, reply

    def _show(
        self, pieces: list[Piece], logprobs: tuple[Logprob | None, ...] | None, tokens: int
    ) -> Chunk:
        text: list[str] = []
        thinking: list[str] = []
        calls: list[CallDelta] = []
        for piece in pieces:
            if isinstance(piece, Content):
                text.append(piece.text)
            elif isinstance(piece, Thinking):
                thinking.append(piece.text)
            elif isinstance(piece, CallStart):
                id = f"call_{secrets.token_hex(12)}"
                self._calls.append((id, piece.name, []))
                calls.append(CallDelta(piece.index, "", id, piece.name))
            elif isinstance(piece, CallArguments):
                self._calls[piece.index][2].append(piece.text)
                calls.append(CallDelta(piece.index, piece.text))
            else:
                self._troubles.append(piece.message)
        self._text += text
        self._thinking += thinking
        usage = None
        if self._prompt is not None:
            usage = Usage(len(self._prompt), tokens, reasoning_tokens=self._reasoning)
        return Chunk("".join(text), "".join(thinking), tuple(calls), logprobs, usage=usage)

    def _of_prompt(self, told: Sequence[TokenLogprob]) -> tuple[Logprob | None, ...]:
        assert self._prompt is not None
        stream = self._tokenizer.stream(skip_control=False)
        found: list[Logprob | None] = [None]
        start = 0
        for before, p in zip(self._prompt[:-1], told, strict=True):
            start += len(stream.push(before))
            found.append(self._named(p, start))
        return tuple(found)

    def _named(self, p: TokenLogprob, start: int) -> Logprob:
        name = self._name
        top = tuple((id, name(id)[0], logprob) for id, logprob in p.top)
        top_data = tuple(name(id)[1] for id, _ in p.top)
        token, data = name(p.id)
        return Logprob(p.id, token, p.logprob, top, data, top_data, start)

    def _name(self, id: int) -> tuple[str, bytes]:
        """Return a token's text and bytes; of a prompt there are many, and the same again."""
        found = self._names.get(id)
        if found is None:
            found = self._tokenizer.decode([id]), self._tokenizer.token_bytes(id)
            self._names[id] = found
        return found


def _timings(event: Finished) -> Timings:
    t = event.timings
    computed = event.prompt_tokens - event.cached_tokens
    later = max(0, event.completion_tokens - 1)
    return Timings(
        queue=t.queue,
        prefill=t.prefill,
        decode=t.decode,
        ttft=t.queue + t.prefill,
        prefill_tok_s=computed / t.prefill if t.prefill > 0 else 0.0,
        decode_tok_s=later / t.decode if t.decode > 0 else 0.0,
        drafted=t.drafted,
        accepted=t.accepted,
    )
