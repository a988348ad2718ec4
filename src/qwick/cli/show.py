"""How the verbs show things: JSON, tables, byte counts, the progress of a fetch."""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import click

if TYPE_CHECKING:
    from rich.progress import Progress, TaskID

    from qwick.hub import Listener

__all__ = ["json_option", "listener", "print_json", "print_table", "size_text"]

json_option = click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")


def print_json(value: Any) -> None:
    """Print `value` as indented JSON with readable characters."""
    click.echo(json.dumps(value, ensure_ascii=False, indent=2))


def print_table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    """Print aligned columns, whole whatever the width of the terminal."""
    table = [list(header), *map(list, rows)]
    widths = [max(len(row[i]) for row in table) for i in range(len(header))]
    for row in table:
        cells = (cell.ljust(width) for cell, width in zip(row, widths, strict=True))
        click.echo("  ".join(cells).rstrip())


def size_text(count: float) -> str:
    """Return a byte count in decimal units: 491.4 MB."""
    if count < 1000:
        return f"{count:.0f} bytes"
    for unit in ("kB", "MB", "GB"):
        count /= 1000
        if count < 1000:
            return f"{count:.1f} {unit}"
    return f"{count / 1000:.1f} TB"


def listener() -> Listener:
    """Return what shows a fetch on stderr: a bar in a terminal, a line for each tenth elsewhere."""
    from qwick.hub import Listener, StderrListener

    if not sys.stderr.isatty():
        return StderrListener()

    class Bar(Listener):
        """A rich progress bar per stage; notices go above it."""

        def __init__(self) -> None:
            self.bar: Progress | None = None
            self.task: TaskID | None = None
            self.what = ""

        def progress(self, what: str, done: int, total: int) -> None:
            """Draw the stage; the bar goes when the stage is complete."""
            if self.bar is None or what != self.what:
                self.stop()
                self.bar, self.what = _new_bar(), what
                self.task = self.bar.add_task(what, total=total)
                self.bar.start()
            assert self.task is not None
            self.bar.update(self.task, completed=done)
            if done >= total:
                self.stop()

        def notice(self, text: str) -> None:
            """Print a sentence, above the bar if there is one."""
            if self.bar is not None:
                self.bar.console.print(text, markup=False, highlight=False)
            else:
                click.echo(text, err=True)

        def stop(self) -> None:
            if self.bar is not None:
                self.bar.stop()
                self.bar = None

        def __del__(self) -> None:
            self.stop()

    return Bar()


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
