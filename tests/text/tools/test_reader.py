"""Calls read out of answers: what they mean, however the text is cut, and of any text."""

from __future__ import annotations

import json
import random
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from qwick.errors import ParameterError
from qwick.family import ToolFormat
from qwick.text.tools import CallArguments, CallStart, Content, ToolReader, Trouble, read_calls
from qwick.text.tools.pieces import Piece, joined
from qwick.text.tools.tagged import TaggedReader
from text.tools.corpus import CASES, TOOLS

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
                + rng.choice(['"', "{", "}", "<", "\n", "`", "</tool_call>", "é"])
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
     "✿RETURN✿", "Action:", "Action Input:", "Final Answer:", "é", "\r\n"]
)  # fmt: skip


@settings(deadline=None, max_examples=300)
@given(st.sampled_from(FORMATS), st.lists(FRAGMENTS, max_size=25))
def test_fragments_in_any_order(format: ToolFormat, fragments: list[str]) -> None:
    pieces = whole(format, "".join(fragments))
    assert cut(format, fragments) == pieces
    assert cut(format, list("".join(fragments))) == pieces
    check_order(pieces)


@settings(deadline=None, max_examples=200)
@given(st.lists(FRAGMENTS, max_size=20))
def test_no_text_outside_of_calls_is_lost(fragments: list[str]) -> None:
    """Where no call is found, the content is the text, but for line ends."""
    text = "".join(fragments)
    content, calls, _ = read_calls(ToolFormat.HERMES, TOOLS, text)
    if not calls:
        assert content == text


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=20),
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3)
    ),
    max_leaves=8,
)


@settings(deadline=None)
@given(st.lists(st.dictionaries(st.text(max_size=8), JSON, max_size=4), min_size=1, max_size=3))
def test_calls_come_back_as_they_were_written(arguments: list[dict[str, Any]]) -> None:
    text = "\n".join(
        "<tool_call>\n"
        + json.dumps({"name": "edit", "arguments": a}, ensure_ascii=False)
        + "\n</tool_call>"
        for a in arguments
    )
    content, calls, troubles = read_calls(ToolFormat.HERMES, TOOLS, text)
    assert (content, troubles) == ("", [])
    assert [json.loads(a) for _, a in calls] == arguments


PLAIN = st.text(st.characters(exclude_characters="<\r", exclude_categories=("Cs",)), max_size=40)


@settings(deadline=None)
@given(st.dictionaries(st.sampled_from(["path", "text"]), PLAIN), st.none() | st.integers())
def test_xml_calls_come_back_as_they_were_written(texts: dict[str, str], line: int | None) -> None:
    meant: dict[str, Any] = dict(texts)
    if line is not None:
        meant["line"] = line
    parameters = "".join(
        f"<parameter={name}>\n{value}\n</parameter>\n" for name, value in meant.items()
    )
    text = f"<tool_call>\n<function=edit>\n{parameters}</function>\n</tool_call>"
    content, calls, troubles = read_calls(ToolFormat.XML, TOOLS, text)
    assert (content, troubles) == ("", [])
    assert [(name, json.loads(a)) for name, a in calls] == [("edit", meant)]


def test_arguments_are_streamed_as_they_come() -> None:
    reader = ToolReader(ToolFormat.HERMES, TOOLS)
    reader.push('<tool_call>\n{"name": "edit", "arguments": {"text": "')
    for word in ("one ", "two ", "three "):
        assert joined(reader.push(word)) == [CallArguments(0, word)]
    reader = ToolReader(ToolFormat.XML, TOOLS)
    reader.push("<tool_call>\n<function=edit>\n<parameter=text>\n")
    assert joined(reader.push('say "hi" ')) == [CallArguments(0, 'say \\"hi\\" ')]


def test_a_long_answer_takes_time_in_proportion() -> None:
    """Marks that lead nowhere, many of them."""
    for text in ("```\n" * 5000, "<tool_call>" * 3000, "{" * 20_000, '{"name":' * 3000):
        reader = ToolReader(ToolFormat.HERMES, TOOLS)
        pieces = joined([*reader.push(text), *reader.flush()])
        assert "".join(p.text for p in pieces if isinstance(p, Content)) == text


def test_a_broken_reader_is_caught(monkeypatch: pytest.MonkeyPatch) -> None:
    """One that loses what it holds back when the text is cut there."""
    honest = TaggedReader.push

    def forgetful(self: TaggedReader, text: str) -> list[Piece]:
        found = honest(self, text)
        if self._state == self._content and self._held.endswith("<tool"):
            self._held = ""
        return found

    monkeypatch.setattr(TaggedReader, "push", forgetful)
    with pytest.raises(AssertionError):
        test_any_cutting_gives_the_same(*CASES[2][:2])


def test_what_is_no_text_is_refused() -> None:
    with pytest.raises(ParameterError):
        ToolReader(ToolFormat.HERMES, TOOLS).push(3)  # type: ignore[arg-type]
    with pytest.raises(ParameterError):
        ToolReader("hermes", TOOLS)  # type: ignore[arg-type]
