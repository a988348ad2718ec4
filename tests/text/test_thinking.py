"""Thinking and answer: however the text is cut, the same two texts."""

from __future__ import annotations

import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from qwick.text.thinking import ThinkingSplitter

BARE = "<|im_start|>assistant\n"
OPENED = "<|im_start|>assistant\n<think>\n"
CLOSED = "<|im_start|>assistant\n<think>\n\n</think>\n\n"


def split(prompt: str, pieces: list[str]) -> tuple[str, str]:
    """Return (thinking, answer) of a text in pieces; thinking never comes after answer."""
    splitter = ThinkingSplitter(prompt)
    found = [part for piece in pieces for part in splitter.push(piece)]
    found += splitter.flush()
    assert all(text for _, text in found)
    kinds = [thinking for thinking, _ in found]
    assert kinds == sorted(kinds, reverse=True)
    return tuple("".join(t for k, t in found if k is kind) for kind in (True, False))  # type: ignore[return-value]


def whole(prompt: str, text: str) -> tuple[str, str]:
    """What is meant, on the whole text."""
    if prompt is CLOSED:
        return "", text
    if prompt is BARE:
        if not text.lstrip().startswith("<think>"):
            return "", text
        text = text.lstrip().removeprefix("<think>")
    thinking, closed, answer = text.partition("</think>")
    return thinking.strip("\n"), answer.lstrip("\n") if closed else ""


@pytest.mark.parametrize(
    ("prompt", "text", "expected"),
    [
        (BARE, "<think>\nWell.\n</think>\n\nYes.\n", ("Well.", "Yes.\n")),
        (BARE, "\n <think>\n\n</think>\n\nYes.", ("", "Yes.")),
        (BARE, "  Yes <think>no</think>\n", ("", "  Yes <think>no</think>\n")),
        (BARE, " \n", ("", " \n")),
        (BARE, "<thin", ("", "<thin")),
        (OPENED, "Well.\n\nSo.\n</think>\n\nYes.", ("Well.\n\nSo.", "Yes.")),
        (OPENED, "a < b </thin", ("a < b </thin", "")),
        (OPENED, "on and on\n", ("on and on", "")),
        (CLOSED, "\n<think>x</think>", ("", "\n<think>x</think>")),
    ],
)
def test_the_two_parts(prompt: str, text: str, expected: tuple[str, str]) -> None:
    assert whole(prompt, text) == expected
    assert split(prompt, [text]) == expected
    assert split(prompt, list(text)) == expected


TEXT = st.lists(
    st.sampled_from(["<think>", "</think>", "\n", " ", "<", "</", "think>", "a", "é\n"])
).map("".join)


@given(st.sampled_from([BARE, OPENED, CLOSED]), TEXT, st.lists(st.integers(0, 60)))
def test_cuts_change_nothing(prompt: str, text: str, cuts: list[int]) -> None:
    places = sorted({0, len(text), *(cut for cut in cuts if cut < len(text))})
    pieces = [text[a:b] for a, b in itertools.pairwise(places)]
    assert split(prompt, pieces) == whole(prompt, text)


def test_what_is_certain_is_not_held_back() -> None:
    splitter = ThinkingSplitter(OPENED)
    assert splitter.push("Well, ") == [(True, "Well, ")]
    assert splitter.push("so.\n") == [(True, "so.")]
    assert splitter.push("</think>\n\nYes") == [(False, "Yes")]
    assert splitter.push(".\n") == [(False, ".\n")]
