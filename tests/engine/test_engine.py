"""The engine on a model that notices any wrong slot, page, position or stale entry."""

from __future__ import annotations

import logging
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from engine.toy import F32, Sink, ToyModel, engine_of, greedy, run
from qwick.engine.history import History
from qwick.engine.request import Event, FinishReason, Request, Sampling
from qwick.engine.sampler import Sampler
from qwick.engine.steer import Force, Steer, SteerSpec, Verdict
from qwick.errors import (
    ContextLengthError,
    EngineError,
    LogitsError,
    ParameterError,
    QwickError,
    ResourceError,
    UnsupportedError,
)
from qwick.model.batch import Batch

STOP, LENGTH, CANCELLED, ERROR = (
    FinishReason.STOP,
    FinishReason.LENGTH,
    FinishReason.CANCELLED,
    FinishReason.ERROR,
)
MIXED = [
    greedy([1, 2, 3]),
    Request([4] * 17, sampling=Sampling(seed=5, max_tokens=20)),
    Request([6], sampling=Sampling(seed=6, max_tokens=9, top_k=5, top_p=0.8, logprobs=2)),
    Request(list(range(20)), kind="score"),
    Request([7, 8], sampling=Sampling(seed=7, max_tokens=12, repetition_penalty=1.3, min_p=0.05)),
    Request([9, 8, 7, 6, 5], kind="score"),
    greedy(list(range(39)), 11),
    Request([3, 1] * 9, sampling=Sampling(seed=8, max_tokens=7), prompt_logprobs=3),
    Request([4] * 18, kind="embed"),
    Request([3, 1] * 9, kind="classify", labels=(7, 3, 39)),
    Request([6], kind="embed"),
]


def by_hand(model: ToyModel, request: Request) -> list[int]:
    """Greedy decoding straight from the toy's definition: no cache, no engine."""
    ids = list(request.ids)
    for _ in range(request.sampling.max_tokens or 0):
        ids.append(int(model.row_after(ids).argmax()))
    return ids[len(request.ids) :]


def outcome(sink: Sink) -> tuple[Any, ...]:
    """Everything that may not depend on the batch: all but the times."""
    end = sink.end
    scores = end.scores and (end.scores.logprobs.tolist(), end.scores.best.tolist())
    pooled = [None if p is None else p.tolist() for p in (end.state, end.label_logits)]
    told = (sink.logprobs, sink.prompt_logprobs, scores, pooled)
    return (sink.ids, told, end.reason, end.seed, end.stop_id)


ALONE = [outcome(run(engine_of(ToyModel()), [request])[0]) for request in MIXED]


def test_greedy_equals_the_model_by_hand() -> None:
    model = ToyModel()
    request = greedy([3, 1, 4, 1, 5], 30)
    (sink,) = run(engine_of(model), [request])
    assert sink.ids == by_hand(model, request)
    assert sink.end.reason is LENGTH
    assert (sink.end.prompt_tokens, sink.end.completion_tokens) == (5, 30)


@pytest.mark.parametrize(
    "sampling",
    [
        Sampling(seed=8, max_tokens=25),
        Sampling(seed=8, max_tokens=25, top_k=9, top_p=0.9, temperature=2, repetition_penalty=1.5),
        Sampling(temperature=0, max_tokens=25, repetition_penalty=2.0),
        Sampling(temperature=0, max_tokens=25, frequency_penalty=1.5, presence_penalty=-0.5),
        Sampling(seed=8, max_tokens=25, top_k=9, frequency_penalty=2, logit_bias={7: 3.5, 9: -100}),
    ],
)
def test_drawing_equals_the_sampler_by_hand(sampling: Sampling) -> None:
    """Each token has its own number of the stream, and the penalty sees what was generated."""
    model, sampler = ToyModel(), Sampler(40)
    ids, history = [3, 1, 4], History(sampling, (3, 1, 4))
    for index in range(25):
        row = model.row_after(ids)
        ids.append(sampler.pick(row, sampling, seed=8, index=index, history=history)[0])
        history.add(ids[-1])
    (sink,) = run(engine_of(model), [Request([3, 1, 4], sampling=sampling)])
    assert sink.ids == ids[3:]


def test_scores_equal_the_model_by_hand() -> None:
    model = ToyModel()
    ids = [5, 3, 39, 0, 0, 7, 21, 5, 3]
    (sink,) = run(engine_of(model, token_budget=5, max_sequences=4), [Request(ids, kind="score")])
    assert sink.end.scores is not None
    for i in range(len(ids) - 1):
        row = model.row_after(ids[: i + 1]).astype(np.float64)
        exact = row[ids[i + 1]] - np.log(np.exp(row).sum())
        assert sink.end.scores.logprobs[i] == pytest.approx(exact, abs=1e-6)
        assert sink.end.scores.best[i] == row.argmax()


@pytest.mark.parametrize("length", [1, 2, 5, 30, 64])
def test_what_is_pooled_equals_the_model_by_hand(length: int) -> None:
    """Of the last token, also where the prompt comes in chunks, or fills the context."""
    model = ToyModel()
    ids = [(7 * i) % 40 for i in range(length)]
    labels = (5, 39, 0)
    engine = engine_of(model, token_budget=7, max_sequences=4)
    asked = [Request(ids, kind="embed"), Request(ids, kind="classify", labels=labels)]
    embedded, judged = (sink.end for sink in run(engine, asked))
    assert embedded.state is not None
    assert embedded.state.tolist() == model.state_after(ids)
    assert judged.label_logits is not None
    assert judged.label_logits.tolist() == model.row_after(ids)[list(labels)].tolist()
    for end in (embedded, judged):
        assert (end.reason, end.prompt_tokens, end.completion_tokens) == (STOP, length, 0)
        assert (end.seed, end.scores) == (None, None)
    assert (embedded.label_logits, judged.state) == (None, None)
    assert (engine.stats.generated, engine.stats.finished["stop"]) == (0, 2)


def test_a_state_that_is_no_number_fails_its_request_alone() -> None:
    model = ToyModel()
    engine = engine_of(model)
    whole = model.forward

    def broken(batch: Batch, cache: Any) -> F32:
        states = whole(batch, cache)
        states[0, 2] = np.nan
        return states

    model.forward = broken  # type: ignore[method-assign]
    bad, good = run(engine, [Request([1, 2], kind="embed"), Request([3, 4], kind="embed")])
    assert (bad.end.reason, bad.end.state) == (ERROR, None)
    assert isinstance(bad.end.error, LogitsError)
    assert good.end.state is not None
    assert good.end.state.tolist() == model.state_after([3, 4])
    assert engine.stats.corrupted == 1


def test_a_model_without_a_head_only_embeds() -> None:
    model = ToyModel(has_head=False)
    engine = engine_of(model)
    for request in (
        greedy([1, 2], 3),
        Request([1, 2], kind="score"),
        Request([1, 2], kind="classify", labels=(1,)),
    ):
        with pytest.raises(UnsupportedError, match=r"no head.*embed"):
            engine.submit(request, Sink())
    (sink,) = run(engine, [Request([1, 2], kind="embed")])
    assert sink.end.state is not None


@pytest.mark.parametrize("length", [1, 2, 30])
def test_what_is_told_of_a_prompt_equals_its_score(length: int) -> None:
    """In any chunks, beside drafts, and also where the first token ends the answer."""
    model = ToyModel()
    ids = ([5, 3, 39, 0, 0, 7, 21, 5, 3] * 4)[:length]
    first = int(model.row_after(ids).argmax())
    for sampling, answer in (
        (Sampling(temperature=0, max_tokens=4), 4),
        (Sampling(temperature=0, max_tokens=4, stop_ids=(first,)), 0),
    ):
        engine = engine_of(model, token_budget=7, max_sequences=4)
        other = Request(ids, sampling=sampling)  # whose pages may not be used instead
        sinks = run(engine, [other, Request(ids, sampling=sampling, prompt_logprobs=2)])
        assert [sink.prompt_logprobs for sink in sinks[:1]] == [[]]
        (told,) = sinks[1].prompt_logprobs
        assert [p.id for p in told] == ids[1:]
        assert sinks[1].ids == sinks[0].ids
        assert len(sinks[1].ids) == answer
        for i, p in enumerate(told):
            row = model.row_after(ids[: i + 1]).astype(np.float64)
            exact = row - np.log(np.exp(row).sum())
            assert p.logprob == pytest.approx(exact[p.id], abs=1e-6)
            assert [id for id, _ in p.top] == np.argsort(-row, kind="stable")[:2].tolist()
            assert [v for _, v in p.top] == pytest.approx(np.sort(exact)[:-3:-1], abs=1e-6)


@settings(deadline=None, max_examples=60)
@given(
    cache_tokens=st.integers(52, 120),
    most=st.integers(1, 8),
    spare=st.integers(1, 40),
    order=st.permutations(range(len(MIXED))),
    page_size=st.sampled_from([1, 4, 32]),
)
def test_the_batch_changes_nothing(
    cache_tokens: int, most: int, spare: int, order: list[int], page_size: int
) -> None:
    """Any cache, budget, order: chunked as whole, evicted as not, together as alone."""
    engine = engine_of(
        ToyModel(page_size=page_size),
        cache_tokens=cache_tokens,
        token_budget=most + spare,
        max_sequences=most,
    )
    sinks = run(engine, [MIXED[i] for i in order])
    assert [outcome(sink) for sink in sinks] == [ALONE[i] for i in order]


def test_the_tight_cache_does_evict() -> None:
    """The property above would prove little if nothing were ever evicted."""
    requests = [greedy([i] * 8, 24) for i in range(6)]
    roomy = run(engine_of(ToyModel(), cache_tokens=400), requests)
    engine = engine_of(ToyModel(), cache_tokens=64)
    tight = run(engine, requests)
    assert engine.stats.preemptions >= 3
    assert sum(sink.end.timings.preemptions for sink in tight) == engine.stats.preemptions
    assert [s.ids for s in tight] == [s.ids for s in roomy]


def test_prompts_are_chunked_beside_decodes() -> None:
    model = ToyModel()
    engine = engine_of(model, token_budget=8, max_sequences=4)
    first = Sink()
    engine.submit(greedy([1, 2], 12), first)
    engine.step()
    engine.submit(greedy([3] * 30, 2), Sink())
    for expected in range(2, 6):
        engine.step()
        assert len(first.ids) == expected, "a long prompt may not stall a stream"
        assert np.diff(model.batches[-1].starts).tolist() == [1, 7]


def test_cancel_between_chunks() -> None:
    engine = engine_of(ToyModel(), token_budget=8, max_sequences=4)
    gone, stays = Sink(), Sink()
    number = engine.submit(greedy([1] * 40, 4), gone)
    engine.submit(greedy([2] * 3, 4), stays)
    engine.step()
    assert engine.cancel(number)
    engine.check()
    assert (gone.end.reason, gone.end.completion_tokens, gone.end.error) == (CANCELLED, 0, None)
    assert engine.running == 0
    assert engine.pages_used == 0
    assert not engine.cancel(number)
    while engine.step():
        engine.check()
    assert stays.ids == by_hand(ToyModel(), greedy([2] * 3, 4))


@settings(deadline=None, max_examples=40)
@given(
    cancels=st.lists(
        st.tuples(st.integers(0, 25), st.integers(0, len(MIXED) - 1)), min_size=1, max_size=6
    )
)
def test_cancelling_some_does_not_touch_the_others(cancels: list[tuple[int, int]]) -> None:
    engine = engine_of(ToyModel(), cache_tokens=80, token_budget=12, max_sequences=5)
    sinks = [Sink() for _ in MIXED]
    numbers = [engine.submit(r, s) for r, s in zip(MIXED, sinks, strict=True)]
    for step in range(200):
        for at, which in cancels:
            if at == step:
                engine.cancel(numbers[which])
        if not engine.step():
            break
        engine.check()
    assert engine.pages_used == 0
    named = {which for _, which in cancels}
    for i, sink in enumerate(sinks):
        if sink.end.reason is CANCELLED:
            assert i in named
            assert sink.ids == ALONE[i][0][: len(sink.ids)]
        else:
            assert outcome(sink) == ALONE[i]


def test_a_callback_may_cancel_its_own_request() -> None:
    engine = engine_of(ToyModel())
    seen: list[Event] = []

    def deliver(event: Event) -> None:
        seen.append(event)
        engine.cancel(number)

    number = engine.submit(greedy([1], 5), deliver)
    while engine.step():
        engine.check()
    assert len(seen) == 2
    assert getattr(seen[1], "reason", None) is CANCELLED


# -- ends ------------------------------------------------------------------------------------


def test_a_stop_id_ends_the_answer_and_is_not_part_of_it() -> None:
    ids = by_hand(ToyModel(), greedy([5, 5], 12))
    at = next(i for i, x in enumerate(ids) if i > 2 and x not in ids[:i])
    (sink,) = run(engine_of(ToyModel()), [greedy([5, 5], 12, stop_ids=(ids[at], 38))])
    assert sink.ids == ids[:at]
    assert (sink.end.reason, sink.end.stop_id, sink.end.completion_tokens) == (
        STOP,
        ids[at],
        at + 1,
    )


def test_without_max_tokens_the_context_is_the_limit() -> None:
    (sink,) = run(engine_of(ToyModel(context=20)), [greedy([1] * 6, None)])
    assert len(sink.ids) == 14
    assert sink.end.reason is LENGTH
    (sink,) = run(engine_of(ToyModel(context=20), cache_tokens=8), [greedy([1] * 6, None)])
    assert len(sink.ids) == 3, "the last token needs no place in the cache"


def test_exactly_full() -> None:
    engine = engine_of(ToyModel(context=20), cache_tokens=20)
    sinks = run(engine, [greedy([1] * 19, 1), greedy([1], 19), Request([1] * 20, kind="score")])
    assert [s.end.completion_tokens for s in sinks] == [1, 19, 0]


@pytest.mark.parametrize(
    ("request_", "error", "parts"),
    [
        (greedy([1] * 20, 1), ContextLengthError, ["20 tokens", "context holds 20", "--ctx"]),
        (greedy([1] * 20, None), ContextLengthError, ["20 tokens", "context holds 20"]),
        (
            greedy([1] * 15, 6),
            ContextLengthError,
            ["15 tokens", "max_tokens is 6", "21 in all", "holds 20", "max_tokens to 5 or less"],
        ),
        (Request([1] * 21, kind="score"), ContextLengthError, ["21 tokens", "context holds 20"]),
        (Request([1] * 21, kind="embed"), ContextLengthError, ["21 tokens", "context holds 20"]),
        (Request([1], kind="classify", labels=(40,)), ParameterError, ["id in labels is 40"]),
        (greedy([1] * 14, 1), ResourceError, ["14 positions", "cache holds 12", "larger cache"]),
        (greedy([1] * 4, 10), ResourceError, ["13 positions", "cache holds 12"]),
        (greedy([1, 40]), ParameterError, ["40", "0 to 39"]),
        (greedy([1], stop_ids=(99,)), ParameterError, ["stop_ids", "99", "0 to 39"]),
        (greedy([1], stop=("x",)), UnsupportedError, ["stop strings need a tokenizer"]),
    ],
)
def test_what_can_never_run_is_refused(
    request_: Request, error: type[Exception], parts: list[str]
) -> None:
    engine = engine_of(ToyModel(context=20), cache_tokens=12)
    with pytest.raises(error) as caught:
        engine.submit(request_, Sink())
    for part in parts:
        assert part in str(caught.value)
    assert not engine.has_work


# -- seeds -----------------------------------------------------------------------------------


def test_a_seed_is_drawn_reported_and_reproduces() -> None:
    request = Request([1, 2], sampling=Sampling(max_tokens=15))
    first, second = run(engine_of(ToyModel()), [request, request])
    assert first.end.seed != second.end.seed
    assert first.ids != second.ids
    assert first.end.seed is not None
    assert first.end.seed < 2**53
    again = Request([1, 2], sampling=replace(request.sampling, seed=first.end.seed))
    assert run(engine_of(ToyModel()), [again])[0].ids == first.ids
    assert run(engine_of(ToyModel()), [greedy([1])])[0].end.seed is None


# -- errors ----------------------------------------------------------------------------------


def poison(model: ToyModel, request: Request, value: float) -> None:
    """Make the logits of one request bad: the ones after its prompt and two tokens."""
    ids = [*request.ids, *by_hand(model, request)[:2]]
    good = model.row_after(ids)

    def change(logits: F32) -> None:
        for row in logits:
            if np.array_equal(row[: model.n_vocab], good):
                row[3] = value

    model.change_logits = change


def test_logits_are_made_only_where_somebody_looks_at_them() -> None:
    """Greedy requests are content with the best id of a row, and get the same answer."""
    model = ToyModel()
    made: list[int] = []
    model.change_logits = lambda logits: made.append(len(logits))
    (plain,) = run(engine_of(model), [greedy([1, 2, 3])])
    by_best = len(made)
    model.best = None  # type: ignore[assignment,method-assign]
    (shown,) = run(engine_of(model), [greedy([1, 2, 3], logprobs=0)])
    assert plain.ids == shown.ids
    assert len(made) == 2 * by_best
    (again, _) = run(engine_of(model), [greedy([1, 2, 3]), greedy([4], repetition_penalty=1.5)])
    assert again.ids == plain.ids


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_bad_logits_fail_one_request_only(value: float) -> None:
    model = ToyModel()
    requests = [greedy([i, 2], 6) for i in range(4)]
    poison(model, requests[2], value)
    engine = engine_of(model)
    sinks = run(engine, requests)
    assert [s.end.reason for s in sinks] == [LENGTH, LENGTH, ERROR, LENGTH]
    assert engine.stats.corrupted == 1
    error = sinks[2].end.error
    assert isinstance(error, EngineError)
    assert "request 2 failed after 2 tokens" in str(error)
    assert "1 of 40 logits are NaN or infinite" in str(error)
    assert len(sinks[2].ids) == 2
    for i in (0, 1, 3):
        assert sinks[i].ids == by_hand(ToyModel(), requests[i])


def test_bad_logits_fail_a_score() -> None:
    model = ToyModel()
    model.change_logits = lambda logits: logits[1:2].fill(np.nan)
    (sink,) = run(engine_of(model), [Request([1, 2, 3, 4], kind="score")])
    assert (sink.end.reason, sink.end.scores) == (ERROR, None)
    (sink,) = run(engine_of(model), [Request([1, 2, 3, 4], prompt_logprobs=0)])
    assert (sink.end.reason, sink.ids, sink.prompt_logprobs) == (ERROR, [], [])


@pytest.mark.parametrize("where", ["before_forward", "change_logits"])
@pytest.mark.parametrize(
    ("cause", "error", "message", "hint"),
    [
        (ValueError("broken"), EngineError, "ValueError: broken", "report it with"),
        (MemoryError("no more"), ResourceError, "memory ran out for", "a smaller context"),
    ],
)
def test_a_failing_model_fails_the_requests_of_the_step(
    where: str, cause: Exception, error: type[QwickError], message: str, hint: str
) -> None:
    model = ToyModel()
    engine = engine_of(model, max_sequences=2, token_budget=64)
    sinks = [Sink() for _ in range(3)]
    for i, sink in enumerate(sinks):
        engine.submit(greedy([i], 5), sink)
    engine.step()

    def fail(_: Batch | F32) -> None:
        raise cause

    setattr(model, where, fail)
    engine.step()
    engine.check()
    setattr(model, where, lambda _: None)
    while engine.step():
        engine.check()
    assert [s.end.reason for s in sinks] == [ERROR, ERROR, LENGTH]
    assert type(sinks[0].end.error) is error
    assert message in str(sinks[0].end.error)
    assert hint in str(sinks[0].end.error)
    assert sinks[0].end.error.__cause__ is cause
    assert sinks[2].ids == by_hand(ToyModel(), greedy([2], 5))
    assert engine.pages_used == 0
    assert engine.stats.failed_steps == 1


def test_a_failing_callback_cancels_its_request_only(caplog: pytest.LogCaptureFixture) -> None:
    engine = engine_of(ToyModel())
    other = Sink()
    ends = []

    def broken(event: Event) -> None:
        ends.append(event)
        raise KeyError("callback")

    engine.submit(greedy([1], 5), broken)
    engine.submit(greedy([2], 5), other)
    with caplog.at_level(logging.CRITICAL):
        while engine.step():
            engine.check()
    assert len(ends) == 2
    assert getattr(ends[-1], "reason", None) is CANCELLED
    assert other.end.reason is LENGTH
    assert engine.stats.failed_callbacks == 2


# -- steer -----------------------------------------------------------------------------------


class Script(Steer):
    """Forces ids after the second token, forbids odd ids, stops at a given length."""

    def __init__(self, force: tuple[int, ...] = (), stop_after: int = 99, even: bool = False):
        self.force, self.stop_after, self.even = force, stop_after, even
        self.accepted: list[int] = []

    def mask(self) -> Any:
        return np.full(5, 0b01010101, np.uint8) if self.even else None

    def accept(self, token: int) -> Verdict | Force:
        self.accepted.append(token)
        if len(self.accepted) == self.stop_after:
            return Verdict.STOP
        return Force(self.force) if len(self.accepted) == 2 and self.force else Verdict.GO


def steered(steer: Steer, max_tokens: int = 9, **more: Any) -> Sink:
    specs: list[SteerSpec] = []

    def factory(spec: SteerSpec) -> Steer:
        specs.append(spec)
        return steer

    engine = engine_of(ToyModel(), steer_factory=factory, token_budget=4, max_sequences=2, **more)
    (sink,) = run(engine, [greedy([1, 2], max_tokens, stop=("end",))])
    assert specs == [SteerSpec(stop=("end",))]
    return sink


def test_a_steer_stops() -> None:
    sink = steered(Script(stop_after=3))
    assert (len(sink.ids), sink.end.reason) == (3, STOP)


def test_a_steer_masks() -> None:
    sink = steered(Script(even=True))
    assert len(sink.ids) == 9
    assert all(i % 2 == 0 for i in sink.ids)


def test_a_steer_forces_and_the_model_sees_what_was_forced() -> None:
    script = Script(force=(30, 31, 32, 33, 34, 35))
    sink = steered(script, max_tokens=12)
    model = ToyModel()
    ids = [*by_hand(model, greedy([1, 2], 2)), 30, 31, 32, 33, 34, 35]
    for _ in range(4):
        ids.append(int(model.row_after([1, 2, *ids]).argmax()))
    assert sink.ids == ids
    assert script.accepted == ids[:2] + ids[8:], "a steer is not told of what it forced itself"
    assert sink.end.completion_tokens == 12


def test_forcing_ends_at_max_tokens() -> None:
    sink = steered(Script(force=(30,) * 20), max_tokens=5)
    assert (sink.ids[2:], sink.end.reason) == ([30] * 3, LENGTH)


def test_a_broken_steer_fails_its_request_only() -> None:
    class Broken(Script):
        def accept(self, token: int) -> Verdict | Force:
            raise RuntimeError("steer")

    engine = engine_of(ToyModel(), steer_factory=lambda spec: Broken())
    sinks = run(engine, [greedy([1], 3, stop=("x",)), greedy([2], 3)])
    assert [s.end.reason for s in sinks] == [ERROR, LENGTH]


# -- stats -----------------------------------------------------------------------------------


def test_stats_count_what_happened() -> None:
    engine = engine_of(ToyModel(), token_budget=8, max_sequences=4)
    run(engine, [greedy([1] * 20, 5), Request([2] * 9, kind="score")])
    stats = engine.stats
    assert stats.generated == 5
    assert stats.prompt_rows + stats.decode_rows == 20 + 4 + 8
    assert stats.finished == {"length": 1, "stop": 1}
    # 8, 8, the last 4 and 4 of the score and 1 generated, its other 4 beside a decode, 3 decodes
    assert stats.step_tokens == [3, 3, 1, *[0] * 11]
    assert stats.steps == 7
    assert stats.corrupted == stats.drafts == 0
    parts = stats.plan_seconds + stats.model_seconds + stats.sample_seconds + stats.deliver_seconds
    assert 0 < parts <= stats.step_seconds * 1.0001
    assert 0 < stats.python_share < 1
    assert stats.to_dict()["generated"] == 5


def test_what_passes_between_steps_counts_while_there_is_work() -> None:
    now = [0.0]
    engine = engine_of(ToyModel(), clock=lambda: now[0])
    for wait in (1.0, 2.0):  # nothing is left at the end of the first
        engine.submit(greedy([1], 3), Sink())
        while engine.has_work:
            engine.step()
            now[0] += wait
        now[0] += 100.0
    assert engine.stats.between_seconds == 2 * 1.0 + 2 * 2.0
    number = engine.submit(greedy([1], 3), Sink())
    engine.step()
    engine.cancel(number)
    now[0] += 100.0
    engine.submit(greedy([1], 1), Sink())
    engine.step()
    assert engine.stats.between_seconds == 2 * 1.0 + 2 * 2.0


def test_timings_add_up_on_the_engines_own_clock() -> None:
    now = [0.0]
    model = ToyModel()

    def tick(_: Batch) -> None:
        now[0] += 1.0

    model.before_forward = tick
    engine = engine_of(model, token_budget=8, max_sequences=1, clock=lambda: now[0])
    first, second = run(engine, [greedy([1] * 20, 5), greedy([2], 2)])
    assert (first.end.timings.queue, first.end.timings.prefill, first.end.timings.decode) == (
        0,
        3,
        4,
    )
    assert (second.end.timings.queue, second.end.timings.prefill) == (7, 1)


def test_a_submission_that_fails_leaves_the_others_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    engine = engine_of(ToyModel())
    first = Sink()
    engine.submit(greedy([1, 2, 3]), first)
    with monkeypatch.context() as patched:
        patched.setattr("qwick.engine.scheduler.extend_keys", out_of_memory)
        with pytest.raises(MemoryError):
            engine.submit(greedy([4] * 40), Sink())
    engine.check()
    while engine.step():
        engine.check()
    assert first.end.reason is LENGTH
    assert run(engine, [greedy([4] * 40)])[0].end.reason is LENGTH


def test_everybody_hears_of_the_end_though_one_cannot_be_taken_out() -> None:
    engine = engine_of(ToyModel())
    sinks = [Sink() for _ in range(3)]
    for sink in sinks:
        engine.submit(greedy([1, 2, 3]), sink)
    engine._state.waiting.popleft()  # whatever brought it about
    engine.fail_all(EngineError("the engine stopped"))
    assert [sink.end.reason for sink in sinks] == [ERROR] * 3
    engine.close()


def out_of_memory(*_: object) -> None:
    raise MemoryError
