"""One request under way: its tokens, its steer, its random stream, its times, its caller.

What `engine.py` keeps per request between steps. Knows no model and no other request.
"""

from __future__ import annotations

import secrets
import traceback

import numpy as np
from numpy.typing import NDArray

from qwick.engine.draft import Drafter
from qwick.engine.history import History
from qwick.engine.loops import LoopDetector
from qwick.engine.prefix import root_key
from qwick.engine.request import (
    Deliver,
    Finished,
    FinishReason,
    Progress,
    Request,
    Scores,
    Timings,
    TokenLogprob,
    Tokens,
)
from qwick.engine.sampler import BadLogitsError
from qwick.engine.sequence import Sequence
from qwick.engine.steer import Force, Steer, Verdict
from qwick.errors import EngineError, LogitsError, QwickError, ResourceError

F32 = NDArray[np.float32]

REPORT = "if it happens again, report it with the prompt and the seed"
DRAWN_SEED_BITS = 53  # a drawn seed is reported, often as JSON: stay exact in a double


class Live:
    """A request from its submission to its last event.

    limit: most ids, prompt and answer together. rotation: which of the model's. submitted: the
    engine's clock at submission. drafts: whether to guess ahead, which only an answer has a use
    for.
    """

    def __init__(
        self,
        number: int,
        request: Request,
        deliver: Deliver,
        *,
        limit: int,
        rotation: int,
        steer: Steer | None,
        submitted: float,
        drafts: bool,
    ) -> None:
        ids = tuple(request.ids)
        sampling = request.sampling
        self.request = request
        self.deliver = deliver
        self.scoring = request.kind == "score"
        self.embedding = request.kind == "embed"
        self.generating = request.kind == "generate"
        root = root_key(request.namespace, rotation)
        self._tells_prompt = request.prompt_logprobs is not None
        # Nothing is asked after the last token of a score: it needs no row.
        self.sequence = (
            Sequence(number, list(ids[:-1]), 0, root=root)
            if self.scoring
            else Sequence(number, list(ids), 0 if self._tells_prompt else len(ids) - 1, root=root)
        )
        self.sequence.rotation = rotation
        self.steer = steer
        self.drafter = Drafter() if drafts and self.generating else None
        self.drafted = self.accepted = 0  # guessed ids that were computed; those that were right
        self.stop_ids = frozenset(sampling.stop_ids)
        self.history = History.of(sampling, ids)
        self._loops = LoopDetector() if sampling.loop_detection else None
        self._looping = False
        self.room = limit - len(ids)  # tokens that may still be generated
        self.generated = 0
        self.seed = sampling.seed
        if self.seed is None and not sampling.greedy and self.generating:
            self.seed = secrets.randbits(DRAWN_SEED_BITS)
        count = len(ids) - 1 if self.scoring else 0
        self._logprobs = np.empty(count, np.float64)
        self._best = np.empty(count, np.int32)
        self._pooled: F32 | None = None  # what the last position led to
        self._prompt_logprobs: list[TokenLogprob] = []
        self._fresh: list[int] = []  # generated and not delivered yet
        self._fresh_logprobs: list[TokenLogprob | None] = []
        self._stop_id: int | None = None
        self._stop_logprob: TokenLogprob | None = None
        self._submitted = submitted
        self._started: float | None = None
        self._reused = 0  # tokens of the prompt that were in the cache already
        self._first: float | None = None

    @property
    def number(self) -> int:
        """Order of arrival; the engine's name for the request."""
        return self.sequence.number

    @property
    def takes_best(self) -> bool:
        """Whether the best id is all that is wanted of a row: greedy, and nothing acts on it."""
        sampling = self.request.sampling
        plain = sampling.logprobs is None and self.history is None and self.steer is None
        return sampling.greedy and plain and self.generating and not self._tells_prompt

    def start(self, now: float) -> None:
        """Note the first step that computes something for this request, before it does."""
        if self._started is None:
            self._started = now
            self._reused = self.sequence.cached

    def propose(self, most: int) -> list[int]:
        """Return at most `most` ids that may follow, no more than the answer has room for."""
        if self.drafter is None or self.sequence.pending != 1:
            return []
        # The last id that there is room for is drawn after the draft's last.
        return self.drafter.propose(self.sequence.ids, min(most, self.room - 1))

    def accept_score(self, position: int, logprob: float, best: int) -> FinishReason | None:
        """Take the score of ids[position + 1]; positions come in order, each once."""
        self._logprobs[position] = logprob
        self._best[position] = best
        self.sequence.wanted_from = position + 1
        return FinishReason.STOP if position + 1 == len(self._logprobs) else None

    def accept_pooled(self, values: F32) -> FinishReason:
        """Take the final state of the last id, [hidden], or the logits of the labels after it."""
        self._pooled = values
        return FinishReason.STOP

    def accept_prompt(self, position: int, logprob: TokenLogprob) -> None:
        """Take what is told about ids[position + 1] of the prompt, as with `accept_score`."""
        self._prompt_logprobs.append(logprob)
        self.sequence.wanted_from = position + 1

    def accept(self, token: int, logprob: TokenLogprob | None, now: float) -> FinishReason | None:
        """Take a sampled id; return why the request ends, or None."""
        if self._first is None:
            self._first = now
        if token in self.stop_ids:
            self.generated += 1
            self._stop_id, self._stop_logprob = token, logprob
            return FinishReason.STOP
        self._append(token, logprob)
        verdict = self.steer.accept(token) if self.steer is not None else Verdict.GO
        if verdict is Verdict.STOP:
            return FinishReason.STOP
        if isinstance(verdict, Force):
            room = self.room
            for forced in verdict.ids[:room]:
                self._append(forced, None)
            if verdict.stop and len(verdict.ids) <= room:
                return FinishReason.STOP
        if self.room == 0:
            return FinishReason.LENGTH
        return FinishReason.REPETITION if self._looping else None

    def _append(self, token: int, logprob: TokenLogprob | None) -> None:
        self.accepted += self.sequence.append(token)
        self.generated += 1
        self.room -= 1
        if self.history is not None:
            self.history.add(token)
        if self._loops is not None:
            self._looping = self._loops.push(token)
        self._fresh.append(token)
        self._fresh_logprobs.append(logprob)

    def progress(self) -> Progress:
        """Return how much of the prompt is done, as an event."""
        return Progress(self.sequence.cached, len(self.request.ids), self._reused)

    def fresh(self) -> Tokens | None:
        """Return what was generated since the last call, as an event; None if nothing was."""
        prompt = None
        if self._tells_prompt and self._first is not None:
            prompt = tuple(self._prompt_logprobs)
            self._tells_prompt = False
            self._prompt_logprobs.clear()
        if not self._fresh and prompt is None:
            return None
        wanted = self.request.sampling.logprobs is not None
        event = Tokens(tuple(self._fresh), tuple(self._fresh_logprobs) if wanted else None, prompt)
        self._fresh.clear()
        self._fresh_logprobs.clear()
        return event

    def finish(self, reason: FinishReason, now: float, error: QwickError | None) -> Finished:
        """Return the last event."""
        if reason is FinishReason.ERROR and error is None:
            error = EngineError(f"request {self.number} failed")
        started = now if self._started is None else self._started
        first = now if self._first is None else self._first
        scores = None
        if self.scoring and reason is FinishReason.STOP:
            scores = Scores(self._logprobs, self._best)
        return Finished(
            reason=reason,
            prompt_tokens=len(self.request.ids),
            completion_tokens=self.generated,
            timings=Timings(
                queue=started - self._submitted,
                prefill=first - started,
                decode=now - first,
                preemptions=self.sequence.preemptions,
                drafted=self.drafted,
                accepted=self.accepted,
            ),
            seed=self.seed,
            stop_id=self._stop_id,
            stop_logprob=self._stop_logprob,
            error=error,
            scores=scores,
            cached_tokens=self._reused,
            state=self._pooled if self.embedding else None,
            label_logits=None if self.embedding else self._pooled,
        )


def failure_of(live: Live, cause: Exception) -> QwickError:
    """Return what a request is told that an exception ended."""
    error: QwickError
    if isinstance(cause, QwickError):  # a steer's own words
        error = cause
    elif isinstance(cause, BadLogitsError):
        error = LogitsError(
            f"request {live.number} failed after {live.generated} tokens: {cause}",
            hint=f"other requests go on; {REPORT}",
        )
    elif isinstance(cause, MemoryError):
        error = ResourceError(
            f"memory ran out for request {live.number} after {live.generated} tokens: {cause}",
            hint="other requests go on; ask for less at a time, or load with a smaller context",
        )
    else:
        error = EngineError(
            f"request {live.number} failed after {live.generated} tokens: "
            f"{type(cause).__name__}: {cause}",
            hint=f"other requests go on; {REPORT}",
        )
    if error is not cause:
        error.__cause__ = cause
    # Whoever keeps the error would keep the model with it, through the frames that it passed.
    traceback.clear_frames(cause.__traceback__)
    return error
