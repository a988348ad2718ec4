"""What a fetch or a load tells its caller: how far it is, and what a person should read.

Knows nothing about terminals; the command line brings its own listener with a progress bar.
"""

from __future__ import annotations

import re
import sys
import time
from typing import Protocol

from qwick.errors import UNSHOWN
from qwick.values import check_kind, refused

__all__ = [
    "LOADING",
    "Listener",
    "Overall",
    "SilentListener",
    "StderrListener",
    "check_listener",
    "plain",
    "shows",
]

LOADING = "loading"  # the stage in which weights are laid out in memory: mostly over at once

_UNSHOWN = re.compile(f"[{UNSHOWN}]")


def plain(text: str) -> str:
    """Return a notice as a terminal may show it: strangers (hubs, proxies) have a say in it."""
    check_kind("text", text, str, "a str")
    return _UNSHOWN.sub("\ufffd", text)


class Listener(Protocol):
    """Hears about a fetch and a load. Calls come from the thread that does it.

    An exception raised in either method stops what is under way. What has arrived of a fetch by
    then is kept, untrusted, and the next one goes on from there.
    One that keeps notices from people says so with an attribute `shows = False`; see `shows`.
    """

    def progress(self, what: str, done: int, total: int) -> None:
        """Hear that `done` of `total` bytes of the stage `what` are dealt with.

        Stages: "fetching ...", "verifying ...", "waiting for ..." (while another process fetches),
        LOADING. A stage that starts over begins with fewer bytes again.
        """

    def notice(self, text: str) -> None:
        """Hear a sentence meant for a person: an attribution, a wait, a source given up on."""


def shows(listener: Listener) -> bool:
    """Whether a person gets to see the notices: so unless the listener's `shows` is False.

    Not a member of the protocol, so that a listener needs no more than the two methods.
    """
    return bool(getattr(listener, "shows", True))


def check_listener(listener: object) -> None:
    """Raise ParameterError unless `listener` has the two methods."""
    for name in ("progress", "notice"):
        if not callable(getattr(listener, name, None)):
            raise refused("listener", listener, "an object with the methods progress and notice")


class Overall:
    """Tells a listener of one file's bytes as bytes of the whole checkpoint."""

    def __init__(self, listener: Listener, before: int, total: int) -> None:
        self._listener, self._before, self._total = listener, before, total

    def progress(self, what: str, done: int, total: int) -> None:
        """Pass on how far the whole is."""
        self._listener.progress(what, self._before + done, self._total)

    def notice(self, text: str) -> None:
        """Pass a sentence on."""
        self._listener.notice(text)


class SilentListener(Listener):
    """Tells nobody. A subclass that passes notices on sets `shows` to True."""

    shows = False

    def progress(self, what: str, done: int, total: int) -> None:
        """Do nothing."""

    def notice(self, text: str) -> None:
        """Do nothing."""


class StderrListener(Listener):
    """Prints notices, and a line for every tenth of a stage, on stderr: the library's default.

    A load that takes less than `patience` seconds is not spoken of.
    """

    patience = 5.0

    def __init__(self) -> None:
        self._what = ""
        self._since = 0.0  # when the stage began
        self._done = 0
        self._tenth = -1  # the last one told

    def progress(self, what: str, done: int, total: int) -> None:
        """Print a line when a new tenth of the stage is reached."""
        now = time.monotonic()
        if what != self._what or done < self._done:  # another stage, or the same anew
            self._what, self._since, self._tenth = what, now, -1
        self._done = done
        tenth = done * 10 // max(total, 1)
        if tenth == self._tenth:
            return
        short = now - self._since < self.patience or (done >= total and self._tenth < 0)
        if what == LOADING and short:
            return
        self._tenth = tenth
        self.notice(f"{what}: {tenth * 10} % of {total / 1e6:.0f} MB")

    def notice(self, text: str) -> None:
        """Print `text` on stderr."""
        print(plain(text), file=sys.stderr, flush=True)
