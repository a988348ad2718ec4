"""The pages of the key-value cache: who holds which.

Counts references, so that one page may serve several sequences with the same prefix. Knows page
numbers only, not what lies in them.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence

from qwick.errors import ResourceError


def pages_for(tokens: int, page_size: int) -> int:
    """Return how many pages `tokens` positions take."""
    return -(-tokens // page_size)


class PagePool:
    """`total` pages, numbered from 0, each free or held at least once."""

    def __init__(self, total: int) -> None:
        if total < 1:
            raise ResourceError(f"the cache has {total} pages; it needs at least 1")
        self.total = total
        self._refs = [0] * total
        # A stack, lowest on top: pages freed last are used first, so pages that never were
        # touched (and cost no memory yet) stay untouched.
        self._free = list(range(total - 1, -1, -1))

    @property
    def free_count(self) -> int:
        """Pages that nobody holds."""
        return len(self._free)

    @property
    def used_count(self) -> int:
        """Pages that somebody holds."""
        return self.total - len(self._free)

    def allocate(self, count: int) -> list[int]:
        """Take `count` free pages; raises ResourceError (and takes none) if there are fewer."""
        if count > len(self._free):
            raise ResourceError(
                f"{count} cache pages asked for, {len(self._free)} of {self.total} are free"
            )
        taken = [self._free.pop() for _ in range(count)]
        for page in taken:
            self._refs[page] = 1
        return taken

    def share(self, pages: Sequence[int]) -> None:
        """Hold pages once more; every one must be held already.

        Nobody shares yet: prefix reuse will, and until then the tests keep the counts honest.
        """
        for page in pages:
            if self._refs[page] < 1:
                raise ValueError(f"page {page} is free and cannot be shared")
        for page in pages:
            self._refs[page] += 1

    def free(self, pages: Sequence[int]) -> None:
        """Give back one hold on each page; the last hold frees it."""
        for page in pages:
            if self._refs[page] < 1:
                raise ValueError(f"page {page} is free already")
            self._refs[page] -= 1
            if self._refs[page] == 0:
                self._free.append(page)

    def freed_by(self, pages: Sequence[int]) -> int:
        """Return how many pages would become free if one hold on each were given back."""
        return sum(1 for page in pages if self._refs[page] == 1)

    def check(self, holders: Iterable[Sequence[int]]) -> None:
        """Derive every invariant again from the holders' page lists; raises AssertionError."""
        held: Counter[int] = Counter()
        for pages in holders:
            if len(set(pages)) != len(pages):
                raise AssertionError(f"a page is held twice by one sequence: {pages}")
            held.update(pages)
        free = set(self._free)
        if len(free) != len(self._free):
            raise AssertionError("a page is in the free list twice")
        for page, refs in enumerate(self._refs):
            if refs != held[page]:
                raise AssertionError(f"page {page}: {refs} references, {held[page]} holders")
            if (refs == 0) != (page in free):
                raise AssertionError(f"page {page}: {refs} references, free: {page in free}")
