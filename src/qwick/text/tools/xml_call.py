"""A call as Qwen3-Coder writes it, read a character at a time.

`<function=NAME>`, then `<parameter=P>`, a line end, the value as plain text, a line end,
`</parameter>` for each parameter, `</function>`. Closing tags may be missing where the next one
says the same. Values become JSON by the tool's schema; text is passed on while it comes.
"""

from __future__ import annotations

import enum
from collections.abc import Mapping
from typing import Any

from qwick.text.tools.json_call import Step, is_object
from qwick.text.tools.values import as_json, quoted, streams, types_of

CALL, FUNCTION, PARAMETER = "<tool_call>", "<function=", "<parameter="
END_FUNCTION, END_PARAMETER, END_CALL = "</function>", "</parameter>", "</tool_call>"
MOST_NAME = 256
MOST_SPACE = 64  # characters of white space between two tags

_TAGS = (END_PARAMETER, PARAMETER, END_FUNCTION, END_CALL)
_BETWEEN = (PARAMETER, END_FUNCTION, END_CALL, CALL, FUNCTION)
_NEXT = (END_CALL, CALL, FUNCTION)  # what may follow a function


class _Verdict(enum.Enum):
    """What held text of a value is."""

    OPEN = "open"
    TEXT = "text"
    END = "end"


class XmlCall:
    """One call; `feed` its characters from behind `<function=` on.

    schemas: of each tool's parameters. name: once it is known. rest: behind Step.EARLY, what was
    read and does not belong to the call. troubles: what was wrong.
    """

    def __init__(self, schemas: Mapping[str, Mapping[str, Any]]) -> None:
        self.name: str | None = None
        self.rest = ""
        self.troubles: list[str] = []
        self._schemas = schemas
        self._state = "name"
        self._text: list[str] = []  # of a name, or of a value that is not passed on
        self._held = ""  # what may be the beginning of a tag
        self._fresh: list[str] = []
        self._parameter = ""
        self._types: frozenset[str] = frozenset()
        self._written: set[str] = set()
        self._begun = False  # whether the value is past its first line end
        self._on_lines = False  # whether it began with one, so that one ends it too
        self._empty = False  # whether nothing of it has come behind that one
        self._returns = False  # whether a line may end with a carriage return too
        self._stray: list[str] = []

    @property
    def awaits(self) -> str | None:
        """The name, where nothing has come behind it."""
        begins = self._state == "between" and not (self._held or self._stray or self._written)
        return self.name if begins else None

    def feed(self, character: str) -> Step:
        """Read one more character."""
        if self._state == "value":
            return self._in_value(character)
        if self._state == "between":
            return self._between(character)
        if character not in ">\n":
            self._text.append(character)
            return Step.GO if len(self._text) <= MOST_NAME else Step.BROKEN
        text, self._text = "".join(self._text).strip(), []
        if not text:
            return Step.BROKEN
        if self._state == "name":
            self.name, self._state = text, "between"
        else:
            self._begin(text, at_line_end=character == "\n")
        return Step.GO

    def take(self) -> str:
        """Return the arguments' JSON text since the last call."""
        fresh = "".join(self._fresh)
        self._fresh.clear()
        return fresh

    def cut(self, trouble: str) -> None:
        """Give what there is: the text has ended, or goes on as no call. An open value stays so."""
        if self._state == "value":
            held = self._held.lstrip("\r\n")
            if held.startswith(END_PARAMETER) or held.startswith(END_FUNCTION):
                self._finish()
                self._state, self._held = "between", ""
        if self._state == "between" and not self._held:
            self._end()
            return
        self.troubles.append(trouble)
        if self._state == "parameter":
            self._stray += (PARAMETER, *self._text)
        self._tell_stray()
        if self._state == "value":
            for character in self._held:
                self._pass(character)
            text = "".join(self._text)
            if text:
                self._fresh.append(quoted(text)[:-1] if "string" in self._types else text)

    def _between(self, character: str) -> Step:
        """Read what is outside of the parameters."""
        if not self._held and character != "<":
            self._stray.append(character)
            return Step.GO
        self._held += character
        if self._held in _BETWEEN:
            tag, self._held = self._held, ""
            return self._leave(tag)
        if not any(tag.startswith(self._held) for tag in _BETWEEN):
            held, self._held = self._held, ""
            self._stray.append(held[0])
            for one in held[1:]:
                self._between(one)  # completes no tag, being shorter than one
        return Step.GO

    def _leave(self, tag: str) -> Step:
        """Go where a tag leads that is no value's own end."""
        if tag == PARAMETER:
            self._state = "parameter"
            return Step.GO
        self._end()
        if tag == END_FUNCTION:
            return Step.DONE
        self.rest = tag
        return Step.EARLY

    def _end(self) -> None:
        """Close the arguments: the function has ended."""
        stray = "".join(self._stray).strip()
        if not self._written and is_object(stray):  # the other way to write arguments
            self._fresh.append(stray)
            return
        self._fresh.append("}" if self._written else "{}")
        self._tell_stray()

    def _tell_stray(self) -> None:
        stray = "".join(self._stray).strip()
        if stray:
            self.troubles.append(f"text outside the parameters of a call: {stray}")

    def _begin(self, parameter: str, *, at_line_end: bool) -> None:
        """Begin a parameter's value."""
        if parameter in self._written:
            self.troubles.append(f"the parameter {parameter!r} is given twice")
        self._fresh.append(f"{', ' if self._written else '{'}{quoted(parameter)}: ")
        self._written.add(parameter)
        self._parameter = parameter
        self._types = types_of(self._schemas.get(self.name or "", {}), parameter)
        self._state, self._begun = "value", at_line_end
        self._on_lines = self._empty = at_line_end
        self._returns = not at_line_end
        if streams(self._types):
            self._fresh.append('"')

    def _in_value(self, character: str) -> Step:
        self._held += character
        if not self._begun:
            if self._held == "\r":
                return Step.GO
            self._begun = True
            if self._held in ("\n", "\r\n"):
                self._on_lines = self._empty = True
                self._returns = self._held == "\r\n"
                self._held = ""
                return Step.GO
        while self._held:
            verdict, tag = self._judge()
            if verdict is _Verdict.OPEN:
                return Step.GO
            if verdict is _Verdict.END:
                return self._end_value(tag)
            self._pass(self._held[0])
            self._held = self._held[1:]
        return Step.GO

    def _judge(self) -> tuple[_Verdict, str]:
        """Tell what the held text is, and the tag that it begins with.

        A value that began on a line of its own ends with a line too: what looks like a closing tag
        within a line ends it only if a tag follows. A parameter's or a function's tag ends a value
        whose own end is missing, if the schema knows the parameter, or if a call ends there.
        """
        rest = self._held.lstrip("\r\n")
        line = self._held[: len(self._held) - len(rest)]
        if line not in ("", "\n") and not (self._returns and line in ("\r", "\r\n")):
            return _Verdict.TEXT, ""
        if not rest:
            return _Verdict.OPEN, ""
        tag = next((tag for tag in _TAGS if rest.startswith(tag)), None)
        behind_line = line.endswith("\n")
        at_line = behind_line or self._empty
        if tag is None:
            is_open = line != "\r" and any(tag.startswith(rest) for tag in _TAGS)
            return (_Verdict.OPEN if is_open else _Verdict.TEXT), ""
        if tag == END_PARAMETER and (behind_line or not self._on_lines):
            return _Verdict.END, tag
        if tag != END_PARAMETER and not at_line:
            return _Verdict.TEXT, ""
        behind = rest[len(tag) :]
        if tag == PARAMETER:
            return self._known(behind), tag
        if tag == END_CALL:
            return _Verdict.END, tag
        return _follows(behind, _BETWEEN if tag == END_PARAMETER else _NEXT), tag

    def _known(self, behind: str) -> _Verdict:
        """Tell whether a parameter of that name can begin here."""
        name, ended, _ = behind.partition(">")
        if not ended:
            is_open = len(name) <= MOST_NAME and "\n" not in name
            return _Verdict.OPEN if is_open else _Verdict.TEXT
        properties = self._schemas.get(self.name or "", {}).get("properties")
        known = not isinstance(properties, Mapping) or name.strip() in properties
        return _Verdict.END if known and name.strip() not in self._written else _Verdict.TEXT

    def _pass(self, character: str) -> None:
        """Take one more character of the value."""
        self._empty = False
        if streams(self._types):
            self._fresh.append(quoted(character)[1:-1])
        else:
            self._text.append(character)

    def _end_value(self, tag: str) -> Step:
        """End the value at a tag; what was read beyond it is read again."""
        beyond = self._held.lstrip("\r\n")[len(tag) :]
        self._held = ""
        self._finish()
        self._state = "between"
        step = Step.GO if tag == END_PARAMETER else self._leave(tag)
        if step is Step.DONE and beyond:
            self.rest = beyond
            return Step.EARLY
        for character in beyond:
            step = self.feed(character)
        return step

    def _finish(self) -> None:
        text, self._text = "".join(self._text), []
        if streams(self._types):
            self._fresh.append('"')
            return
        value, fits = as_json(text, self._types)
        self._fresh.append(value)
        if not fits:
            allowed = " or ".join(sorted(self._types))
            self.troubles.append(
                f"the parameter {self._parameter!r} is {text!r}, which is no {allowed}"
            )


def _follows(behind: str, tags: tuple[str, ...]) -> _Verdict:
    """Tell whether one of the tags follows, with only white space before it."""
    core = behind.lstrip()
    if core in tags:
        return _Verdict.END
    is_open = len(behind) - len(core) <= MOST_SPACE and any(tag.startswith(core) for tag in tags)
    return _Verdict.OPEN if is_open else _Verdict.TEXT
