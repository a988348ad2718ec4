"""A call as Qwen3-Coder writes it, read a character at a time.

`<function=NAME>`, then `<parameter=P>`, a line end, the value as plain text, a line end,
`</parameter>` for each parameter, `</function>`. Closing tags may be missing where the next one
says the same. Values become JSON by the tool's schema; text is passed on while it comes.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from qwick.text.tools.json_call import Step
from qwick.text.tools.values import as_json, quoted, streams, types_of

FUNCTION, PARAMETER = "<function=", "<parameter="
END_FUNCTION, END_PARAMETER, END_CALL = "</function>", "</parameter>", "</tool_call>"
MOST_NAME = 256

# What ends a value: its own tag, or on a line of its own one that cannot belong to it.
_ENDS = tuple(
    line + tag
    for tag in (END_PARAMETER, PARAMETER, END_FUNCTION, END_CALL)
    for line in ("\r\n", "\n", "")
    if line or tag == END_PARAMETER
)
_BETWEEN = (PARAMETER, END_FUNCTION, END_CALL, "<tool_call>", FUNCTION)


class XmlCall:
    """One call; `feed` its characters from behind `<function=` on.

    schemas: of each tool's parameters. name: once it is known. rest: after Step.EARLY, the tag that
    was read and does not belong to the call. troubles: what was wrong.
    """

    def __init__(self, schemas: Mapping[str, Mapping[str, Any]]) -> None:
        self.name: str | None = None
        self.rest = ""
        self.troubles: list[str] = []
        self._schemas = schemas
        self._state = "name"
        self._text = ""
        self._held = ""  # what may be the beginning of a tag
        self._fresh = ""
        self._parameter = ""
        self._types: frozenset[str] = frozenset()
        self._written: set[str] = set()
        self._at_line_end = False  # the value's first line end, which belongs to the format
        self._stray = ""

    def feed(self, character: str) -> Step:
        """Read one more character."""
        if self._state == "value":
            return self._value(character)
        if self._state == "between":
            return self._between(character)
        if character == ">":
            text, self._text = self._text.strip(), ""
            if not text:
                return Step.BROKEN
            if self._state == "name":
                self.name, self._state = text, "between"
            else:
                self._begin(text)
            return Step.GO
        self._text += character
        if character == "\n" or len(self._text) > MOST_NAME:
            return Step.BROKEN
        return Step.GO

    def take(self) -> str:
        """Return the arguments' JSON text since the last call."""
        fresh, self._fresh = self._fresh, ""
        return fresh

    def end(self) -> None:
        """Close the arguments: the function has ended."""
        self._fresh += "}" if self._written else "{}"
        if self._stray.strip():
            self.troubles.append(f"text outside the parameters of a call: {self._stray[:200]!r}")

    def cut(self) -> None:
        """Give what there is: the text has ended. A value that was begun stays open."""
        if self._state == "between" and not self._held:
            self.end()
            return
        self.troubles.append("a call was cut off")
        if self._state == "value":
            if streams(self._types):
                self._pass(self._held)
            else:
                self._fresh += quoted(self._text + self._held)[:-1]

    def _between(self, character: str) -> Step:
        if not self._held and character.isspace():
            return Step.GO
        self._held += character
        if self._held in _BETWEEN:
            tag, self._held = self._held, ""
            if tag == PARAMETER:
                self._state = "parameter"
                return Step.GO
            self.end()
            if tag == END_FUNCTION:
                return Step.DONE
            self.rest = tag
            return Step.EARLY
        if not any(tag.startswith(self._held) for tag in _BETWEEN):
            self._stray += self._held
            self._held = ""
        return Step.GO

    def _begin(self, parameter: str) -> None:
        """Begin a parameter's value."""
        if parameter in self._written:
            self.troubles.append(f"the parameter {parameter[:100]!r} is given twice")
        self._fresh += f"{', ' if self._written else '{'}{quoted(parameter)}: "
        self._written.add(parameter)
        schema = self._schemas.get(self.name or "", {})
        self._parameter, self._types = parameter, types_of(schema, parameter)
        self._state, self._text, self._at_line_end = "value", "", True
        if streams(self._types):
            self._fresh += '"'

    def _value(self, character: str) -> Step:
        self._held += character
        if self._held in _ENDS:
            tag, self._held = self._held.lstrip("\r\n"), ""
            self._finish()
            return self._leave(tag)
        while self._held and not any(end.startswith(self._held) for end in _ENDS):
            self._pass(self._held[0])
            self._held = self._held[1:]
        return Step.GO

    def _pass(self, text: str) -> None:
        """Take more of the value, without the line end that it begins with."""
        for character in text:
            if self._at_line_end:
                if character == "\r":
                    continue
                self._at_line_end = False
                if character == "\n":
                    continue
            if streams(self._types):
                self._fresh += quoted(character)[1:-1]
            else:
                self._text += character

    def _finish(self) -> None:
        self._at_line_end = False
        if streams(self._types):
            self._fresh += '"'
            return
        text, self._text = self._text, ""
        value, fits = as_json(text, self._types)
        self._fresh += value
        if not fits:
            allowed = " or ".join(sorted(self._types))
            self.troubles.append(
                f"the parameter {self._parameter[:100]!r} is {text[:100]!r}, which is no {allowed}"
            )

    def _leave(self, tag: str) -> Step:
        """Go where the tag leads that has ended a value."""
        self._state = "between"
        if tag == END_PARAMETER:
            return Step.GO
        if tag == PARAMETER:
            self._state = "parameter"
            return Step.GO
        self.end()
        if tag == END_FUNCTION:
            return Step.DONE
        self.rest = tag
        return Step.EARLY
