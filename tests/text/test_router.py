"""Stop strings beside calls: about content, and the same however the text is cut."""

from __future__ import annotations

import random

import pytest

from qwick.family import ToolFormat
from qwick.text.router import Answer, CallArguments, CallStart, Content, Router
from qwick.text.stops import StopMatcher
from qwick.text.thinking import ThinkingSplitter
from qwick.text.tools import ToolReader
from text.tools.corpus import CASES, TOOLS

STOPS = (["a"], ["\n\n"], ["Paris", "}"], ["<tool"], ["```", "✿"], ["the weather", "e"])


def read(format: ToolFormat, pieces: list[str], stops: list[str]) -> tuple[object, ...]:
    """Return content, calls and the stop string of an answer that comes in such pieces."""
    reader = ToolReader(format, TOOLS)
    router = Router(ThinkingSplitter("x"), reader, StopMatcher(stops))
    found = [piece for text in pieces for piece in router.push(text)] + router.flush()
    content = "".join(piece.text for piece in found if isinstance(piece, Content))
    calls = [[piece.name, ""] for piece in found if isinstance(piece, CallStart)]
    for piece in found:
        if isinstance(piece, CallArguments):
            calls[piece.index][1] += piece.text
    return content, calls, router.stop


@pytest.mark.parametrize("stops", STOPS)
@pytest.mark.parametrize(("format", "text"), [case[:2] for case in CASES])
def test_any_cutting_gives_the_same(format: ToolFormat, text: str, stops: list[str]) -> None:
    whole = read(format, [text], stops)
    assert read(format, list(text), stops) == whole
    rng = random.Random(text)
    cuts = sorted(rng.sample(range(len(text) + 1), min(6, len(text))))
    pieces = [text[a:b] for a, b in zip([0, *cuts], [*cuts, len(text)], strict=True)]
    assert read(format, pieces, stops) == whole
    content, calls, stop = read(format, [text], [])
    assert stop is None
    assert isinstance(content, str)
    assert isinstance(whole[0], str)
    assert content.startswith(whole[0])
    assert not any(one in whole[0] for one in stops)
    if not any(one in content for one in stops):
        assert whole == (content, calls, None)


def test_the_end_of_a_format_is_found_in_the_whole_text() -> None:
    said = 'Action: f\nAction Input: {"a": "x\nObservation: y"}'
    answer = Answer(
        ToolReader(ToolFormat.REACT, TOOLS), StopMatcher(["x"]), StopMatcher(["Observation:"])
    )
    for character in said:
        answer.push(character)
    assert answer.stop == "Observation:"
