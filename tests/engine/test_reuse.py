"""Prefix reuse in the whole engine, on a model that notices any page of another prefix."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from engine.toy import F32, Sink, ToyModel, engine_of, greedy, run
from qwick.engine.engine import Engine
from qwick.engine.request import FinishReason, Request, Sampling
from qwick.errors import ParameterError

LONG = [i % 37 for i in range(43)]  # ten pages of 4, and 3


def asked(ids: list[int], max_tokens: int = 6, namespace: str = "") -> Request:
    return Request(ids, sampling=Sampling(0.0, max_tokens=max_tokens), namespace=namespace)


def alone(request: Request) -> list[int]:
    (sink,) = run(engine_of(ToyModel(), prefix_reuse=False), [request])
    assert sink.end.cached_tokens == 0
    return sink.ids


def one(engine: Engine, request: Request) -> tuple[list[int], int]:
    """Run one request; return its answer and how much of its prompt was found."""
    (sink,) = run(engine, [request])
    return sink.ids, sink.end.cached_tokens


def test_a_second_turn_goes_on_where_the_first_ended() -> None:
    model = ToyModel()
    engine = engine_of(model)
    answer, cached = one(engine, asked(LONG))
    assert (answer, cached) == (alone(asked(LONG)), 0)
    turn = [*LONG, *answer, 1, 2, 3]
    steps = len(model.batches)
    assert one(engine, asked(turn)) == (alone(asked(turn)), 48), "48 positions fill 12 pages"
    assert len(model.batches[steps].ids) == len(turn) - 48
    stats = engine.stats
    assert (stats.prefix_hit_tokens, stats.prefix_miss_tokens) == (48, len(LONG) + len(turn) - 48)
    assert stats.evicted_pages == 0
    assert engine.pages_kept == (len(turn) + 5) // 4


def test_the_same_again_computes_the_end_only() -> None:
    engine = engine_of(ToyModel())
    first = one(engine, asked(LONG[:40]))
    assert one(engine, asked(LONG[:40])) == (first[0], 36), "whole pages before the last token"


def test_another_namespace_shares_nothing() -> None:
    engine = engine_of(ToyModel(), cache_tokens=400)
    expected = alone(asked(LONG))
    for namespace, found in (("a", 0), ("b", 0), ("", 0), ("a", 40), ("b", 40), ("ab", 0)):
        assert one(engine, asked(LONG, namespace=namespace)) == (expected, found)


def test_switched_off() -> None:
    engine = engine_of(ToyModel(), prefix_reuse=False)
    assert one(engine, asked(LONG)) == one(engine, asked(LONG)) == (alone(asked(LONG)), 0)
    assert engine.pages_kept == 0
    with pytest.raises(ParameterError, match="prefix_reuse is 'no'; allowed: True or False"):
        engine_of(ToyModel(), prefix_reuse="no")


def test_scores_read_everything_and_lend_their_pages() -> None:
    engine = engine_of(ToyModel())
    one(engine, asked(LONG))
    (again,) = run(engine, [Request(LONG, kind="score")])
    (fresh,) = run(engine_of(ToyModel(), prefix_reuse=False), [Request(LONG, kind="score")])
    assert again.end.cached_tokens == 0
    assert again.end.scores is not None
    assert fresh.end.scores is not None
    assert np.array_equal(again.end.scores.logprobs, fresh.end.scores.logprobs)
    run(engine, [Request(LONG[::-1], kind="score")])
    assert one(engine, asked(LONG[::-1]))[1] == 40


def test_what_a_cancelled_request_computed_is_found() -> None:
    engine = engine_of(ToyModel(), token_budget=20, max_sequences=4)
    sink = Sink()
    number = engine.submit(asked(LONG), sink)
    engine.step()
    engine.cancel(number)
    engine.check()
    assert engine.pages_used == 0
    assert one(engine, asked(LONG)) == (alone(asked(LONG)), 20)


def test_requests_side_by_side_share_a_prefix_and_its_memory() -> None:
    engine = engine_of(ToyModel(), cache_tokens=80)
    requests = [asked([*LONG[:40], i], 3) for i in range(8)]  # 11 pages each, alone
    first = Sink()
    engine.submit(requests[0], first)
    engine.step()
    sinks = run(engine, requests[1:])
    assert [s.ids for s in [first, *sinks]] == [alone(request) for request in requests]
    assert [s.end.cached_tokens for s in sinks] == [40] * 7
    assert engine.stats.preemptions == 0, "20 pages hold all eight"
    assert engine.stats.steps < 8


def test_under_pressure_the_oldest_goes_and_answers_stay_right() -> None:
    engine = engine_of(ToyModel(), cache_tokens=120)  # two and a half of these
    prompts = [[i, *LONG[1:]] for i in range(3)]
    for prompt in prompts:
        one(engine, asked(prompt))
    assert engine.stats.evicted_pages > 0
    assert one(engine, asked(prompts[2])) == (alone(asked(prompts[2])), 40)
    answer, found = one(engine, asked(prompts[0]))
    assert answer == alone(asked(prompts[0]))
    assert 0 <= found < 40


def test_the_preempted_resume_from_what_is_left() -> None:
    requests = [greedy([1] * 8, 24), greedy(LONG[:32], 20)]
    rows = {}
    for reuse in (False, True):
        engine = engine_of(ToyModel(), cache_tokens=64, prefix_reuse=reuse)
        sinks = run(engine, requests)
        assert [s.ids for s in sinks] == [alone(request) for request in requests]
        assert engine.stats.preemptions >= 1
        assert all(s.end.cached_tokens == 0 for s in sinks), "only what was there at the start"
        assert (engine.stats.prefix_hit_tokens > 0) is reuse
        rows[reuse] = engine.stats.prompt_rows + engine.stats.decode_rows
    assert rows[True] <= rows[False] - 20


def test_what_led_to_an_error_is_not_used_again() -> None:
    model = ToyModel()
    engine = engine_of(model, cache_tokens=400)
    one(engine, asked([9] * 9))
    kept = engine.pages_kept
    one(engine, asked(LONG[:21]))

    def spoil(logits: F32) -> None:
        logits[:, 3] = np.nan

    model.change_logits = spoil
    (sink,) = run(engine, [asked(LONG)])
    assert (sink.end.reason, sink.end.cached_tokens) == (FinishReason.ERROR, 20)
    assert engine.pages_kept == kept, "the pages it took over are in doubt, and all behind them"
    model.change_logits = lambda logits: None
    assert one(engine, asked(LONG)) == (alone(asked(LONG)), 0)


TEXTS = st.builds(
    lambda head, length, tail: [*LONG[head : head + length], *tail],
    st.sampled_from([0, 0, 0, 3]),
    st.integers(0, 38),
    st.lists(st.integers(0, 39), min_size=1, max_size=5),
)
REQUESTS = st.one_of(
    st.builds(asked, TEXTS, st.integers(1, 12), st.sampled_from(["", "", "", "b"])),
    st.builds(
        lambda ids, seed: Request(
            ids, sampling=Sampling(seed=seed, max_tokens=7, logprobs=1, repetition_penalty=1.2)
        ),
        TEXTS,
        st.integers(0, 3),
    ),
    st.builds(lambda ids: Request([5, *ids], kind="score"), TEXTS),
)


def outcome(sink: Sink) -> tuple[Any, ...]:
    end = sink.end
    scores = end.scores and (end.scores.logprobs.tolist(), end.scores.best.tolist())
    return (sink.ids, sink.logprobs, end.reason, end.seed, scores)


@settings(deadline=None, max_examples=60)
@given(
    rounds=st.lists(st.lists(REQUESTS, min_size=1, max_size=4), min_size=1, max_size=5),
    cancel=st.sets(st.integers(0, 30), max_size=4),
    cache_tokens=st.integers(56, 200),
    most=st.integers(1, 4),
    spare=st.integers(1, 40),
    page_size=st.sampled_from([1, 4, 16]),
)
def test_answers_with_reuse_equal_those_without(
    rounds: list[list[Request]],
    cancel: set[int],
    cache_tokens: int,
    most: int,
    spare: int,
    page_size: int,
) -> None:
    """Conversations, branches, other namespaces, scores, in any cache, some cancelled."""
    shape = {"cache_tokens": cache_tokens, "token_budget": most + spare, "max_sequences": most}
    engine = engine_of(ToyModel(page_size=page_size), **shape)
    steps = 0
    for requests in rounds:
        sinks = [Sink() for _ in requests]
        numbers = [engine.submit(r, s) for r, s in zip(requests, sinks, strict=True)]
        while engine.step():
            engine.check()
            steps += 1
            if steps in cancel:
                engine.cancel(numbers[steps % len(numbers)])
                engine.check()
        assert engine.pages_used == 0
        for request, sink in zip(requests, sinks, strict=True):
            if sink.end.reason is not FinishReason.CANCELLED:
                plain = engine_of(ToyModel(page_size=page_size), prefix_reuse=False)
                assert outcome(sink) == outcome(run(plain, [request])[0])
            assert sink.end.cached_tokens < len(request.ids)
