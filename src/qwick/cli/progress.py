"""The progress of a fetch on stderr: a bar in a terminal, a line for each tenth elsewhere."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Iterator
from typing import TYPE_CHECKING

import click

if TYPE_CHECKING:
    from rich.progress import Progress, TaskID

    from qwick.hub import Listener

__all__ = ["fetching"]


@contextlib.contextmanager
def fetching() -> Iterator[Listener]:
    """Give what hears about a fetch; the bar is gone when the block ends, however it ends."""
    if sys.stderr.isatty():
        bar = _Bar()
        try:
            yield bar
        finally:
            bar.stop()
    else:
        from qwick.hub import StderrListener

        yield StderrListener()


class _Bar:
    """A rich progress bar per stage; notices go above it. A hub.Listener."""

    def __init__(self) -> None:
        self._bar: tuple[Progress, TaskID] | None = None
        self._what = ""

    def progress(self, what: str, done: int, total: int) -> None:
        """Draw how far the stage is; its bar ends when the stage is complete."""
        if self._bar is None or what != self._what:
            self.stop()
            bar = _new_bar()
            self._bar, self._what = (bar, bar.add_task(what, total=total)), what
            bar.start()
        bar, task = self._bar
        bar.update(task, completed=done)
        if done >= total:
            self.stop()

    def notice(self, text: str) -> None:
        """Print a sentence, above the bar if there is one."""
        if self._bar is not None:
            self._bar[0].console.print(text, markup=False, highlight=False)
        else:
            click.echo(text, err=True)

    def stop(self) -> None:
        """End the bar and leave the cursor on a line of its own."""
        if self._bar is not None:
            self._bar[0].stop()
            self._bar = None


def _new_bar() -> Progress:
    from rich.console import Console
    from rich.progress import (
        BarColumn,
        DownloadColumn,
        Progress,
        TextColumn,
        TimeRemainingColumn,
        TransferSpeedColumn,
    )

    return Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        DownloadColumn(),
        TransferSpeedColumn(),
        TimeRemainingColumn(),
        console=Console(stderr=True),
    )
