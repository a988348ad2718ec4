"""What an answer must match, as plain data: made from what a caller gives, bounded and checked.

Whatever is not a schema or Lark is written as one of them here. Nothing is compiled; knows no
tokens.
"""

from __future__ import annotations

import enum
import re
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from qwick.errors import ParameterError
from qwick.family import ToolFormat
from qwick.text.grammar.lark import ANY_LAYOUT, quoted, read_lark, with_layout
from qwick.text.grammar.schema import MAX_TEXT, read_schema
from qwick.text.grammar.tool_calls import Tools, write_arguments, write_tool_calls
from qwick.text.tokenizer import check_text
from qwick.values import check_kind, refused

__all__ = ["Grammar", "Kind"]

MAX_SOURCE = 1 << 15  # bytes of a regular expression or a grammar that a caller writes
# Of llama.cpp's notation: its conversion goes over all parts (literals, names, signs) again for
# each level of brackets and each rule in a row that refers to a later one; 0.4 s for the most.
MAX_RULES, MAX_VISITS = 300, 1 << 20
_GBNF_PART = re.compile(
    r"""[()|.] | "(?:\\.|[^"\\])*"? | \[(?:\\.|[^\]\\])*\]? | \#[^\r\n]*
    | (?P<rule>[\w-]+)[ \t]*::= | (?P<name>[\w-]+)""",
    re.DOTALL | re.VERBOSE,
)


class Kind(enum.Enum):
    """The notation of a grammar's text."""

    JSON_SCHEMA = "json_schema"
    REGEX = "regex"
    LARK = "lark"


@dataclass(frozen=True, slots=True)
class Grammar:
    """What an answer must match from its first character to its last.

    kind, text: the notation, and what is written in it. name: what messages call it. generated:
    whether the text was written here, not by a caller. calls: Lark of the tool calls that may come
    in its place; empty: none. Use the constructors; each raises ParameterError or UnsupportedError
    for what cannot be, as far as it can be told without compiling (`Vocabulary.check` tells the
    rest).
    """

    kind: Kind
    text: str
    name: str = "grammar"
    generated: bool = False
    calls: str = ""

    @classmethod
    def json_schema(cls, schema: Mapping[str, Any] | bool) -> Grammar:
        """Return the grammar of JSON by a schema (2020-12; older drafts where they agree).

        Properties come in the schema's order. The formats date-time, time, date, duration, email,
        hostname, ipv4, ipv6, uuid and uri are held to, others are annotations. A keyword that
        cannot be held to is refused by name. Nothing is fetched.
        """
        read = read_schema(schema, "schema")
        return cls(Kind.JSON_SCHEMA, with_layout(read, ANY_LAYOUT), "schema", True)

    @classmethod
    def json_object(cls) -> Grammar:
        """Return the grammar of any JSON object."""
        return cls.json_schema({"type": "object"})

    @classmethod
    def regex(cls, pattern: str) -> Grammar:
        r"""Return the grammar of texts that a regular expression matches as a whole.

        In the syntax of Rust's regex crate, which has no look-around and no back references; `\d`
        is 0 to 9.
        """
        return cls(Kind.REGEX, _source(pattern, "regex"), "regex")

    @classmethod
    def lark(cls, text: str) -> Grammar:
        """Return a grammar written in Lark as llguidance reads it; the first rule is `start`.

        JSON schemas in it (`%json`) are held to as those of `json_schema`. Tags such as
        `<tool_call>` are written as text. Special tokens, `stop` and `temperature` are not to be
        had.
        """
        return cls(Kind.LARK, read_lark(_source(text, "grammar"), "grammar"), "grammar")

    @classmethod
    def gbnf(cls, text: str) -> Grammar:
        """Return a grammar written in llama.cpp's notation, GBNF; the first rule is `root`."""
        from llguidance.gbnf_to_lark import gbnf_to_lark

        _check_gbnf(_source(text, "grammar"))
        try:
            lark = gbnf_to_lark(text)
        except Exception as error:  # its own, plain ones, and whatever a hostile text brings about
            reason = str(error)[:200] if not isinstance(error, RecursionError) else "too deep"
            raise ParameterError(
                f"grammar cannot be read as GBNF: {reason}; allowed: rules in its notation"
            ) from None
        return cls(Kind.LARK, read_lark(lark, "grammar"), "grammar")

    @classmethod
    def choice(cls, texts: Sequence[str]) -> Grammar:
        """Return the grammar of answers that are one of these texts."""
        check_kind("choice", texts, (list, tuple), "a list of texts")
        most = MAX_TEXT // 5  # of the shortest: two quotes, and what stands between two
        if len(texts) > most:
            raise ParameterError(f"choice holds {len(texts)} items; allowed: up to {most}")
        for i, text in enumerate(texts):
            check_text(text, f"choice[{i}]")
        if not any(texts):
            raise refused("choice", texts, "at least one text that is not empty")
        lark = f"start: CHOICE\nCHOICE: {' | '.join(quoted(text) for text in texts)}\n"
        return cls(Kind.LARK, _bounded(lark, "choice", MAX_TEXT), "choice", True)

    @classmethod
    def tool_calls(
        cls,
        format: ToolFormat,
        tools: Tools,
        *,
        names: Collection[str] | None = None,
        parallel: bool = False,
        text: bool = False,
    ) -> Grammar:
        """Return the grammar of an answer that calls tools, in a family's format.

        tools: OpenAI's definitions. names: of those that may be called; None: all. parallel:
        whether more than one call may come. text: whether a text may come before the first. The
        arguments follow `parameters`, a JSON schema; without it, or with strict set to false, they
        are any JSON object. Raises UnsupportedError for a family that calls no tools.
        """
        lark = write_tool_calls(format, tools, names, parallel, text)
        return cls(Kind.LARK, lark, "tools", True)

    @classmethod
    def tool_arguments(cls, format: ToolFormat, tool: Mapping[str, Any], where: str) -> Grammar:
        """Return the grammar of one call's arguments, with what a token may hold around them.

        For an answer that is free up to there: it begins where `ToolReader.awaits` names the tool,
        and what is complete may be followed by anything. where: what messages call the tool.
        """
        check_kind("where", where, str, "a str")
        check_kind(where, tool, Mapping, "an object with type and function")
        lark = write_arguments(format, tool.get("function", tool), f"{where}.function")
        return cls(Kind.LARK, lark, f"{where}.function.parameters", True)

    def or_tool_calls(self, format: ToolFormat, tools: Tools, *, parallel: bool = False) -> Grammar:
        """Return the grammar of answers that match this one or call tools, as `tool_calls`."""
        return replace(self, calls=write_tool_calls(format, tools, None, parallel, False))


def _source(text: object, name: str) -> str:
    """Return a caller's regular expression or grammar, if it is not too long."""
    checked = check_text(text, name)
    if not checked.strip():
        raise refused(name, checked, "a text that is not empty")
    return _bounded(checked, name, MAX_SOURCE)


def _check_gbnf(text: str) -> None:
    """Raise ParameterError for a grammar in llama.cpp's notation that costs too much to convert."""
    count = text.count("::=")
    if count > MAX_RULES:
        raise ParameterError(f"grammar has {count} rules; allowed: up to {MAX_RULES}")
    rules: dict[str, set[str]] = {}  # the names that each of them uses
    used: set[str] = set()
    parts = depth = deepest = 0
    for part in _GBNF_PART.finditer(text):
        parts += 1
        depth += {"(": 1, ")": -1}.get(part.group(), 0)
        deepest = max(deepest, depth)
        if part["rule"]:
            used = rules[part["rule"]] = set()
        elif part["name"]:
            used.add(part["name"])
    most = MAX_VISITS // max(parts, 1)
    # As the conversion finds those that are terminals, a round each for one that waits for a later.
    known: set[str] = set()
    rounds = 0
    while rounds + deepest <= most:
        before = len(known)
        for name, others in rules.items():
            if name != "root" and others <= known:
                known.add(name)
        rounds += 1
        if len(known) == before:
            return
    raise ParameterError(
        f"grammar has brackets and rules within each other, more than {most} deep; allowed: up to"
        f" {most} with its {parts} parts"
    )


def _bounded(text: str, name: str, most: int) -> str:
    size = len(text.encode())
    if size > most:
        raise ParameterError(f"{name} has {size} bytes; allowed: up to {most}")
    return text
