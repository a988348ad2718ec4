"""The library's listener: a line for each tenth of a fetch, silence about a short load."""

from __future__ import annotations

import sys

import pytest

from qwick.cli.visible import one_line, visible
from qwick.hub import LOADING, StderrListener
from qwick.hub.listener import plain


def told(listener: StderrListener, what: str, capsys: pytest.CaptureFixture[str]) -> list[str]:
    for done in (0, 5, 30, 31, 100):
        listener.progress(what, done * 10**6, 10**8)
    return capsys.readouterr().err.splitlines()


def test_a_line_for_each_tenth(capsys: pytest.CaptureFixture[str]) -> None:
    listener = StderrListener()
    expected = [f"fetching x: {n} % of 100 MB" for n in (0, 30, 100)]
    assert told(listener, "fetching x", capsys) == expected
    assert told(listener, "fetching x", capsys) == expected  # from the next source


def test_a_short_load_is_not_spoken_of(capsys: pytest.CaptureFixture[str]) -> None:
    listener = StderrListener()
    assert told(listener, LOADING, capsys) == []
    assert told(listener, LOADING, capsys) == []  # another model: its time begins anew


def test_a_long_load_is(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(StderrListener, "patience", 0.0)
    expected = [f"loading: {n} % of 100 MB" for n in (0, 30, 100)]
    assert told(StderrListener(), LOADING, capsys) == expected


def test_a_load_is_not_spoken_of_when_it_is_over(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(StderrListener, "patience", 0.0)
    StderrListener().progress(LOADING, 10**8, 10**8)
    assert capsys.readouterr().err == ""


def test_what_a_notice_quotes_of_strangers_cannot_steer_a_terminal(
    capsys: pytest.CaptureFixture[str],
) -> None:
    StderrListener().notice("it says \x1b]0;x\x07\x9b2J \u202eevil\u2066\u2028\nnext\r é 千问")
    err = capsys.readouterr().err
    assert err.endswith("\n")
    assert (
        err[:-1] == "it says \ufffd]0;x\ufffd\ufffd2J \ufffdevil\ufffd\ufffd\ufffdnext\ufffd é 千问"
    )


def test_notices_and_texts_keep_the_same_characters_from_a_terminal() -> None:
    every = [chr(code) for code in range(sys.maxunicode + 1)]
    unshown = {char for char in every if plain(char) != char}
    assert unshown == {char for char in every if one_line(char) != char}
    assert {"\x1b", "\x9b", "\u202e", "\u2069", "\u2028"} < unshown
    assert not {"\u200e", "\u200f", "\u061c"} & unshown  # marks that Arabic and Hebrew need
    assert {char for char in unshown if visible(char) == char} == {"\t", "\n"}
