"""Grammars as data: what they are made from, what is refused, in which words, and by whom."""

from __future__ import annotations

import json
import pickle
from typing import Any

import pytest

from qwick.errors import ParameterError, UnsupportedError, UsageError
from qwick.family import ToolFormat
from qwick.text.grammar import Grammar

TOOL = {"function": {"name": "f"}}
EVERY = [
    Grammar.json_schema({"type": "integer"}),
    Grammar.json_object(),
    Grammar.regex("a+"),
    Grammar.lark('start: "a"'),
    Grammar.gbnf('root ::= "a"'),
    Grammar.choice(["a", "b"]),
    Grammar.tool_calls(ToolFormat.HERMES, [TOOL]),
]


@pytest.mark.parametrize("grammar", EVERY, ids=lambda grammar: grammar.name)
def test_a_grammar_is_plain_data(grammar: Grammar) -> None:
    assert pickle.loads(pickle.dumps(grammar)) == grammar
    assert hash(grammar) == hash(pickle.loads(pickle.dumps(grammar)))
    with pytest.raises(AttributeError):
        grammar.text = ""  # type: ignore[misc]


def test_annotations_change_nothing() -> None:
    plain = {"type": "object", "properties": {"title": {"type": "string"}}}
    noted = {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "$id": "https://example.com/x",
        "title": "T",
        "description": "x" * 1_000_000,
        "x-anything": {"not": {}},
        "default": {"not": {}},
        "examples": [{"contains": 1}],
        "uniqueItems": False,
        **plain,
        "properties": {"title": {"type": "string", "format": "colour", "readOnly": True}},
    }
    assert Grammar.json_schema(noted) == Grammar.json_schema(plain)


@pytest.mark.parametrize(
    "schema",
    [
        {"not": {}},
        {"properties": {"a": {"if": {}, "then": {}}}},
        {"items": {"contains": {}}},
        {"$defs": {"a": {"uniqueItems": True}}},
        {"anyOf": [{"dependentRequired": {}}]},
        {"additionalProperties": {"propertyNames": {}}},
        {"prefixItems": [{"unevaluatedItems": False}]},
        {"patternProperties": {"a": {"nullable": True}}},
        {"x-guidance": {"lenient": True}},
    ],
)
def test_a_keyword_that_cannot_be_held_to_is_named(schema: Any) -> None:
    with pytest.raises(UnsupportedError) as caught:
        Grammar.json_schema(schema)
    keywords = ("not", "if", "contains", "uniqueItems", "dependentRequired", "propertyNames")
    more = ("unevaluatedItems", "nullable", "x-guidance")
    assert any(f"/{word} cannot be held to" in str(caught.value) for word in (*keywords, *more))


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: Grammar.json_schema(False), "schema is False; allowed: a schema that something"),
        (lambda: Grammar.json_schema("{}"), "schema is '{}'; allowed: a JSON schema"),
        (lambda: Grammar.json_schema({"minLenght": 1}), "did you mean minLength?"),
        (lambda: Grammar.json_schema({"type": "str"}), "schema/type is 'str'; allowed: null,"),
        (lambda: Grammar.json_schema({"type": []}), "schema/type is []; allowed"),
        (lambda: Grammar.json_schema({"required": "a"}), "schema/required is 'a'; allowed: a list"),
        (lambda: Grammar.json_schema({"required": [1]}), "allowed: a list of names"),
        (lambda: Grammar.json_schema({"enum": "ab"}), "schema/enum is 'ab'; allowed: a list"),
        (lambda: Grammar.json_schema({"pattern": 5}), "schema/pattern is 5; allowed: a str"),
        (lambda: Grammar.json_schema({"anyOf": {}}), "schema/anyOf is {}; allowed: a list of"),
        (lambda: Grammar.json_schema({"properties": []}), "allowed: an object of schemas"),
        (lambda: Grammar.json_schema({"items": 5}), "schema/items is 5; allowed: a JSON schema"),
        (lambda: Grammar.json_schema({5: 5}), "a keyword of schema is 5; allowed: a str"),
        (lambda: Grammar.json_schema({"minLength": 1.5}), "allowed: whole numbers from 0 to"),
        (lambda: Grammar.json_schema({"maxItems": True}), "allowed: whole numbers from 0 to"),
        (lambda: Grammar.json_schema({"minimum": float("nan")}), "allowed: finite numbers"),
        (lambda: Grammar.json_schema({"maximum": 10**400}), "allowed: finite numbers"),
        (lambda: Grammar.json_schema({"multipleOf": 0}), "allowed: numbers above 0"),
        (lambda: Grammar.json_schema({"const": {1, 2}}), "allowed: a JSON value"),
        (lambda: Grammar.json_schema({"const": "\ud800"}), "allowed: a str of valid Unicode"),
        (lambda: Grammar.json_schema({"$ref": "#anchor"}), "allowed: # or a path within"),
        (lambda: Grammar.json_schema({"$ref": "http://a/b"}), "allowed: # or a path within"),
        (lambda: Grammar.regex(""), "regex is ''; allowed: a text that is not empty"),
        (lambda: Grammar.regex(5), "regex is of type int"),
        (lambda: Grammar.lark("  "), "grammar is '  '; allowed"),
        (lambda: Grammar.lark("start: <|im_end|>"), "grammar uses <|im_end|>"),
        (lambda: Grammar.lark('start: "x" <[5-9]> # <b>'), "grammar uses <[5-9]>"),
        (lambda: Grammar.lark('start: a\na[stop="x"]: /a/'), "grammar uses stop="),
        (lambda: Grammar.lark("start: a\na[temperature=1.0]: /a/"), "grammar uses temperature="),
        (lambda: Grammar.lark('start: %json {"not": {}}'), "grammar: %json/not cannot be held"),
        (lambda: Grammar.lark("start: %json {"), "grammar has a %json that is no JSON"),
        (lambda: Grammar.gbnf("x ::= y"), "grammar cannot be read as GBNF: Rule 'y' not found"),
        (lambda: Grammar.gbnf('x ::= "a"'), "No 'root' rule found"),
        (lambda: Grammar.choice([]), "choice is []; allowed: at least one text"),
        (lambda: Grammar.choice([""]), "allowed: at least one text"),
        (lambda: Grammar.choice("ab"), "choice is 'ab'; allowed: a list of texts"),
        (lambda: Grammar.choice(["a", 1]), "choice[1] is of type int"),
        (lambda: Grammar.tool_calls("hermes", [TOOL]), "allowed: a ToolFormat"),
        (lambda: Grammar.tool_calls(ToolFormat.NONE, [TOOL]), "was not trained to call tools"),
        (lambda: Grammar.tool_calls(ToolFormat.XML, []), "no tool that may be called"),
        (
            lambda: Grammar.tool_calls(ToolFormat.XML, [TOOL], names=[]),
            "no tool that may be called",
        ),
        (lambda: Grammar.tool_calls(ToolFormat.XML, [TOOL], names=["g"]), "names is 'g'; allowed"),
        (lambda: Grammar.tool_calls(ToolFormat.XML, [TOOL], names=[{}]), "names is {}; allowed"),
        (lambda: Grammar.tool_calls(ToolFormat.XML, [TOOL, TOOL]), "tools[1].function.name is 'f'"),
        (lambda: Grammar.tool_calls(ToolFormat.XML, [{"function": 5}]), "tools[0].function is 5"),
        (lambda: Grammar.tool_calls(ToolFormat.XML, [5]), "tools[0] is 5; allowed"),
        (lambda: Grammar.tool_calls(ToolFormat.XML, [TOOL], parallel=1), "parallel is 1; allowed"),
        (
            lambda: Grammar.tool_calls(
                ToolFormat.HERMES, [{"function": {"name": "f", "parameters": {"type": "array"}}}]
            ),
            "tools[0].function.parameters/type is 'array'; allowed: object",
        ),
        (
            lambda: Grammar.tool_calls(
                ToolFormat.XML, [{"function": {"name": "f", "parameters": {"anyOf": [{}]}}}]
            ),
            "tools[0].function.parameters/anyOf cannot be held to in this checkpoint's format",
        ),
    ],
)
def test_refusals(make, words: str) -> None:
    with pytest.raises(UsageError) as caught:
        make()
    assert words in str(caught.value)


def test_what_is_quoted_in_lark_is_no_code() -> None:
    text = 'start: "<|im_end|>" /<b>\\/"/ "%json {" // <c> stop="x"\n# <d>\n'
    assert Grammar.lark(text).text == text


def test_a_schema_within_lark_is_as_a_schema_alone() -> None:
    schema = {"type": "object", "description": "d", "properties": {"a": {"const": "%json /x/"}}}
    lark = Grammar.lark(f'start: "x" %json {json.dumps(schema)} "y"')
    assert lark.text == f'start: "x" %json {Grammar.json_schema(schema).text} "y"'


@pytest.mark.model
@pytest.mark.parametrize("grammar", EVERY, ids=lambda grammar: grammar.name)
def test_every_kind_can_be_checked(vocabulary, grammar: Grammar) -> None:
    assert vocabulary.check(grammar) is None


@pytest.mark.model
@pytest.mark.parametrize(
    ("grammar", "words"),
    [
        (Grammar.regex("a(?=b)"), "regex cannot be compiled: look-around"),
        (Grammar.regex("("), "regex cannot be compiled: unclosed group"),
        (Grammar.regex(r"(a)\1"), "regex cannot be compiled: backreferences are not supported"),
        (Grammar.lark("start: x"), 'grammar cannot be compiled: at 1(8): unknown name: "x"'),
        (Grammar.lark("begin: /x/"), "grammar cannot be compiled:"),
        (Grammar.lark("start: @other"), "grammar cannot be compiled: unknown grammar @other"),
        (Grammar.json_schema({"$ref": "#/$defs/a"}), "schema cannot be compiled: Pointer"),
        (Grammar.json_schema({"enum": []}), "schema cannot be compiled: Unsatisfiable schema"),
        (Grammar.json_schema({"$ref": "#"}), "nothing that a model can write matches the schema"),
        (
            Grammar.json_schema({"oneOf": [{"type": "integer"}, {"type": "number"}]}),
            "the options of a oneOf may fit the same values; write it as anyOf",
        ),
        (
            Grammar.json_schema(
                {"type": "object", "minProperties": 2, "properties": {"a": {}, "b": {}}}
            ),
            "schema cannot be compiled: min/maxProperties only supported when",
        ),
    ],
)
def test_what_cannot_be_compiled_is_told_with_the_reason(vocabulary, grammar, words) -> None:
    for use in (vocabulary.check, lambda grammar: vocabulary.matcher(grammar, ()).mask()):
        with pytest.raises(ParameterError) as caught:
            use(grammar)
        assert words in str(caught.value)
        assert "\n" not in str(caught.value)
