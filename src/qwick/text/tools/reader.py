"""`ToolReader`: the reader of a family's format."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from qwick.family import ToolFormat
from qwick.text.tools.marked import QWEN_AGENT, REACT, MarkedReader
from qwick.text.tools.pieces import CUT, CallArguments, CallStart, Content, Piece, Trouble
from qwick.text.tools.tagged import TaggedReader
from qwick.text.tools.values import parameter_schemas
from qwick.text.tools.xml_call import CALL
from qwick.values import check_kind, check_switch


class ToolReader:
    """Takes an answer's text in pieces, gives content, calls and troubles.

    What comes before the answer (thinking) must have been taken off. Joined, the pieces do not
    depend on how the text was cut, and no text makes it fail:

    - What is certain is given at once: a name when it is complete, arguments as they come. Only a
      number, list or object of the XML format and arguments inside a string wait for their end.
    - What begins like a call and never names a tool is content, with a Trouble.
    - Where a grammar holds the answer, such a beginning was cut off: a Trouble alone tells of it.
    - Arguments that are no JSON, or are cut off, are given as the model wrote them, with a Trouble.
    - What a call holds beside name and arguments is in the Trouble that tells of it.
    - Tags, marks, the line ends around a call, the first line of a fenced one and the keys `id`,
      `type` and `index` are layout and belong to nothing.
    """

    def __init__(
        self,
        format: ToolFormat,
        tools: Sequence[Mapping[str, Any]],
        *,
        held: bool = False,
        demanded: bool = False,
        one: bool = False,
    ) -> None:
        """Begin an answer; tools: those that were offered. Raises ParameterError for others.

        held: whether a grammar holds the answer, so that it is either calls in the format of the
        family or content, from its first character on. demanded: whether that grammar demands
        calls, so that there is nothing else. one: whether calls behind the first are left out,
        which a Trouble tells.
        """
        check_kind("format", format, ToolFormat, "a ToolFormat")
        check_kind("tools", tools, (list, tuple), "a list of tools")
        check_switch("held", held)
        check_switch("demanded", demanded)
        check_switch("one", one)
        self._one = one
        self._demanded = demanded
        self._left_out = False
        schemas = parameter_schemas(tools)
        self._reader: TaggedReader | MarkedReader | None = None
        self._begin: str | None = None  # of the answer, until it is known what it is
        if format in (ToolFormat.HERMES, ToolFormat.XML):
            self._reader = TaggedReader(schemas, loose=format is ToolFormat.HERMES, held=held)
            self._begin = "" if held else None
        elif format is not ToolFormat.NONE:
            marks = QWEN_AGENT if format is ToolFormat.QWEN_AGENT else REACT
            self._reader = MarkedReader(marks, schemas, held=held, demanded=demanded)

    def push(self, text: str) -> list[Piece]:
        """Return what `text` completes, in order."""
        check_kind("text", text, str, "a str")
        if self._begin is not None:
            text = self._begin + text
            self._begin = text if len(text) < len(CALL) and CALL.startswith(text) else None
            if self._begin is not None:
                return []
            if not text.startswith(CALL):
                self._reader = None
        if self._reader is None:
            return [Content(text)] if text else []
        return self._first(self._reader.push(text))

    def flush(self) -> list[Piece]:
        """Return what was held back: the text has ended."""
        if self._begin:
            return [Trouble(CUT) if self._demanded else Content(self._begin)]
        return [] if self._reader is None else self._first(self._reader.flush())

    @property
    def ended(self) -> bool:
        """Whether a call has just come to its end, where that can be told before what follows."""
        return isinstance(self._reader, TaggedReader) and self._reader.ended

    @property
    def awaits(self) -> str | None:
        """The name of the call whose arguments come next (see `Grammar.tool_arguments`)."""
        return None if self._reader is None else self._reader.awaits

    @property
    def cut(self) -> bool:
        """Whether the end of the text has cut a call's arguments off."""
        return self._reader is not None and self._reader.cut

    def _first(self, pieces: list[Piece]) -> list[Piece]:
        """Leave out the calls behind the first, if only one is wanted."""
        if not self._one:
            return pieces
        kept: list[Piece] = []
        for piece in pieces:
            if not (isinstance(piece, CallStart | CallArguments) and piece.index > 0):
                kept.append(piece)
            elif not self._left_out:
                self._left_out = True
                kept.append(Trouble("more calls than the one that is allowed were left out"))
        return kept


def read_calls(
    format: ToolFormat, tools: Sequence[Mapping[str, Any]], text: str
) -> tuple[str, list[tuple[str, str]], list[str]]:
    """Return a whole answer's content, its calls (name, JSON text of arguments) and troubles."""
    reader = ToolReader(format, tools)
    content: list[str] = []
    calls: list[tuple[str, list[str]]] = []
    troubles: list[str] = []
    for piece in (*reader.push(text), *reader.flush()):
        if isinstance(piece, Content):
            content.append(piece.text)
        elif isinstance(piece, CallStart):
            calls.append((piece.name, []))
        elif isinstance(piece, CallArguments):
            calls[piece.index][1].append(piece.text)
        elif isinstance(piece, Trouble):
            troubles.append(piece.message)
    return "".join(content), [(name, "".join(parts)) for name, parts in calls], troubles
