"""The keys of pages: a chain over namespace and ids."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from qwick.engine.prefix import KEY_BYTES, extend_keys, root_key

ROOT = root_key("")


def keys_of(ids: list[int], root: bytes = ROOT, size: int = 4) -> list[bytes]:
    keys: list[bytes] = []
    extend_keys(keys, root, ids, len(ids) // size, size)
    return keys


@given(st.lists(st.integers(0, 2**31 - 1), max_size=40), st.lists(st.integers(0, 12), max_size=9))
def test_piece_by_piece_as_at_once(ids: list[int], stops: list[int]) -> None:
    keys: list[bytes] = []
    for stop in sorted(stops):
        extend_keys(keys, ROOT, ids, min(stop, len(ids) // 4), 4)
    extend_keys(keys, ROOT, ids, len(ids) // 4, 4)
    assert keys == keys_of(ids)
    assert {len(key) for key in keys} <= {KEY_BYTES}


@given(st.lists(st.integers(0, 9), min_size=20, max_size=20), st.integers(0, 19))
def test_a_key_depends_on_every_id_before_its_end(ids: list[int], at: int) -> None:
    changed = [*ids[:at], ids[at] + 1, *ids[at + 1 :]]
    same = [a == b for a, b in zip(keys_of(ids), keys_of(changed), strict=True)]
    assert same == [page < at // 4 for page in range(5)]


def test_no_two_chains_meet() -> None:
    """Namespaces, sizes of pages and places in a chain: all keys of zeros differ."""
    keys = [
        key
        for namespace in ("", "a", "b", "ab", "\0")
        for size in (2, 4)
        for key in [root_key(namespace), *keys_of([0] * 16, root_key(namespace), size)]
    ]
    assert len(set(keys)) == len(keys) - 5, "only the roots are there twice"
