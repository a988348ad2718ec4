"""The progress of a load: unobtrusive in a terminal, unheard elsewhere unless it is long."""

from __future__ import annotations

import os
import pty
import re
import subprocess
import sys

import pytest

from cli.conftest import environment, read_terminal

LOAD = """
import time
from qwick.cli.progress import listening
from qwick.hub import LOADING
with listening() as listener:
    for done in range(0, 101, 10):
        listener.progress(LOADING, done * 10**6, 10**8)
        time.sleep({seconds} / 10)
"""


def shown(script: str, **changes: str) -> str:
    """Return what `script` writes to the terminal that is its standard error."""
    ours, theirs = pty.openpty()
    process = subprocess.Popen(
        [sys.executable, "-c", script],
        stderr=theirs,
        env=environment(**{"TERM": "xterm", "COLUMNS": "100", **changes}),
    )
    os.close(theirs)
    text = read_terminal(ours)
    assert process.wait(timeout=60) == 0
    return text


def test_a_short_load_shows_nothing() -> None:
    assert shown(LOAD.format(seconds=0)) == ""


def test_a_longer_load_has_a_bar_that_is_wiped_away() -> None:
    text = shown(LOAD.format(seconds=1.5))
    assert "loading" in text
    assert text.endswith("\x1b[2K")  # the last thing done: the bar's line is erased


def test_a_fetch_leaves_its_bar() -> None:
    text = shown(LOAD.replace("LOADING, done", "'fetching x', done").format(seconds=0))
    *_, last = text.split("fetching x")
    assert "100.0/100.0 MB" in last
    assert "\x1b[2K" not in last


FETCH = LOAD.replace("LOADING, done", "'fetching qwen2.5-coder-0.5b-instruct', done")


@pytest.mark.parametrize("columns", ["60", "80", "200"])
def test_a_bar_is_one_line_however_narrow(columns: str) -> None:
    text = shown(FETCH.format(seconds=0.3), COLUMNS=columns)
    drawn = [line for line in re.split(r"[\r\n]+|\x1b\[[0-9;?]*[A-Za-z]", text) if line.strip()]
    assert "100.0/100." in text
    assert not [line for line in drawn if line.strip() in ("MB", "MB/s")]
    assert "\x1b[1A" not in text  # nothing above the line is drawn again


def test_a_terminal_that_cannot_draw_gets_lines() -> None:
    text = shown(FETCH.format(seconds=0), TERM="dumb")
    assert "\x1b" not in text
    assert "100 %" in text or "100%" in text, text


NOTICE = """
from qwick.cli.progress import listening
with listening() as listener:
    listener.notice("first \\x1b[2J\\u202e")
    listener.progress("fetching x", 1, 2)
    listener.notice("second \\x1b[2J\\u202e")
"""


def test_a_notice_cannot_steer_the_terminal() -> None:
    text = shown(NOTICE)
    assert "\u202e" not in text
    for word in ("first", "second"):
        assert f"{word} \ufffd[2J\ufffd" in text
