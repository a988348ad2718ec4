"""Calls of tools: read out of an answer's text while it arrives, in every format of the family.

    pieces.py       what a reader gives: content, calls, troubles
    reader.py       `ToolReader`, for every format
    tagged.py       finds where calls between tags begin and end
    json_call.py    {"name": .., "arguments": {..}}, character by character
    xml_call.py     <function=NAME><parameter=P>VALUE</parameter></function>
    values.py       VALUE made JSON by the tool's schema
    marked.py       formats of marked text: Qwen-Agent's flowers, and ReAct
    prompts.py      definitions and history for templates that have no place for tools
    definitions.py  definitions, checked

One law holds for all: joined, the pieces do not depend on how the text was cut. It holds because
every reader goes by characters and keeps what may still become a mark. No text raises an error.
"""

from __future__ import annotations

from qwick.text.tools.definitions import check_tool_definitions
from qwick.text.tools.pieces import CallArguments, CallStart, Content, Piece, Trouble
from qwick.text.tools.prompts import stop_strings, with_tools
from qwick.text.tools.reader import ToolReader, read_calls

__all__ = [
    "CallArguments",
    "CallStart",
    "Content",
    "Piece",
    "ToolReader",
    "Trouble",
    "check_tool_definitions",
    "read_calls",
    "stop_strings",
    "with_tools",
]
