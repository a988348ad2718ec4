"""Calls between tags: `<tool_call>` with JSON or `<function=...>` in it, and what models write
instead: a fenced block, `<tools>`, the bare object. A state for each place that a text can be in.

What is surely meant as a call (it has the tag) is one, whatever tool it names. The other forms are
calls only if they name a tool that was given; else they are content, to the letter.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from qwick.text.tools.json_call import JsonCall, Step, is_object
from qwick.text.tools.pieces import CallArguments, CallStart, Content, Piece, Trouble
from qwick.text.tools.xml_call import END_CALL, FUNCTION, XmlCall

CALL, TOOLS, FENCE = "<tool_call>", "<tools>", "```"
CLOSERS = (END_CALL, "</tools>", FENCE)
KEYS = frozenset(("name", "arguments", "parameters", "id", "type"))  # of a call as an object
MOST_INFO = 32  # characters of a fence's first line


class TaggedReader:
    """Reads answers of families that write tags; see `ToolReader` for push and flush.

    schemas: of each tool's parameters. loose: whether the other forms are looked for too.
    """

    def __init__(self, schemas: Mapping[str, Mapping[str, Any]], *, loose: bool) -> None:
        self._schemas = schemas
        self._loose = loose
        self._marks = (CALL, FUNCTION, TOOLS, FENCE) if loose else (CALL, FUNCTION)
        self._pieces: list[Piece] = []
        self._state: Callable[[str], None] = self._content
        self._held = ""  # may be the beginning of a mark
        self._raw = ""  # of what may turn out to be no call: its mark, and all since
        self._mark = ""
        self._sure = True  # whether it is a call whatever it names
        self._list = False
        self._virgin = True  # nothing but white space so far
        self._after_call = False  # line ends that come now are layout
        self._json = JsonCall()
        self._xml = XmlCall(schemas)
        self._announced = False
        self._arguments = ""
        self._calls = 0

    def push(self, text: str) -> list[Piece]:
        """Return what `text` completes."""
        for character in text:
            self._state(character)
        return self._taken()

    def flush(self) -> list[Piece]:
        """Return what was held back: the text has ended."""
        # Giving back what was no call may open the next that is none: until nothing is left.
        while self._state not in (self._content, self._after):
            self._cut()
        held, self._held = self._held, ""
        if self._state == self._content:
            for character in held:
                self._release(character)
        elif held.strip():
            self._pieces.append(Content(held.lstrip("\n")))
        self._state = self._content
        return self._taken()

    def _taken(self) -> list[Piece]:
        pieces, self._pieces = self._pieces, []
        return pieces

    # -- states --------------------------------------------------------------------------------

    def _content(self, character: str) -> None:
        """Outside of calls. Line ends before a mark belong to it."""
        self._held += character
        if self._virgin and self._loose and character == "{" and not self._held[:-1].strip():
            self._open(self._held, "", sure=False)
            self._raw = self._held[:-1]
            self._held = ""
            self._body("{")
            return
        while self._held:
            core = self._held.lstrip("\n")
            if core in self._marks:
                self._open(self._held, core, sure=core in (CALL, FUNCTION))
                self._held = ""
                return
            if not core or any(mark.startswith(core) for mark in self._marks):
                return
            self._release(self._held[0])
            self._held = self._held[1:]

    def _release(self, character: str) -> None:
        if self._after_call and character == "\n":
            return
        self._after_call = False
        self._virgin = self._virgin and character.isspace()
        self._pieces.append(Content(character))

    def _open(self, raw: str, mark: str, *, sure: bool) -> None:
        self._raw, self._mark, self._sure, self._list = raw, mark, sure, False
        self._tail = ""
        if mark == FUNCTION:
            self._begin_xml()
        elif mark == FENCE:
            self._state = self._fence
        else:
            self._state = self._body

    def _fence(self, character: str) -> None:
        """On a fence's first line."""
        self._raw += character
        self._tail += character
        if character == "\n":
            self._tail = ""
            self._state = self._body
        elif character == "`" or len(self._tail) > MOST_INFO:
            self._give_back()

    def _body(self, character: str) -> None:
        """Between a mark and what it marks."""
        self._raw += character
        if self._tail or character == "<":
            self._tail += character
            if self._tail == FUNCTION and self._sure:
                self._begin_xml()
            elif not FUNCTION.startswith(self._tail):
                self._give_back()
        elif character == "{":
            self._json, self._announced, self._arguments = JsonCall(), False, ""
            self._state = self._in_json
            self._json.feed(character)
        elif character == "[" and not self._list:
            self._list = True
        elif not character.isspace():
            self._give_back()

    def _in_json(self, character: str) -> None:
        call = self._json
        self._raw += character
        step = call.feed(character)
        if step is Step.BROKEN or (not self._announced and not self._may_be_one(call)):
            if not self._announced:
                self._give_back()
                return
            self._pieces.append(Trouble("the arguments of a call are no JSON"))
            self._state = self._broken
            self._broken(character)
            return
        if call.name is not None:
            self._announce(call.name)
            self._argue(call.take())
        if step in (Step.DONE, Step.EARLY):
            if not self._announced:
                self._give_back()
                return
            if not call.complete:
                self._argue("{}")
            self._end_call()
            if step is Step.EARLY:
                self._after(character)

    def _in_xml(self, character: str) -> None:
        call = self._xml
        self._raw += character
        step = call.feed(character)
        if step is Step.BROKEN:
            if not self._announced:
                self._give_back()
                return
            self._pieces.append(Trouble("a tag within a call is broken"))
            self._state = self._broken
            return
        if call.name is not None:
            self._announce(call.name)
            self._argue(call.take())
        if step in (Step.DONE, Step.EARLY):
            self._end_call()
            for one in call.rest:
                self._state(one)

    def _broken(self, character: str) -> None:
        """Within arguments that are no JSON: as they are, up to the tag that closes the call."""
        self._held += character
        while self._held and not END_CALL.startswith(self._held):
            self._argue(self._held[0])
            self._held = self._held[1:]
        if self._held == END_CALL:
            self._held = ""
            self._leave()

    def _after(self, character: str) -> None:
        """Behind a call: its closing tag, the next call of a list, or neither."""
        self._held += character
        core = self._held.lstrip()
        if not core:
            return
        if core in CLOSERS:
            self._held = ""
            self._leave()
        elif core in (",", "]") and self._list:
            self._held = ""
        elif core == "{" and self._mark:
            self._held, self._raw, self._tail = "", "", ""
            self._body("{")
        elif not any(closer.startswith(core) for closer in CLOSERS):
            held, self._held = self._held, ""
            self._leave()
            for one in held:
                self._state(one)

    # -- steps ---------------------------------------------------------------------------------

    def _may_be_one(self, call: JsonCall) -> bool:
        """Whether an object can still be a call: by its keys, and its name where that decides."""
        if self._sure:
            return True
        return call.key in KEYS and (call.name is None or call.name in self._schemas)

    def _begin_xml(self) -> None:
        self._xml, self._announced, self._arguments = XmlCall(self._schemas), False, ""
        self._state = self._in_xml

    def _announce(self, name: str) -> None:
        if not self._announced:
            self._announced = True
            self._pieces.append(CallStart(self._calls, name))
            self._calls += 1

    def _argue(self, text: str) -> None:
        if text:
            self._arguments += text
            self._pieces.append(CallArguments(self._calls - 1, text))

    def _end_call(self) -> None:
        troubles = self._xml.troubles if self._state == self._in_xml else []
        self._pieces += map(Trouble, troubles)
        if not is_object(self._arguments):
            self._pieces.append(Trouble("the arguments of a call are no JSON object"))
        self._state, self._held = self._after, ""

    def _leave(self) -> None:
        self._state, self._after_call, self._virgin = self._content, True, False

    def _give_back(self) -> None:
        """Make content of what is no call after all: its mark at once, the rest is read again."""
        raw, self._raw = self._raw, ""
        self._state, self._held, self._virgin = self._content, "", False
        if self._sure:
            self._pieces.append(Trouble("what begins like a call is none"))
        first = len(raw) - len(raw.lstrip("\n")) + max(1, len(self._mark))
        if not self._mark:
            first = len(raw) - len(raw.lstrip()) + 1
        for character in raw[:first]:
            self._release(character)
        for character in raw[first:]:
            self._state(character)

    def _cut(self) -> None:
        """End what the text's end has cut off."""
        if self._state == self._broken:
            self._argue(self._held)
            self._held = ""
            self._leave()
        elif not self._announced:
            self._give_back()
        else:
            if self._state == self._in_xml:
                self._xml.cut()
                self._argue(self._xml.take())
                self._pieces += map(Trouble, self._xml.troubles)
            else:
                self._argue(self._json.take())
                self._pieces.append(Trouble("a call was cut off"))
            self._leave()
