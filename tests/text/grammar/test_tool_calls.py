"""Calls of tools: random walks are calls with arguments by their schemas, in each family's form."""

from __future__ import annotations

import json
from typing import Any

import jsonschema
import pytest

from qwick.errors import ParameterError, UnsupportedError
from qwick.family import ToolFormat
from qwick.text.grammar import Grammar
from text.grammar.walks import CLOSING, ENDS, Walk, allows, walk_all

pytestmark = pytest.mark.model

NODE = {
    "type": "object",
    "properties": {"kids": {"type": "array", "items": {"$ref": "#/$defs/node"}, "maxItems": 2}},
    "required": ["kids"],
    "additionalProperties": False,
}
WEATHER = {
    "type": "object",
    "properties": {
        "city": {"type": "string", "description": "where"},
        "days": {"type": "integer", "minimum": 1, "maximum": 7},
        "unit": {"enum": ["°C", "°F"]},
        "exact": {"type": "boolean"},
        "note": {"anyOf": [{"type": "string", "maxLength": 5}, {"type": "null"}]},
        "code": {"type": "string", "pattern": "^[A-Z]+$"},
        "tree": {"$ref": "#/$defs/node"},
        "where": {"type": ["number", "array"], "items": {"type": "integer"}},
    },
    "required": ["city", "tree"],
    "additionalProperties": False,
    "$defs": {"node": NODE},
}
# What the XML form leaves to the schema: these are strings, whatever they look like.
TEXTS = {"city", "unit", "code"}
NOTHING = {"type": "object", "properties": {}, "additionalProperties": False}
TOOLS = [
    {"type": "function", "function": {"name": "get_weather", "parameters": WEATHER}},
    {"type": "function", "function": {"name": "get", "parameters": NOTHING}},
    {"type": "function", "function": {"name": "any.thing-1"}},
]
FORMATS = [format for format in ToolFormat if format is not ToolFormat.NONE]
OPENERS = {"hermes": "<tool_call>", "xml": "<tool_call>", "react": "Action: "}
SEEDS = 12


def take(text: str, what: str) -> str:
    assert text.startswith(what), (what, text[:80])
    return text[len(what) :]


def take_json(text: str) -> tuple[Any, str]:
    value, end = json.JSONDecoder().raw_decode(text)
    return value, text[end:]


def read_xml(text: str) -> tuple[str, Any, str]:
    name, text = take(text, "<tool_call>\n<function=").split(">\n", 1)
    arguments = {}
    while text.startswith("<parameter="):
        key, text = text.removeprefix("<parameter=").split(">\n", 1)
        value, text = text.split("\n</parameter>\n", 1)
        assert key not in arguments or name == "any.thing-1"
        string = name == "any.thing-1" or key in TEXTS or (key == "note" and value != "null")
        arguments[key] = value if string else json.loads(value)
    return name, arguments, take(text, "</function>\n</tool_call>")


def read_call(format: ToolFormat, text: str) -> tuple[str, Any, str]:
    """Return name, arguments and the rest of a text that begins with a call."""
    if format is ToolFormat.XML:
        return read_xml(text)
    if format is ToolFormat.HERMES:
        name, text = take(text, '<tool_call>\n{"name": "').split('", "arguments": ', 1)
        arguments, text = take_json(text)
        return name, arguments, take(text, "}\n</tool_call>")
    if format is ToolFormat.QWEN_AGENT:
        name, text = take(text, "✿FUNCTION✿: ").split("\n✿ARGS✿: ", 1)
    else:
        text = text[text.index("Action: ") :]
        name, text = take(text, "Action: ").split("\nAction Input: ", 1)
    return name, *take_json(text)


def check_call(name: str, arguments: Any) -> None:
    schemas = {"get_weather": WEATHER, "get": NOTHING, "any.thing-1": {"type": "object"}}
    jsonschema.Draft202012Validator(schemas[name]).validate(arguments)


def closing(format: ToolFormat) -> tuple[str, ...]:
    return (*CLOSING, "\nAction: ") if format.value == "react" else CLOSING


@pytest.mark.parametrize("format", FORMATS)
def test_one_call(vocabulary, tokenizer, format) -> None:
    grammar = Grammar.tool_calls(format, TOOLS)
    names = set()
    for walk in walk_all(vocabulary, tokenizer, grammar, SEEDS, closing=closing(format)):
        name, arguments, rest = read_call(format, walk.text)
        check_call(name, arguments)
        assert rest == ""
        names.add(name)
    assert len(names) > 1


@pytest.mark.parametrize("format", FORMATS)
def test_several_calls(vocabulary, tokenizer, format) -> None:
    grammar = Grammar.tool_calls(format, TOOLS, parallel=True)
    counts = set()
    for walk in walk_all(vocabulary, tokenizer, grammar, SEEDS, closing=closing(format)):
        rest, count = walk.text, 0
        while rest:
            name, arguments, rest = read_call(format, rest.removeprefix("\n"))
            check_call(name, arguments)
            count += 1
        counts.add(count)
    assert max(counts) > 1 or format.value == "react"  # there each call waits for its observation


@pytest.mark.parametrize("format", FORMATS)
def test_only_the_tools_that_are_named(vocabulary, tokenizer, format) -> None:
    grammar = Grammar.tool_calls(format, TOOLS, names=["get"])
    for walk in walk_all(vocabulary, tokenizer, grammar, 3, closing=closing(format)):
        assert read_call(format, walk.text)[:2] == ("get", {})


@pytest.mark.parametrize("format", FORMATS)
def test_a_text_may_come_first(vocabulary, tokenizer, format) -> None:
    opener = OPENERS.get(format.value, "✿FUNCTION✿: ")
    grammar = Grammar.tool_calls(format, TOOLS, text=True, names=["get"])
    walks = walk_all(vocabulary, tokenizer, grammar, 4, closing=[opener])
    for walk in walks:
        _before, call = walk.text.split(opener, 1)
        assert read_call(format, opener + call)[0] == "get"
    assert any(not walk.text.startswith(opener) for walk in walks)


ANSWERS = {
    "schema": (Grammar.json_schema({"type": "array", "items": {"type": "integer"}}), "[4]"),
    "regex": (Grammar.regex("[0-9]{3}"), "404"),
    "lark": (Grammar.lark('start: "yes" | "no"'), "yes"),
}


@pytest.mark.parametrize("format", FORMATS)
@pytest.mark.parametrize("kind", ANSWERS)
def test_calls_or_an_answer_by_a_grammar(vocabulary, tokenizer, format, kind) -> None:
    answer, example = ANSWERS[kind]
    grammar = answer.or_tool_calls(format, TOOLS)
    calls = Grammar.tool_calls(format, TOOLS)
    walks = (Walk(vocabulary, tokenizer, calls, n, closing=closing(format)) for n in range(SEEDS))
    called = next(walk for walk in walks if walk.ended)
    for ids in (called.ids, tokenizer.encode(example, parse_special=False)):
        matcher = vocabulary.matcher(grammar, ENDS)
        for id in ids:
            matcher.accept(id)
        assert matcher.accepting
    matcher = vocabulary.matcher(grammar, ENDS)
    wrong = tokenizer.encode("Well, ", parse_special=False)
    assert not allows(matcher.mask(), wrong[0])
    vocabulary.check(grammar)


@pytest.mark.parametrize("format", [ToolFormat.HERMES, ToolFormat.XML])
def test_the_tag_is_one_token(vocabulary, tokenizer, format) -> None:
    tag = tokenizer.id_of("<tool_call>")
    assert tag == 151_657
    matcher = vocabulary.matcher(Grammar.tool_calls(format, TOOLS), ENDS)
    assert allows(matcher.mask(), tag)
    assert matcher.forced()[0] == tag
    free = vocabulary.matcher(Grammar.tool_calls(format, TOOLS, text=True), ENDS)
    assert allows(free.mask(), tag)


@pytest.mark.parametrize("format", FORMATS)
def test_what_must_follow_is_written_with_the_tokenizers_own_tokens(
    vocabulary, tokenizer, format
) -> None:
    grammar = Grammar.tool_calls(format, TOOLS, names=["get"], parallel=False)
    walk = Walk(vocabulary, tokenizer, grammar, 0, closing=closing(format))
    ids = tokenizer.encode(walk.text, parse_special=True)
    assert walk.ended
    assert walk.ids == ids or format.value == "react"  # its thought was drawn at random


def test_the_forms_are_those_of_the_templates(vocabulary, tokenizer) -> None:
    """Byte for byte what Qwen2.5's and Qwen3-Coder's templates write of a call."""
    written = {
        ToolFormat.HERMES: '<tool_call>\n{"name": "get_weather", "arguments": {"city": "Zürich",'
        ' "days": 3, "tree": {"kids": [{"kids": []}, {"kids": []}]}}}\n</tool_call>',
        ToolFormat.XML: "<tool_call>\n<function=get_weather>\n<parameter=city>\nZürich\n\nx < y\n"
        '</parameter>\n<parameter=days>\n3\n</parameter>\n<parameter=tree>\n{"kids": []}\n'
        "</parameter>\n</function>\n</tool_call>",
        ToolFormat.QWEN_AGENT: '✿FUNCTION✿: get_weather\n✿ARGS✿: {"city": "Zürich", "tree": '
        '{"kids": []}}',
    }
    for format, text in written.items():
        matcher = vocabulary.matcher(Grammar.tool_calls(format, TOOLS), ENDS)
        for id in tokenizer.encode(text, parse_special=True):
            matcher.accept(id)  # raises where the form is another
        assert matcher.finished


@pytest.mark.parametrize("format", FORMATS)
def test_a_tool_that_is_not_strict_takes_any_arguments(vocabulary, tokenizer, format) -> None:
    function = {"name": "f", "strict": False, "parameters": {**NOTHING, "uniqueItems": True}}
    grammar = Grammar.tool_calls(format, [{"type": "function", "function": function}])
    other = {"name": "f"}
    assert grammar == Grammar.tool_calls(format, [{"type": "function", "function": other}])
    with pytest.raises(UnsupportedError, match="uniqueItems"):
        Grammar.tool_calls(format, [{"function": {**function, "strict": True}}])


def xml(schema: Any, **more: Any) -> Grammar:
    parameters = {"type": "object", "properties": {"p": schema}, "required": ["p"], **more}
    return Grammar.tool_calls(
        ToolFormat.XML, [{"function": {"name": "f", "parameters": parameters}}]
    )


@pytest.mark.parametrize(
    ("schema", "good", "bad"),
    [
        ({"type": "string"}, ["", "x", "<b>\n</parameter", "[1]"], []),
        ({}, ["x", "7"], []),
        ({"type": "string", "minLength": 2}, ["ab", "a\nb\nc"], ["a", ""]),
        ({"type": "string", "pattern": "b+"}, ["abba"], ["aca"]),
        ({"type": "string", "pattern": r"^\d$"}, ["7"], ["77", "a"]),
        ({"type": "string", "pattern": r"a\$"}, ["xa$y"], ["a"]),
        ({"const": "x y"}, ["x y"], ["x"]),
        ({"enum": ["a", "b", 3, None]}, ["a", "b", "3", "null"], ["c", '"a"']),
        ({"type": "integer", "enum": ["a", 3]}, ["3"], ["a"]),
        ({"type": "boolean"}, ["true", "false"], ["True", "maybe"]),
        ({"type": ["integer", "null"]}, ["-4", "null"], ["x", "1.5"]),
        ({"type": ["string", "null"], "maxLength": 2}, ["ab", "null"], ["abc"]),
        ({"anyOf": [{"enum": ["a"]}, {"type": "null"}]}, ["a", "null"], ["b"]),
        ({"oneOf": [{"const": "a"}, {"const": "b"}]}, ["a", "b"], ["c"]),
        ({"oneOf": [{"type": "string"}, {"type": "null"}]}, ["null", "b"], []),
        ({"allOf": [{"$ref": "#/$defs/d"}]}, ["[1, 2]"], ["1", "[1,2]"]),
        (
            {"properties": {"a": {"type": "integer"}}, "type": "object"},
            ['{"a": 1}'],
            ['{"a": "x"}'],
        ),
        ({"type": "number", "minimum": 0}, ["0.5", "12"], ["-1"]),
    ],
)
def test_values_of_the_xml_form(vocabulary, tokenizer, schema, good, bad) -> None:
    defs = {"d": {"type": "array", "items": {"type": "integer"}}}
    grammar = xml(schema, **{"$defs": defs})
    for value in (*good, *bad):
        text = f"<tool_call>\n<function=f>\n<parameter=p>\n{value}\n</parameter>\n</function>\n"
        matcher = vocabulary.matcher(grammar, ENDS)
        try:
            for id in tokenizer.encode(text + "</tool_call>", parse_special=True):
                matcher.accept(id)
        except ParameterError:
            assert value in bad, value
        else:
            assert value in good, value
            assert matcher.finished


@pytest.mark.parametrize(
    ("schema", "what"),
    [
        ({"allOf": [{"type": "string"}, {"maxLength": 3}]}, "combines allOf"),
        ({"$ref": "#/$defs/d", "maxLength": 3}, "combines"),
        ({"oneOf": [{"type": "string"}, {"const": "a"}]}, "oneOf has texts"),
        ({"oneOf": [{"const": "a"}, {"enum": ["a", "b"]}]}, "oneOf has texts"),
        ({"type": "string", "pattern": "^a|b$"}, "anchors a choice"),
        ({"$ref": "#/$defs/loop"}, "without an end"),
    ],
)
def test_values_that_a_text_cannot_be_held_to(schema, what) -> None:
    defs = {"d": {"type": "string"}, "loop": {"$ref": "#/$defs/loop"}}
    with pytest.raises(UnsupportedError, match=what):
        xml(schema, **{"$defs": defs})
