"""How the verbs show things: JSON, tables, byte counts. (The progress of a fetch: progress.py.)"""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

import click

from qwick.cli.visible import one_line

__all__ = [
    "counted",
    "json_option",
    "markdown_option",
    "print_json",
    "print_markdown",
    "print_pairs",
    "print_table",
    "size_text",
]

json_option = click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")
markdown_option = click.option("--markdown", "as_markdown", is_flag=True, help="Print Markdown.")


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


def print_pairs(pairs: Sequence[tuple[str, str]]) -> None:
    """Print names and texts, a line each, the texts below each other."""
    width = max((len(name) for name, _ in pairs), default=0)
    for name, text in pairs:
        click.echo(f"{name.ljust(width)}  {one_line(text)}")


def print_markdown(header: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    """Print a table in Markdown."""
    lines = [header, ["---"] * len(header), *rows]
    for cells in lines:
        escaped = (one_line(cell).replace("|", "\\|") for cell in cells)
        click.echo(f"| {' | '.join(escaped)} |")


def size_text(count: float) -> str:
    """Return a byte count in decimal units: 491.4 MB."""
    if count < 1000:
        return f"{count:.0f} bytes"
    for unit in ("kB", "MB", "GB"):
        count /= 1000
        if count < 1000:
            return f"{count:.1f} {unit}"
    return f"{count / 1000:.1f} TB"


def counted(count: int, thing: str) -> str:
    """Return a number with its noun: 1 turn, 2 turns."""
    return f"{count:,} {thing}" if count == 1 else f"{count:,} {thing}s"
