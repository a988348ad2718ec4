"""Calls in formats of marked text: Qwen-Agent's `✿FUNCTION✿: name`, `✿ARGS✿: {..}`, and ReAct's
`Action: name`, `Action Input: {..}`, which Qwen1 and Qwen2 were trained on.
"""

from __future__ import annotations

from dataclasses import dataclass

from qwick.text.tools.json_call import is_object
from qwick.text.tools.pieces import CallArguments, CallStart, Content, Piece, Trouble

MOST_NAME = 256


@dataclass(frozen=True, slots=True)
class Marks:
    """One format: what comes before a name, its arguments, what ends them, what ends in content.

    lines: whether a mark counts at the beginning of a line only.
    """

    function: str
    arguments: str
    ends: tuple[str, ...]
    answer: str
    lines: bool

    @property
    def all(self) -> tuple[str, ...]:
        """Every mark."""
        return (self.function, self.arguments, *self.ends, self.answer)


# QwenLM/Qwen-Agent, qwen_agent/llm/fncall_prompts/qwen_fncall_prompt.py.
QWEN_AGENT = Marks("✿FUNCTION✿", "✿ARGS✿", ("✿RESULT✿",), "✿RETURN✿", False)
# QwenLM/Qwen, openai_api.py and examples/react_prompt.md.
REACT = Marks("Action:", "Action Input:", ("Observation:",), "Final Answer:", True)


class MarkedReader:
    """Reads answers in such a format; see `ToolReader` for push and flush.

    Text before the first mark, and behind the answer's, is content. A name goes to the end of its
    line, arguments to the next mark.
    """

    def __init__(self, marks: Marks) -> None:
        self._marks = marks
        self._pieces: list[Piece] = []
        self._state = "content"
        self._held = ""  # may be the beginning of a mark, with the white space before it
        self._line = True  # whether a line begins here
        self._name = ""
        self._arguments = ""
        self._calls = 0
        self._lead = ""  # what of the layout behind a mark may still come: a colon, white space

    def push(self, text: str) -> list[Piece]:
        """Return what `text` completes."""
        for character in text:
            self._feed(character)
        return self._taken()

    def flush(self) -> list[Piece]:
        """Return what was held back: the text has ended."""
        held, self._held = self._held, ""
        if self._state in ("content", "answer"):
            self._give(held)
        else:
            self._give(held.rstrip())
            self._end(cut=True)
        self._state = "content"
        return self._taken()

    def _taken(self) -> list[Piece]:
        pieces, self._pieces = self._pieces, []
        return pieces

    def _feed(self, character: str) -> None:
        self._held += character
        while self._held:
            core = self._held.lstrip()
            space = self._held[: len(self._held) - len(core)]
            at_line = self._line or "\n" in space or not self._marks.lines
            if core in self._marks.all and at_line and not self._longer(core):
                self._held = ""
                self._mark(core)
                return
            if not core or (at_line and any(m.startswith(core) for m in self._marks.all)):
                return
            first = self._held[0]
            self._held = self._held[1:]
            self._give(first)
            self._line = first == "\n" or (self._line and first.isspace())

    def _longer(self, mark: str) -> bool:
        return any(m != mark and m.startswith(mark) for m in self._marks.all)

    def _mark(self, mark: str) -> None:
        if self._state in ("name", "arguments") and mark != self._marks.arguments:
            self._end(cut=False)
        self._lead, self._line = " " if mark.endswith(":") else " :", False
        if mark == self._marks.function:
            self._state, self._name = "name", ""
        elif mark == self._marks.arguments and self._state == "name":
            self._start()
            self._state, self._arguments = "arguments", ""
        elif mark == self._marks.answer:
            self._state = "answer"
        else:
            self._state = "content"

    def _give(self, text: str) -> None:
        """Take text that is in no mark."""
        for character in text:
            if self._lead:
                if character == ":" and ":" in self._lead:
                    self._lead = " "
                    continue
                if character.isspace() and (character != "\n" or self._state != "name"):
                    continue
                self._lead = ""
            if self._state == "name":
                self._name += character
                if len(self._name) > MOST_NAME:
                    self._state = "content"
                    self._pieces.append(Trouble("the name of a tool has no end"))
                    self._pieces.append(Content(self._name))
            elif self._state == "arguments":
                if self._arguments or not character.isspace():
                    self._arguments += character
                    self._pieces.append(CallArguments(self._calls - 1, character))
            else:
                self._pieces.append(Content(character))

    def _start(self) -> None:
        self._pieces.append(CallStart(self._calls, self._name.strip()))
        self._calls += 1

    def _end(self, *, cut: bool) -> None:
        """End a call, or a name without arguments."""
        if self._state == "name":
            if not self._name.strip():
                self._pieces.append(Trouble("a call names no tool"))
                return
            self._start()
            if cut:
                self._pieces.append(Trouble("a call was cut off"))
                return
            self._pieces.append(CallArguments(self._calls - 1, "{}"))
        elif not is_object(self._arguments):
            self._pieces.append(Trouble("the arguments of a call are no JSON object"))
