"""The content policy: what it takes out of a text, however the text is cut."""

from __future__ import annotations

import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from qwick.server.policy import Stripper

CASES = [
    ("", "", 0),
    ("plain text, a < b, <b>bold</b>", "plain text, a < b, <b>bold</b>", 0),
    ("a<script>alert(1)</script>b", "a[removed]b", 1),
    ("a<SCRIPT src='x'>alert(1)</ScRiPt >b", "a[removed]b", 1),
    ("a<script>never closed", "a[removed]", 1),
    ("a<script", "a[removed]", 1),
    ("a<scripture>b", "a<scripture>b", 0),
    ("a<script-x>b", "a<script-x>b", 0),
    ("x</script>y", "x</script>y", 0),
    ("<script>1</script><script>2</script>", "[removed][removed]", 2),
    ("<script>'</scrip' + 't>'</script>z", "[removed]z", 1),
    ("<script></script x<>y", "[removed]y", 1),
    ("[a](javascript:alert(1))", "[a](removed:alert(1))", 1),
    ("JaVaScRiPt:x", "removed:x", 1),
    ("java\nscript:x java\tscr\x00ipt\n:y", "removed:x removed:y", 2),
    ("javascript is a language", "javascript is a language", 0),
    ("jjavascript:x", "jremoved:x", 1),
    ("java", "java", 0),
    ("<scr", "<scr", 0),
    ("a <script>x</script", "a [removed]", 1),
    ("j" + " " * 1000 + "avascript:x", "removed:x", 1),
    ("j" + " " * 1000 + "x", "j" + " " * 1000 + "x", 0),
    # What stands around something taken out does not join into something forbidden.
    ("<scr<script>x</script>ipt>alert(1)</script>", "<scr[removed]ipt>alert(1)</script>", 1),
    ("javajavascript:script:alert(1)", "javaremoved:script:alert(1)", 1),
    ("<sc<script></script>ript src=//evil>", "<sc[removed]ript src=//evil>", 1),
    ("<scriptjavascript:>x", "<scriptremoved:>x", 1),
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
        "scr",
        "ipt",
        "<script>x</script>",
        "javascript:",
        "é",
    ]
)


@given(st.lists(FRAGMENTS, max_size=16), st.data())
def test_any_cutting_gives_the_same(fragments: list[str], data: st.DataObject) -> None:
    text = "".join(fragments)
    pieces = []
    while text:
        cut = data.draw(st.integers(1, len(text)))
        pieces.append(text[:cut])
        text = text[cut:]
    whole = stripped(["".join(pieces)])
    assert stripped(pieces) == whole
    assert stripped([whole[0]]) == (whole[0], 0)  # nothing forbidden is left


def test_long_white_space_costs_little() -> None:
    """A model that repeats itself may write so; each piece is looked at when it comes."""
    begun = time.perf_counter()
    text = "j" + "\n" * 5000 + "x"
    assert stripped(list(text)) == (text, 0)
    assert time.perf_counter() - begun < 5
