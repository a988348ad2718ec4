"""The scheduler alone, on random traces: no model, no arrays."""

from __future__ import annotations

import copy
from dataclasses import dataclass

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from qwick.engine.pages import PagePool, pages_for
from qwick.engine.scheduler import Chunk, Limits, State, Step, plan
from qwick.engine.sequence import Sequence
from qwick.errors import ParameterError


@dataclass(frozen=True)
class Arrival:
    at: int  # step
    prompt: int
    answer: int  # tokens until it ends
    cancel_after: int | None  # steps after arrival
    forced: int  # extra tokens appended with the first one, as a steer does
    head: int  # which of a few texts the prompt begins with
    own: int  # tokens at its end that no other prompt has
    kind: str  # of Request

    def ids(self, number: int) -> list[int]:
        own = min(self.own, self.prompt)
        return [self.head] * (self.prompt - own) + [100 + number] * own


def told(root: bytes, ids: list[int]) -> list[int]:
    """What each position of a cache must hold: a number for everything up to there."""
    found, so_far = [], hash(root)
    for token in ids:
        so_far = hash((so_far, token))
        found.append(so_far)
    return found


class World:
    """Arrivals, cancellations and ends around `plan`, with everything checked at every step."""

    def __init__(
        self, pages: int, limits: Limits, arrivals: list[Arrival], reuse: bool = True
    ) -> None:
        self.state = State(PagePool(pages), limits, reuse)
        self.memory: dict[int, int] = {}  # what each slot of the cache holds
        self.todo = [
            (i, a)
            for i, a in enumerate(sorted(arrivals, key=lambda a: a.at))
            if pages_for(a.prompt + a.answer + a.forced, limits.page_size) <= pages
        ]
        self.left: dict[int, int] = {}
        self.forced: dict[int, int] = {}
        self.cancel_at: dict[int, int] = {}
        self.computed: dict[int, int] = {}
        self.scores: set[int] = set()
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
        pool = self.state.pool
        assert (pool.used_count, pool.free_count) == (0, pool.total)
        assert self.state.prefix_reuse or pool.kept_count == 0

    def arrive(self) -> None:
        while self.todo and self.todo[0][1].at <= self.steps:
            number, a = self.todo.pop(0)
            root = b"another namespace" if a.head == 3 else b""
            wanted_from = 0 if a.kind == "score" else a.prompt - 1
            self.state.add(Sequence(number, a.ids(number), wanted_from, root=root))
            self.left[number] = a.answer if a.kind == "generate" else 0
            self.scores |= {number} if a.kind == "score" else set()
            self.forced[number] = a.forced
            if a.cancel_after is not None:
                self.cancel_at[number] = self.steps + a.cancel_after
        for s in [*self.state.running, *self.state.waiting]:
            if self.cancel_at.get(s.number) == self.steps:
                self.state.remove(s, keep=s.number % 2 == 0)
                self.ended.add(s.number)
        self.state.check()

    def step(self) -> None:
        state = self.state
        if not (state.running or state.waiting):
            return
        state.settle()
        state.check()
        size = state.limits.page_size
        assert all(s.indexed == state.prefix_reuse * (s.cached // size) for s in state.running)
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
        for chunk in step.chunks:
            self.compute(chunk)
        state.commit(step)
        for chunk in step.chunks:
            if chunk.sequence.number in self.scores:  # all its rows were read
                chunk.sequence.wanted_from = chunk.start + chunk.count
            self.advance(chunk.sequence)
        state.check()

    def compute(self, chunk: Chunk) -> None:
        """Write into the chunk's pages as a model does; all before it must be right already."""
        s, size = chunk.sequence, self.state.limits.page_size
        right = told(s.root, s.ids)
        for position in range(chunk.start + chunk.count):
            page = s.pages[position // size]
            slot = page * size + position % size
            if position >= chunk.start:
                assert self.state.pool.refs(page) == 1, "somebody else's page is written"
                assert position // size >= s.indexed, "a page that others may find is written"
                self.memory[slot] = right[position]
            assert self.memory.get(slot) == right[position], "a page of another prefix"

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
        for chunk in step.chunks:
            assert len(chunk.reused) * limits.page_size <= chunk.start
            assert chunk.start <= chunk.sequence.wanted_from or not chunk.reused

    def advance(self, s: Sequence) -> None:
        if s.pending:
            return
        if self.left[s.number] == 0:
            self.state.remove(s)
            self.ended.add(s.number)
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
            [(x.number, x.cached, x.pages, len(x.ids), x.keys, x.indexed) for x in y]
            for y in (s.running, s.waiting)
        ]
        return rows, {**vars(s.pool), "_kept": list(s.pool._kept)}

    assert shape(a) == shape(b), "plan changed the state"


arrivals = st.builds(
    Arrival,
    at=st.integers(0, 12),
    prompt=st.integers(1, 30),
    answer=st.integers(1, 12),
    cancel_after=st.none() | st.integers(0, 15),
    forced=st.sampled_from([0, 0, 0, 5]),
    head=st.integers(0, 3),
    own=st.sampled_from([0, 0, 1, 3, 9]),
    kind=st.sampled_from(["generate", "generate", "generate", "score", "embed"]),
)


@settings(deadline=None, max_examples=300)
@given(
    pages=st.integers(1, 24),
    page_size=st.sampled_from([1, 4, 8]),
    most=st.integers(1, 5),
    spare=st.integers(1, 12),
    trace=st.lists(arrivals, max_size=10),
    reuse=st.sampled_from([True, True, True, False]),
)
def test_random_traces(
    pages: int, page_size: int, most: int, spare: int, trace: list[Arrival], reuse: bool
) -> None:
    World(pages, Limits(page_size, most + spare, most), trace, reuse).run()


def state(pages: int, budget: int = 16, most: int = 4) -> State:
    return State(PagePool(pages), Limits(4, budget, most))


def go(s: State) -> Step:
    s.settle()
    step = plan(s)
    s.apply(step)
    s.commit(step)
    for chunk in step.chunks:
        if chunk.sequence.pending == 0:
            chunk.sequence.append(0)
    s.check()
    return step


def add(s: State, number: int, prompt: int) -> Sequence:
    """Queue a prompt that shares nothing with the others."""
    return ask(s, number, [number + 1] * prompt)


def ask(s: State, number: int, ids: list[int], root: bytes = b"") -> Sequence:
    s.add(Sequence(number, list(ids), len(ids) - 1, root=root))
    return s.waiting[-1]


def end(s: State, sequence: Sequence, *, keep: bool = True) -> None:
    s.remove(sequence, keep=keep)
    s.check()


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
    assert rows(go(s)) == [(1, 8, 5)], "one of its full pages was needed, the last"


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
    young = Sequence(1, [1] * 5, 4, cached=4, pages=s.pool.allocate(1))
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


# -- prefixes ------------------------------------------------------------------------------------

TEXT = list(range(50, 90))


def test_a_beginning_that_was_computed_is_not_computed_again() -> None:
    s = state(32, budget=40)
    first = ask(s, 0, TEXT[:14])
    go(s)
    end(s, first)
    assert rows_of(s, 1, [*TEXT[:10], 7, 7, 7]) == (8, 5), "two full pages of 4 are the same"
    assert rows_of(s, 2, TEXT[:12]) == (8, 4), "a token must be computed, or nothing follows it"
    assert rows_of(s, 3, TEXT[:13]) == (12, 1)
    assert rows_of(s, 4, [1, *TEXT[1:12]]) == (0, 12), "a page counts with all before it"
    assert rows_of(s, 5, TEXT[4:12]) == (0, 8)
    assert rows_of(s, 6, TEXT[:12], root=b"somebody else") == (0, 12)
    assert rows_of(s, 7, TEXT[:13], root=b"somebody else") == (12, 1)


def rows_of(s: State, number: int, ids: list[int], root: bytes = b"") -> tuple[int, int]:
    """Start and end a sequence; return (first position, rows) of its first step."""
    sequence = ask(s, number, ids, root)
    ((_, start, count),) = rows(go(s))
    end(s, sequence)
    return start, count


def test_who_runs_shares_what_has_filled() -> None:
    s = state(32, budget=40)
    first = ask(s, 0, TEXT[:10])
    go(s)
    second = ask(s, 1, TEXT[:20])
    assert rows(go(s)) == [(0, 10, 1), (1, 8, 12)]
    assert first.pages[:2] == second.pages[:2]
    assert s.pool.used_count == 3 + 3
    end(s, first)
    third = ask(s, 2, TEXT[:20])
    assert rows(go(s)) == [(1, 20, 1), (2, 16, 4)]
    assert third.pages[:4] == second.pages[:4]


def test_the_same_computed_twice_is_held_once() -> None:
    s = state(32, budget=40)
    first, second = ask(s, 0, TEXT[:10]), ask(s, 1, TEXT[:13])
    assert rows(go(s)) == [(0, 0, 10), (1, 0, 13)]
    assert s.pool.used_count == 3 + 4
    go(s)
    assert first.pages[:2] == second.pages[:2]
    assert first.pages[2] != second.pages[2]
    assert s.pool.used_count == 5


def test_answers_are_found_too() -> None:
    s = state(32)
    first = ask(s, 0, TEXT[:6])
    for _ in range(8):
        go(s)
    assert (first.cached, len(first.ids)) == (13, 14)
    ids = list(first.ids)
    end(s, first)
    assert rows_of(s, 1, [*ids, 1, 2, 3]) == (12, 5)


def test_a_score_reads_all_rows_and_leaves_its_pages() -> None:
    s = state(32, budget=8)
    end_of = ask(s, 0, TEXT[:12])
    go(s)
    go(s)
    end(s, end_of)
    s.add(Sequence(1, TEXT[:16], 0))
    score = s.waiting[-1]
    assert rows(go(s)) == [(1, 0, 8)]
    score.wanted_from = 8
    preempt(s, score)
    assert rows(go(s)) == [(1, 8, 8)], "what was read need not be read again"
    end(s, score)
    assert rows_of(s, 2, TEXT[:18]) == (16, 2)


def preempt(s: State, sequence: Sequence) -> None:
    s.settle()
    s.apply(Step((), preempted=(sequence,)))
    s.check()


def test_kept_pages_are_free_for_whoever_needs_them() -> None:
    s = state(8, budget=40)
    for number in range(2):
        rows_of(s, number, [number] * 16)
    assert (s.pool.kept_count, s.pool.free_count) == (8, 8)
    assert rows_of(s, 2, [2] * 12) == (0, 12)
    assert s.pool.evicted == 3
    assert rows_of(s, 3, [0] * 16) == (4, 12), "of the oldest the end has gone"
    assert s.pool.evicted == 6


def test_what_is_taken_over_is_not_counted_as_free() -> None:
    s = state(6, budget=40)
    rows_of(s, 0, TEXT[:16])  # 4 pages are kept, 2 free
    ask(s, 1, TEXT[:13])  # 3 of the kept, one more
    ask(s, 2, [1] * 8)  # 2 pages, and one to spare for the first: only 2 are left
    assert rows(go(s)) == [(1, 12, 1)]
    end(s, s.running[0])
    assert rows(go(s)) == [(2, 0, 8)]


def test_two_who_start_together_take_the_same_pages_over() -> None:
    s = state(8, budget=40)
    rows_of(s, 0, TEXT[:12])
    ask(s, 1, TEXT[:14])
    ask(s, 2, TEXT[:15])
    assert rows(go(s)) == [(1, 12, 2), (2, 12, 3)]
    assert s.pool.used_count == 3 + 2


def test_the_preempted_go_on_from_what_is_left() -> None:
    s = state(8, budget=40)
    old, young = add(s, 0, 8), add(s, 1, 16)
    go(s)
    preempt(s, young)
    end(s, old)
    assert rows(go(s)) == [(1, 16, 1)]
    assert young.preemptions == 1


def test_pages_that_only_victims_share_are_free_when_the_last_has_gone() -> None:
    """Counted one by one, neither would free any, and the oldest would be evicted for itself."""
    s = state(3)
    old = Sequence(0, [1] * 9, 8, cached=8, pages=s.pool.allocate(2))
    second = Sequence(1, TEXT[:5], 4, cached=4, pages=s.pool.allocate(1))
    s.running += [old, second]
    s.settle()
    third = Sequence(2, TEXT[:5], 4, cached=4, pages=list(second.pages), indexed=1)
    third.keys = list(second.keys)
    s.pool.share(third.pages)
    s.running.append(third)
    s.check()
    step = go(s)
    assert step.preempted == (third, second)
    assert rows(step) == [(0, 8, 1)]


def test_what_failed_is_not_found() -> None:
    s = state(32, budget=40)
    rows_of(s, 0, TEXT[:8])
    bad, good = ask(s, 1, TEXT[:16]), ask(s, 2, [*TEXT[:8], 1, 1, 1, 1])
    go(s)
    end(s, bad, keep=False)
    assert rows_of_next(s, 3, TEXT[:16]) == (8, 8), "what another holds stays"
    end(s, good, keep=False)
    end(s, s.running[0], keep=False)
    assert s.pool.kept_count == 0


def rows_of_next(s: State, number: int, ids: list[int]) -> tuple[int, int]:
    ask(s, number, ids)
    *_, (found, start, count) = rows(go(s))
    assert found == number
    return start, count


def test_switched_off_nothing_is_kept_or_found() -> None:
    s = State(PagePool(32), Limits(4, 40, 4), prefix_reuse=False)
    assert rows_of(s, 0, TEXT[:12]) == (0, 12)
    assert rows_of(s, 1, TEXT[:12]) == (0, 12)
    assert (s.pool.kept_count, s.pool.evicted) == (0, 0)


@pytest.mark.parametrize("damage", ["another prefix", "too early", "shared"])
def test_check_sees_a_prefix_that_is_none(damage: str) -> None:
    s = state(32, budget=40)
    first = ask(s, 0, TEXT[:10])
    go(s)
    s.settle()
    s.check()
    if damage == "another prefix":
        first.ids[1] = 3
    elif damage == "too early":
        first.cached = 7
    else:
        s.pool._refs[first.pages[2]] += 1
    with pytest.raises(AssertionError):
        s.check()


def test_an_empty_state_plans_an_empty_step() -> None:
    assert plan(state(2)) == Step(())
