"""Lark's notation as llguidance reads it: a caller's, looked over, and ours, put together.

https://github.com/guidance-ai/llguidance/blob/main/docs/syntax.md says what there is. Compiles
nothing, and knows no tokens.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from typing import Any

from qwick.errors import ParameterError, UnsupportedError, shown
from qwick.text.grammar.schema import MAX_TEXT, read_schema

# How JSON is laid out. On one line, as json.dumps and the templates' `tojson` write it:
ONE_LINE = {"whitespace_flexible": False, "item_separator": ", ", "key_separator": ": "}
# On one line or pretty, as a model is used to: between two tokens of JSON comes nothing, a space,
# or a new line and its indentation, once. So line after line of nothing cannot be written, which
# small models do where a grammar lets them.
ANY_LAYOUT = {"whitespace_pattern": r"(?: |\n {0,40}|\n\t{0,10})"}

# What a grammar consists of, one after another, so that a text is read in one pass. No repetition
# can be taken in two ways, and what nothing ends is refused: that takes linear time. Special tokens
# come before literals and comments, as in llguidance: </> is one.
_ITEM = re.compile(
    r"""(?P<quiet> "(?:\\.|[^"\\\n])*" | /(?!/)(?:\\.|[^/\\])+/ | (?:\#|//)[^\n]* )
    | (?P<special> <[^<>\s]+> )
    | (?P<json> %json\s* )
    | (?P<code> [^"/\#<%]+ | [<%] )
    | (?P<open> ["/] )  # a literal that nothing ends""",
    re.VERBOSE,
)
_OPTION = re.compile(r"\b(?:stop|temperature)\s*=")


def quoted(text: str) -> str:
    """Return a text as a literal."""
    return json.dumps(text, ensure_ascii=False).replace("\x7f", "\\u007f")


def with_layout(schema: Any, layout: Mapping[str, object]) -> str:
    """Return a schema that `read_schema` gave as JSON, with what says how to lay it out."""
    whole = {"x-guidance": layout, **({} if schema is True else schema)}
    return json.dumps(whole, ensure_ascii=False)


def read_lark(text: str, name: str) -> str:
    """Return a caller's grammar with the schemas in it checked; `name` is what messages call it.

    Raises UnsupportedError for what it may not ask for: control tokens steer a conversation and are
    nobody's to write, nothing that was generated is taken back, and the temperature is no
    grammar's. ParameterError for a literal without an end. Otherwise as `read_schema`.
    """
    parts, start = [], 0
    while item := _ITEM.match(text, start):
        part, start = item.group(), item.end()
        if item.lastgroup == "open":
            raise _unclosed(text, item.start(), name)
        option = _OPTION.search(part) if item.lastgroup == "code" else None
        if option or item.lastgroup == "special":
            raise UnsupportedError(
                f"{name} uses {(option or item).group()[:100]}, which is not to be had here",
                hint='write tags as text: "<tool_call>"; leave out special tokens, stop,'
                " temperature",
            )
        parts.append(part)
        if item.lastgroup == "json":
            try:
                value, start = json.JSONDecoder().raw_decode(text, start)
            except (ValueError, RecursionError) as error:
                raise ParameterError(
                    f"{name} has a %json that is no JSON: {error}; allowed: a JSON schema"
                ) from None
            parts.append(with_layout(read_schema(value, f"{name}: %json"), ANY_LAYOUT))
    return "".join(parts)


def _unclosed(text: str, start: int, name: str) -> ParameterError:
    """Return the error for a string or a regular expression that nothing ends."""
    line = text.count("\n", 0, start) + 1
    ends = 'a " at the end of a string, on its line' if text[start] == '"' else "a / at its end"
    literal = shown(text[start : start + 50].partition("\n")[0])
    return ParameterError(f"{name} has no end of {literal} in line {line}; allowed: {ends}")


class Rules:
    """The rules of a grammar of tools, in the making."""

    def __init__(self) -> None:
        """Begin with none."""
        self.size = 0  # characters so far
        self.read = 0  # characters of the schemas that are no rules themselves
        self.ways = 0  # of writing values, so far
        self._lines: list[str] = []
        self._names: dict[str, str] = {}

    @property
    def text(self) -> str:
        """The grammar so far."""
        return "\n".join(self._lines) + "\n"

    def named(self, name: str, body: str) -> None:
        """Add a rule of a given name."""
        line = f"{name}: {body}"
        self.size += len(line) + 1
        self._lines.append(line)

    def check_size(self) -> None:
        """Raise ParameterError for rules that are too long, before there are more of them."""
        if self.size > MAX_TEXT:
            raise too_long(MAX_TEXT)

    def new(self, body: str) -> str:
        """Add a rule and return its name; ParameterError if the rules get too long."""
        name = f"rule{len(self._lines)}"
        self.named(name, body)
        self.check_size()
        return name

    def terminal(self, body: str) -> str:
        """Add a terminal, which is one regular expression to the parser, and return its name."""
        name = f"T{len(self._lines)}"
        self.named(name, body)
        self.check_size()
        return name

    def once(self, body: str) -> str:
        """Return the terminal with this body, added when it is first asked for."""
        if body not in self._names:
            self._names[body] = self.terminal(body)
        return self._names[body]

    def json(self, schema: Any) -> str:
        """Add a rule for JSON on one line by a schema that `read_schema` gave; return its name."""
        return self.new(f"%json {with_layout(schema, ONE_LINE)}")


def too_long(most: int) -> ParameterError:
    """Return the error for tools with more than `most` characters of schemas."""
    return ParameterError(
        f"tools have schemas of more than {most} characters in all; allowed: fewer, or smaller ones"
    )
