"""The scheduler alone, on random traces: no model, no arrays."""

from __future__ import annotations

import copy
from dataclasses import dataclass

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from qwick.engine.pages import PagePool, pages_for
from qwick.engine.scheduler import Limits, State, Step, plan
from qwick.engine.sequence import Sequence
from qwick.errors import ParameterError


@dataclass(frozen=True)
class Arrival:
    at: int  # step
    prompt: int
    answer: int  # tokens until it ends
    cancel_after: int | None  # steps after arrival
    forced: int  # extra tokens appended with the first one, as a steer does


class World:
    """Arrivals, cancellations and ends around `plan`, with everything checked at every step."""

    def __init__(self, pages: int, limits: Limits, arrivals: list[Arrival]) -> None:
        self.state = State(PagePool(pages), limits)
        self.todo = [
            (i, a)
            for i, a in enumerate(sorted(arrivals, key=lambda a: a.at))
            if pages_for(a.prompt + a.answer + a.forced, limits.page_size) <= pages
        ]
        self.left: dict[int, int] = {}
        self.forced: dict[int, int] = {}
        self.cancel_at: dict[int, int] = {}
        self.computed: dict[int, int] = {}
        self.ended: set[int] = set()
        self.steps = 0

    def run(self) -> None:
        limit = 40 + sum(
            # every row computed as often as it can be evicted by older ones, and one spare each
            (a.prompt + a.answer + a.forced + 2) * (len(self.todo) + 1)
            for _, a in self.todo
        )
        total = len(self.todo)
        while len(self.ended) < total:
            self.arrive()
            if self.state.running or self.state.waiting:
                self.step()
            self.steps += 1
            assert self.steps < limit + 50, "starvation"
        assert self.state.pool.used_count == 0

    def arrive(self) -> None:
        while self.todo and self.todo[0][1].at <= self.steps:
            number, a = self.todo.pop(0)
            self.state.add(Sequence(number, [0] * a.prompt, a.prompt - 1))
            self.left[number] = a.answer
            self.forced[number] = a.forced
            if a.cancel_after is not None:
                self.cancel_at[number] = self.steps + a.cancel_after
        for s in [*self.state.running, *self.state.waiting]:
            if self.cancel_at.get(s.number) == self.steps:
                self.state.remove(s)
                self.ended.add(s.number)
        self.state.check()

    def step(self) -> None:
        state = self.state
        if not (state.running or state.waiting):
            return
        before = copy.deepcopy(state)
        step = plan(state)
        assert_same(before, state)
        self.judge(step)
        state.apply(step)
        state.check()
        for chunk in step.chunks:
            s = chunk.sequence
            assert s in state.running
            assert chunk.start == s.cached
            assert chunk.start + chunk.count <= len(s.pages) * state.limits.page_size
        state.commit(step)
        for chunk in step.chunks:
            self.advance(chunk.sequence)
        state.check()

    def judge(self, step: Step) -> None:
        state, limits = self.state, self.state.limits
        oldest = min([*state.running, *state.waiting], key=lambda s: s.number)
        planned = {chunk.sequence.number for chunk in step.chunks}
        assert oldest.number in planned, "the oldest request must always move"
        assert sum(chunk.count for chunk in step.chunks) <= limits.token_budget
        assert all(1 <= chunk.count <= chunk.sequence.pending for chunk in step.chunks)
        assert len(planned) == len(step.chunks)
        evicted = {s.number for s in step.preempted}
        assert not evicted & planned
        kept = [s.number for s in state.running if s.number not in evicted]
        assert not kept or not evicted or max(kept) < min(evicted), "the youngest pay"
        for s in state.running:
            if s.pending == 1 and s.number not in evicted:
                assert s.number in planned, "every decode moves in every step"
        assert [s.number for s in step.admitted] == [
            s.number for s in list(state.waiting)[: len(step.admitted)]
        ], "nobody overtakes"

    def advance(self, s: Sequence) -> None:
        if s.pending:
            return
        s.append(0)
        for _ in range(self.forced.pop(s.number, 0)):
            s.append(0)
        self.left[s.number] -= 1
        if self.left[s.number] == 0:
            self.state.remove(s)
            self.ended.add(s.number)


def assert_same(a: State, b: State) -> None:
    def shape(s: State) -> object:
        rows = [
            [(x.number, x.cached, x.pages, len(x.ids)) for x in y] for y in (s.running, s.waiting)
        ]
        return rows, s.pool._free, s.pool._refs

    assert shape(a) == shape(b), "plan changed the state"


arrivals = st.builds(
    Arrival,
    at=st.integers(0, 12),
    prompt=st.integers(1, 30),
    answer=st.integers(1, 12),
    cancel_after=st.none() | st.integers(0, 15),
    forced=st.sampled_from([0, 0, 0, 5]),
)


@settings(deadline=None, max_examples=300)
@given(
    pages=st.integers(1, 24),
    page_size=st.sampled_from([1, 4, 8]),
    most=st.integers(1, 5),
    spare=st.integers(1, 12),
    trace=st.lists(arrivals, max_size=10),
)
def test_random_traces(
    pages: int, page_size: int, most: int, spare: int, trace: list[Arrival]
) -> None:
    World(pages, Limits(page_size, most + spare, most), trace).run()


def state(pages: int, budget: int = 16, most: int = 4) -> State:
    return State(PagePool(pages), Limits(4, budget, most))


def go(s: State) -> Step:
    step = plan(s)
    s.apply(step)
    s.commit(step)
    for chunk in step.chunks:
        if chunk.sequence.pending == 0:
            chunk.sequence.append(0)
    s.check()
    return step


def add(s: State, number: int, prompt: int) -> Sequence:
    s.add(Sequence(number, [0] * prompt, prompt - 1))
    return s.waiting[-1]


def rows(step: Step) -> list[tuple[int, int, int]]:
    return [(c.sequence.number, c.start, c.count) for c in step.chunks]


def test_decodes_go_first_and_chunks_fill_the_budget() -> None:
    s = state(32, budget=10)
    add(s, 0, 3)
    add(s, 1, 25)
    assert rows(go(s)) == [(0, 0, 3), (1, 0, 7)]
    assert rows(go(s)) == [(0, 3, 1), (1, 7, 9)]
    assert rows(go(s)) == [(0, 4, 1), (1, 16, 9)]
    assert rows(go(s)) == [(0, 5, 1), (1, 25, 1)]


def test_the_youngest_is_evicted_and_comes_back_with_its_ids() -> None:
    s = state(6)
    old, young = add(s, 0, 8), add(s, 1, 8)
    go(s)  # 2 pages each; 2 are free, which the first decodes take
    assert [len(x.pages) for x in (old, young)] == [2, 2]
    for _ in range(4):
        go(s)
    assert [len(x.pages) for x in (old, young)] == [3, 3]
    assert len(old.ids) == len(young.ids) == 13
    step = go(s)  # both need a fourth page, none is free
    assert rows(step) == [(0, 12, 1)]
    assert step.preempted == (young,)
    assert (young.cached, young.pages, len(young.ids), young.preemptions) == (0, [], 13, 1)
    s.remove(old)
    assert rows(go(s)) == [(1, 0, 13)]


def test_a_start_leaves_a_page_for_everyone_who_runs() -> None:
    s = state(4)
    add(s, 0, 7)
    go(s)
    add(s, 1, 8)
    assert rows(go(s)) == [(0, 7, 1)], "it would fit, and be evicted in the next step"
    s.remove(s.running[0])
    assert rows(go(s)) == [(1, 0, 8)]


def test_what_was_planned_for_the_evicted_is_free_again() -> None:
    """An old sequence that a steer made long needs pages after a young decode took the last."""
    s = state(3, budget=8)
    old = Sequence(0, [0] * 16, 15, cached=4, pages=s.pool.allocate(1))
    young = Sequence(1, [0] * 5, 4, cached=4, pages=s.pool.allocate(1))
    s.running += [old, young]
    s.check()
    step = go(s)
    assert step.preempted == (young,)
    assert rows(step) == [(0, 4, 8)], "its page, the page planned for it, and its row"


def test_nobody_overtakes_a_request_that_waits_for_pages() -> None:
    s = state(4)
    add(s, 0, 8)
    add(s, 1, 12)
    add(s, 2, 1)
    assert rows(go(s)) == [(0, 0, 8)]
    assert rows(go(s)) == [(0, 8, 1)]


def test_a_budget_without_room_for_prompts_is_refused() -> None:
    with pytest.raises(
        ParameterError, match=r"token_budget is 4; allowed: more than max_sequences"
    ):
        Limits(page_size=4, token_budget=4, max_sequences=4)


def test_check_sees_a_state_out_of_order() -> None:
    s = state(8)
    add(s, 1, 4)
    add(s, 0, 4)
    with pytest.raises(AssertionError, match="order of arrival"):
        s.check()


def test_an_empty_state_plans_an_empty_step() -> None:
    assert plan(state(2)) == Step(())
