"""The loop: plan a step, run the model on it, read the logits, tell the callers.

Owns the cache and every request under way. Knows ids, no text, no threads: everything here is
called from one thread (`thread.py` gives it one, `child.py` a process).
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterable
from itertools import count

import numpy as np
from numpy.typing import NDArray

from qwick.engine.batching import Wanted, build
from qwick.engine.capacity import Capacity
from qwick.engine.draft import MOST_ROWS, Drafter, share_rows
from qwick.engine.live import Live, failure_of
from qwick.engine.model import Model
from qwick.engine.pages import PagePool, pages_for
from qwick.engine.request import (
    Deliver,
    Event,
    FinishReason,
    Request,
    TokenLogprob,
)
from qwick.engine.sampler import BadLogitsError, Sampler, logits_of
from qwick.engine.scheduler import Chunk, Limits, State, Step, plan
from qwick.engine.sequence import Sequence
from qwick.engine.stats import Snapshot, Stats, Stopwatch
from qwick.engine.steer import SteerFactory, SteerSpec
from qwick.errors import EngineError, ParameterError, QwickError
from qwick.values import check_switch

F32 = NDArray[np.float32]

LOGIT_ROWS = 64  # rows of logits at a time: 64 x 152k float32 are 39 MB
TOKEN_BUDGET = 576  # a prompt chunk of 512 beside 64 decodes
MAX_SEQUENCES = 64

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
        self.stats = Stats()
        self.clock = clock
        self._left: float | None = None  # when a step ended that left work to be done
        pages = pages_for(tokens, model.page_size)
        self.capacity = Capacity(
            n_vocab,
            model.context,
            pages * model.page_size,
            steer_factory is not None,
            model.rotations,
            model.hidden,
            model.has_head,
        )
        self.page_count = pages
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
            raise _closed()
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

    def snapshot(self) -> Snapshot:
        """Return the state of now as plain numbers."""
        return Snapshot(
            stats=self.stats,
            running=self.running,
            waiting=self.waiting,
            pages_used=self.pages_used,
            pages_kept=self.pages_kept,
            pages=self.page_count,
            page_size=self._state.limits.page_size,
            prefix_reuse=self._state.prefix_reuse,
            experts=None if self._model is None else self._model.expert_use,
        )

    def check(self) -> None:
        """Derive every invariant again; raises AssertionError. For tests."""
        self._state.check()
        known = {s.number for s in (*self._state.running, *self._state.waiting)}
        if known != set(self._live):
            raise AssertionError(f"scheduled {sorted(known)}, live {sorted(self._live)}")

    # -- in ------------------------------------------------------------------------------------

    def submit(self, request: Request, deliver: Deliver, *, submitted: float | None = None) -> int:
        """Queue a request and return its number; `deliver` gets its events, Finished last.

        submitted: when the caller asked, on `clock`; default: now. Raises as `Capacity.check`, and
        what the steer factory raises.
        """
        if self._model is None:
            raise _closed()
        limit = self.capacity.check(request)
        sampling, steer = request.sampling, None
        if self._steer_factory is not None and (sampling.stop or request.guide is not None):
            spec = SteerSpec(sampling.stop, sampling.min_tokens, request.guide, sampling.stop_ids)
            steer = self._steer_factory(spec)
        live = Live(
            next(self._numbers),
            request,
            deliver,
            limit=limit,
            rotation=self.capacity.rotation(request, limit),
            steer=steer,
            submitted=self.clock() if submitted is None else submitted,
            drafts=self._draft_rows > 1,
        )
        if not self._live:
            self._left = None  # what was left by the last step was cancelled since
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
        if self._left is not None:
            stats.between_seconds += watch.begun - self._left
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
        generated = stats.generated
        stats.plan_seconds += watch.lap()
        try:
            hidden = self.model.forward(batch, self._cache)
            stats.forward_seconds += watch.lap()
            self._state.commit(step)
            self._tell_progress(step)
            self._read(hidden, wanted, watch)
            self._learn(step)
        except Exception as error:
            self._fail(step.chunks, error)
        self._count(step, generated)
        ended = self.clock()
        stats.step_seconds += ended - watch.begun
        self._left = ended if self._live else None
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

    def _tell_progress(self, step: Step) -> None:
        """Tell those who want to know that a part of their prompt is done, but not all of it."""
        for chunk in step.chunks:
            live = self._live.get(chunk.sequence.number)
            if live is None or not live.request.progress or live.generated:
                continue
            if chunk.sequence.pending == 0:
                continue
            if not self._deliver(live, live.progress()):
                self._end(live, FinishReason.CANCELLED)

    def _learn(self, step: Step) -> None:
        """Note which drafts were right, now that all that they led to is read."""
        for chunk in step.chunks:
            live = self._live.get(chunk.sequence.number)
            if chunk.drafted and live is not None and live.drafter is not None:
                live.drafter.learn(chunk.drafted, chunk.sequence.cached - chunk.start - 1)
        self._state.drop_drafts(step)

    def _read(self, hidden: F32, wanted: list[Wanted], watch: Stopwatch) -> None:
        """Turn final states into what was asked for, a piece of rows at a time."""
        stats = self.stats
        hidden, wanted = self._take_states(hidden, wanted)
        stats.deliver_seconds += watch.lap()
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
                    stats.corrupted += isinstance(error, BadLogitsError)
                    touched[live.number] = (live, FinishReason.ERROR, failure_of(live, error))
            stats.sample_seconds += watch.lap()
            for live, reason, failure in touched.values():
                fresh = live.fresh()
                if fresh is not None and not self._deliver(live, fresh):
                    reason, failure = FinishReason.CANCELLED, None
                if reason is not None:  # (a callback may have cancelled it: then this is nothing)
                    self._end(live, reason, failure)
            stats.deliver_seconds += watch.lap()

    def _take_states(self, hidden: F32, wanted: list[Wanted]) -> tuple[F32, list[Wanted]]:
        """End the requests that want a state itself; return the rows that lead to logits."""
        rest: list[int] = []
        for row, (sequence, _) in enumerate(wanted):
            live = self._live.get(sequence.number)
            if live is None or not live.embedding:
                rest.append(row)
            elif np.isfinite(hidden[row]).all():
                self._end(live, live.accept_pooled(hidden[row].copy()))
            else:
                self.stats.corrupted += 1
                bad = BadLogitsError("its final state is NaN or infinite")
                self._end(live, FinishReason.ERROR, failure_of(live, bad))
        if len(rest) == len(wanted):
            return hidden, wanted
        return hidden[rest], [wanted[row] for row in rest]

    def _rows(self, states: F32, piece: list[Wanted]) -> Iterable[F32 | int]:
        """Return the logits of each row, or its best id where no more is wanted of any row."""
        lives = (self._live.get(sequence.number) for sequence, _ in piece)
        if all(live is None or live.takes_best for live in lives):
            best = self.model.best(states, self.capacity.n_vocab)
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
        if live.request.labels:
            return live.accept_pooled(logits_of(row, live.request.labels))
        ids = live.request.ids
        if position + 1 < len(ids):  # else the row is that of a token to draw
            most = live.request.prompt_logprobs or 0
            live.accept_prompt(position, self._sampler.tell(row, ids[position + 1], most))
            return None
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
                self._end(live, FinishReason.ERROR, failure_of(live, error))

    def _count(self, step: Step, generated: int) -> None:
        """Count a step; generated: how many tokens had been, before it."""
        stats, computed = self.stats, self.stats.prompt_rows
        for chunk in step.chunks:
            stats.drafts += chunk.drafted > 0
            stats.drafted += chunk.drafted
            if chunk.count - chunk.drafted == 1:
                stats.decode_rows += 1
            else:
                stats.prompt_rows += chunk.count
        stats.count_step(stats.prompt_rows - computed + stats.generated - generated)


def _closed() -> EngineError:
    return EngineError("the engine is closed", hint="load the model again")
