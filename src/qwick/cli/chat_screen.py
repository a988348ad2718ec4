"""What a chat shows: answers as they come, notices, errors, the line of figures.

Answers are exact up to control characters, which a terminal would obey: those are shown as signs.
Knows no model and reads nothing.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from typing import TextIO

from qwick.cli.visible import visible
from qwick.errors import QwickError

__all__ = ["Screen", "fitted"]

DIM, PLAIN = "\x1b[2m", "\x1b[0m"


def fitted(parts: Sequence[str], width: int) -> str:
    """Return the parts joined by " · ", in as many lines of `width` columns as it takes."""
    lines = [""]
    for part in parts:
        joined = f"{lines[-1]} · {part}" if lines[-1] else part
        if lines[-1] and len(joined) > width:
            lines.append(part)
        else:
            lines[-1] = joined
    return "\n".join(lines)


class Screen:
    """Standard output, written to as a terminal where it is one.

    Notes (figures, errors, what goes on) go there too if it is one, else to standard error, so that
    what is piped on is answers and what commands show.

    terminal: whether it understands escape sequences. styled: and colour was not declined
    (NO_COLOR).
    """

    def __init__(self, out: TextIO | None = None) -> None:
        from rich.console import Console  # knows TERM, NO_COLOR and widths

        self.out = sys.stdout if out is None else out
        self._console = Console(file=self.out)
        self.notes = self.out if self._console.is_terminal else sys.stderr
        self.terminal = self._console.is_terminal and not self._console.is_dumb_terminal
        self.styled = self.terminal and not self._console.no_color
        self._column_0 = True
        self._thinking = False

    @property
    def width(self) -> int:
        """Columns; 80 where that cannot be told."""
        return self._console.width

    # -- notices -------------------------------------------------------------------------------

    def say(self, text: str) -> None:
        """Show what was asked for on lines of its own."""
        self.end_line()
        self._write(f"{visible(text)}\n")

    def dim(self, text: str) -> None:
        """Show what was asked for, dimmed."""
        self.end_line()
        self._write(f"{self._dimmed(visible(text))}\n")

    def note(self, text: str) -> None:
        """Show what nobody asked for but everybody should know."""
        self.end_line()
        print(visible(text), file=self.notes, flush=True)

    def figures(self, parts: Sequence[str]) -> None:
        """Show figures as a note, dimmed, in lines that fit."""
        self.end_line()
        text = visible(fitted(parts, self.width))
        print(self._dimmed(text), file=self.notes, flush=True)

    def complain(self, error: QwickError, *more: str | None) -> None:
        """Show an error, its way out, and further ones."""
        self.note(f"error: {error.message}")
        for hint in (error.hint, *more):
            if hint:
                self.note(f"hint: {hint}")

    # -- an answer -----------------------------------------------------------------------------

    def piece(self, text: str, *, thinking: bool = False) -> None:
        """Show a piece of an answer, dimmed if it is thinking, which is told from the rest."""
        if thinking and not self._thinking and not self.styled:
            self.say("[thinking]")
        if self._thinking and not thinking:
            self.end_line()
            self._write("\n" if self.styled else "[answer]\n")
        self._thinking = thinking
        text = visible(text)
        self._write(self._dimmed(text) if thinking else text)
        self._column_0 = text.endswith("\n")

    def end_answer(self) -> None:
        """Go to a line of its own; the next piece is another answer's."""
        self.end_line()
        self._thinking = False

    def end_line(self) -> None:
        """Begin a line unless the last one was ended."""
        if not self._column_0:
            self._write("\n")
        self._column_0 = True

    def _dimmed(self, text: str) -> str:
        return f"{DIM}{text}{PLAIN}" if self.styled else text

    def _write(self, text: str) -> None:
        self.out.write(text)
        self.out.flush()
