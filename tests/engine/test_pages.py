"""PagePool: never a page given twice, never one lost, none kept that would be in the way."""

from __future__ import annotations

from dataclasses import dataclass, field

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from qwick.engine.pages import NO_PAGE, PagePool, pages_for
from qwick.errors import ResourceError


@dataclass
class Holder:
    """Pages of which the first ones are named: under the texts that they would hold."""

    pages: list[int] = field(default_factory=list)
    text: str = ""


def key_of(text: str) -> bytes:
    return text.encode()


def keys_of(text: str) -> list[bytes]:
    return [key_of(text[: i + 1]) for i in range(len(text))]


@settings(deadline=None, max_examples=300)
@given(
    st.integers(1, 12),
    st.lists(st.tuples(st.sampled_from("atnnnff!"), st.integers(0, 5)), max_size=80),
)
def test_random_holders(total: int, moves: list[tuple[str, int]]) -> None:
    """Allocate, take over what is found, name the next page, free, forget: all at random."""
    pool = PagePool(total)
    holders: list[Holder] = []
    for move, n in moves:
        if move == "a" and n <= pool.free_count:
            holders.append(Holder(pool.allocate(n)))
        elif move == "t":
            text = "xyxyxy"[n % 2 : n]
            found = pool.find(keys_of(text))
            pool.share(found)
            holders.append(Holder(found, text[: len(found)]))
        elif move == "n" and holders:
            holder = holders[n % len(holders)]
            at = len(holder.text)
            if at < len(holder.pages):
                holder.text += "xy"[n % 2]
                before = holder.pages[at - 1] if at else NO_PAGE
                holder.pages[at] = pool.name(holder.pages[at], key_of(holder.text), before)
        elif move in "f!" and holders:
            holder = holders.pop(n % len(holders))
            kept = pool.kept_count
            expected = pool.free_count + sum(pool.refs(page) == 1 for page in holder.pages)
            pool.free(holder.pages)
            assert pool.free_count == expected
            if move == "!":
                pool.forget(holder.pages)
                assert pool.free_count == expected
                assert pool.kept_count <= kept
        pool.check([holder.pages for holder in holders])
    for holder in holders:
        pool.free(holder.pages)
    assert pool.free_count == total
    assert len(pool.allocate(total)) == total
    assert pool.find(keys_of("x")) == pool.find(keys_of("y")) == []


def named(pool: PagePool, text: str) -> list[int]:
    """Hold pages for a text, those that are there and new ones."""
    pages = pool.find(keys_of(text))
    pool.share(pages)
    for i in range(len(pages), len(text)):
        page = pool.allocate(1)[0]
        pages.append(pool.name(page, key_of(text[: i + 1]), pages[-1] if pages else NO_PAGE))
    return pages


def test_what_nobody_holds_is_found_until_it_is_needed() -> None:
    pool = PagePool(4)
    pages = named(pool, "abc")
    pool.free(pages)
    assert (pool.free_count, pool.kept_count, pool.used_count) == (4, 3, 0)
    assert pool.find(keys_of("abxy")) == pages[:2]
    pool.allocate(1)
    assert pool.evicted == 0, "a page that was free goes first"
    pool.allocate(1)
    assert pool.evicted == 1
    assert pool.find(keys_of("abc")) == pages[:2], "a chain goes from its end"


def test_the_longest_unused_goes_first_and_a_hit_is_a_use() -> None:
    pool = PagePool(6)
    for text in ("ab", "cd", "ef"):
        pool.free(named(pool, text))
    pool.free(named(pool, "ab"))
    pool.allocate(3)
    assert [len(pool.find(keys_of(text))) for text in ("ab", "cd", "ef")] == [2, 0, 1]


def test_a_page_that_is_there_already_is_held_instead() -> None:
    pool = PagePool(4)
    first = named(pool, "a")
    other = pool.allocate(1)[0]
    assert pool.name(other, key_of("a"), NO_PAGE) == first[0]
    assert (pool.refs(first[0]), pool.refs(other), pool.used_count) == (2, 0, 1)


def test_forgetting_takes_what_comes_behind_and_leaves_what_is_held() -> None:
    pool = PagePool(8)
    bad, behind, apart = named(pool, "ab"), named(pool, "abc"), named(pool, "ax")
    pool.free(behind)
    pool.free(bad)
    pool.forget(bad)
    assert pool.find(keys_of("abc")) == apart[:1]
    assert pool.find(keys_of("ax")) == apart
    pool.check([apart])


def test_only_an_own_page_is_named_and_only_once() -> None:
    pool = PagePool(2)
    page = named(pool, "a")[0]
    with pytest.raises(ValueError, match="cannot be named"):
        pool.name(page, b"other", NO_PAGE)
    mine = pool.allocate(1)
    pool.share(mine)
    with pytest.raises(ValueError, match="cannot be named"):
        pool.name(mine[0], b"other", NO_PAGE)


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


@pytest.mark.parametrize("damage", ["unnamed", "in the way", "held behind", "kept though free"])
def test_check_sees_damaged_chains(damage: str) -> None:
    pool = PagePool(4)
    first, second = named(pool, "ab")
    holders = [[first, second]]
    pool.check(holders)
    if damage == "unnamed":
        del pool._key_of[first]
    elif damage == "in the way":
        pool.free([first, second])
        holders = []
        pool.check(holders)
        pool._kept.move_to_end(second)
    elif damage == "held behind":
        pool.free([first])
        holders = [[second]]
    else:
        pool._free.remove(3)
        pool._kept[3] = None
    with pytest.raises(AssertionError):
        pool.check(holders)


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
