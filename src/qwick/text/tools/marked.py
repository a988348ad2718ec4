"""Calls in formats of marked text: Qwen-Agent's `✿FUNCTION✿: name`, `✿ARGS✿: {..}`, and ReAct's
`Action: name`, `Action Input: {..}`, which Qwen1 and Qwen2 were trained on.

A name goes to the end of its line, arguments to the end of their object or to the next mark; the
rest is content. Names that no tool has are calls only if arguments follow.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass

from qwick.text.tools.json_call import JsonValue, is_object
from qwick.text.tools.pieces import CUT, CallArguments, CallStart, Content, Piece, Trouble, joined

MOST_NAME = 256
HALF = "\ufffd"  # what the end of the text leaves of a character


@dataclass(frozen=True, slots=True)
class Marks:
    """One format: what comes before a name, its arguments, a tool's result, the answer.

    label: before other content; empty: none. lines: whether a mark counts at the beginning of a
    line only. final: whether nothing behind the answer's mark is a call.
    """

    function: str
    arguments: str
    result: str
    answer: str
    label: str
    lines: bool
    final: bool

    @property
    def all(self) -> tuple[str, ...]:
        """Every mark."""
        marks = (self.function, self.arguments, self.result, self.answer, self.label)
        return tuple(mark for mark in marks if mark)


# QwenLM/Qwen-Agent, qwen_agent/llm/fncall_prompts/qwen_fncall_prompt.py.
QWEN_AGENT = Marks("✿FUNCTION✿", "✿ARGS✿", "✿RESULT✿", "✿RETURN✿", "", False, False)
# QwenLM/Qwen, openai_api.py and examples/react_prompt.md.
REACT = Marks("Action:", "Action Input:", "Observation:", "Final Answer:", "Thought:", True, True)


class MarkedReader:
    """Reads answers in such a format; see `ToolReader` for push and flush.

    names: of the tools. held, demanded: as for `ToolReader`. cut: whether the end of the text has
    cut a call's arguments off.
    """

    def __init__(
        self,
        marks: Marks,
        names: Collection[str],
        *,
        held: bool = False,
        demanded: bool = False,
    ) -> None:
        self.cut = False
        self._by_grammar = held
        self._demanded = demanded
        self._marks = marks
        self._names = names
        self._pieces: list[Piece] = []
        self._state = "content"
        self._held = ""  # may be the beginning of a mark
        self._space: list[str] = []  # white space before it
        self._line = True  # whether a line begins here
        self._skip = ""  # what of the layout behind a mark may still come
        self._before = ""  # comes before the next content, if there is any
        self._echo = False  # whether the layout behind the last mark does too
        self._spoke = False  # whether there was content
        self._raw: list[str] = []  # of a call whose arguments have not come
        self._inline = False  # whether its mark stands within a line, and counts for little
        self._name = ""
        self._value: JsonValue | None = None  # arguments that are an object, to find their end
        self._arguments: list[str] = []
        self._calls = 0

    @property
    def awaits(self) -> str | None:
        """The name of the call behind whose mark of arguments nothing has come."""
        begins = self._state == "arguments" and not (self._arguments or self._held)
        return self._name if begins else None

    def push(self, text: str) -> list[Piece]:
        """Return what `text` completes."""
        for character in text:
            self._feed(character)
        return self._taken()

    def flush(self) -> list[Piece]:
        """Return what was held back: the text has ended."""
        if self._held and self._marks_only:
            self._held = ""
            if self._state != "name":
                self._pieces.append(Trouble(CUT))
        for character in self._held:
            self._give(character)
        self._held = ""
        space, skipping = self._take_space(), bool(self._skip)
        if self._state == "name":
            self._raw.append(space)
            self._end_name(cut=True)
        elif self._state == "arguments":
            self._end_arguments()
            self.cut = not is_object("".join(self._arguments))
        elif space and not skipping and self._state != "called":
            self._pieces.append(Content(space))
        return self._taken()

    def _taken(self) -> list[Piece]:
        pieces, self._pieces = self._pieces, []
        return joined(pieces)

    def _feed(self, character: str) -> None:
        """Tell marks from the rest. White space waits for what comes behind it."""
        if not self._held and character.isspace():
            self._space.append(character)
            return
        if character == HALF and self._marks_only:
            self._held = self._held or self._marks.function[0]
            return
        self._held += character
        marks = self._expected()
        if self._held in marks:
            mark, self._held = self._held, ""
            self._mark(mark)
        elif not any(mark.startswith(self._held) for mark in marks):
            held, self._held = self._held, ""
            self._give(held[0])
            for one in held[1:]:
                self._feed(one)

    @property
    def _marks_only(self) -> bool:
        """Whether a grammar lets nothing but a mark begin, or go on, with what is held here."""
        if self._state == "name":
            return self._by_grammar and (self._held != "" or "\n" in self._space)
        return self._demanded and self._state != "arguments" and not self._spoke

    def _expected(self) -> tuple[str, ...]:
        """Return what is a mark here: nothing in the final answer, nor within a line of a string.

        Within another line a call may begin, if a tool's name and arguments follow.
        """
        if self._state == "final":
            return ()
        in_string = self._value is not None and self._value.in_string
        if self._at_line or not (self._marks.lines or in_string):
            return self._marks.all
        may_begin = self._marks.lines and self._state in ("content", "called")
        return (self._marks.function,) if may_begin else ()

    @property
    def _at_line(self) -> bool:
        return self._line or "\n" in self._space

    def _take_space(self) -> str:
        space = "".join(self._space)
        self._space.clear()
        return space

    def _mark(self, mark: str) -> None:
        inline = self._marks.lines and not self._at_line
        space = self._take_space()
        raw = space + mark
        if self._state == "name" and mark != self._marks.arguments:
            self._end_name()
        elif self._state == "arguments":
            self._end_arguments()
        self._skip, self._line = " " if mark.endswith(":") else ":", False
        if mark == self._marks.function:
            self._state, self._name, self._raw, self._inline = "name", "", [raw], inline
        elif mark == self._marks.arguments:
            self._begin_arguments(raw)
        else:
            self._echo = mark == self._marks.result  # the model goes on for the tool
            self._before += raw if self._echo else space if self._spoke else ""
            is_final = mark == self._marks.answer and self._marks.final
            self._state = "final" if is_final else "content"

    def _begin_arguments(self, raw: str) -> None:
        """Begin arguments: of the name before them, or of the same one once more."""
        known = self._name in self._names if self._inline else self._name != ""
        if self._state == "name" and not known:
            self._say("".join(self._raw) + raw)
        elif self._state not in ("name", "arguments", "called"):
            self._say(raw)
        else:
            self._start()
            self._state, self._value, self._arguments = "arguments", None, []
            return
        self._pieces.append(Trouble("a call names no tool"))
        self._state, self._skip = "content", ""

    def _give(self, character: str) -> None:
        """Take a character that is in no mark, with the white space before it."""
        space = self._take_space()
        if self._skip:
            layout = space + character if self._skip == ":" and character in ":：" else space
            if self._state == "name":
                self._raw.append(layout)
            elif self._echo:
                self._before += layout
            self._skip, space = " " if layout.endswith(character) else "", ""
            if self._skip:
                return
        self._line = False
        if self._state == "name" and self._name and "\n" in space:
            self._end_name()  # what follows is no mark of arguments
        if self._state == "name":
            self._raw += (space, character)
            self._name += space + character
            if len(self._name) > MOST_NAME:
                self._end_name()
        elif self._state == "arguments":
            self._argue(space, character)
        else:
            if self._state == "called":
                self._state = "content"
                space = space if self._spoke else ""
            self._say(space + character)

    def _say(self, text: str) -> None:
        """Give content."""
        self._pieces.append(Content(self._before + text))
        self._before, self._spoke = "", True

    def _argue(self, space: str, character: str) -> None:
        if not self._arguments and character == "{":
            self._value = JsonValue()
        self._arguments += (space, character)
        self._pieces.append(CallArguments(self._calls - 1, space + character))
        if self._value is not None and self._value.feed(character):
            self._end_arguments()

    def _start(self) -> None:
        self._pieces.append(CallStart(self._calls, self._name))
        self._calls += 1

    def _end_arguments(self) -> None:
        self._state, self._value = "called", None
        if not is_object("".join(self._arguments)):
            self._pieces.append(Trouble("the arguments of a call are no JSON object"))

    def _end_name(self, *, cut: bool = False) -> None:
        """End a name behind which no arguments come."""
        if self._inline:
            self._say("".join(self._raw))
            self._state = "content"
        elif self._name in self._names:
            self._start()
            if not cut:
                self._pieces.append(CallArguments(self._calls - 1, "{}"))
            self._pieces.append(Trouble(CUT if cut else "a call has no arguments"))
            self._state, self.cut = "called", cut
        elif cut and self._by_grammar:
            self._pieces.append(Trouble(CUT))
        else:
            self._say("".join(self._raw))
            self._pieces.append(Trouble("what begins like a call is none"))
            self._state = "content"
