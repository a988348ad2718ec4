"""Feeding a Decoder in the ways an engine may: whole prompts, chunks, token by token, mixed.

Pages are scattered and the cache starts full of NaN, so that a wrong slot, page or mask cannot
pass. Knows nothing of what the logits should be.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence

import numpy as np

from qwick.model.batch import Batch, Run
from qwick.model.decoder import Decoder

Plan = list[tuple[int, int]]  # of a step: (sequence, how many of its next tokens)
Schedule = Callable[[list[int]], Iterable[Plan]]

# By what an array of the cache holds: float32, bf16, 8 bits whose float32 scales are all ones.
NAN_OF = {np.dtype(np.float32): np.nan, np.dtype(np.uint16): 0x7FC0, np.dtype(np.uint8): 0xFF}


def prefill(lengths: list[int]) -> Iterator[Plan]:
    """Every sequence alone, in one step."""
    for i, n in enumerate(lengths):
        yield [(i, n)]


def one_by_one(i: int) -> Schedule:
    """Sequence i, one token at a time."""
    return lambda lengths: ([(i, 1)] for _ in range(lengths[i]))


def stepwise(lengths: list[int]) -> Iterable[Plan]:
    """The first sequence, one token at a time."""
    return one_by_one(0)(lengths)


def chunked(lengths: list[int]) -> Iterator[Plan]:
    """Every sequence alone, in chunks of odd sizes that end before, at and after page borders."""
    for i, n in enumerate(lengths):
        done = 0
        for size in (7, 1, 23, 1, 5, 31, 3, *[n] * 9):
            size = min(size, n - done)
            if size:
                yield [(i, size)]
            done += size


def mixed(lengths: list[int]) -> Iterator[Plan]:
    """All sequences together in changing order: some idle, some decode, some prefill a chunk."""
    rng = np.random.default_rng(sum(lengths))
    left = dict(enumerate(lengths))
    while left:
        plan = []
        for i in rng.permutation(list(left)).tolist():
            if rng.random() < 0.2:
                continue
            size = min(left[i], int(rng.choice([1, 1, 2, 11, 19])))
            plan.append((i, size))
            left[i] -= size
            if not left[i]:
                del left[i]
        if plan:
            yield plan


SCHEDULES: dict[str, Schedule] = {f.__name__: f for f in (prefill, stepwise, chunked, mixed)}


class Session:
    """Sequences in a cache with scattered pages."""

    def __init__(
        self,
        model: Decoder,
        ids: list[np.ndarray],
        seed: int = 3,
        rotations: Sequence[int] | None = None,
    ) -> None:
        size = model.page_size
        self.model, self.ids = model, ids
        counts = [-(-len(x) // size) for x in ids]
        order = np.random.default_rng(seed).permutation(sum(counts) + 2).astype(np.int32)
        self.pages = np.split(order, np.cumsum(counts))[: len(ids)]
        self.cache = model.new_cache(len(order))
        for array in (*self.cache.keys, *self.cache.values):
            array.fill(NAN_OF[array.dtype])
        self.done = [0] * len(ids)
        self.rotations = list(rotations or [0] * len(ids))

    def batch(self, plan: Plan, wanted: np.ndarray | None = None) -> Batch:
        """The arrays of a step; `wanted`: rows of the batch, default all."""
        size = self.model.page_size
        positions = [np.arange(self.done[i], self.done[i] + n) for i, n in plan]
        ids = [self.ids[i][at] for (i, _), at in zip(plan, positions, strict=True)]
        slots = [
            self.pages[i][at // size] * size + at % size
            for (i, _), at in zip(plan, positions, strict=True)
        ]
        width = max(len(self.pages[i]) for i, _ in plan)
        pages = np.zeros((len(plan), width), np.int32)
        for row, (i, _) in enumerate(plan):
            pages[row, : len(self.pages[i])] = self.pages[i]
        starts = np.cumsum([0] + [n for _, n in plan])
        return Batch(
            ids=np.concatenate(ids),
            positions=np.concatenate(positions).astype(np.int32),
            slots=np.concatenate(slots).astype(np.int32),
            starts=starts.astype(np.int32),
            lengths=np.array([self.done[i] + n for i, n in plan], np.int32),
            pages=pages,
            logit_rows=np.arange(starts[-1], dtype=np.int32) if wanted is None else wanted,
            rotations=tuple(self.rotations[i] for i, _ in plan),
            # Several rows of a sequence are of its prompt, one is of its answer.
            runs=tuple(
                Run(int(begin), int(begin) + n, prompt=n > 1)
                for begin, (_, n) in zip(starts, plan, strict=False)
            ),
        )

    def step(self, plan: Plan, wanted: np.ndarray | None = None) -> np.ndarray:
        """Run a step: logits F32[rows wanted, vocab], a copy."""
        batch = self.batch(plan, wanted)
        logits = self.model.logits(self.model.forward(batch, self.cache)).copy()
        for i, n in plan:
            self.done[i] += n
        return logits


def steps(
    model: Decoder,
    ids: list[np.ndarray],
    schedule: Schedule,
    rotations: Sequence[int] | None = None,
) -> Iterator[tuple[int, int, np.ndarray]]:
    """Yield (sequence, its first row, logits F32[n, vocab]) of every part of every step."""
    session = Session(model, ids, rotations=rotations)
    for plan in schedule([len(x) for x in ids]):
        begins = [session.done[i] for i, _ in plan]
        logits = np.split(session.step(plan), np.cumsum([n for _, n in plan])[:-1])
        for (i, _), begin, rows in zip(plan, begins, logits, strict=True):
            yield i, begin, rows


def run(
    model: Decoder,
    ids: list[np.ndarray],
    schedule: Schedule,
    rotations: Sequence[int] | None = None,
) -> list[np.ndarray | None]:
    """Logits F32[n, vocab] of every sequence that the schedule feeds; None for the others."""
    parts: list[list[np.ndarray]] = [[] for _ in ids]
    for i, _, rows in steps(model, ids, schedule, rotations):
        parts[i].append(rows)
    return [np.concatenate(p) if p else None for p in parts]
