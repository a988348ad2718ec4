"""What a fetch tells its caller while it runs: how far it is, and what a person should read.

Knows nothing about terminals; the command line brings its own listener with a progress bar.
"""

from __future__ import annotations

import sys
from typing import Protocol

__all__ = ["Listener", "SilentListener", "StderrListener"]


class Listener(Protocol):
    """Hears about a fetch. Calls come from the fetching thread.

    An exception raised in either method stops the fetch, and nothing half-done is kept.
    """

    def progress(self, what: str, done: int, total: int) -> None:
        """Hear that `done` of `total` bytes of the stage `what` ("fetching ...") are dealt with."""

    def notice(self, text: str) -> None:
        """Hear a sentence meant for a person: an attribution, a wait, a source given up on."""


class SilentListener(Listener):
    """Tells nobody."""

    def progress(self, what: str, done: int, total: int) -> None:
        """Do nothing."""

    def notice(self, text: str) -> None:
        """Do nothing."""


class StderrListener(Listener):
    """Prints notices, and a line for every tenth of a stage, on stderr: the library's default."""

    def __init__(self) -> None:
        self._last: tuple[str, int] = ("", -1)

    def progress(self, what: str, done: int, total: int) -> None:
        """Print a line when a new tenth of the stage is reached."""
        tenth = done * 10 // max(total, 1)
        if (what, tenth) != self._last:
            self._last = (what, tenth)
            self.notice(f"{what}: {tenth * 10} % of {total / 1e6:.0f} MB")

    def notice(self, text: str) -> None:
        """Print `text` on stderr."""
        print(text, file=sys.stderr, flush=True)
