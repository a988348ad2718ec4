"""Calls between tags: `<tool_call>` with JSON or `<function=...>` in it, and what models write
instead: a fenced block, `<tools>`, the bare object. A state for each place that a text can be in.

What is surely meant as a call (it has the tag) is one, whatever tool it names. The other forms are
calls only if they name a tool that was given and have only the keys of a call up to its arguments;
else they are content, to the letter. What has begun like a call and is none is content too and is
not searched for calls again, so that the time that a text takes is in proportion to its length.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from qwick.text.tools.json_call import JsonCall, Step, is_object
from qwick.text.tools.pieces import CUT, CallArguments, CallStart, Content, Piece, Trouble, joined
from qwick.text.tools.xml_call import CALL, END_CALL, FUNCTION, XmlCall

TOOLS, END_TOOLS, FENCE = "<tools>", "</tools>", "```"
BARE = ""  # the mark of an object that has none
CLOSERS = {CALL: (END_CALL,), TOOLS: (END_TOOLS, END_CALL), FENCE: (FENCE, END_CALL)}
KEYS = frozenset(("name", "arguments", "parameters", "id", "type"))  # of a call as an object
MOST_INFO = 32  # characters of a fence's first line


class TaggedReader:
    """Reads answers of families that write tags; see `ToolReader` for push and flush.

    schemas: of each tool's parameters. loose: whether the other forms are looked for too. held:
    whether a grammar holds the answer, so that what begins like a call is one. cut: whether the end
    of the text has cut a call's arguments off.
    """

    def __init__(
        self, schemas: Mapping[str, Mapping[str, Any]], *, loose: bool, held: bool = False
    ) -> None:
        self.cut = False
        self._schemas = schemas
        self._loose = loose
        self._by_grammar = held
        self._marks = (CALL, FUNCTION, TOOLS, FENCE) if loose else (CALL, FUNCTION)
        self._pieces: list[Piece] = []
        self._waiting: list[Piece] | None = None  # of a call that only its closing tag makes one
        self._state: Callable[[str], None] = self._content
        self._held = ""  # may be the beginning of a mark or a tag
        self._lines: list[str] = []  # line ends, or white space, before what is held
        self._spoke = False  # whether there was content that is not white space
        self._bare = True  # whether an object that begins here is the whole answer so far
        self._line_start = True
        self._after_call = False
        self._fenced = False  # whether calls with tags stand in a fenced block
        # Of the call that is being read:
        self._mark = BARE
        self._closers: tuple[str, ...] = ()
        self._sure = False  # whether it is a call whatever it names
        self._list = False
        self._raw: list[str] = []  # all that becomes content if it turns out to be none
        self._json = JsonCall()
        self._xml = XmlCall(schemas)
        self._arguments: list[str] = []
        self._troubles: list[str] = []  # of one that is broken
        self._announced = False
        self._last = ""
        self._calls = 0

    @property
    def ended(self) -> bool:
        """Whether a call has just come to its end."""
        return self._calls > 0 and self._after_call and self._state == self._content

    @property
    def awaits(self) -> str | None:
        """The name of the call whose arguments come next, in the family's own form."""
        if self._loose:
            return self._json.awaits if self._state == self._in_json else None
        return self._xml.awaits if self._state == self._in_xml else None

    def push(self, text: str) -> list[Piece]:
        """Return what `text` completes."""
        for character in text:
            self._state(character)
        return self._taken()

    def flush(self) -> list[Piece]:
        """Return what was held back: the text has ended."""
        # What a fence's first line gives back may open the next: until nothing is open.
        while self._state != self._content:
            self._cut()
        held, self._held = self._held, ""
        if held and self._by_grammar and self._after_call:  # of the next one
            self._emit(Trouble(CUT))
            held = ""
        for character in held:
            self._release(character)
        if self._lines and not self._after_call:
            self._emit(Content("".join(self._lines)))
        self._lines.clear()
        return self._taken()

    def _taken(self) -> list[Piece]:
        pieces, self._pieces = self._pieces, []
        return joined(pieces)

    # -- outside of calls ----------------------------------------------------------------------

    def _content(self, character: str) -> None:
        """Outside of calls. Line ends before a mark belong to it."""
        if not self._held:
            if character in "\r\n":
                self._lines.append(character)
                self._line_start = True
                return
            if self._loose and character in "{[" and (self._bare or self._line_start):
                self._open(BARE)
                self._body(character)
                return
            if character not in "<`":
                self._release(character)
                return
        self._held += character
        if self._held in self._marks:
            mark, self._held = self._held, ""
            if mark == FENCE and self._fenced and self._after_call:
                self._fenced = False
                self._lines.clear()
            else:
                self._open(mark)
        elif self._held == END_CALL and self._after_call:  # once more
            self._held = ""
            self._lines.clear()
        elif not self._may_be_mark():
            held, self._held = self._held, ""
            self._release(held[0])
            for one in held[1:]:
                self._state(one)

    def _may_be_mark(self) -> bool:
        if self._after_call and END_CALL.startswith(self._held):
            return True
        return any(mark.startswith(self._held) for mark in self._marks)

    def _release(self, character: str) -> None:
        """Give a character as content, with the line ends before it unless they are layout."""
        if self._lines and (self._spoke or not self._after_call):
            self._emit(Content("".join(self._lines)))
        self._lines.clear()
        self._emit(Content(character))
        self._after_call = self._line_start = False
        if not character.isspace():
            self._spoke, self._bare, self._fenced = True, False, False

    def _open(self, mark: str) -> None:
        """Begin what may be a call."""
        self._raw = ["" if self._after_call else "".join(self._lines), mark]
        self._lines.clear()
        self._mark, self._closers = mark, CLOSERS.get(mark, (END_CALL,))
        self._sure, self._list = mark == CALL, False
        if mark == BARE and not self._bare:
            self._waiting = []
        if mark == FUNCTION:
            self._begin_xml()
        else:
            self._state = self._info if mark == FENCE else self._body

    # -- within calls --------------------------------------------------------------------------

    def _info(self, character: str) -> None:
        """On a fence's first line."""
        self._held += character
        if character == "\n":
            self._raw.append(self._held)
            self._held, self._state = "", self._body
        elif character == "`" or len(self._held) > MOST_INFO:
            self._give_back()

    def _body(self, character: str) -> None:
        """Between a mark and what it marks."""
        inner = {CALL: (FUNCTION, FENCE), FENCE: (CALL,)}.get(self._mark, ())
        if self._held or any(mark.startswith(character) for mark in inner):
            self._held += character
            if self._held in inner:
                mark, self._held = self._held, ""
                self._raw.append(mark)
                self._nest(mark)
            elif not any(mark.startswith(self._held) for mark in inner):
                self._give_back()
        elif character == "{":
            self._json, self._arguments, self._announced = JsonCall(), [], False
            self._state, self._last = self._in_json, ""
            self._in_json(character)
        elif character == "[" and not self._list and self._mark != CALL:
            self._list = True
            self._raw.append(character)
        elif character.isspace():
            self._raw.append(character)
        else:
            self._held = character
            self._give_back()

    def _nest(self, mark: str) -> None:
        """Go on behind a mark within another one."""
        if mark == FUNCTION:
            self._begin_xml()
        elif mark == FENCE:
            self._closers, self._state = (FENCE, END_CALL), self._info
        else:
            self._mark, self._closers = CALL, (END_CALL,)
            self._sure = self._fenced = True

    def _in_json(self, character: str) -> None:
        """Within a call's object. No string of JSON has a line end, so a tag behind one is one."""
        if self._held or (character == "<" and self._last == "\n" and self._json.in_string):
            self._held += character
            if self._held in (END_CALL, CALL):
                self._break()
            elif not (END_CALL.startswith(self._held) or CALL.startswith(self._held)):
                held, self._held = self._held, ""
                for one in held:
                    self._read_json(one)
        else:
            self._read_json(character)

    def _read_json(self, character: str) -> None:
        call, self._last = self._json, character
        step = call.feed(character)
        if step is Step.BROKEN or not self._may_be_one(call):
            self._held = character
            self._break()
            return
        if step is not Step.EARLY:
            self._note(character)
        if call.name is not None and (self._sure or call.opener):
            self._announce(call.name)
            self._argue(call.take())
        if step in (Step.DONE, Step.EARLY):
            if call.name is None:
                self._give_back()
                return
            call.end()
            self._announce(call.name)
            self._argue(call.take())
            self._end_call(call.troubles)
            if step is Step.EARLY:
                self._after(character)

    def _may_be_one(self, call: JsonCall) -> bool:
        """Whether an object can still be a call: by its keys, its name, and what it calls with."""
        if self._sure or self._announced:
            return True
        named = call.name is None or call.name in self._schemas
        return named and call.key in KEYS and call.opener in ("", "{", '"')

    def _begin_xml(self) -> None:
        self._xml, self._arguments, self._announced = XmlCall(self._schemas), [], False
        self._state = self._in_xml

    def _in_xml(self, character: str) -> None:
        call = self._xml
        step = call.feed(character)
        named = call.name is not None and (self._sure or call.name in self._schemas)
        if step is Step.BROKEN or (call.name is not None and not named):
            self._held = character
            self._break()
            return
        self._note(character)
        if call.name is not None:
            self._announce(call.name)
            self._argue(call.take())
        if step in (Step.DONE, Step.EARLY):
            self._end_call(call.troubles)
            for one in call.rest:
                self._state(one)

    def _break(self) -> None:
        """Go on where a call is broken: it is none, or its rest is given as it is."""
        if not self._announced or self._waiting is not None:
            self._give_back()
            return
        call = self._json if self._state == self._in_json else self._xml
        call.cut("a call is broken")
        self._argue(call.take())
        self._troubles = call.troubles
        held, self._held = self._held, ""
        self._state = self._broken
        for one in held:
            self._state(one)

    def _broken(self, character: str) -> None:
        """Within what is no JSON, or no tag: as it is, up to the tag that ends the call."""
        self._held += character
        ends = (*self._closers, CALL)
        if self._held in ends:
            end, self._held = self._held, ""
            self._end_call(self._troubles)
            if end == CALL:
                self._leave()
                self._open(CALL)
            else:
                self._close(end)
        elif not any(end.startswith(self._held) for end in ends):
            held, self._held = self._held, ""
            self._argue(held[0])
            for one in held[1:]:
                self._state(one)

    def _after(self, character: str) -> None:
        """Behind a call: its closing tag, the next call of a block, or neither."""
        if not self._held and character.isspace():
            self._lines.append(character)
            self._note(character)
            return
        self._held += character
        if self._held in self._closers:
            closer, self._held = self._held, ""
            self._lines.clear()
            self._close(closer)
        elif self._held in (",", "]") and self._list:
            self._note(character)
            self._held = ""
            self._lines.clear()
        elif self._held == "{" and (self._mark or self._list):
            if self._waiting is None:
                self._raw = []
            self._held = ""
            self._lines.clear()
            self._body(character)
        elif self._held in ("}", "]") and self._mark:
            self._held = ""
            self._emit(Trouble(f"a call has a {character!r} too many"))
        elif not any(closer.startswith(self._held) for closer in self._closers):
            if self._waiting is not None:
                self._give_back()
                return
            held = "".join(self._lines) + self._held
            self._held = ""
            self._leave()
            for one in held:
                self._state(one)

    # -- steps ---------------------------------------------------------------------------------

    def _emit(self, piece: Piece) -> None:
        (self._pieces if self._waiting is None else self._waiting).append(piece)

    def _note(self, character: str) -> None:
        """Keep a character for the case that what it belongs to is no call."""
        if not self._announced or self._waiting is not None:
            self._raw.append(character)

    def _announce(self, name: str) -> None:
        if not self._announced:
            self._announced = True
            self._emit(CallStart(self._calls, name))
            self._calls += 1

    def _argue(self, text: str) -> None:
        if text:
            self._arguments.append(text)
            self._emit(CallArguments(self._calls - 1, text))

    def _end_call(self, troubles: list[str]) -> None:
        for trouble in troubles:
            self._emit(Trouble(trouble))
        if not troubles and not is_object("".join(self._arguments)):
            self._emit(Trouble("the arguments of a call are no JSON object"))
        self._state = self._after

    def _close(self, closer: str) -> None:
        """Go on behind a closing tag."""
        if self._waiting is not None:
            self._pieces += self._waiting
            self._waiting = None
        self._closers = tuple(one for one in self._closers if one != closer)
        if not (self._closers and closer == FENCE and self._mark == CALL):
            self._leave()
        else:
            self._state = self._after

    def _leave(self) -> None:
        """Go on outside of the call."""
        self._state, self._held = self._content, ""
        self._lines.clear()
        self._after_call = self._line_start = True
        self._bare = self._bare and self._mark == BARE

    def _give_back(self) -> None:
        """Make content of what is no call after all; what is held did not fit, and is read anew."""
        if self._waiting is not None:
            self._calls -= sum(isinstance(piece, CallStart) for piece in self._waiting)
            self._waiting = None
        raw, held = "".join(self._raw), self._held
        self._held, self._announced = "", False
        self._state = self._content
        self._lines.clear()
        for character in raw:
            self._release(character)
        self._bare = False
        if self._sure:
            self._emit(Trouble("what begins like a call is none"))
        for character in held:
            self._state(character)

    def _cut(self) -> None:
        """End what the text's end has cut off."""
        within = self._state in (self._in_json, self._in_xml, self._broken, self._after)
        if self._waiting is not None or not (within and self._announced):
            if self._by_grammar and self._sure:
                self._emit(Trouble(CUT))
                self._leave()
            else:
                self._give_back()
            return
        held, self._held = self._held, ""
        open_call = self._state != self._after
        if self._state == self._in_xml:
            self._xml.cut(CUT)
            self._argue(self._xml.take())
            self._end_call(self._xml.troubles)
        elif self._state == self._in_json:
            for character in held:  # the beginning of a tag: a string's, as it was in one
                self._json.feed(character)
            self._json.cut(CUT)
            self._argue(self._json.take())
            self._end_call(self._json.troubles)
        elif self._state == self._broken:
            self._argue(held)
            self._end_call(self._troubles)
        self.cut = open_call and not is_object("".join(self._arguments))
        self._leave()  # behind a call, what is held began its closing tag
