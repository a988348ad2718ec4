"""Which experts of a mapped file are in memory: those used most of late, within a bound.

A page of a mapped file is in a process's memory from its first read until it is given back, so what
is in memory is what was asked for here. Knows which experts a call will read, and no weights.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from qwick.native.mapping import Mapping

I64 = NDArray[np.int64]

FOLIO = 2 << 20  # bytes: the system may map so much of a file around what is read, if it has it
GROWTH = 1.01  # of what a use counts, from a step to the next: twice as much after 70 steps
MOST = 1e30  # of it, before all is scaled down


class Residency:
    """Lets experts into memory before they are read, and others out to make room.

    offsets, sizes: I64[layers, experts], bytes of the mapping. budget: most bytes of it in memory,
    at least those of the experts of any one layer: a call may read all of them.

    A use counts more the later it was. What a step reads that takes most experts of a layer, as
    that of a long prompt, says nothing of what the next one will, and counts nothing; among equals
    those go whose layer comes last, so that such steps find the same experts again.
    """

    def __init__(self, mapping: Mapping, offsets: I64, sizes: I64, budget: int) -> None:
        self._mapping, self._offsets, self._sizes = mapping, offsets, sizes
        self.budget = max(budget, int(sizes.sum(axis=1).max()))
        self.held = 0  # bytes
        self.hits = self.misses = self.read = (
            0  # experts found there and not, and the latter's bytes
        )
        self._there = np.zeros(sizes.shape, bool)
        self._fresh = np.zeros(0, np.intp)  # experts that the last call has brought in, all counted
        self._scores = np.zeros(sizes.shape)
        self._gain = 1.0

    def ready(self, layer: int, chosen: Sequence[int]) -> None:
        """Let these experts of a layer in, for they are about to be read; `settle` afterwards."""
        wanted = np.asarray(chosen, np.intp)
        there = self._there[layer]
        missing = wanted[~there[wanted]]
        if layer == 0:
            self._next_step()
        if 2 * len(wanted) <= there.size:
            self._scores[layer, wanted] += self._gain
        self.hits += len(wanted) - len(missing)
        self.misses += len(missing)
        self._fresh = layer * there.size + missing
        if not len(missing):
            return
        size = int(self._sizes[layer, missing].sum())
        if self.held + size > self.budget:
            self._make_room(self.held + size - self.budget, layer, wanted)
        for offset, length in self._ranges(self._fresh):
            self._mapping.ask(offset, length)
        there[missing] = True
        self.held += size
        self.read += size

    def settle(self) -> None:
        """Give back what has come in beside the experts that the last call has brought in.

        Linux 6.18 and later map all of a folio around a page that is read: how large folios are
        depends on how the file came into the system's memory.
        """
        if not len(self._fresh):
            return
        begins, ends = self._offsets.ravel(), (self._offsets + self._sizes).ravel()
        around = np.zeros(len(begins), bool)
        first = np.searchsorted(ends, begins[self._fresh] - FOLIO, "right")
        last = np.searchsorted(begins, ends[self._fresh] + FOLIO)
        for begin, end in zip(first.tolist(), last.tolist(), strict=True):
            around[begin:end] = True
        for offset, length in self._ranges(np.flatnonzero(around & ~self._there.ravel())):
            self._mapping.give_back(offset, length)
        self._fresh = self._fresh[:0]

    def _make_room(self, size: int, layer: int, wanted: NDArray[np.intp]) -> None:
        """Give back at least so many bytes, but none of what is wanted."""
        free = self._there.copy()
        free[layer, wanted] = False
        layers, experts = np.nonzero(free)
        later = (layers - layer - 1) % len(
            self._there
        )  # so many layers are read before it is again
        order = np.lexsort((-later, self._scores[layers, experts]))
        freed = np.cumsum(self._sizes[layers[order], experts[order]])
        going = order[: int(np.searchsorted(freed, size)) + 1]
        numbers = layers[going] * free.shape[1] + experts[going]
        for offset, length in self._ranges(numbers):
            self._mapping.give_back(offset, length)
        self._there.flat[numbers] = False
        self.held -= int(self._sizes.flat[numbers].sum())

    def _ranges(self, numbers: NDArray[np.intp]) -> list[tuple[int, int]]:
        """Return offset and bytes of experts, numbered through all layers."""
        pairs = zip(self._offsets.flat[numbers], self._sizes.flat[numbers], strict=True)
        return [(int(offset), int(size)) for offset, size in pairs]

    def _next_step(self) -> None:
        self._gain *= GROWTH
        if self._gain > MOST:
            self._scores /= self._gain
            self._gain = 1.0
