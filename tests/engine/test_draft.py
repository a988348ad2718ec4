"""Drafts: what is proposed and how much of it, and that no draft ever changes an answer."""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import Any
from unittest.mock import patch

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import qwick.engine.engine
import qwick.engine.live
from engine.test_engine import MIXED, Script, outcome
from engine.toy import Sink, ToyModel, engine_of, greedy, hash_of, run
from qwick.engine.draft import (
    GRAM,
    INDEX_AT_ONCE,
    LEAST_GAIN,
    MOST_DECODES,
    MOST_MATCHED,
    MOST_ROWS,
    STEP_COSTS,
    Drafter,
    Lookup,
    share_rows,
    step_cost,
)
from qwick.engine.engine import Engine
from qwick.engine.pages import PagePool
from qwick.engine.request import FinishReason, Request, Sampling
from qwick.engine.scheduler import Limits, State, Step, plan
from qwick.engine.sequence import Sequence
from qwick.engine.steer import Force, SteerSpec, Verdict
from qwick.errors import ParameterError

# -- finding ---------------------------------------------------------------------------------------

few_ids = st.lists(st.integers(0, 3), max_size=60)


def matched(ids: list[int], at: int) -> int:
    """How many ids before `at` are those at the end of `ids`."""
    length = 0
    while length < min(at, MOST_MATCHED) and ids[at - 1 - length] == ids[-1 - length]:
        length += 1
    return length


@given(ids=few_ids, cuts=st.lists(st.integers(1, 9)))
def test_what_is_found_is_a_match_and_none_is_missed(ids: list[int], cuts: list[int]) -> None:
    lookup = Lookup()
    for cut in cuts:  # in portions of any size
        lookup.read(ids, cut)
    lookup.read(ids)
    at, length = lookup.find(ids)
    lengths = {i: matched(ids, i) for i in range(1, len(ids)) if matched(ids, i) >= GRAM}
    assert (at > 0) == bool(lengths)
    if at:
        assert length == lengths[at] >= lengths[max(lengths)], "at least as good as the latest"


def test_the_longest_match_wins_and_the_latest_among_equals() -> None:
    def found(ids: list[int]) -> int:
        lookup = Lookup()
        lookup.read(ids)
        return lookup.find(ids)[0]

    assert found([1, 2, 3, 7, 9, 2, 3, 8, 1, 2, 3]) == 3
    assert found([1, 2, 3, 7, 1, 2, 3, 8, 1, 2, 3]) == 7
    assert found([1, 2, 3]) == found([1]) == found([]) == 0


def test_a_long_prompt_is_read_in_portions() -> None:
    drafter, ids = Drafter(), [*range(100, 2 * INDEX_AT_ONCE), 4, 5, 6, 4, 5]
    assert drafter.propose(ids, 1) == [], "not there yet"
    assert drafter.propose(ids, 1) == [6]
    assert drafter.propose([*ids, 100, 101], 2) == [102, 103]


def test_a_proposal_goes_round_where_it_meets_the_end() -> None:
    assert Drafter().propose([9, 1, 2, 3, 1, 2, 3], 8) == [1, 2, 3, 1, 2, 3, 1, 2]
    assert Drafter().propose([4, 4, 4], 3) == [4, 4, 4]
    assert Drafter().propose([9, 1, 2, 3, 1, 2, 3], 0) == []
    assert Drafter().propose([1, 2, 3, 4], 5) == []


# -- how much --------------------------------------------------------------------------------------


def test_the_costs_rise_and_are_the_tables() -> None:
    assert [step_cost(rows) for rows, _ in STEP_COSTS] == [cost for _, cost in STEP_COSTS]
    costs = [step_cost(rows) for rows in range(1, MOST_ROWS + 1)]
    assert costs == sorted(costs)
    with pytest.raises(ValueError, match="17 rows"):
        step_cost(MOST_ROWS + 1)


def worth(p: float, count: int, decodes: int) -> float:
    """Tokens per time of a step with one draft."""
    tokens = decodes + sum(p**i for i in range(1, count + 1))
    return tokens / step_cost(decodes + count)


@given(p=st.floats(0, 1), decodes=st.integers(1, MOST_DECODES), rows=st.integers(1, MOST_ROWS))
def test_one_draft_gets_the_rows_that_pay_most(p: float, decodes: int, rows: int) -> None:
    (count,) = share_rows([p], decodes, rows)
    possible = [worth(p, n, decodes) for n in range(max(0, rows - decodes) + 1)]
    if count:
        assert possible[count] == pytest.approx(max(possible))
        assert possible[count] > LEAST_GAIN * possible[0]
    else:
        assert max(possible) <= LEAST_GAIN * possible[0] * (1 + 1e-12)


@given(
    chances=st.lists(st.floats(0, 1), max_size=12),
    more=st.integers(0, 4),
    rows=st.integers(1, MOST_ROWS),
)
def test_all_drafts_together_keep_to_the_rows(chances: list[float], more: int, rows: int) -> None:
    decodes = max(1, len(chances) + more)
    counts = share_rows(chances, decodes, rows)
    assert len(counts) == len(chances)
    assert sum(counts) <= max(0, rows - decodes)
    assert decodes <= MOST_DECODES or not any(counts), "rows are shared well enough already"


def test_sure_drafts_get_all_and_hopeless_ones_nothing() -> None:
    assert share_rows([1.0], 1, MOST_ROWS) == [MOST_ROWS - 1]
    assert share_rows([0.02], 1, MOST_ROWS) == [0]
    assert share_rows([1.0], 1, 4) == [3]
    assert share_rows([1.0], MOST_DECODES + 1, MOST_ROWS) == [0]
    assert share_rows([], 1, MOST_ROWS) == []


def replay(ids: list[int], prompt: int) -> tuple[float, int, int]:
    """The time that drafts take for a given text, by the table, in steps without; the ids drafted
    and right.
    """
    drafter, at, cost, drafted, right = Drafter(), prompt, 0.0, 0, 0
    while at < len(ids):
        draft = drafter.propose(ids[:at], min(MOST_ROWS - 1, len(ids) - at - 1))
        counts = share_rows([drafter.confidence] * bool(draft), 1, MOST_ROWS)
        del draft[sum(counts) :]
        agreed = next((i for i, x in enumerate(draft) if x != ids[at + i]), len(draft))
        cost += step_cost(1 + len(draft))
        at += agreed + 1
        drafted, right = drafted + len(draft), right + agreed
        if draft:
            drafter.learn(len(draft), agreed)
    return cost / (len(ids) - prompt), drafted, right


@pytest.mark.parametrize("n_vocab", [12, 30, 100, 1000])
@pytest.mark.parametrize("length", [150, 600, 3000])
def test_text_without_repeats_costs_at_most_two_percent(n_vocab: int, length: int) -> None:
    """Chance alone: what followed some ids before says nothing about what follows them now."""
    draws = random.Random(length)
    ids = [draws.randrange(n_vocab) for _ in range(length)]
    cost, drafted, _ = replay(ids, 50)
    assert cost <= 1.02
    assert n_vocab > 100 or drafted > 0, "nothing was tried, so nothing is shown"


def test_drafts_come_back_when_text_begins_to_repeat() -> None:
    draws = random.Random(3)
    prompt = [draws.randrange(1000, 2000) for _ in range(300)]
    noise = [draws.randrange(12) for _ in range(400)]
    assert replay(prompt + noise, 300)[0] <= 1.02
    cost, drafted, right = replay(prompt + noise + prompt, 300)
    assert right > 270
    assert drafted < 1.3 * right
    assert cost * 700 < 400 * 1.02 + 300 / 3


def test_what_failed_is_tried_again_much_later() -> None:
    drafter = Drafter()

    def rows(length: int) -> int:
        ids = [*range(100, 98 + length - 3), 1, 2, 3, 1, 2]
        assert drafter.propose(ids, 3)[0] == 3
        return share_rows([drafter.confidence], 1, MOST_ROWS)[0]

    assert rows(20) > 0
    for _ in range(20):
        drafter.learn(3, 0)
    assert rows(20) == rows(60) == 0
    assert rows(1500) > 0


# -- the engine ------------------------------------------------------------------------------------


class Guesser(Drafter):
    """Proposes what it is told to; sure of everything."""

    confidence = 1.0

    def __init__(self, guess: Callable[[list[int], int], list[int]]) -> None:
        super().__init__()
        self.guess = guess
        self.heard: list[tuple[int, int]] = []

    def propose(self, ids: Any, most: int) -> list[int]:
        return self.guess(list(ids), most)[: max(0, most)]

    def learn(self, drafted: int, accepted: int) -> None:
        assert 0 <= accepted <= drafted >= 1
        self.heard.append((drafted, accepted))


def guessing(engine: Engine, request: Request, answer: list[int], bad: random.Random) -> Sink:
    """Submit a request whose drafts are its own answer, with some ids changed at random."""

    def guess(ids: list[int], most: int) -> list[int]:
        rest = answer[len(ids) - len(request.ids) :]
        guessed = [bad.randrange(40) if bad.random() < 0.25 else x for x in rest]
        guessed += [bad.randrange(40) for _ in range(most)]
        return guessed[: bad.randint(0, most)] if most > 0 else []

    sink = Sink()
    live = engine._live[engine.submit(request, sink)]
    assert (live.drafter is None) == (request.kind != "generate")
    if live.drafter is not None:
        live.drafter = Guesser(guess)
    return sink


def finish(engine: Engine) -> None:
    while engine.step():
        engine.check()
    assert engine.pages_used == 0


def plan_beside_no_drafts(state: State) -> Step:
    """Plan a step, and hold against it what would have been planned without any draft."""
    step, limits = plan(state), state.limits
    drafts = [(s, s.draft) for s in state.running]
    for s, _ in drafts:
        s.draft = []
    plain = plan(state)
    for s, draft in drafts:
        s.draft = draft
    assert (step.preempted, step.admitted) == (plain.preempted, plain.admitted)
    for chunk, other in zip(step.chunks, plain.chunks, strict=True):
        count, s = chunk.count - chunk.drafted, chunk.sequence
        assert (s, chunk.start, count) == (other.sequence, other.start, other.count)
        assert 0 <= chunk.drafted <= len(s.draft)
        assert chunk.new_pages >= other.new_pages
    rows = sum(chunk.count for chunk in step.chunks)
    assert rows <= limits.token_budget
    assert sum(chunk.new_pages for chunk in step.chunks) <= state.pool.free_count + sum(
        len(s.pages) for s in step.preempted
    )
    if any(chunk.drafted for chunk in step.chunks):
        assert rows <= limits.draft_rows
    return step


PLAIN = run(engine_of(ToyModel(), drafts=False), MIXED)


@settings(deadline=None, max_examples=120)
@given(
    cache_tokens=st.integers(52, 200),
    most=st.integers(1, 8),
    spare=st.integers(1, 40),
    page_size=st.sampled_from([1, 4, 32]),
    exact_rows=st.sampled_from([1, 3, 1000]),
    cancel=st.none() | st.tuples(st.integers(0, len(MIXED) - 1), st.integers(0, 12)),
    seed=st.integers(0, 2**32),
)
def test_no_draft_changes_an_answer(
    cache_tokens: int,
    most: int,
    spare: int,
    page_size: int,
    exact_rows: int,
    cancel: tuple[int, int] | None,
    seed: int,
) -> None:
    """Right, wrong and half right, greedy and drawn, penalised, scored beside, evicted between."""
    model = ToyModel(page_size=page_size, exact_rows=exact_rows)
    limits = {"token_budget": most + spare, "max_sequences": most}
    engine = engine_of(model, cache_tokens=cache_tokens, drafts=exact_rows > 1, **limits)
    bad = random.Random(seed)
    sinks = []
    for request, plain in zip(MIXED, PLAIN, strict=True):
        if exact_rows > 1:
            sinks.append(guessing(engine, request, plain.ids, bad))
        else:
            engine.submit(request, sink := Sink())
            sinks.append(sink)

    def shared(confidences: list[float], decodes: int, rows: int) -> list[int]:
        return [bad.randint(0, 9) for _ in confidences]  # too many at times: `plan` cuts them

    with (
        patch.object(qwick.engine.engine, "plan", plan_beside_no_drafts),
        patch.object(qwick.engine.engine, "share_rows", shared),
    ):
        for _ in range(cancel[1] if cancel else 0):
            engine.step()
            engine.check()
        if cancel:
            engine.cancel(cancel[0])
        finish(engine)
    for i, (sink, plain) in enumerate(zip(sinks, PLAIN, strict=True)):
        if sink.end.reason is FinishReason.CANCELLED:
            assert cancel is not None
            assert i == cancel[0]
            assert sink.ids == plain.ids[: len(sink.ids)]
        else:
            assert outcome(sink) == outcome(plain)
            assert sink.end.completion_tokens == plain.end.completion_tokens
    ends = [sink.end.timings for sink in sinks]
    assert engine.stats.drafted == sum(t.drafted for t in ends)
    assert engine.stats.accepted == sum(t.accepted for t in ends) <= engine.stats.drafted
    if exact_rows == 1:
        assert engine.stats.drafted == 0


def test_right_drafts_save_steps() -> None:
    """The properties above would prove little if no draft were ever computed or believed."""
    request = greedy([3, 1, 4], 33)
    (plain,) = run(engine := engine_of(ToyModel(), drafts=False), [request])
    assert engine.stats.steps == 33
    engine = engine_of(ToyModel())
    sink = Sink()
    live = engine._live[engine.submit(request, sink)]
    live.drafter = guesser = Guesser(lambda ids, most: plain.ids[len(ids) - 3 :][:most])
    finish(engine)
    assert outcome(sink) == outcome(plain)
    assert engine.stats.steps == 3, "the prompt, then 16 tokens and 16 tokens"
    assert guesser.heard == [(15, 15)], "of the step that ends it, there is nothing to learn"
    assert (engine.stats.drafts, engine.stats.drafted, engine.stats.accepted) == (2, 30, 30)
    assert (engine.stats.decode_rows, engine.stats.prompt_rows) == (2, 3)
    assert (sink.end.timings.drafted, sink.end.timings.accepted) == (30, 30)
    assert engine.stats.generated == 33


@settings(deadline=None, max_examples=60)
@given(
    seed=st.integers(0, 2**32),
    max_tokens=st.integers(1, 40),
    stop_after=st.integers(1, 30),
    force=st.lists(st.integers(0, 39), max_size=8),
    even=st.booleans(),
    stop_id=st.integers(0, 39),
    temperature=st.sampled_from([0.0, 1.0]),
    penalty=st.sampled_from([1.0, 1.4]),
)
def test_steers_and_stops_see_each_token_in_turn(
    seed: int,
    max_tokens: int,
    stop_after: int,
    force: list[int],
    even: bool,
    stop_id: int,
    temperature: float,
    penalty: float,
) -> None:
    request = Request(
        [1, 2],
        sampling=Sampling(
            temperature=temperature,
            seed=9,
            max_tokens=max_tokens,
            stop=("end",),
            stop_ids=(stop_id,),
            repetition_penalty=penalty,
            frequency_penalty=penalty - 1,
            min_tokens=min(3, max_tokens),
            logprobs=1,
        ),
    )

    def script() -> Script:
        return Script(tuple(force), stop_after, even)

    plain_steer, steer = script(), script()
    engine = engine_of(ToyModel(), steer_factory=lambda spec: plain_steer, drafts=False)
    (plain,) = run(engine, [request])
    engine = engine_of(ToyModel(), steer_factory=lambda spec: steer)
    sink = guessing(engine, request, plain.ids, random.Random(seed))
    finish(engine)
    assert outcome(sink) == outcome(plain)
    assert sink.end.completion_tokens == plain.end.completion_tokens
    assert steer.accepted == plain_steer.accepted


def test_a_draft_that_holds_what_a_steer_forces_is_used() -> None:
    class Forcing(Script):
        def accept(self, token: int) -> Verdict | Force:
            super().accept(token)
            return Force((30, 31)) if len(self.accepted) == 2 else Verdict.GO

    def factory(spec: SteerSpec) -> Forcing:
        return Forcing()

    request = greedy([1, 2], 12, stop=("end",))
    (plain,) = run(engine_of(ToyModel(), steer_factory=factory, drafts=False), [request])
    engine = engine_of(ToyModel(), steer_factory=factory)
    sink = Sink()
    live = engine._live[engine.submit(request, sink)]
    live.drafter = Guesser(lambda ids, most: plain.ids[len(ids) - 2 :][:most])
    finish(engine)
    assert plain.ids[2:4] == [30, 31]
    assert outcome(sink) == outcome(plain)
    assert engine.stats.steps == 2


def test_a_draft_ends_where_the_answer_must() -> None:
    """Its last row is never one that nothing could be drawn from; nor beyond the context."""
    model = ToyModel(context=20)
    engine = engine_of(model)
    sinks = [Sink(), Sink()]
    for sink, most in zip(sinks, (7, None), strict=True):
        live = engine._live[engine.submit(greedy([1] * 6, most), sink)]
        live.drafter = Guesser(lambda ids, most: [5] * most)
    finish(engine)
    assert [len(sink.ids) for sink in sinks] == [7, 14]
    assert max(int(batch.lengths.max()) for batch in model.batches) == 19


def test_nobody_pays_for_a_draft() -> None:
    """Pages: a draft takes what is free and gives back what it did not need."""
    requests = [greedy([i] * 8, 24) for i in range(6)]

    engine = engine_of(ToyModel(), cache_tokens=64, drafts=False)
    plain = run(engine, requests)
    evicted, steps = engine.stats.preemptions, engine.stats.steps
    answers = {request.ids: sink.ids for request, sink in zip(requests, plain, strict=True)}

    def wrong(ids: list[int], most: int) -> list[int]:
        return [(answers[tuple(ids[:8])][len(ids) - 8] + 1) % 40] * most

    engine = engine_of(ToyModel(), cache_tokens=64)
    for request in requests:
        engine._live[engine.submit(request, Sink())].drafter = Guesser(wrong)
    finish(engine)
    assert (engine.stats.preemptions, engine.stats.steps) == (evicted, steps)
    assert evicted > 0
    assert engine.stats.drafted > 100
    assert engine.stats.accepted == 0


def test_drafts_share_what_pages_are_free() -> None:
    state = State(PagePool(7), Limits(4, 20, 4, draft_rows=20))
    for number in range(3):
        sequence = Sequence(number, [0] * 6, 5, cached=5, pages=state.pool.allocate(2))
        sequence.draft = [1] * 6
        state.running.append(sequence)
    step = plan(state)
    assert [(c.count, c.drafted, c.new_pages) for c in step.chunks] == [
        (7, 6, 1),
        (3, 2, 0),  # to the end of its second page
        (3, 2, 0),
    ]
    state.apply(step)
    assert [len(s.draft) for s in state.running] == [6, 2, 2]
    state.commit(step)
    for sequence, said in zip(state.running, ([1, 1, 9], [1, 1, 9], [9]), strict=True):
        assert [sequence.append(token) for token in said] == [token == 1 for token in said]
    state.drop_drafts(step)
    state.check()
    assert [s.cached for s in state.running] == [8, 8, 6]
    assert [len(s.pages) for s in state.running] == [3, 2, 2], "nine ids need the third page"


def test_no_drafts_beside_the_chunk_of_a_prompt() -> None:
    model = ToyModel()
    engine = engine_of(model, token_budget=40, max_sequences=4, cache_tokens=200)
    live = engine._live[engine.submit(greedy([1, 2], 20), Sink())]
    live.drafter = Guesser(lambda ids, most: [39] * most)
    engine.step()
    engine.submit(greedy([3] * 60, 2), Sink())
    rows = []
    for _ in range(4):
        engine.step()
        rows.append([int(n) for n in model.batches[-1].starts])
    assert rows == [[0, 1, 40], [0, 1, 22], [0, 15, 16], [0, 16]]


def test_bad_logits_behind_a_wrong_draft_harm_nobody() -> None:
    """A row after an id that was not drawn is not read at all."""
    model = ToyModel()
    request = greedy([1, 2], 6)
    (plain,) = run(engine_of(ToyModel()), [request])
    engine = engine_of(model)
    live = engine._live[engine.submit(request, sink := Sink())]
    wrong = next(x for x in range(40) if x not in plain.ids)
    live.drafter = Guesser(lambda ids, most: [wrong] * most)

    def change(logits: Any) -> None:
        logits[1:] = float("nan")

    model.change_logits = change
    finish(engine)
    assert outcome(sink) == outcome(plain)
    assert engine.stats.drafted > 0


class Cycling(ToyModel):
    """Answers go round in circles: the logits depend on the last two tokens alone."""

    def value_of(self, tokens: Any, positions: Any) -> int:
        return hash_of(tokens[-2:], positions[-2:] * 0)


def test_an_answer_that_repeats_itself_takes_fewer_steps() -> None:
    requests = [
        greedy([3, 1, 4], 200),
        Request([2, 7], sampling=Sampling(0.3, seed=4, max_tokens=200, logprobs=1)),
    ]

    def told(drafts: bool) -> tuple[list[Any], Engine]:
        model = Cycling(context=256, n_vocab=12)
        engine = engine_of(model, cache_tokens=512, drafts=drafts)
        return [outcome(sink) for sink in run(engine, requests)], engine

    (plain, slow), (drafted, quick) = told(False), told(True)
    assert drafted == plain
    assert (slow.stats.drafted, slow.stats.steps) == (0, 200)
    assert quick.stats.accepted > 0.5 * quick.stats.drafted
    assert quick.stats.decode_rows < slow.stats.decode_rows / 2


def test_a_draft_costs_nothing_where_rows_are_not_exact(monkeypatch: pytest.MonkeyPatch) -> None:
    """A model whose rows depend on how many there are gets none, so nothing is indexed either."""
    monkeypatch.setattr(qwick.engine.live, "Drafter", None)
    (sink,) = run(engine_of(ToyModel(exact_rows=1)), [greedy([4, 4, 4, 4], 9)])
    assert len(sink.ids) == 9


def test_drafts_are_on_or_off() -> None:
    with pytest.raises(ParameterError, match="drafts is 'yes'; allowed: True or False"):
        engine_of(ToyModel(), drafts="yes")
