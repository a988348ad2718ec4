"""What the next step computes: decodes first, then prompt chunks, first come first served.

Pure: no arrays, no clock, no model. `plan` looks at a State and returns a Step without changing
anything; `State.apply` carries it out on the pages, `State.commit` says that it was computed.

The rules:
1. Every running sequence with one pending id (a decode) gets one row.
2. What is left of the token budget goes to prompt chunks, the oldest sequence first.
3. A sequence that starts takes over the pages that hold the beginning of its ids already, up to the
   first position whose logits are wanted, and computes the rest.
4. A waiting sequence starts when pages for all of its other ids are free (nobody holds them, even
   if they could be found), and one more for every running sequence (so that starting it does not
   evict somebody a moment later). Nobody overtakes.
5. A running sequence that needs a page when none is free takes it from the youngest running one,
   which loses its pages, keeps its ids and waits at the front to be computed again (from what is
   then left of its pages).
6. A decode with a draft gets rows for it too, if the whole step stays within `Limits.draft_rows`
   (so never beside the chunk of a prompt), as far as budget and free pages go. Nobody is evicted
   for a draft, and pages that only a wrong draft needed are given back after the step.

Hence all running sequences are older than all waiting ones, and the oldest of all is in every step:
it is never evicted for anybody, and `Limits` leaves room beside the decodes. As each sequence fits
into the cache alone (the engine refuses others), each one ends.
"""

from __future__ import annotations

from collections import Counter, deque
from dataclasses import dataclass, field

from qwick.engine.pages import NO_PAGE, PagePool, pages_for
from qwick.engine.prefix import extend_keys
from qwick.engine.sequence import Sequence
from qwick.errors import ParameterError


@dataclass(frozen=True, slots=True)
class Limits:
    """Positions in a page, most rows of a step, most sequences that run at once.

    draft_rows: most rows of a step that computes drafts; 0: no drafts.
    """

    page_size: int
    token_budget: int
    max_sequences: int
    draft_rows: int = 0

    def __post_init__(self) -> None:
        """Refuse limits under which a prompt could starve beside the decodes."""
        if self.page_size < 1 or self.max_sequences < 1:
            raise ParameterError(
                f"page_size is {self.page_size} and max_sequences {self.max_sequences}; "
                "allowed: whole numbers from 1"
            )
        if self.token_budget <= self.max_sequences:
            raise ParameterError(
                f"token_budget is {self.token_budget}; allowed: more than max_sequences "
                f"({self.max_sequences})"
            )


@dataclass(frozen=True, slots=True)
class Chunk:
    """Compute the positions start .. start + count - 1 of a sequence; take new_pages first.

    reused: of a sequence that starts, the pages that hold the positions before `start`. drafted:
    how many of the positions, the last ones, hold the first ids of its draft.
    """

    sequence: Sequence
    start: int
    count: int
    new_pages: int
    reused: tuple[int, ...] = ()
    drafted: int = 0


@dataclass(frozen=True, slots=True)
class Step:
    """What is computed, who loses its pages (youngest first), who starts (oldest first)."""

    chunks: tuple[Chunk, ...]
    preempted: tuple[Sequence, ...] = ()
    admitted: tuple[Sequence, ...] = ()


@dataclass(slots=True)
class State:
    """Who runs and who waits, both oldest first, and the pages they share.

    prefix_reuse: whether pages are found by what is in them; without, each sequence has its own.
    """

    pool: PagePool
    limits: Limits
    prefix_reuse: bool = True
    running: list[Sequence] = field(default_factory=list)
    waiting: deque[Sequence] = field(default_factory=deque)

    def add(self, sequence: Sequence) -> None:
        """Queue a new sequence; numbers must rise."""
        self._key_all(sequence)
        self.waiting.append(sequence)

    def remove(self, sequence: Sequence, *, keep: bool = True) -> None:
        """Take a sequence out, wherever it is, and give back its pages.

        keep: whether what is in them may be found by others; False when it is in doubt.
        """
        if sequence in self.running:
            self.running.remove(sequence)
        else:
            self.waiting.remove(sequence)
        pages = sequence.pages
        self._release(sequence)
        if not keep:
            self.pool.forget(pages)

    def settle(self) -> None:
        """Let the pages that have filled be found; between two steps, before `plan`.

        Not a part of `commit`: what counts is `cached` after the logits were read.
        """
        size = self.limits.page_size
        for sequence in self.running:
            if sequence.cached - sequence.indexed * size >= size:
                self._index(sequence)

    def find(self, sequence: Sequence) -> list[int]:
        """Return the pages that hold the beginning of its ids, before all that is wanted of it."""
        usable = sequence.wanted_from // self.limits.page_size
        return self.pool.find(sequence.keys[:usable])

    def apply(self, step: Step) -> None:
        """Evict, start, hand out pages and cut drafts as planned."""
        for sequence in step.preempted:
            self.running.remove(sequence)
            self._release(sequence)
            self._key_all(sequence)
            sequence.preemptions += 1
            self.waiting.appendleft(sequence)
        for sequence in step.admitted:
            self.waiting.remove(sequence)
            self.running.append(sequence)
        for chunk in step.chunks:  # before any page is handed out, which might be one of them
            if chunk.reused:
                self.pool.share(chunk.reused)
                chunk.sequence.pages.extend(chunk.reused)
                chunk.sequence.indexed = len(chunk.reused)
                chunk.sequence.cached = chunk.start
        for chunk in step.chunks:
            if chunk.new_pages:
                chunk.sequence.pages.extend(self.pool.allocate(chunk.new_pages))
            del chunk.sequence.draft[chunk.drafted :]

    def commit(self, step: Step) -> None:
        """Note that the planned positions are in the cache now; drafts are not, until confirmed.

        (By `Sequence.append`, which moves `cached` over each id that the draft said.)
        """
        for chunk in step.chunks:
            chunk.sequence.cached = chunk.start + chunk.count - chunk.drafted

    def drop_drafts(self, step: Step) -> None:
        """Forget what was not confirmed, once the logits are read, and free pages only it took."""
        for chunk in step.chunks:
            if chunk.drafted and chunk.sequence.pages:  # without pages it has ended meanwhile
                sequence = chunk.sequence
                sequence.draft.clear()
                needed = pages_for(len(sequence.ids), self.limits.page_size)
                self.pool.free(sequence.pages[needed:])
                del sequence.pages[needed:]

    def check(self) -> None:
        """Derive every invariant again; raises AssertionError. For tests: slow."""
        everyone = [*self.running, *self.waiting]
        self.pool.check([s.pages for s in everyone])
        numbers = [s.number for s in everyone]
        if numbers != sorted(set(numbers)):
            raise AssertionError(f"not in order of arrival, running before waiting: {numbers}")
        if len(self.running) > self.limits.max_sequences:
            raise AssertionError(f"{len(self.running)} sequences run")
        for s in self.waiting:
            if s.pages or s.cached or s.indexed:
                raise AssertionError(f"sequence {s.number} waits but holds pages {s.pages}")
        for s in self.running:
            least = pages_for(s.cached, self.limits.page_size)
            most = pages_for(len(s.ids), self.limits.page_size)
            if not least <= len(s.pages) <= most:
                raise AssertionError(
                    f"sequence {s.number}: {len(s.pages)} pages, needs {least} to {most}"
                )
            if s.draft:
                raise AssertionError(f"sequence {s.number}: a draft is left between two steps")
            if s.pending < 1:
                raise AssertionError(f"sequence {s.number} runs but has nothing to compute")
            self._check_prefix(s)

    def _check_prefix(self, s: Sequence) -> None:
        size = self.limits.page_size
        keys: list[bytes] = []
        extend_keys(keys, s.root, s.ids, s.indexed, size)
        if s.keys[: s.indexed] != keys or self.pool.find(keys) != s.pages[: s.indexed]:
            raise AssertionError(f"sequence {s.number}: its first pages are not those of its ids")
        if s.indexed * size > s.cached or (s.indexed and not self.prefix_reuse):
            raise AssertionError(f"sequence {s.number}: {s.indexed} pages can be found too early")
        for page in s.pages[s.indexed :]:
            if self.pool.refs(page) != 1:
                raise AssertionError(f"sequence {s.number} may write into the shared page {page}")

    def _release(self, sequence: Sequence) -> None:
        self._index(sequence)
        self.pool.free(sequence.pages)
        sequence.pages = []
        sequence.draft.clear()
        sequence.cached = sequence.indexed = 0

    def _index(self, sequence: Sequence) -> None:
        """Let the full pages of a sequence be found; it holds one that is there already instead."""
        if not self.prefix_reuse:
            return
        size, pages = self.limits.page_size, sequence.pages
        full = sequence.cached // size
        extend_keys(sequence.keys, sequence.root, sequence.ids, full, size)
        for j in range(sequence.indexed, full):
            before = pages[j - 1] if j else NO_PAGE
            pages[j] = self.pool.name(pages[j], sequence.keys[j], before)
        sequence.indexed = full

    def _key_all(self, sequence: Sequence) -> None:
        if self.prefix_reuse:
            size = self.limits.page_size
            pages = len(sequence.ids) // size
            extend_keys(sequence.keys, sequence.root, sequence.ids, pages, size)


def plan(state: State) -> Step:
    """Choose the next step; changes nothing. Empty only when nobody runs or waits."""
    sketch = _Sketch(state)
    for sequence in state.running:
        if sequence.pending == 1:
            sketch.grow(sequence)
    for sequence in state.running:
        if sequence.pending > 1:
            sketch.grow(sequence)
    if not sketch.preempted:  # whoever was evicted is first in the queue and cannot fit yet
        for sequence in state.waiting:
            if not sketch.admit(sequence):
                break
    for sequence in state.running:
        if sequence.draft:
            sketch.add_draft(sequence)
    return Step(tuple(sketch.chunks.values()), tuple(sketch.preempted), tuple(sketch.admitted))


class _Sketch:
    """The step so far, and what it leaves of pages and token budget."""

    def __init__(self, state: State) -> None:
        self.state = state
        self.size = state.limits.page_size
        self.free = state.pool.free_count
        self.budget = state.limits.token_budget
        self.live = list(state.running)
        self.chunks: dict[int, Chunk] = {}
        self.preempted: list[Sequence] = []
        self.admitted: list[Sequence] = []
        self.dropped: Counter[int] = Counter()  # holds that the preempted give back
        self.revived: set[int] = set()  # kept pages that the admitted take

    def grow(self, sequence: Sequence) -> None:
        """Plan rows for a running sequence; the youngest pays when its next page is not free."""
        if sequence in self.preempted or self.budget < 1:
            return
        start = sequence.cached
        while start + 1 > (len(sequence.pages) + self.free) * self.size:
            victim = self.live[-1]
            self._evict(victim)
            if victim is sequence:
                return
        room = (len(sequence.pages) + self.free) * self.size - start
        count = min(sequence.pending, self.budget, room)
        new_pages = max(0, self._pages(start + count) - len(sequence.pages))
        self._take(Chunk(sequence, start, count, new_pages))

    def admit(self, sequence: Sequence) -> bool:
        """Plan the first rows of a waiting sequence, or say that it and all behind it wait."""
        if self.budget < 1 or len(self.live) >= self.state.limits.max_sequences:
            return False
        found = self.state.find(sequence)
        kept = [p for p in found if not self.state.pool.refs(p) and p not in self.revived]
        fresh = self._pages(len(sequence.ids)) - len(found)
        need = fresh + len(kept)
        if need + len(self.live) > self.free and (self.live or need > self.free):
            return False
        self.revived.update(kept)
        self.free -= len(kept)
        start = len(found) * self.size
        count = min(len(sequence.ids) - start, self.budget)
        self._take(Chunk(sequence, start, count, fresh, tuple(found)))
        self.live.append(sequence)
        self.admitted.append(sequence)
        return True

    def add_draft(self, sequence: Sequence) -> None:
        """Plan rows for as much of a draft as there is room for; nobody pays for it."""
        decode = self.chunks.get(sequence.number)
        if decode is None or decode.count != sequence.pending:
            return
        rows = sum(chunk.count for chunk in self.chunks.values())
        held = len(sequence.pages) + decode.new_pages
        room = (held + self.free) * self.size - (decode.start + decode.count)
        drafted = min(len(sequence.draft), self.state.limits.draft_rows - rows, self.budget, room)
        if drafted < 1:
            return
        count = decode.count + drafted
        new_pages = max(decode.new_pages, self._pages(decode.start + count) - len(sequence.pages))
        self.free -= new_pages - decode.new_pages
        self.budget -= drafted
        self.chunks[sequence.number] = Chunk(
            sequence, decode.start, count, new_pages, drafted=drafted
        )

    def _take(self, chunk: Chunk) -> None:
        self.free -= chunk.new_pages
        self.budget -= chunk.count
        self.chunks[chunk.sequence.number] = chunk

    def _evict(self, victim: Sequence) -> None:
        self.live.remove(victim)
        self.preempted.append(victim)
        self.dropped.update(victim.pages)
        # A page shared with somebody who stays is not freed; with another victim, by the last one.
        self.free += sum(self.dropped[p] == self.state.pool.refs(p) for p in victim.pages)
        planned = self.chunks.pop(victim.number, None)
        if planned is not None:
            self.free += planned.new_pages
            self.budget += planned.count

    def _pages(self, tokens: int) -> int:
        return pages_for(tokens, self.size)
