"""PagePool: never a page given twice, never one lost."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from qwick.engine.pages import PagePool, pages_for
from qwick.errors import ResourceError


@settings(deadline=None)
@given(
    st.integers(1, 12), st.lists(st.tuples(st.sampled_from("asf"), st.integers(0, 5)), max_size=60)
)
def test_random_holders(total: int, moves: list[tuple[str, int]]) -> None:
    pool = PagePool(total)
    holders: list[list[int]] = []
    for move, n in moves:
        if move == "a" and n <= pool.free_count:
            holders.append(pool.allocate(n))
        elif move == "s" and holders:
            holders.append(list(holders[n % len(holders)]))
            pool.share(holders[-1])
        elif move == "f" and holders:
            mine = holders.pop(n % len(holders))
            expected = pool.free_count + pool.freed_by(mine)
            pool.free(mine)
            assert pool.free_count == expected
        pool.check(holders)
    for mine in holders:
        pool.free(mine)
    assert pool.free_count == total


def test_too_many_takes_none() -> None:
    pool = PagePool(3)
    with pytest.raises(ResourceError, match="4 cache pages asked for, 3 of 3 are free"):
        pool.allocate(4)
    assert pool.free_count == 3


def test_a_free_page_is_neither_freed_nor_shared() -> None:
    pool = PagePool(2)
    with pytest.raises(ValueError, match="free already"):
        pool.free([1])
    with pytest.raises(ValueError, match="cannot be shared"):
        pool.share([0])


def test_untouched_pages_are_used_last() -> None:
    pool = PagePool(8)
    pool.free(pool.allocate(3))
    assert set(pool.allocate(3)) == {0, 1, 2}


@pytest.mark.parametrize("damage", ["lost", "doubled", "free though held"])
def test_check_sees_damage(damage: str) -> None:
    pool = PagePool(4)
    mine = pool.allocate(2)
    if damage == "lost":
        holders = [mine[:1]]
    elif damage == "doubled":
        holders = [mine, mine]
    else:
        pool._free.append(mine[0])
        holders = [mine]
    with pytest.raises(AssertionError):
        pool.check(holders)


def test_a_pool_needs_a_page() -> None:
    with pytest.raises(ResourceError, match="0 pages"):
        PagePool(0)


def test_pages_for() -> None:
    assert [pages_for(n, 4) for n in (0, 1, 4, 5)] == [0, 1, 1, 2]
