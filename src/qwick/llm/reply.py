"""Events of the engine made into text: the pieces of a stream, and the whole reply.

One assembler serves streamed and whole replies, so they cannot differ. Knows no threads and no
engine, only its events.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

from qwick.engine.request import Finished, FinishReason, TokenLogprob, Tokens
from qwick.engine.steer import Verdict
from qwick.errors import EngineError, RequestCancelled
from qwick.text.stops import StopMatcher

if TYPE_CHECKING:
    from qwick.text.tokenizer import Tokenizer


@dataclass(frozen=True, slots=True)
class Usage:
    """Tokens; the one that ended the answer counts, though it is not in the text.

    cached_tokens: those of the prompt's that were not computed, because an earlier prompt or
    answer began with the same.
    """

    prompt_tokens: int
    completion_tokens: int
    cached_tokens: int = 0

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
    """One token with its natural log probability under the model, before any sampling setting."""

    id: int
    token: str  # its text; U+FFFD for bytes that are no whole character
    logprob: float
    top: tuple[tuple[int, str, float], ...]  # the most probable: (id, token, logprob)


@dataclass(frozen=True, slots=True)
class Chunk:
    """A piece of an answer: whole characters, never part of a stop string."""

    text: str
    logprobs: tuple[Logprob | None, ...] | None = None  # of the ids behind this piece


@dataclass(frozen=True, slots=True)
class Reply:
    """A finished answer.

    finish_reason: "stop" (a stop id or string), "length" (max_tokens or the context) or
    "repetition" (loop_detection). stop: the stop string that was met, if one was. seed: the one in
    use, None for greedy. ids: as generated, without the stop id. logprobs: one per id, None for an
    id that was forced.
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

    def __str__(self) -> str:
        """The text."""
        return self.text

    def to_dict(self) -> dict[str, Any]:
        """Return everything as plain data for JSON."""
        found = asdict(self)
        found["usage"]["total_tokens"] = self.usage.total_tokens
        found["ids"] = list(self.ids)
        if self.logprobs is not None:
            found["logprobs"] = [p and _logprob_dict(p) for p in self.logprobs]
        return found


def _logprob_dict(p: Logprob) -> Mapping[str, Any]:
    keys = ("id", "token", "logprob")
    return {
        "id": p.id,
        "token": p.token,
        "logprob": p.logprob,
        "top": [dict(zip(keys, entry, strict=True)) for entry in p.top],
    }


class StopSteer:
    """Ends an answer in the engine with the token that completes a stop string.

    Text of the first min_tokens tokens belongs to none.
    """

    def __init__(self, tokenizer: Tokenizer, strings: tuple[str, ...], min_tokens: int = 0) -> None:
        self._stream = tokenizer.stream()
        self._matcher = StopMatcher(strings)
        self._early = min_tokens

    def mask(self) -> None:
        """Allow every id."""

    def accept(self, token: int) -> Verdict:
        """Stop when the text so far holds a stop string."""
        text = self._stream.push(token)
        if self._early > 0:
            self._early -= 1
            return Verdict.GO
        _, hit = self._matcher.push(text)
        return Verdict.STOP if hit else Verdict.GO


class Assembler:
    """Takes the events of one request, gives text."""

    def __init__(
        self, tokenizer: Tokenizer, stop: tuple[str, ...], model: str, min_tokens: int = 0
    ) -> None:
        self._min_tokens = min_tokens  # as in StopSteer
        self._tokenizer = tokenizer
        self._stream = tokenizer.stream()
        self._matcher = StopMatcher(stop)
        self._model = model
        self._ids: list[int] = []
        self._logprobs: list[Logprob | None] | None = None
        self._pieces: list[str] = []

    def push(self, event: Tokens) -> Chunk:
        """Return what may be shown after these ids; its text may be empty."""
        early = max(0, self._min_tokens - len(self._ids))
        self._ids += event.ids
        pieces = [self._stream.push(id) for id in event.ids]
        safe, _ = self._matcher.push("".join(pieces[early:]))
        logprobs = None
        if event.logprobs is not None:
            logprobs = tuple(None if p is None else self._named(p) for p in event.logprobs)
            self._logprobs = [*(self._logprobs or ()), *logprobs]
        return self._show("".join(pieces[:early]) + safe, logprobs)

    def finish(self, event: Finished) -> tuple[Chunk, Reply]:
        """Return the rest of the text and the reply; raises what ended the request otherwise."""
        if event.reason is FinishReason.CANCELLED:
            raise RequestCancelled(f"cancelled after {event.completion_tokens} tokens")
        if event.reason is FinishReason.ERROR:
            raise event.error or EngineError("the request failed")
        safe, _ = self._matcher.push(self._stream.flush())
        chunk = self._show(safe + self._matcher.flush(), None)
        t = event.timings
        computed = event.prompt_tokens - event.cached_tokens
        reply = Reply(
            text="".join(self._pieces),
            finish_reason=event.reason.value,
            usage=Usage(event.prompt_tokens, event.completion_tokens, event.cached_tokens),
            timings=Timings(
                queue=t.queue,
                prefill=t.prefill,
                decode=t.decode,
                ttft=t.queue + t.prefill,
                prefill_tok_s=computed / t.prefill if t.prefill > 0 else 0.0,
                decode_tok_s=max(0, event.completion_tokens - 1) / t.decode
                if t.decode > 0
                else 0.0,
                drafted=t.drafted,
                accepted=t.accepted,
            ),
            seed=event.seed,
            model=self._model,
            ids=tuple(self._ids),
            stop=self._matcher.matched,
            logprobs=None if self._logprobs is None else tuple(self._logprobs),
        )
        return chunk, reply

    def _show(self, text: str, logprobs: tuple[Logprob | None, ...] | None) -> Chunk:
        if text:
            self._pieces.append(text)
        return Chunk(text, logprobs)

    def _named(self, p: TokenLogprob) -> Logprob:
        decode = self._tokenizer.decode
        top = tuple((id, decode([id]), logprob) for id, logprob in p.top)
        return Logprob(p.id, decode([p.id]), p.logprob, top)
