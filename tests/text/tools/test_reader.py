"""Calls read out of answers: what they mean, however the text is cut, and of any text."""

from __future__ import annotations

import json
import random
import re
import sys
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from qwick.errors import ParameterError
from qwick.family import ToolFormat
from qwick.text.tools import CallArguments, CallStart, Content, ToolReader, Trouble, read_calls
from qwick.text.tools.json_call import JsonValue
from qwick.text.tools.marked import MarkedReader
from qwick.text.tools.pieces import Piece, joined
from qwick.text.tools.tagged import TaggedReader
from qwick.text.tools.xml_call import XmlCall
from server.written import written
from text.tools.corpus import CASES, TOOLS, tool

FORMATS = list(ToolFormat)


def whole(format: ToolFormat, text: str) -> list[Piece]:
    reader = ToolReader(format, TOOLS)
    return joined([*reader.push(text), *reader.flush()])


def cut(format: ToolFormat, pieces: list[str]) -> list[Piece]:
    reader = ToolReader(format, TOOLS)
    found: list[Piece] = []
    for piece in pieces:
        found += reader.push(piece)
    return joined([*found, *reader.flush()])


def random_cuts(text: str, rng: random.Random) -> list[str]:
    pieces = []
    while text:
        at = rng.randint(1, min(len(text), rng.choice([1, 3, 12])))
        pieces.append(text[:at])
        text = text[at:]
    return pieces


@pytest.mark.parametrize(("format", "text", "content", "calls", "trouble"), CASES)
def test_what_it_means(
    format: ToolFormat, text: str, content: str, calls: list[tuple[str, Any]], trouble: bool
) -> None:
    found_content, found_calls, troubles = read_calls(format, TOOLS, text)
    assert found_content == content
    assert [name for name, _ in found_calls] == [name for name, _ in calls]
    for (_, arguments), (_, meant) in zip(found_calls, calls, strict=True):
        assert (arguments if isinstance(meant, str) else json.loads(arguments)) == meant
    assert bool(troubles) is trouble, troubles


@pytest.mark.parametrize(("format", "text"), [case[:2] for case in CASES])
def test_any_cutting_gives_the_same(format: ToolFormat, text: str) -> None:
    expected = whole(format, text)
    assert cut(format, list(text)) == expected
    rng = random.Random(text)
    for _ in range(20):
        assert cut(format, random_cuts(text, rng)) == expected


@pytest.mark.parametrize("format", [ToolFormat.HERMES, ToolFormat.XML])
@pytest.mark.parametrize(
    ("text", "calls"),
    [
        ('{"name": "get_weather", "arguments": {"city": "Oslo"}}', 0),  # an answer by a schema
        ('["<tool_call>\\n{\\"name\\": 1}"]', 0),
        ("<tool", 0),
        ("", 0),
        ('<tool_call>\n{"name": "get_weather", "arguments": {"city": "Oslo"}}\n</tool_call>', 1),
    ],
)
def test_an_answer_that_a_grammar_holds_is_calls_or_content(
    format: ToolFormat, text: str, calls: int
) -> None:
    for pieces in ([text], list(text), random_cuts(text, random.Random(1))):
        reader = ToolReader(format, TOOLS, held=True)
        found = [piece for part in pieces for piece in reader.push(part)] + reader.flush()
        content = "".join(piece.text for piece in found if isinstance(piece, Content))
        assert content == ("" if calls else text)
        assert sum(isinstance(piece, CallStart) for piece in found) == calls


def mutated(text: str, rng: random.Random) -> str:
    """Return a text with a few things deleted, doubled, swapped, or its end cut off."""
    for _ in range(rng.randint(1, 4)):
        if not text:
            return text
        a, b = sorted(rng.choices(range(len(text) + 1), k=2))
        how = rng.randrange(5)
        if how == 0:
            text = text[:a] + text[min(b, a + 8) :]
        elif how == 1:
            text = text[:b] + text[a:b] + text[b:]
        elif how == 2:
            text = text[:a]
        elif how == 3:
            text = (
                text[:a]
                + rng.choice(['"', "{", "}", "<", "\n", "`", "</tool_call>", "é", "\\ud83d"])
                + text[a:]
            )
        else:
            text = text[a:b] + text[:a] + text[b:]
    return text


@pytest.mark.parametrize("seed", range(300))
def test_mangled_answers(seed: int) -> None:
    """No text makes it fail, no cutting matters, and calls come in order and whole."""
    rng = random.Random(seed)
    format, text = rng.choice(CASES)[:2]
    text = mutated(text, rng)[:3000]
    if rng.random() < 0.3:
        format = rng.choice(FORMATS)
    pieces = whole(format, text)
    for _ in range(5):
        assert cut(format, random_cuts(text, rng)) == pieces, text
    check_order(pieces)


def check_order(pieces: list[Piece]) -> None:
    count = 0
    for piece in pieces:
        if isinstance(piece, CallStart):
            assert piece.index == count
            assert piece.name
            count += 1
        elif isinstance(piece, CallArguments):
            assert piece.index == count - 1
            assert piece.text
        else:
            assert isinstance(piece, Content | Trouble)


FRAGMENTS = st.sampled_from(
    ["<tool_call>", "</tool_call>", "\n", '{"name": "now"', ', "arguments": {', "}", "}}",
     "<tools>",
     "```", "```json\n", "<function=now>", "<function=", "<parameter=city>", "</parameter>",
     "</function>", "[", "]", ",", '"', "\\", "text", " ", "✿FUNCTION✿", "✿ARGS✿", ": now",
     "✿RETURN✿", "Action:", "Action Input:", "Final Answer:", "é", "\r\n", "\\ud83d", "\\udd84",
     '<tool_call>{"name": "\\ud83d', '", "arguments": "{}', '\\"', '", ']
)  # fmt: skip


@settings(deadline=None, max_examples=300)
@given(st.sampled_from(FORMATS), st.lists(FRAGMENTS, max_size=25))
def test_fragments_in_any_order(format: ToolFormat, fragments: list[str]) -> None:
    pieces = whole(format, "".join(fragments))
    assert cut(format, fragments) == pieces
    assert cut(format, list("".join(fragments))) == pieces
    check_order(pieces)


@settings(deadline=None, max_examples=300)
@given(st.sampled_from([ToolFormat.HERMES, ToolFormat.XML]), st.lists(FRAGMENTS, max_size=20))
def test_no_text_is_lost(format: ToolFormat, fragments: list[str]) -> None:
    """Where no call is found, the content is the text, to the letter."""
    text = "".join(fragments)
    content, calls, _ = read_calls(format, TOOLS, text)
    if not calls:
        assert content == text


def through_the_writer(format: ToolFormat, pieces: list[str]) -> None:
    """Streamed and whole, the JSON that a client gets says the same; see `written`."""
    text = "".join(pieces)
    streamed, message = written(pieces, ToolReader(format, TOOLS))
    content, calls, _ = read_calls(format, TOOLS, text)
    assert streamed == (content, calls)
    assert (message["content"] or "") == content
    assert [one["function"] for one in message.get("tool_calls", ())] == [
        {"name": name, "arguments": arguments} for name, arguments in calls
    ]


@settings(deadline=None, max_examples=300)
@given(st.sampled_from(FORMATS), st.lists(FRAGMENTS, max_size=25))
def test_fragments_can_be_written(format: ToolFormat, fragments: list[str]) -> None:
    through_the_writer(format, fragments)


@pytest.mark.parametrize("seed", range(100))
def test_mangled_answers_can_be_written(seed: int) -> None:
    rng = random.Random(seed)
    format, text = rng.choice(CASES)[:2]
    through_the_writer(format, random_cuts(mutated(text, rng)[:1000], rng))


@pytest.mark.parametrize(("format", "text"), [case[:2] for case in CASES])
def test_answers_can_be_written(format: ToolFormat, text: str) -> None:
    through_the_writer(format, list(text))


@pytest.mark.parametrize("seed", range(300))
def test_a_word_put_anywhere_is_found_again(seed: int) -> None:
    """In the content, a call or a trouble, however the answer is mangled: nothing is lost.

    What is layout may go: the first line of a fenced block, and keys that every call may have.
    """
    rng = random.Random(seed)
    format, text = rng.choice(CASES)[:2]
    if rng.random() < 0.5:
        text = mutated(text, rng)[:3000]
    at = rng.randint(0, len(text))
    text = f"{text[:at]}QZQ{text[at:]}"
    content, calls, troubles = read_calls(format, TOOLS, text)
    shown = [content, *(part for call in calls for part in call), *troubles]
    if not LAYOUT.search(text):
        assert any("QZQ" in one for one in shown), text


LAYOUT = re.compile(r'```[^\n`]*QZQ|"(id|type|index)": *"?[^",]*QZQ')


@settings(deadline=None, max_examples=300)
@given(st.sampled_from(FORMATS), st.lists(FRAGMENTS, max_size=20))
def test_content_is_taken_from_the_text(format: ToolFormat, fragments: list[str]) -> None:
    """In its order, and nothing twice."""
    text = "".join(fragments)
    left = iter(text)
    content = read_calls(format, TOOLS, text)[0]
    assert all(character in left for character in content)


def test_arguments_are_streamed_as_they_come() -> None:
    reader = ToolReader(ToolFormat.HERMES, TOOLS)
    reader.push('<tool_call>\n{"name": "edit", "arguments": {"text": "')
    for word in ("one ", "two ", "three "):
        assert joined(reader.push(word)) == [CallArguments(0, word)]
    reader = ToolReader(ToolFormat.XML, TOOLS)
    reader.push("<tool_call>\n<function=edit>\n<parameter=text>\n")
    assert joined(reader.push('say "hi" ')) == [CallArguments(0, 'say \\"hi\\" ')]


@pytest.mark.parametrize(
    ("format", "text"),
    [
        (ToolFormat.HERMES, "```\n" * 5000),
        (ToolFormat.HERMES, "<tool_call>" * 3000),
        (ToolFormat.HERMES, "{" * 20_000),
        (ToolFormat.HERMES, '{"name":' * 3000),
        (ToolFormat.HERMES, '<tool_call>{"x":[' * 2000),
        (ToolFormat.HERMES, '<tool_call>{"x":["' * 2000),
        (ToolFormat.HERMES, "\n" * 30_000 + "a"),
        (ToolFormat.XML, "<function=" * 3000),
        (ToolFormat.QWEN_AGENT, "a" + " " * 30_000 + "b"),
        (ToolFormat.REACT, "Action Input:\n" * 3000),
    ],
)
def test_what_leads_nowhere_is_read_once(format: ToolFormat, text: str) -> None:
    """Twice the text takes twice the steps: counted, not timed."""
    steps = [steps_of(format, text[: len(text) // 2]), steps_of(format, text)]
    assert steps[1] <= 2.2 * steps[0]
    assert read_calls(format, TOOLS, text)[:2] == (text, [])


def steps_of(format: ToolFormat, text: str) -> int:
    """Return how often a function was called while a text was read."""
    count = 0

    def profile(*_: object) -> None:
        nonlocal count
        count += 1

    sys.setprofile(profile)
    try:
        read_calls(format, TOOLS, text)
    finally:
        sys.setprofile(None)
    return count


def test_names_are_told_before_the_arguments_end() -> None:
    for format, text in (
        (ToolFormat.HERMES, '<tool_call>\n{"name": "now"'),
        (ToolFormat.HERMES, '```json\n{"name": "now", "arguments": {'),
        (ToolFormat.XML, "<tool_call>\n<function=now>"),
        (ToolFormat.QWEN_AGENT, "✿FUNCTION✿: now\n✿ARGS✿"),
        (ToolFormat.REACT, "Action: now\nAction Input:"),
    ):
        assert CallStart(0, "now") in ToolReader(format, TOOLS).push(text)


def test_only_what_may_be_a_mark_is_held_back() -> None:
    reader = ToolReader(ToolFormat.HERMES, TOOLS)
    assert reader.push("a <b <too") == [Content("a <b ")]
    assert reader.push("ls") == []
    assert reader.push(" x") == [Content("<tools x")]
    reader = ToolReader(ToolFormat.XML, TOOLS)
    reader.push("<tool_call>\n<function=edit>\n<parameter=text>\n")
    assert reader.push("if a <b:\n</p") == [CallArguments(0, "if a <b:")]
    assert reader.push("> c") == [CallArguments(0, "\\n</p> c")]


def test_hostile_schemas() -> None:
    """Schemas come from callers: none may crash or stop the reading."""
    many = [{"$ref": "#/properties/a"}] * 50
    for schema in (
        {"anyOf": 5},
        {"anyOf": many, "oneOf": many},
        {"$ref": "#/properties/a"},
        {"$ref": "http://elsewhere/x"},
        {"type": {"a": 1}},
        {"type": "colour"},
        {"enum": "abc"},
        True,
        [],
        None,
    ):
        found = read_calls(
            ToolFormat.XML,
            [tool("g", a=schema)],
            "<tool_call>\n<function=g>\n<parameter=a>\n1\n</parameter>\n</function>\n</tool_call>",
        )
        assert found == ("", [("g", '{"a": "1"}')], []), schema


def forget_what_is_held(monkeypatch: pytest.MonkeyPatch) -> None:
    honest = TaggedReader.push

    def push(self: TaggedReader, text: str) -> list[Piece]:
        found = honest(self, text)
        if self._state == self._content:
            self._held = ""
        return found

    monkeypatch.setattr(TaggedReader, "push", push)


def begin_anew_with_every_piece(monkeypatch: pytest.MonkeyPatch) -> None:
    honest = MarkedReader.push

    def push(self: MarkedReader, text: str) -> list[Piece]:
        self._line = True
        return honest(self, text)

    monkeypatch.setattr(MarkedReader, "push", push)


def overlook_escapes(monkeypatch: pytest.MonkeyPatch) -> None:
    honest = JsonValue.feed

    def feed(self: JsonValue, character: str) -> bool:
        self._escaped = False
        return honest(self, character)

    monkeypatch.setattr(JsonValue, "feed", feed)


def keep_line_ends(monkeypatch: pytest.MonkeyPatch) -> None:
    honest = XmlCall._begin

    def begin(self: XmlCall, parameter: str, *, at_line_end: bool) -> None:
        honest(self, parameter, at_line_end=at_line_end)
        self._begun = True

    monkeypatch.setattr(XmlCall, "_begin", begin)


def lose_the_last_character(monkeypatch: pytest.MonkeyPatch) -> None:
    honest = TaggedReader._argue
    monkeypatch.setattr(TaggedReader, "_argue", lambda self, text: honest(self, text[:-1]))


def forget_stray_text(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(XmlCall, "_tell_stray", lambda _: None)


def take_every_object(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(TaggedReader, "_may_be_one", lambda *_: True)


@pytest.mark.parametrize(
    "mutant",
    [
        forget_what_is_held,
        begin_anew_with_every_piece,
        overlook_escapes,
        keep_line_ends,
        lose_the_last_character,
        forget_stray_text,
        take_every_object,
    ],
)
def test_a_broken_reader_is_caught(monkeypatch: pytest.MonkeyPatch, mutant: Any) -> None:
    mutant(monkeypatch)
    caught = 0
    for case in CASES:
        try:
            test_what_it_means(*case)
            test_any_cutting_gives_the_same(*case[:2])
        except (AssertionError, ValueError):
            caught += 1
    assert caught


def test_what_is_no_text_is_refused() -> None:
    with pytest.raises(ParameterError):
        ToolReader(ToolFormat.HERMES, TOOLS).push(3)  # type: ignore[arg-type]
    with pytest.raises(ParameterError):
        ToolReader("hermes", TOOLS)  # type: ignore[arg-type]
    for tools in ({}, [5], [{"function": 5}], [{"function": {}}]):
        with pytest.raises(ParameterError, match="tools"):
            ToolReader(ToolFormat.XML, tools)  # type: ignore[arg-type]


def test_the_corpus_is_large() -> None:
    assert len({case[1] for case in CASES}) >= 60
