"""How the verbs show things: JSON, tables, byte counts. (The progress of a fetch: progress.py.)"""

from __future__ import annotations

import json
import shutil
import sys
import textwrap
from collections.abc import Sequence
from itertools import zip_longest
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
    "print_wrapped",
    "size_text",
]

NARROW = 8  # characters below which no column of a table gives way

json_option = click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")
markdown_option = click.option("--markdown", "as_markdown", is_flag=True, help="Print Markdown.")


def print_json(value: Any) -> None:
    """Print `value` as indented JSON with readable characters."""
    click.echo(json.dumps(value, ensure_ascii=False, indent=2))


def terminal_width() -> int | None:
    """Return the columns of the terminal that shows the output; None: a file or a pipe gets it."""
    if not sys.stdout.isatty():
        return None
    return max(1, shutil.get_terminal_size().columns)  # COLUMNS overrules what the system says


def print_wrapped(lead: str, text: str) -> None:
    """Print a line; on a terminal what is too long goes on below where `text` began."""
    width = terminal_width()
    if width is None:
        click.echo(lead + text)
        return
    indent = len(lead) if len(lead) <= width // 2 else 4
    for line in _broken(lead + text, width, indent):
        click.echo(line)


def _broken(text: str, width: int, indent: int = 0) -> list[str]:
    """Return `text` in lines of up to `width`, broken at spaces only: a name stays whole."""
    made = textwrap.TextWrapper(width, subsequent_indent=" " * indent, expand_tabs=False)
    made.break_long_words = made.break_on_hyphens = made.replace_whitespace = False
    return made.wrap(text) or [""]


def print_table(
    header: Sequence[str],
    rows: Sequence[Sequence[str]],
    *,
    repeated: Sequence[int] = (0,),
    hang: bool = False,
) -> None:
    """Print aligned columns, whole where no terminal shows them.

    On a terminal that is narrower, long cells go on below themselves. If that is not enough, the
    columns are printed in blocks of as many as fit, the `repeated` ones in each; or, with `hang`
    (for long lists), each row goes on below itself.
    """
    columns, width = list(zip(header, *rows, strict=True)), terminal_width()
    widths = [max(map(len, column)) for column in columns]
    if width is None or _taken(widths) <= width:
        _print_block(columns, widths)
        return
    least = list(map(_least, columns))
    every = range(len(columns))
    if _taken(least) <= width:
        blocks = [list(every)]
    elif hang:
        for row in zip(*columns, strict=True):
            for line in _broken("  ".join(map(str.ljust, row, widths)).rstrip(), width, 4):
                click.echo(line)
        return
    else:
        blocks = _blocks(list(repeated), [n for n in every if n not in repeated], least, width)
    for place, block in enumerate(blocks):
        if place:
            click.echo()
        fitted = _fitted([widths[n] for n in block], [least[n] for n in block], width)
        _print_block([columns[n] for n in block], fitted)


def _taken(widths: Sequence[int]) -> int:
    """Return the width of a row: its cells, and two spaces between them."""
    return sum(widths) + 2 * (len(widths) - 1)


def _least(column: Sequence[str]) -> int:
    """Return how narrow a column may become: no word is broken, and no short cell."""
    words = (len(word) for cell in column for word in cell.split())
    return min(max(map(len, column)), max(NARROW, *words, 0))


def _blocks(
    repeated: list[int], others: list[int], least: Sequence[int], width: int
) -> list[list[int]]:
    """Return the columns of each block: the repeated ones, and as many of the others as fit."""
    blocks = [[*repeated]]
    for number in others:
        block = [*blocks[-1], number]
        if len(blocks[-1]) > len(repeated) and _taken([least[n] for n in block]) > width:
            blocks.append([*repeated, number])
        else:
            blocks[-1] = block
    return blocks


def _fitted(widths: list[int], least: list[int], width: int) -> list[int]:
    """Return the widths of columns, the widest of which give way until all fit, if they can."""
    while _taken(widths) > width:
        spare = [n for n in range(len(widths)) if widths[n] > least[n]]
        if not spare:
            break
        widths[max(spare, key=lambda n: widths[n])] -= 1
    return widths


def _print_block(columns: Sequence[Sequence[str]], widths: Sequence[int]) -> None:
    for row in zip(*columns, strict=True):
        cells = [
            [cell] if len(cell) <= width else _broken(cell, width)
            for cell, width in zip(row, widths, strict=True)
        ]
        for line in zip_longest(*cells, fillvalue=""):
            click.echo("  ".join(map(str.ljust, line, widths)).rstrip())


def print_pairs(pairs: Sequence[tuple[str, str]]) -> None:
    """Print names and texts, a line each, the texts below each other."""
    width = max((len(name) for name, _ in pairs), default=0)
    for name, text in pairs:
        print_wrapped(f"{name.ljust(width)}  ", one_line(text))


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
