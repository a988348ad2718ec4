"""A call as a JSON object, read a character at a time: its name, and its arguments as they come.

Lenient where models are careless (order of keys, a brace too few, arguments as a string) and
literal about the arguments: their text is given as it was written. Knows no marks around it.
"""

from __future__ import annotations

import enum
import json

from qwick.text.tools.values import refuse

ARGUMENTS = ("arguments", "parameters")
OTHERS = ("id", "type", "index")  # keys that say nothing about what is called
MOST_KEY = 256  # characters of a key or a name; longer is no call


class Step(enum.Enum):
    """What a character did."""

    GO = "go"
    DONE = "done"  # it closed the call
    EARLY = "early"  # it does not belong to the call, which ends before it
    BROKEN = "broken"  # it belongs to nothing that is a call


class JsonValue:
    """Finds the end of a JSON object, list or string; `feed` its characters from the first on."""

    def __init__(self) -> None:
        self.depth = 0
        self.in_string = False
        self._escaped = False

    def feed(self, character: str) -> bool:
        """Read one more character; True if it completes the value."""
        if self.in_string:
            if self._escaped:
                self._escaped = False
            elif character == "\\":
                self._escaped = True
            elif character == '"':
                self.in_string = False
                return self.depth == 0
        elif character == '"':
            self.in_string = True
        elif character in "{[":
            self.depth += 1
        elif character in "}]" and self.depth:
            self.depth -= 1
            return self.depth == 0
        return False


class JsonCall:
    """One call; `feed` its characters from the opening brace on.

    name: once it is known. key: the one that was read last. opener: what the arguments begin with,
    once they do. troubles: what was wrong.
    """

    def __init__(self) -> None:
        self.name: str | None = None
        self.key = "name"  # before the first one, what every call has
        self.opener = ""
        self.troubles: list[str] = []
        self._state = "start"
        self._complete = False  # whether the arguments are
        self._escaped = False
        self._text: list[str] = []  # of a key, of a name, or of a value that is not passed on
        self._value = JsonValue()
        self._passing = False  # whether the value is the arguments, passed on while they come
        self._fresh: list[str] = []

    @property
    def in_string(self) -> bool:
        """Whether the next character belongs to a string among the values."""
        return self._state == "value" and self._value.in_string

    @property
    def awaits(self) -> str | None:
        """The name, where the key of the arguments was read but for its closing quote."""
        of_arguments = self._state == "key" and not self._complete
        return self.name if of_arguments and "".join(self._text) in ARGUMENTS else None

    def feed(self, character: str) -> Step:
        """Read one more character."""
        if self._state == "value":
            return self._in_value(character)
        if self._state in ("key", "name"):
            return self._in_word(character)
        if character.isspace():
            return Step.GO
        if self._state == "after":
            return self._after(character)
        if self._state == "begin":
            return self._begin(character)
        expected = {"start": "{", "keys": '"', "colon": ":"}[self._state]
        if character != expected:
            return Step.DONE if self._state == "keys" and character == "}" else Step.BROKEN
        self._state = {"start": "keys", "keys": "key", "colon": "begin"}[self._state]
        self._text = []
        return Step.GO

    def take(self) -> str:
        """Return the arguments' text since the last call."""
        fresh = "".join(self._fresh)
        self._fresh.clear()
        return fresh

    def end(self) -> None:
        """Close the arguments: the call has ended, and it may have had none."""
        if not self._complete:
            self._fresh.append("{}")

    def cut(self, trouble: str) -> None:
        """Give what there is: the text has ended within the call, or goes on as none."""
        self.troubles.append(trouble)
        text = "".join(self._text)
        if self._state == "value" and self._wanted:
            self._fresh += () if self._passing else self._text
        elif self._state == "key" and not any(key.startswith(text) for key in ARGUMENTS):
            self._tell(text, "")
        elif self._state in ("colon", "begin", "value") and not self._wanted:
            self._tell(self.key, text if self._state == "value" else "")

    @property
    def _wanted(self) -> bool:
        return self.key in ARGUMENTS and not self._complete

    def _in_word(self, character: str) -> Step:
        """Read a key, or the name."""
        if character < " " or (character == "<" and self._state == "name"):
            return Step.BROKEN  # a string of JSON has no line end, a name no tag
        if character != '"' or self._escaped:
            self._escaped = character == "\\" and not self._escaped
            self._text.append(character)
            return Step.GO if len(self._text) <= MOST_KEY else Step.BROKEN
        text = _unquoted("".join(self._text))
        if text is None:
            return Step.BROKEN
        if self._state == "key":
            self.key, self._state = text, "colon"
            return Step.GO
        self.name, self._state = text, "after"
        return Step.GO if text else Step.BROKEN

    def _begin(self, character: str) -> Step:
        """Read the first character of a value."""
        self._text = []
        if self.key == "name" and self.name is None:
            self._state = "name"
            return Step.GO if character == '"' else Step.BROKEN
        if character in ",:}]":
            return Step.BROKEN
        self._state, self._value = "value", JsonValue()
        self._passing = self._wanted and character != '"'
        if self._wanted:
            self.opener = character
        return self._in_value(character)

    def _in_value(self, character: str) -> Step:
        """Read a value up to the bracket, quote or comma that ends it."""
        if not self._value.in_string:
            if character == "<":  # of a tag: JSON has none outside of strings
                return Step.BROKEN
            if self._value.depth == 0 and (character in ",}]" or character.isspace()):
                self._end_value()  # of a number or a word
                return self.feed(character)
        ended = self._value.feed(character)
        (self._fresh if self._passing else self._text).append(character)
        if ended:
            self._end_value()
        return Step.GO

    def _end_value(self) -> None:
        self._state = "after"
        text = "".join(self._text)
        if not self._wanted:
            if self.key not in OTHERS:
                self._tell(self.key, text)
            return
        self._complete = True
        if not self._passing:  # the JSON text as a string: what is meant is within
            inner = (_unquoted(text[1:-1]) or "").strip()
            if text[1:-1].strip() == "":
                inner = "{}"
            self._fresh.append(inner if is_object(inner) else text)

    def _tell(self, key: str, text: str) -> None:
        """Tell of what is neither a name nor arguments."""
        self.troubles.append(f"a call has {key!r}, which is not read{text and ': '}{text}")

    def _after(self, character: str) -> Step:
        """Read what follows a value."""
        if character == ",":
            self._state = "keys"
            return Step.GO
        if character == "}":
            return Step.DONE
        whole = self.name is not None and (self._complete or character == "<")
        return Step.EARLY if whole else Step.BROKEN


def _unquoted(text: str) -> str | None:
    """Return what a string's inner text stands for, None if it stands for nothing.

    Half of a UTF-16 pair (`\\ud83d` alone) is no character and has no UTF-8: U+FFFD stands for it.
    """
    try:
        value = json.loads(f'"{text}"', strict=False)
    except ValueError:
        return None
    if not isinstance(value, str):
        return None
    return value.encode("utf-16", "surrogatepass").decode("utf-16", "replace")


def is_object(text: str) -> bool:
    """Whether a text is a JSON object."""
    try:
        return isinstance(json.loads(text, parse_constant=refuse), dict)
    except (ValueError, RecursionError):
        return False
