"""The pages of the key-value cache: who holds which, and which can be found again.

A page is free, or held (counted: one page may serve several sequences with the same prefix), or
kept: nobody holds it, but it has a key under which it may be found until its memory is needed.
Knows page numbers and keys only, not what lies in the pages.

Pages with keys form chains, from the first page of a prefix on. Whoever holds a page holds the
chain before it, so a page is never kept while one behind it is held, and as `free` begins with the
last page, the kept ones lie in an order in which each chain goes from its end.
"""

from __future__ import annotations

from collections import Counter, OrderedDict
from collections.abc import Iterable, Sequence

from qwick.errors import ResourceError

NO_PAGE = -1  # what comes before the first page of a chain


def pages_for(tokens: int, page_size: int) -> int:
    """Return how many pages `tokens` positions take."""
    return -(-tokens // page_size)


class PagePool:
    """`total` pages, numbered from 0, each free, kept, or held at least once."""

    def __init__(self, total: int) -> None:
        if total < 1:
            raise ResourceError(f"the cache has {total} pages; it needs at least 1")
        self.total = total
        self.evicted = 0  # kept pages that were given to somebody else
        self._refs = [0] * total
        # A stack, lowest on top: pages freed last are used first, so pages that never were
        # touched (and cost no memory yet) stay untouched.
        self._free = list(range(total - 1, -1, -1))
        self._kept: OrderedDict[int, None] = OrderedDict()  # the first goes first
        self._page_of: dict[bytes, int] = {}
        self._key_of: dict[int, bytes] = {}
        self._before: dict[int, int] = {}  # of each page with a key, the page before it

    @property
    def free_count(self) -> int:
        """Pages that nobody holds: those that are kept can be had as well."""
        return len(self._free) + len(self._kept)

    @property
    def kept_count(self) -> int:
        """Pages that nobody holds and that can be found again."""
        return len(self._kept)

    @property
    def used_count(self) -> int:
        """Pages that somebody holds."""
        return self.total - self.free_count

    def refs(self, page: int) -> int:
        """Return how many hold a page."""
        return self._refs[page]

    def allocate(self, count: int) -> list[int]:
        """Take `count` pages, free ones first and then the kept ones that were unused longest.

        Raises ResourceError (and takes none) if there are fewer.
        """
        if count > self.free_count:
            raise ResourceError(
                f"{count} cache pages asked for, {self.free_count} of {self.total} are free"
            )
        taken = [self._free.pop() if self._free else self._evict() for _ in range(count)]
        for page in taken:
            self._refs[page] = 1
        return taken

    def share(self, pages: Sequence[int]) -> None:
        """Hold pages once more; every one must be held or kept already."""
        for page in pages:
            if self._refs[page] < 1 and page not in self._kept:
                raise ValueError(f"page {page} is free and cannot be shared")
        for page in pages:
            if self._refs[page] == 0:
                del self._kept[page]
            self._refs[page] += 1

    def free(self, pages: Sequence[int]) -> None:
        """Give back one hold on each page, the last page first; the last hold frees or keeps it."""
        for page in reversed(pages):
            if self._refs[page] < 1:
                raise ValueError(f"page {page} is free already")
            self._refs[page] -= 1
            if self._refs[page] == 0:
                if page in self._key_of:
                    self._kept[page] = None
                else:
                    self._free.append(page)

    def find(self, keys: Iterable[bytes]) -> list[int]:
        """Return the pages under these keys, from the first on, up to the first that is missing."""
        found = []
        for key in keys:
            page = self._page_of.get(key)
            if page is None:
                break
            found.append(page)
        return found

    def name(self, page: int, key: bytes, before: int) -> int:
        """Let a held page be found under `key`; return the page that its holder holds from now on.

        That is another one if another has the key: what lies in both is the same, so `page` is
        given back. before: the page before it in the chain, held by the same holder and named, or
        NO_PAGE. A page that is named is never written again.
        """
        if self._refs[page] != 1 or page in self._key_of:
            raise ValueError(f"page {page} is not one sequence's own and cannot be named")
        other = self._page_of.get(key)
        if other is not None:
            self.share([other])
            self.free([page])
            return other
        self._page_of[key] = page
        self._key_of[page] = key
        self._before[page] = before
        return page

    def forget(self, pages: Sequence[int]) -> None:
        """Free those of the pages that are kept, and every kept page behind one of them."""
        gone = {page for page in pages if page in self._kept}
        for page in reversed(self._kept):  # so that a page comes after the one before it
            if self._before[page] in gone:
                gone.add(page)
        for page in gone:
            del self._kept[page]
            self._unname(page)
            self._free.append(page)

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
            states = (refs > 0, page in free, page in self._kept)
            if sum(states) != 1:
                raise AssertionError(f"page {page}: (held, free, kept) is {states}")
        self._check_names(free)

    def _check_names(self, free: set[int]) -> None:
        if {page: key for key, page in self._page_of.items()} != self._key_of:
            raise AssertionError("keys and pages do not belong to each other")
        if self._before.keys() != self._key_of.keys():
            raise AssertionError("a page with a key lacks its place in a chain")
        if free & self._key_of.keys() or not self._kept.keys() <= self._key_of.keys():
            raise AssertionError("a page is free with a key, or kept without one")
        turn = {page: place for place, page in enumerate(self._kept)}
        for page, before in self._before.items():
            if before == NO_PAGE:
                continue
            if before not in self._key_of:
                raise AssertionError(f"page {page} comes after {before}, which cannot be found")
            if self._refs[before] < self._refs[page]:
                raise AssertionError(f"page {page} is held more often than {before} before it")
            if before in turn and turn[before] < turn[page]:
                raise AssertionError(f"page {before} would be evicted with {page} behind it")

    def _evict(self) -> int:
        page, _ = self._kept.popitem(last=False)
        self._unname(page)
        self.evicted += 1
        return page

    def _unname(self, page: int) -> None:
        del self._page_of[self._key_of.pop(page)]
        del self._before[page]
