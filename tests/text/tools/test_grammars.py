"""What a grammar of tool calls lets a model write is read back as calls, whatever it is."""

from __future__ import annotations

import json
from typing import Any

import jsonschema
import pytest

from qwick.family import ToolFormat
from qwick.text.grammar import Grammar, Vocabulary
from qwick.text.tokenizer import Tokenizer
from qwick.text.tools import read_calls
from text.grammar.walks import CLOSING, walk_all

pytestmark = pytest.mark.model

PARAMETERS: dict[str, Any] = {
    "type": "object",
    "properties": {
        "city": {"type": "string"},
        "days": {"type": "integer"},
        "exact": {"type": "boolean"},
        "where": {"type": ["number", "array"], "items": {"type": "integer"}},
        "note": {"type": ["string", "null"]},
        "unit": {"enum": ["°C", "°F"]},
        "tree": {"type": "object", "properties": {"a": {"type": "string"}}},
    },
    "required": ["city"],
    "additionalProperties": False,
}
TOOLS = [
    {"type": "function", "function": {"name": "weather", "parameters": PARAMETERS}},
    {"type": "function", "function": {"name": "any.thing-1"}},
]
FORMATS = [format for format in ToolFormat if format is not ToolFormat.NONE]
SEEDS = 8


@pytest.fixture(scope="module")
def vocabulary(tokenizer: Tokenizer) -> Vocabulary:
    return Vocabulary(tokenizer)


@pytest.mark.parametrize("format", FORMATS)
def test_calls_by_a_grammar_are_read(
    vocabulary: Vocabulary, tokenizer: Tokenizer, format: ToolFormat
) -> None:
    grammar = Grammar.tool_calls(format, TOOLS, parallel=True, text=True)
    openers = {"qwen_agent": ["✿FUNCTION✿: "], "react": ["Action: "]}
    closing = (*CLOSING, *openers.get(format.value, ["<tool_call>"]))
    counts = set()
    for walk in walk_all(vocabulary, tokenizer, grammar, SEEDS, closing=closing):
        _content, calls, troubles = read_calls(format, TOOLS, walk.text)
        assert calls, walk.text
        counts.add(len(calls))
        for name, arguments in calls:
            schema = PARAMETERS if name == "weather" else {"type": "object"}
            assert name in ("weather", "any.thing-1")
            jsonschema.Draft202012Validator(schema).validate(json.loads(arguments))
        # A parameter of any name may come twice there.
        others = [trouble for trouble in troubles if not trouble.endswith("is given twice")]
        assert not others, (walk.text, troubles)
    assert len(counts) > 1 or format is ToolFormat.REACT  # there each call waits for a result
