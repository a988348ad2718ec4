"""A call as a JSON object, read a character at a time: its name, and its arguments as they come.

Lenient where models are careless (order of keys, a comma or a brace too few, arguments as a string)
and literal about the arguments: their text is given as it was written. Knows no marks around it.
"""

from __future__ import annotations

import enum
import json

ARGUMENTS = ("arguments", "parameters")
MOST_KEY = 256  # characters of a key or a name; longer is no call


class Step(enum.Enum):
    """What a character did."""

    GO = "go"
    DONE = "done"  # it closed the object
    EARLY = "early"  # it does not belong to the object, which is complete but for its brace
    BROKEN = "broken"  # it belongs to no object that is a call


class JsonCall:
    """One call; `feed` its characters from the opening brace on.

    name: once it is known. complete: whether the arguments are.
    """

    def __init__(self) -> None:
        self.name: str | None = None
        self.complete = False
        self._state = "start"
        self._key = ""
        self._text = ""  # of a string, or of a value that is being read
        self._depth = 0
        self._in_string = False
        self._escaped = False
        self._fresh = ""  # of the arguments, not taken yet
        self._as_string = False

    def feed(self, character: str) -> Step:
        """Read one more character."""
        if self._state == "value":
            return self._value(character)
        if self._state in ("key", "name"):
            return self._string(character)
        if character.isspace():
            return Step.GO
        if self._state == "start":
            self._state = "keys"
            return Step.GO if character == "{" else Step.BROKEN
        if self._state == "keys":
            if character == '"':
                self._state, self._text = "key", ""
                return Step.GO
            return Step.DONE if character == "}" else Step.BROKEN
        if self._state == "colon":
            self._state = "begin"
            return Step.GO if character == ":" else Step.BROKEN
        if self._state == "begin":
            return self._begin(character)
        # after a value
        if character == ",":
            self._state = "keys"
            return Step.GO
        if character == "}":
            return Step.DONE
        return Step.EARLY if self.name is not None and self.complete else Step.BROKEN

    @property
    def key(self) -> str:
        """The key that was read last; before the first one, what every call has."""
        return self._key or "name"

    def take(self) -> str:
        """Return the arguments' text since the last call."""
        fresh, self._fresh = self._fresh, ""
        return fresh

    def _string(self, character: str) -> Step:
        """Read a key, or the name."""
        if self._escaped:
            self._escaped = False
        elif character == "\\":
            self._escaped = True
        elif character == '"':
            text = _unquoted(self._text)
            if text is None:
                return Step.BROKEN
            if self._state == "key":
                self._key, self._state = text, "colon"
            else:
                self.name, self._state = text, "after"
            return Step.GO if text or self._state != "after" else Step.BROKEN
        self._text += character
        return Step.GO if len(self._text) <= MOST_KEY else Step.BROKEN

    def _begin(self, character: str) -> Step:
        """Read the first character of a value."""
        if self._key == "name":
            self._state, self._text = "name", ""
            return Step.GO if character == '"' else Step.BROKEN
        self._state, self._depth, self._text = "value", 0, ""
        self._as_string = character == '"'
        return self._value(character)

    def _value(self, character: str) -> Step:
        """Read a value up to the bracket, quote or comma that ends it."""
        wanted = self._key in ARGUMENTS and not self.complete
        ended = False
        if self._in_string:
            if self._escaped:
                self._escaped = False
            elif character == "\\":
                self._escaped = True
            elif character == '"':
                self._in_string = False
                ended = self._depth == 0
        elif character == '"':
            self._in_string = True
        elif character in "{[":
            self._depth += 1
        elif character in "}]" and self._depth:
            self._depth -= 1
            ended = self._depth == 0
        elif self._depth == 0 and (character in ",}]" or character.isspace()):
            self._end(wanted)  # of a number or a word
            return self.feed(character)
        if wanted:
            if self._as_string:
                self._text += character
            else:
                self._fresh += character
        if ended:
            self._end(wanted)
        return Step.GO

    def _end(self, wanted: bool) -> None:
        self._state = "after"
        if not wanted:
            return
        self.complete = True
        if self._as_string:  # the JSON text as a string: what is meant is within
            inner = _unquoted(self._text[1:-1])
            self._fresh += self._text if inner is None else inner


def _unquoted(text: str) -> str | None:
    """Return what a string's inner text stands for, None if it stands for nothing."""
    try:
        value = json.loads(f'"{text}"', strict=False)
    except ValueError:
        return None
    return value if isinstance(value, str) else None


def is_object(text: str) -> bool:
    """Whether a text is a JSON object."""
    try:
        return isinstance(json.loads(text), dict)
    except (ValueError, RecursionError):
        return False
