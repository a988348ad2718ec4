"""A step's positions as the rows of tables that the kernels turn queries and keys by.

Knows what `positions.py` says of a model, and batches; no weights.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from qwick.model.arch import Arch
from qwick.model.batch import F32, I32, Batch
from qwick.model.positions import DualChunk
from qwick.native.ops import PAGE_SIZE


class Table:
    """Cosines and sines of one rotation, F32[positions, head_dim / 2]: Su et al. 2021.

    They grow with the positions in use: for a context of a million they would take half a gigabyte
    and seconds to fill.
    """

    def __init__(self, arch: Arch, rotation: int, limit: int) -> None:
        half = arch.head_dim // 2
        self.limit = limit
        self.frequencies = arch.positions.frequencies(rotation, arch.head_dim)
        self.magnitude = arch.positions.magnitude(rotation)
        self.cos: F32 = np.empty((0, half), np.float32)
        self.sin: F32 = np.empty((0, half), np.float32)

    def cover(self, positions: int) -> None:
        """Hold at least `positions` rows, but never more than the limit."""
        have = len(self.cos)
        want = min(max(positions, 2 * have, 1024), self.limit)
        if have >= positions or want == have:
            return
        angles = np.arange(have, want, dtype=np.float64)[:, None] * self.frequencies
        cos = np.concatenate([self.cos, (self.magnitude * np.cos(angles)).astype(np.float32)])
        sin = np.concatenate([self.sin, (self.magnitude * np.sin(angles)).astype(np.float32)])
        self.cos, self.sin = cos, sin  # both or, if memory runs out, neither


@dataclass(frozen=True, slots=True)
class Far:
    """Rows that meet keys of earlier chunks, as a batch of their own.

    rows: I32[r] of the step · turns: I32[r], rows of the tables · pages, starts, positions: as in a
    Batch, of the keys that they meet.
    """

    rows: I32
    turns: I32
    pages: I32
    starts: I32
    positions: I32


@dataclass(frozen=True, slots=True)
class Turns:
    """How a step's rows turn: row i by row rows[i] of the tables.

    query_scale: F32[m, 1] or None. pages, starts, positions: the keys that each row meets there;
    far: those that it meets otherwise.
    """

    cos: F32
    sin: F32
    rows: I32
    query_scale: F32 | None
    pages: I32
    starts: I32
    positions: I32
    far: tuple[Far, ...] = ()


class Rope:
    """The tables of all rotations of a model that is prepared for `context` positions."""

    def __init__(self, arch: Arch, context: int) -> None:
        self.positions = arch.positions
        self.rotations = arch.positions.rotations(context)
        self.chunks = arch.positions.scaling
        reach = [self.rotations.reach(i) for i in range(len(self.rotations.limits))]
        self.tables = [Table(arch, i, limit) for i, limit in enumerate(reach)]
        self.tables[0].cover(1)

    def turns(self, batch: Batch) -> Turns:
        """Return how the rows of a step turn."""
        if isinstance(self.chunks, DualChunk):
            return self._by_chunks(batch, self.chunks)
        scale = self.positions.query_scale(batch.positions)
        column = None if scale is None else scale[:, None]
        cos, sin, rows = self._rows(batch)
        return Turns(cos, sin, rows, column, batch.pages, batch.starts, batch.positions)

    def _rows(self, batch: Batch) -> tuple[F32, F32, I32]:
        longest = int(batch.lengths.max(initial=0))
        if not batch.rotations or len(set(batch.rotations)) == 1:
            table = self.tables[batch.rotations[0] if batch.rotations else 0]
            table.cover(longest)
            return table.cos, table.sin, batch.positions
        cos = np.empty((len(batch.ids), self.tables[0].cos.shape[1]), np.float32)
        sin = np.empty_like(cos)
        for i, rotation in enumerate(batch.rotations):
            table = self.tables[rotation]
            table.cover(int(batch.lengths[i]))
            mine = slice(batch.starts[i], batch.starts[i + 1])
            at = batch.positions[mine]
            cos[mine], sin[mine] = table.cos[at], table.sin[at]
        return cos, sin, np.arange(len(cos), dtype=np.int32)

    def _by_chunks(self, batch: Batch, of: DualChunk) -> Turns:
        table = self.tables[0]
        longest = int(batch.lengths.max(initial=0))
        table.cover(longest if longest <= of.chunk else max(of.chunk, of.farthest + 1))
        scale = self.positions.query_scale(batch.positions)
        column = None if scale is None else scale[:, None]
        if longest <= of.chunk:
            return Turns(
                table.cos, table.sin, batch.positions, column,
                batch.pages, batch.starts, batch.positions,
            )  # fmt: skip
        number, place = np.divmod(batch.positions, np.int32(of.chunk))
        each = np.arange(len(batch.lengths), dtype=np.int32)
        owner: I32 = np.repeat(each, np.diff(batch.starts))
        # A row's own chunk: what stands in it up to the row.
        pages, starts = _tables(batch.pages, owner, number, number, of.chunk)
        far = []
        after = np.flatnonzero(number >= 1).astype(np.int32)  # the chunk before, all of it
        if len(after):
            before = number[after] - 1
            turns = np.minimum(place[after] + np.int32(of.chunk), np.int32(of.farthest))
            tables = _tables(batch.pages, owner[after], number[after], before, of.chunk)
            last = np.full(len(after), of.chunk - 1, np.int32)
            far.append(Far(after, turns, *tables, last))
        later = np.flatnonzero(number >= 2).astype(np.int32)  # all chunks before that
        if len(later):
            turns = np.full(len(later), of.farthest, np.int32)
            tables = _tables(batch.pages, owner[later], number[later], None, of.chunk)
            last = ((number[later] - 1) * of.chunk - 1).astype(np.int32)
            far.append(Far(later, turns, *tables, last))
        return Turns(table.cos, table.sin, place, column, pages, starts, place, tuple(far))


def _tables(pages: I32, owner: I32, number: I32, chunk: I32 | None, size: int) -> tuple[I32, I32]:
    """Return page tables and starts for rows that are grouped by sequence and own chunk.

    chunk: which chunk of its sequence each row looks at; None: all from the first on.
    """
    begins = np.flatnonzero(np.diff(owner, prepend=-1) | np.diff(number, prepend=-1))
    starts = np.append(begins, len(owner)).astype(np.int32)
    if chunk is None:
        return pages[owner[begins]], starts
    per = size // PAGE_SIZE
    width = min(per, pages.shape[1])
    out = np.zeros((len(begins), width), np.int32)
    for i, row in enumerate(begins):
        first = int(chunk[row]) * per
        part = pages[owner[row], first : first + per]
        out[i, : len(part)] = part
    return out, starts
