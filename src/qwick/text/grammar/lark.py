"""Lark's notation as llguidance reads it: a caller's, looked over, and ours, put together.

https://github.com/guidance-ai/llguidance/blob/main/docs/syntax.md says what there is. Compiles
nothing, and knows no tokens.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from typing import Any

from qwick.errors import ParameterError, UnsupportedError
from qwick.text.grammar.schema import read_schema

# How JSON is laid out. On one line, as json.dumps and the templates' `tojson` write it:
ONE_LINE = {"whitespace_flexible": False, "item_separator": ", ", "key_separator": ": "}
# On one line or pretty, as a model is used to: between two tokens of JSON comes nothing, a space,
# or a new line and its indentation, once. So line after line of nothing cannot be written, which
# small models do where a grammar lets them.
ANY_LAYOUT = {"whitespace_pattern": r"(?: |\n {0,40}|\n\t{0,10})"}

# What is no code in a grammar: strings, regular expressions, comments.
_QUIET = re.compile(r'"(?:\\.|[^"\\\n])*"|/(?!/)(?:\\.|[^/\\])+/|(?:#|//)[^\n]*')
_SPECIAL = re.compile(r"<[^<>\s]+>")
_OPTION = re.compile(r"\b(?:stop|temperature)\s*=")
_JSON = re.compile(r"%json\s*")


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
    grammar's. Otherwise as `read_schema`.
    """
    parts, start = [], 0
    while start < len(text):
        quiet, schema = _QUIET.search(text, start), _JSON.search(text, start)
        first = min((m for m in (quiet, schema) if m), key=lambda m: m.start(), default=None)
        code = text[start : first.start() if first else None]
        _check_code(code, name)
        parts.append(code)
        if first is None:
            break
        parts.append(first.group())
        start = first.end()
        if first is schema:
            try:
                value, start = json.JSONDecoder().raw_decode(text, start)
            except (ValueError, RecursionError) as error:
                raise ParameterError(
                    f"{name} has a %json that is no JSON: {error}; allowed: a JSON schema"
                ) from None
            parts.append(with_layout(read_schema(value, f"{name}: %json"), ANY_LAYOUT))
    return "".join(parts)


def _check_code(code: str, name: str) -> None:
    found = _SPECIAL.search(code) or _OPTION.search(code)
    if found:
        raise UnsupportedError(
            f"{name} uses {found.group()[:100]}, which is not to be had here",
            hint='write tags as text: "<tool_call>"; leave out special tokens, stop, temperature',
        )


class Rules:
    """The rules of a grammar, in the making."""

    def __init__(self) -> None:
        """Begin with none."""
        self.size = 0  # characters so far
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

    def new(self, body: str) -> str:
        """Add a rule and return its name."""
        name = f"rule{len(self._lines)}"
        self.named(name, body)
        return name

    def terminal(self, body: str) -> str:
        """Add a terminal, which is one regular expression to the parser, and return its name."""
        name = f"T{len(self._lines)}"
        self.named(name, body)
        return name

    def once(self, body: str) -> str:
        """Return the terminal with this body, added when it is first asked for."""
        if body not in self._names:
            self._names[body] = self.terminal(body)
        return self._names[body]

    def json(self, schema: Any) -> str:
        """Add a rule for JSON on one line by a schema that `read_schema` gave; return its name."""
        return self.new(f"%json {with_layout(schema, ONE_LINE)}")
