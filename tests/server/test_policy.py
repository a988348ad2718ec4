"""The content policy: what it takes out of a text, however the text is cut."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from qwick.server.policy import Stripper

CASES = [
    ("", "", 0),
    ("plain text, a < b, <b>bold</b>", "plain text, a < b, <b>bold</b>", 0),
    ("a<script>alert(1)</script>b", "ab", 1),
    ("a<SCRIPT src='x'>alert(1)</ScRiPt >b", "ab", 1),
    ("a<script>never closed", "a", 1),
    ("a<script", "a", 1),
    ("a<scripture>b", "a<scripture>b", 0),
    ("a<script-x>b", "a<script-x>b", 0),
    ("x</script>y", "x</script>y", 0),
    ("<script>1</script><script>2</script>", "", 2),
    ("<script>'</scrip' + 't>'</script>z", "z", 1),
    ("[a](javascript:alert(1))", "[a](alert(1))", 1),
    ("JaVaScRiPt:x", "x", 1),
    ("java\nscript:x java\tscr\x00ipt\n:y", "x y", 2),
    ("javascript is a language", "javascript is a language", 0),
    ("jjavascript:x", "jx", 1),
    ("java", "java", 0),
    ("<scr", "<scr", 0),
    ("a <script>x</script", "a ", 1),
]


def stripped(pieces: list[str]) -> tuple[str, int]:
    stripper = Stripper()
    shown = [stripper.push(piece) for piece in pieces]
    shown.append(stripper.flush())
    return "".join(shown), stripper.removed


@pytest.mark.parametrize(("text", "left", "removed"), CASES)
def test_what_is_taken_out(text: str, left: str, removed: int) -> None:
    assert stripped([text]) == (left, removed)
    assert stripped(list(text)) == (left, removed)


FRAGMENTS = st.sampled_from(
    [
        "<script",
        ">",
        "</script",
        "<SCRIPT>",
        "javascript",
        ":",
        "java",
        "script",
        "\n",
        "<",
        "/",
        "j",
        "x",
        " ",
        "</script>",
        "-",
        "é",
    ]
)


@given(st.lists(FRAGMENTS, max_size=12), st.data())
def test_any_cutting_gives_the_same(fragments: list[str], data: st.DataObject) -> None:
    text = "".join(fragments)
    pieces = []
    while text:
        cut = data.draw(st.integers(1, len(text)))
        pieces.append(text[:cut])
        text = text[cut:]
    whole = stripped(["".join(pieces)])
    assert stripped(pieces) == whole
    again, removed = stripped([whole[0]])
    assert "<script>" not in whole[0].lower()
    assert removed == 0 or again != whole[0]
