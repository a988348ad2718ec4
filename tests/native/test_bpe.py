"""Byte pair encoding against the `tokenizers` library, over random merges; damaged tables."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import models

from qwick.formats.strings import Table, table_of
from qwick.native import ops

LETTERS = "abcdéĠ中"


def bpe(tokens: list[str], merges: list[str]) -> ops.Bpe:
    return ops.Bpe(*table_of(tokens), *table_of(merges))


@st.composite
def vocabularies(draw: st.DrawFn) -> tuple[list[str], list[str]]:
    """Letters, and merges of whatever two tokens came before: several ways to the same token."""
    tokens = [letter for letter in LETTERS if letter != draw(st.sampled_from(LETTERS + "-"))]
    merges: list[str] = []
    for _ in range(draw(st.integers(0, 40))):
        left, right = draw(st.sampled_from(tokens)), draw(st.sampled_from(tokens))
        if len(left + right) <= 12:
            merges.append(f"{left} {right}")
            tokens += [left + right] * (left + right not in tokens)
    return draw(st.permutations(tokens)), draw(st.permutations(merges))


@given(made=vocabularies(), words=st.lists(st.text(LETTERS, max_size=60), max_size=8))
@settings(deadline=None, max_examples=400)
def test_ids_are_the_librarys(made: tuple[list[str], list[str]], words: list[str]) -> None:
    tokens, merges = made
    reference = models.BPE(
        vocab={token: id for id, token in enumerate(tokens)},
        merges=[tuple(merge.split(" ")) for merge in merges],
    )
    ours = bpe(tokens, merges)
    wanted = [[token.id for token in reference.tokenize(word)] for word in words]
    assert [ours.encode(word) for word in words] == wanted
    assert ours.encode(" ".join(words)) == [id for ids in wanted for id in ids]
    assert [ours.token(id) for id in range(len(ours))] == tokens


def test_a_word_of_a_million_letters() -> None:
    """Long words take no longer than their length warrants: the whole would be 10^12 steps."""
    ours = bpe(["a", "aa", "aaaa", "b"], ["a a", "aa aa"])
    assert ours.encode("a" * 1_000_001 + "b") == [2] * 250_000 + [0, 3]


@pytest.mark.parametrize(
    ("tokens", "merges", "message"),
    [
        (["a", "b", "a"], [], "token 2 is the same as token 0, 'a'"),
        (["a", "b"], ["a b"], "merge 0, 'a b', is not made of two tokens that are one"),
        (["a", "ab"], ["a b"], "merge 0"),
        (["b", "ab"], ["a b"], "merge 0"),
        (["a", "b", "ab"], ["a b", "ab"], "merge 1, 'ab'"),
        (["a", "b\ud800"], [], "token 1 is not UTF-8"),
        (["a"], ["\udfff"], "merge 0 is not made"),
    ],
)
def test_damaged_tables(tokens: list[str], merges: list[str], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        bpe(tokens, merges)


@pytest.mark.parametrize("coded", [b"\xc1\x81", b"\xe0\x9f\xbf", b"\xf4\x90\x80\x80", b"\xf0\x9f"])
def test_what_is_no_utf8(coded: bytes) -> None:
    data = np.frombuffer(len(coded).to_bytes(8, "little") + coded, np.uint8)
    with pytest.raises(ValueError, match="token 0 is not UTF-8"):
        ops.Bpe(data, np.zeros(1, np.int64), *table_of([]))


@pytest.mark.parametrize("start", [-1, -8, 1, 10, 2**62])
def test_strings_outside_the_data(start: int) -> None:
    data, _ = table_of(["ab"])
    outside: Table = data, np.array([start], np.int64)
    for tables in ((*outside, *table_of([])), (*table_of(["a"]), *outside)):
        with pytest.raises(ValueError, match=r"(token|merge) 0 lies outside the data"):
            ops.Bpe(*tables)
    long = data.copy()
    long[7] = 255
    with pytest.raises(ValueError, match="token 0 lies outside the data"):
        ops.Bpe(long, np.zeros(1, np.int64), *table_of([]))


@pytest.mark.parametrize("id", [-1, 1, 2**40])
def test_an_id_without_token(id: int) -> None:
    with pytest.raises(IndexError, match="no token has this id"):
        bpe(["a"], []).token(id)
