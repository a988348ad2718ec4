"""The progress of a fetch, load or batch on stderr: a bar in a terminal, else a line a tenth.

A short load is not spoken of: no bar in its first half second (nor the time to import rich), no
line in its first five, and its bar leaves nothing behind. So with a batch, in its first two.
"""

from __future__ import annotations

import contextlib
import os
import sys
import time
from collections.abc import Iterator
from typing import TYPE_CHECKING

import click

if TYPE_CHECKING:
    from rich.progress import Progress, TaskID

    from qwick.hub import Listener

__all__ = ["Counter", "listening"]

PATIENCE = 0.5  # seconds of a load before its bar
SHORT = 2.0  # seconds of a batch that is not spoken of


@contextlib.contextmanager
def listening() -> Iterator[Listener]:
    """Give what hears about a fetch and a load; the bar ends with the block, however that ends."""
    if sys.stderr.isatty() and os.environ.get("TERM") != "dumb":
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
        self._since = 0.0  # when the stage began
        self._done = 0

    def progress(self, what: str, done: int, total: int) -> None:
        """Draw how far the stage is; its bar ends when the stage is complete."""
        from qwick.hub import LOADING

        loading = what == LOADING
        if what != self._what or done < self._done:  # another stage, or the same anew
            self.stop()
            self._what, self._since = what, time.monotonic()
        self._done = done
        if self._bar is None:
            if loading and (done >= total or time.monotonic() - self._since < PATIENCE):
                return
            bar = _new_bar(transient=loading)
            self._bar = bar, bar.add_task(what, total=total)
            bar.start()
        bar, task = self._bar
        bar.update(task, completed=done)
        if done >= total:
            self.stop()

    def notice(self, text: str) -> None:
        """Print a sentence, above the bar if there is one."""
        from qwick.hub.listener import plain

        text = plain(text)
        if self._bar is not None:
            self._bar[0].console.print(text, markup=False, highlight=False)
        else:
            click.echo(text, err=True)

    def stop(self) -> None:
        """End the bar and leave the cursor on a line of its own."""
        if self._bar is not None:
            self._bar[0].stop()
            self._bar = None


def _new_bar(*, transient: bool) -> Progress:
    from rich.console import Console
    from rich.progress import (
        BarColumn,
        DownloadColumn,
        Progress,
        TextColumn,
        TimeRemainingColumn,
        TransferSpeedColumn,
    )
    from rich.table import Column

    def whole() -> Column:
        return Column(no_wrap=True)

    return Progress(  # one line, however narrow: the bar gives way, then the description's end
        TextColumn("{task.description}", table_column=Column(no_wrap=True, overflow="ellipsis")),
        BarColumn(bar_width=None, table_column=Column(ratio=1)),
        DownloadColumn(table_column=whole()),
        TransferSpeedColumn(table_column=whole()),
        TimeRemainingColumn(table_column=whole()),
        console=Console(stderr=True),
        expand=True,
        transient=transient,
    )


class Counter:
    """How many of `total` things are done, told once that takes a while. A context manager."""

    def __init__(self, what: str, total: int, done: int) -> None:
        self._what, self._total, self._first = what, total, done
        self._begun = time.monotonic()
        self._bar: tuple[Progress, TaskID] | None = None
        self._tenth = done * 10 // max(total, 1)  # the last one told

    def tell(self, done: int, note: str) -> None:
        """Show how many are done, with a note beside them."""
        if time.monotonic() - self._begun < SHORT or (done >= self._total and not self._bar):
            return
        if not sys.stderr.isatty():
            tenth = done * 10 // max(self._total, 1)
            if tenth > self._tenth:
                self._tenth = tenth
                click.echo(f"{self._what}: {done:,} of {self._total:,} · {note}", err=True)
            return
        if self._bar is None:
            bar = _new_counter()
            task = bar.add_task(self._what, total=self._total, completed=self._first, note=note)
            self._bar = bar, task
            bar.start()
        bar, task = self._bar
        bar.update(task, completed=done, note=note)

    def __enter__(self) -> Counter:
        return self

    def __exit__(self, *_: object) -> None:
        if self._bar is not None:
            self._bar[0].stop()
            self._bar = None


def _new_counter() -> Progress:
    from rich.console import Console
    from rich.progress import (
        BarColumn,
        MofNCompleteColumn,
        Progress,
        TextColumn,
        TimeRemainingColumn,
    )

    return Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("{task.fields[note]}"),
        TimeRemainingColumn(),
        console=Console(stderr=True),
        transient=True,
    )
