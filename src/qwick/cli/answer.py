"""An answer written to standard output as it comes, for people and for pipes."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

import click

from qwick.cli.visible import visible

if TYPE_CHECKING:
    from collections.abc import Iterable

    from qwick.llm import Chunk

__all__ = ["for_output", "print_chunks"]


def print_chunks(chunks: Iterable[Chunk]) -> None:
    """Write the answer as it comes, and a line end after it.

    Thinking is for people only: on standard error, if that is a terminal.
    """
    last = "\n"
    thought = False
    try:
        for chunk in chunks:
            if chunk.thinking and sys.stderr.isatty():
                click.secho(visible(chunk.thinking), err=True, dim=True, nl=False)
                thought = True
            if thought and chunk.text:
                click.echo(err=True)
                thought = False
            sys.stdout.write(for_output(chunk.text))
            sys.stdout.flush()
            last = chunk.text[-1:] or last
    finally:
        if last != "\n":
            sys.stdout.write("\n")
            sys.stdout.flush()


def for_output(text: str) -> str:
    """Return a text exactly as it is; for a terminal, which obeys control characters, visibly."""
    return visible(text) if sys.stdout.isatty() else text
