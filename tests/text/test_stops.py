"""Stop strings: any cutting of a text gives what the whole gives."""

from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st

from qwick.text.stops import StopMatcher

LETTERS = "ab\n中"
STOPS = st.lists(st.text(LETTERS, min_size=1, max_size=5), max_size=5)


def whole(text: str, stops: list[str]) -> tuple[str, bool]:
    """Return the text before the stop that ends first (the longest of those), by definition."""
    for end in range(1, len(text) + 1):
        found = [stop for stop in stops if text[:end].endswith(stop)]
        if found:
            return text[: end - max(map(len, found))], True
    return text, False


def run(pieces: list[str], stops: list[str]) -> tuple[str, bool, list[str]]:
    matcher = StopMatcher(stops)
    shown, hit = [], False
    for piece in pieces:
        safe, now = matcher.push(piece)
        assert not (hit and safe)
        assert now or not hit
        hit = now
        shown.append(safe)
    shown.append(matcher.flush())
    assert (matcher.matched is not None) is hit
    return "".join(shown), hit, shown


@settings(deadline=None, max_examples=500)
@given(st.lists(st.text(LETTERS, max_size=6), max_size=12), STOPS)
def test_any_cutting_is_the_whole(pieces: list[str], stops: list[str]) -> None:
    text = "".join(pieces)
    expected = whole(text, stops)
    assert run(pieces, stops)[:2] == expected
    assert run([text], stops)[:2] == expected
    assert run(list(text), stops)[:2] == expected


@settings(deadline=None, max_examples=300)
@given(st.lists(st.text(LETTERS, max_size=4), max_size=10), STOPS)
def test_holds_back_no_more_than_needed(pieces: list[str], stops: list[str]) -> None:
    """What is held after each piece is the beginning of a stop, or nothing."""
    matcher = StopMatcher(stops)
    seen = shown = ""
    for piece in pieces:
        safe, hit = matcher.push(piece)
        if hit:
            return
        seen, shown = seen + piece, shown + safe
        held = seen[len(shown) :]
        assert seen == shown + held
        assert not held or any(stop.startswith(held) and stop != held for stop in stops)


def test_stop_inside_a_piece_cuts_there() -> None:
    matcher = StopMatcher(["\n\n", "END"])
    assert matcher.push("one E") == ("one ", False)
    assert matcher.push("N") == ("", False)
    assert matcher.push("X two END three") == ("ENX two ", True)
    assert matcher.matched == "END"
    assert matcher.push("more") == ("", True)
    assert matcher.flush() == ""


def test_no_stops() -> None:
    matcher = StopMatcher([])
    assert matcher.push("text") == ("text", False)
    assert matcher.flush() == ""


def test_flush_gives_what_was_held() -> None:
    matcher = StopMatcher(["abc"])
    assert matcher.push("xab") == ("x", False)
    assert matcher.flush() == "ab"
    assert matcher.flush() == ""
