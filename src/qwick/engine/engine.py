"""The loop: plan a step, run the model on it, read the logits, tell the callers.

Owns the cache and every request under way. Knows ids, no text, no threads: everything here is
called from one thread (`thread.py` gives it one), except `check_request`, which reads constants.
"""

from __future__ import annotations

import logging
import time
import traceback
from collections.abc import Callable, Iterable
from itertools import count

import numpy as np
from numpy.typing import NDArray

from qwick.engine.batching import Wanted, build
from qwick.engine.draft import MOST_ROWS, Drafter, share_rows
from qwick.engine.live import Live
from qwick.engine.model import Model
from qwick.engine.pages import PagePool, pages_for
from qwick.engine.request import (
    Deliver,
    Event,
    FinishReason,
    Request,
    TokenLogprob,
)
from qwick.engine.sampler import Sampler
from qwick.engine.scheduler import Chunk, Limits, State, Step, plan
from qwick.engine.sequence import Sequence
from qwick.engine.stats import Stats, Stopwatch
from qwick.engine.steer import SteerFactory, SteerSpec
from qwick.errors import (
    ContextLengthError,
    EngineError,
    ParameterError,
    QwickError,
    ResourceError,
    UnsupportedError,
    shown,
)
from qwick.values import check_switch

F32 = NDArray[np.float32]

LOGIT_ROWS = 64  # rows of logits at a time: 64 x 152k float32 are 39 MB
TOKEN_BUDGET = 576  # a prompt chunk of 512 beside 64 decodes
MAX_SEQUENCES = 64
REPORT = "if it happens again, report it with the prompt and the seed"

log = logging.getLogger(__name__)


class Engine:
    """Continuous batching over one model and one paged cache.

    n_vocab: real ids, the tokenizer's count; columns of the logits from there on are padding, never
    sampled. cache_tokens: positions of the cache, for all sequences; default: one full context.
    token_budget: most rows of a step. max_sequences: most requests computed at once, others wait.
    steer_factory: builds steers; without one, requests with stop strings are refused. prefix_reuse:
    keep what was computed until its memory is needed, and use it for requests of the same namespace
    that begin with the same ids. drafts: guess ahead where a sequence repeats itself (`draft.py`);
    the answers are the same without.
    """

    def __init__(
        self,
        model: Model,
        *,
        n_vocab: int,
        cache_tokens: int | None = None,
        token_budget: int = TOKEN_BUDGET,
        max_sequences: int = MAX_SEQUENCES,
        steer_factory: SteerFactory | None = None,
        prefix_reuse: bool = True,
        drafts: bool = True,
        clock: Callable[[], float] = time.perf_counter,
    ) -> None:
        tokens = model.context if cache_tokens is None else cache_tokens
        if tokens < 1 or n_vocab < 1:
            raise ParameterError(
                f"cache_tokens is {tokens} and n_vocab {n_vocab}; allowed: whole numbers from 1"
            )
        check_switch("prefix_reuse", prefix_reuse)
        check_switch("drafts", drafts)
        self._model: Model | None = model
        self.n_vocab = n_vocab
        self.stats = Stats()
        self.clock = clock
        pages = pages_for(tokens, model.page_size)
        self.cache_tokens = pages * model.page_size
        self._draft_rows = min(MOST_ROWS, model.exact_rows) if drafts else 0
        limits = Limits(model.page_size, token_budget, max_sequences, self._draft_rows)
        self._state = State(PagePool(pages), limits, prefix_reuse)
        self._cache = model.new_cache(pages)
        self._sampler = Sampler(n_vocab)
        self._steer_factory = steer_factory
        self._live: dict[int, Live] = {}
        self._numbers = count()

    @property
    def model(self) -> Model:
        """The model; EngineError once closed."""
        if self._model is None:
            raise EngineError("the engine is closed", hint="load the model again")
        return self._model

    @property
    def running(self) -> int:
        """Requests that hold pages."""
        return len(self._state.running)

    @property
    def waiting(self) -> int:
        """Requests that wait for their first or next turn."""
        return len(self._state.waiting)

    @property
    def has_work(self) -> bool:
        """Whether `step` would compute something."""
        return bool(self._live)

    @property
    def pages_used(self) -> int:
        """Pages of the cache in use."""
        return self._state.pool.used_count

    @property
    def pages_kept(self) -> int:
        """Pages of the cache that nobody uses and that may be found again."""
        return self._state.pool.kept_count

    def check(self) -> None:
        """Derive every invariant again; raises AssertionError. For tests."""
        self._state.check()
        known = {s.number for s in (*self._state.running, *self._state.waiting)}
        if known != set(self._live):
            raise AssertionError(f"scheduled {sorted(known)}, live {sorted(self._live)}")

    # -- in ------------------------------------------------------------------------------------

    def check_request(self, request: Request) -> int:
        """Return the most ids (prompt and answer) this request may reach; from any thread.

        Without max_tokens that is the context (or the cache, if smaller), and the answer ends there
        with "length". A max_tokens that was given is a promise: prompt and max_tokens must fit
        together or ContextLengthError says by how much they do not. Raises also ParameterError for
        ids outside the vocabulary, ResourceError for what the whole cache could not hold, and
        UnsupportedError for stop strings without a steer factory.
        """
        vocab, context = self.n_vocab, self.model.context
        prompt, sampling = len(request.ids), request.sampling
        biased = [id for id, _ in sampling.logit_bias]
        named = (
            ("the prompt", request.ids),
            ("stop_ids", sampling.stop_ids),
            ("logit_bias", biased),
        )
        for name, ids in named:
            if ids and max(ids) >= vocab:
                raise ParameterError(
                    f"an id in {name} is {shown(max(ids))}; allowed: 0 to {vocab - 1}"
                )
        if sampling.stop and self._steer_factory is None:
            raise UnsupportedError("stop strings need a tokenizer, and this engine was given none")
        scoring = request.kind == "score"
        least = prompt if scoring else prompt + 1
        if least > context:
            raise ContextLengthError(
                f"the prompt has {prompt} tokens; the context holds {context}"
                + ("" if scoring else ", the answer included"),
                hint="shorten the prompt, or load the model with a larger context (--ctx)",
            )
        wanted = least
        if not scoring:
            wanted = prompt + (sampling.max_tokens or sampling.min_tokens or 1)
            if wanted > context:
                name = "max_tokens" if sampling.max_tokens else "min_tokens"
                raise ContextLengthError(
                    f"the prompt has {prompt} tokens and {name} is {wanted - prompt}: "
                    f"{wanted} in all; the context holds {context}",
                    hint=f"set {name} to {context - prompt} or less, or leave it out",
                )
        # The last token is never computed on, so it needs no place in the cache.
        if wanted - 1 > self.cache_tokens:
            raise ResourceError(
                f"the request needs {wanted - 1} positions; the whole cache holds "
                f"{self.cache_tokens}",
                hint="shorten the prompt or max_tokens, or load the model with a larger cache",
            )
        if scoring or sampling.max_tokens is not None:
            return wanted
        return min(context, self.cache_tokens + 1)

    def submit(self, request: Request, deliver: Deliver, *, submitted: float | None = None) -> int:
        """Queue a request and return its number; `deliver` gets its events, Finished last.

        submitted: when the caller asked, on `clock`; default: now. Raises as `check_request`.
        """
        limit = self.check_request(request)
        steer = None
        if request.sampling.stop and self._steer_factory is not None:
            sampling = request.sampling
            steer = self._steer_factory(SteerSpec(sampling.stop, sampling.min_tokens))
        live = Live(
            next(self._numbers),
            request,
            deliver,
            limit=limit,
            steer=steer,
            submitted=self.clock() if submitted is None else submitted,
            drafts=self._draft_rows > 1,
        )
        self._state.add(live.sequence)
        self._live[live.number] = live
        return live.number

    def cancel(self, number: int) -> bool:
        """End a request between two steps; False if it has ended already."""
        live = self._live.get(number)
        if live is None:
            return False
        self._end(live, FinishReason.CANCELLED)
        return True

    def cancel_all(self) -> None:
        """End every request as cancelled."""
        for live in list(self._live.values()):
            self._end(live, FinishReason.CANCELLED)

    def fail_all(self, error: QwickError) -> None:
        """End every request with this error, whatever state the engine is in."""
        for live in list(self._live.values()):
            try:
                self._end(live, FinishReason.ERROR, error)
            except Exception:
                log.exception("request %d could not be taken out", live.number)

    def close(self) -> None:
        """Cancel everything and let go of model and cache: their memory is free from now on.

        What is asked afterwards raises EngineError; `stats` stay.
        """
        self.cancel_all()
        self._model = self._cache = None

    # -- the step ------------------------------------------------------------------------------

    def step(self) -> bool:
        """Compute one step; False if there was nothing to do.

        An exception out of the model fails the requests of that step with EngineError, a lack of
        memory with ResourceError; the others go on. Logits that are NaN or infinite fail the one
        request they belong to.
        """
        if not self._live:
            return False
        watch, stats = Stopwatch(self.clock), self.stats
        self._state.settle()
        self._propose()
        step = plan(self._state)
        if not step.chunks:
            raise EngineError("the scheduler planned an empty step while requests wait")
        self._state.apply(step)
        batch, wanted = build(step.chunks, self.model.page_size)
        for sequence in step.admitted:
            self._live[sequence.number].start(watch.begun)
            stats.prefix_hit_tokens += sequence.cached
            stats.prefix_miss_tokens += sequence.pending
        stats.evicted_pages = self._state.pool.evicted
        for chunk in step.chunks:
            self._live[chunk.sequence.number].drafted += chunk.drafted
        stats.preemptions += len(step.preempted)
        stats.plan_seconds += watch.lap()
        try:
            hidden = self.model.forward(batch, self._cache)
            stats.forward_seconds += watch.lap()
            self._state.commit(step)
            self._read(hidden, wanted, watch)
            self._learn(step)
        except Exception as error:
            self._fail(step.chunks, error)
        self._count(step)
        stats.step_seconds += self.clock() - watch.begun
        return True

    def _propose(self) -> None:
        """Give decodes drafts, as far as they are worth their rows."""
        decodes = [s for s in self._state.running if s.pending == 1]
        drafters: list[tuple[Sequence, Drafter]] = []
        for sequence in decodes:
            live = self._live[sequence.number]
            sequence.draft = live.propose(self._draft_rows - len(decodes))
            if live.drafter is not None and sequence.draft:
                drafters.append((sequence, live.drafter))
        confidences = [drafter.confidence for _, drafter in drafters]
        counts = share_rows(confidences, len(decodes), self._draft_rows)
        for (sequence, _), rows in zip(drafters, counts, strict=True):
            del sequence.draft[rows:]

    def _learn(self, step: Step) -> None:
        """Note which drafts were right, now that all that they led to is read."""
        for chunk in step.chunks:
            live = self._live.get(chunk.sequence.number)
            if chunk.drafted and live is not None and live.drafter is not None:
                live.drafter.learn(chunk.drafted, chunk.sequence.cached - chunk.start - 1)
        self._state.drop_drafts(step)

    def _read(self, hidden: F32, wanted: list[Wanted], watch: Stopwatch) -> None:
        """Turn final states into tokens and scores, a piece of rows at a time."""
        stats = self.stats
        for start in range(0, len(wanted), LOGIT_ROWS):
            piece = wanted[start : start + LOGIT_ROWS]
            rows = self._rows(hidden[start : start + len(piece)], piece)
            stats.logits_seconds += watch.lap()
            now = self.clock()
            touched: dict[int, tuple[Live, FinishReason | None, QwickError | None]] = {}
            for row, (sequence, position) in zip(rows, piece, strict=True):
                live = self._live.get(sequence.number)
                if live is None:  # failed on a row of an earlier piece
                    continue
                if live.number in touched and touched[live.number][1] is not None:
                    continue  # ended on an earlier row of this one
                if not sequence.wanted_from == position < sequence.cached:
                    continue  # after an id of a draft that was wrong
                try:
                    touched[live.number] = (live, self._read_row(live, row, position, now), None)
                except Exception as error:  # bad logits, a broken steer: one request's own matter
                    touched[live.number] = (live, FinishReason.ERROR, _failure(live, error))
            stats.sample_seconds += watch.lap()
            for live, reason, failure in touched.values():
                fresh = live.fresh()
                if fresh is not None and not self._deliver(live, fresh):
                    reason, failure = FinishReason.CANCELLED, None
                if reason is not None:  # (a callback may have cancelled it: then this is nothing)
                    self._end(live, reason, failure)
            stats.deliver_seconds += watch.lap()

    def _rows(self, states: F32, piece: list[Wanted]) -> Iterable[F32 | int]:
        """Return the logits of each row, or its best id where no more is wanted of any row."""
        lives = (self._live.get(sequence.number) for sequence, _ in piece)
        if all(live is None or live.takes_best for live in lives):
            best = self.model.best(states, self.n_vocab)
            if best.min() >= 0:
                ids: list[int] = best.tolist()
                return ids
            # Logits that are not finite: the sampler says so, of the requests they belong to.
        return self.model.logits(states)

    def _read_row(
        self, live: Live, row: F32 | int, position: int, now: float
    ) -> FinishReason | None:
        if isinstance(row, int):
            return self._accept(live, row, None, now)
        if live.scoring:
            logprob, best = self._sampler.score(row, live.request.ids[position + 1])
            return live.accept_score(position, logprob, best)
        token, logprob_of = self._sampler.pick(
            row,
            live.request.sampling,
            seed=live.seed or 0,
            index=live.generated,
            history=live.history,
            mask=live.steer.mask() if live.steer is not None else None,
        )
        return self._accept(live, token, logprob_of, now)

    def _accept(
        self, live: Live, token: int, logprob: TokenLogprob | None, now: float
    ) -> FinishReason | None:
        self.stats.generated += 1
        before = live.accepted
        reason = live.accept(token, logprob, now)
        self.stats.accepted += live.accepted - before
        return reason

    # -- out -----------------------------------------------------------------------------------

    def _end(self, live: Live, reason: FinishReason, error: QwickError | None = None) -> None:
        if self._live.pop(live.number, None) is None:
            return
        self.stats.finished[reason.value] += 1
        try:
            # What led to an error may lie in the pages.
            self._state.remove(live.sequence, keep=reason is not FinishReason.ERROR)
        finally:
            self._deliver(live, live.finish(reason, self.clock(), error))

    def _deliver(self, live: Live, event: Event) -> bool:
        """Call the caller; False if that failed, which may not harm the other requests."""
        try:
            live.deliver(event)
        except Exception:
            self.stats.failed_callbacks += 1
            log.exception(
                "the callback of request %d failed; the request is cancelled", live.number
            )
            return False
        return True

    def _fail(self, chunks: tuple[Chunk, ...], error: Exception) -> None:
        self.stats.failed_steps += 1
        for chunk in chunks:
            live = self._live.get(chunk.sequence.number)
            if live is not None:
                self._end(live, FinishReason.ERROR, _failure(live, error))

    def _count(self, step: Step) -> None:
        self.stats.steps += 1
        for chunk in step.chunks:
            self.stats.drafted += chunk.drafted
            if chunk.count - chunk.drafted == 1:
                self.stats.decode_rows += 1
            else:
                self.stats.prompt_rows += chunk.count


def _failure(live: Live, cause: Exception) -> QwickError:
    error: QwickError
    if isinstance(cause, MemoryError):
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
    error.__cause__ = cause
    # Whoever keeps the error would keep the model with it, through the frames that it passed.
    traceback.clear_frames(cause.__traceback__)
    return error
