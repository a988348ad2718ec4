"""The progress of a load: unobtrusive in a terminal, unheard elsewhere unless it is long."""

from __future__ import annotations

import os
import pty
import subprocess
import sys

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


def shown(script: str) -> str:
    """Return what `script` writes to the terminal that is its standard error."""
    ours, theirs = pty.openpty()
    process = subprocess.Popen(
        [sys.executable, "-c", script], stderr=theirs, env=environment(TERM="xterm", COLUMNS="100")
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
