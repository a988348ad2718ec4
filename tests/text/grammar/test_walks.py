"""Random walks through the masks: whatever may be drawn matches, by an oracle that is not ours."""

from __future__ import annotations

import json
import re

import jsonschema
import pytest

from qwick.text.grammar import Grammar
from text.grammar.walks import ENDS, Walk, allows, ids_of, walk_all

pytestmark = pytest.mark.model

SEEDS = 6
TREE = {
    "$defs": {
        "node": {
            "type": "object",
            "properties": {
                "name": {"type": "string"},
                "children": {"type": "array", "items": {"$ref": "#/$defs/node"}, "maxItems": 2},
            },
            "required": ["name"],
            "additionalProperties": False,
        }
    },
    "$ref": "#/$defs/node",
}
SCHEMAS = {
    "anything": True,
    "object": {"type": "object"},
    "string": {"type": "string"},
    "short": {"type": "string", "minLength": 2, "maxLength": 4},
    "integer": {"type": "integer", "minimum": -5, "exclusiveMaximum": 300},
    "number": {"type": "number", "minimum": 0, "maximum": 1},
    "divisible": {"type": "integer", "multipleOf": 7, "minimum": 0, "maximum": 10_000},
    "cents": {"type": "number", "multipleOf": 0.25, "minimum": 0, "maximum": 100},
    "constant": {"const": {"a": [1, "x", None, True]}},
    "words": {"enum": ["Zürich", "東京", "🦆", 'a"b\\c', "", "line\nline", 7, None, [1]]},
    "pattern": {"type": "string", "pattern": r"^[A-Z]{2}-\d{3}$"},
    "found": {"type": "string", "pattern": "ab?c", "maxLength": 12},
    "date": {"type": "string", "format": "date"},
    "moment": {"type": "string", "format": "date-time"},
    "uuid": {"type": "string", "format": "uuid"},
    "ip": {"type": "string", "format": "ipv4"},
    "unknown format": {"type": "string", "format": "colour", "maxLength": 9},
    "list": {"type": "array", "items": {"type": "boolean"}, "minItems": 2, "maxItems": 5},
    "tuple": {
        "type": "array",
        "prefixItems": [{"type": "string"}, {"type": "integer"}],
        "items": False,
        "minItems": 2,
    },
    "closed": {
        "type": "object",
        "properties": {"a": {"type": "string"}, "b": {"type": "null"}, "ü": {"type": "integer"}},
        "required": ["ü"],
        "additionalProperties": False,
    },
    "map": {"type": "object", "additionalProperties": {"type": "integer"}, "maxProperties": 3},
    "named": {
        "type": "object",
        "patternProperties": {"^x[0-9]$": {"type": "integer"}},
        "additionalProperties": False,
    },
    "either": {"anyOf": [{"type": "integer"}, {"type": "array", "items": {"type": "null"}}]},
    "one of": {
        "oneOf": [
            {"properties": {"kind": {"const": kind}, kind: {"type": "integer"}}}
            | {"type": "object", "required": ["kind", kind], "additionalProperties": False}
            for kind in ("circle", "square")
        ]
    },
    "all of": {
        "allOf": [
            {"type": "object", "properties": {"a": {"type": "integer"}}, "required": ["a"]},
            {"properties": {"b": {"type": "string", "maxLength": 3}}, "required": ["b"]},
        ],
        "additionalProperties": False,
        "properties": {"a": True, "b": True},
    },
    "types": {"type": ["integer", "null", "string"], "maximum": 9, "maxLength": 2},
    "tree": TREE,
    "slashes": {
        "$defs": {"a/b~c d": {"type": "integer"}},
        "type": "array",
        "items": {"$ref": "#/$defs/a~1b~0c%20d"},
        "minItems": 1,
    },
    "annotated": {
        "$schema": "http://json-schema.org/draft-07/schema#",
        "$id": "https://example.com/annotated",
        "title": "T",
        "description": "not that",
        "type": "object",
        "properties": {"a": {"type": "integer", "default": "x", "examples": [1], "x-note": {}}},
        "required": ["a"],
        "definitions": {"unused": {"type": "null"}},
    },
    "old tuple": {
        "$schema": "http://json-schema.org/draft-07/schema#",
        "type": "array",
        "items": [{"type": "null"}],
        "additionalItems": False,
    },
}


@pytest.mark.parametrize("name", SCHEMAS)
def test_json_is_valid_by_its_schema(vocabulary, tokenizer, name: str) -> None:
    schema = SCHEMAS[name]
    validator = jsonschema.validators.validator_for(schema, jsonschema.Draft202012Validator)
    checker = validator(schema, format_checker=validator.FORMAT_CHECKER)
    for walk in walk_all(vocabulary, tokenizer, Grammar.json_schema(schema), SEEDS):
        checker.validate(json.loads(walk.text))


def test_any_object_is_an_object(vocabulary, tokenizer) -> None:
    for walk in walk_all(vocabulary, tokenizer, Grammar.json_object(), SEEDS):
        assert isinstance(json.loads(walk.text), dict)


PATTERNS = [
    r"[a-z]+(,[a-z]+)*",
    r"\d{4}-\d\d-\d\d",
    r"^(yes|no)$",
    r"[^\n]{3,9}",
    r"(?i)hello",
    r"(?:ä|ö|ü|日本|🦆)+b",
    r'a/b"c\\d',
    r"-?(0|[1-9][0-9]*)(\.[0-9]+)?",
    r"(a|ab)(c|bcd)(d*)",
]


@pytest.mark.parametrize("pattern", PATTERNS)
def test_a_text_matches_its_regular_expression(vocabulary, tokenizer, pattern: str) -> None:
    for walk in walk_all(vocabulary, tokenizer, Grammar.regex(pattern), SEEDS):
        assert re.fullmatch(pattern, walk.text, re.ASCII if "\\d" in pattern else 0), walk.text


LARKS = {
    'start: "a" (b | "c")*\nb: /[0-9]+/ ","': r"a([0-9]+,|c)*",
    'start: list\nlist: item ("," item)*\nitem: WORD | "(" WORD ")"\nWORD: /[a-z]+/': (
        r"([a-z]+|\([a-z]+\))(,([a-z]+|\([a-z]+\)))*"
    ),
    '%ignore /[ ]/\nstart: "x" "=" /[0-9]+/': r" *x *= *[0-9]+ *",
    'start: start "a" | "b"': r"ba*",
    'start: "<tool_call>" /[0-9]/ "</tool_call>"': r"<tool_call>[0-9]</tool_call>",
}


@pytest.mark.parametrize("lark", LARKS)
def test_a_text_matches_its_lark_grammar(vocabulary, tokenizer, lark: str) -> None:
    for walk in walk_all(vocabulary, tokenizer, Grammar.lark(lark), SEEDS):
        assert re.fullmatch(LARKS[lark], walk.text), walk.text


GBNFS = {
    'root ::= "a" [0-9]+ ("," item)*\nitem ::= [a-z]+ # a comment': r"a[0-9]+(,[a-z]+)*",
    'root ::= ("x" | "y"){2,3} [^a-z\\n]?': r"[xy]{2,3}[^a-z\n]?",
    'root ::= a-b | c_D\na-b ::= "1"\nc_D ::= "é" | "\\n"': r"1|é|\n",
}


@pytest.mark.parametrize("gbnf", GBNFS)
def test_a_text_matches_its_gbnf_grammar(vocabulary, tokenizer, gbnf: str) -> None:
    for walk in walk_all(vocabulary, tokenizer, Grammar.gbnf(gbnf), SEEDS):
        assert re.fullmatch(GBNFS[gbnf], walk.text), walk.text


def test_every_choice_can_be_drawn_and_nothing_else(vocabulary, tokenizer) -> None:
    texts = ["yes", "no", "not at all", "日本語", 'a "quoted" \\ one', "<|im_end|>", "\x7f\n"]
    seen = {walk.text for walk in walk_all(vocabulary, tokenizer, Grammar.choice(texts), 80)}
    assert seen == set(texts)


@pytest.mark.parametrize(
    ("name", "before"), [("anything", '"'), ("words", '"'), ("string", '"'), ("tree", '{"name": "')]
)
def test_a_character_may_be_spelled_by_several_tokens(
    vocabulary, tokenizer, name: str, before: str
) -> None:
    """A token of half a character may be drawn, and then only what completes it."""
    schema = {"enum": ["𰻞", "𰻝", "x"]} if name == "words" else SCHEMAS[name]
    matcher = vocabulary.matcher(Grammar.json_schema(schema), ENDS)
    quote = tokenizer.encode('"', parse_special=False)
    noodles = tokenizer.encode("𰻞", parse_special=False)
    assert len(noodles) > 1
    for id in [*tokenizer.encode(before, parse_special=False), *noodles[:-1]]:
        assert allows(matcher.mask(), id)
        matcher.accept(id)
        inside = id in noodles
    assert inside
    assert not allows(matcher.mask(), quote[0])
    assert allows(matcher.mask(), noodles[-1])
    matcher.accept(noodles[-1])
    assert allows(matcher.mask(), quote[0]) or matcher.forced()[0] == quote[0]


FREE_TEXT = [
    Grammar.regex("(?s:.*)"),
    Grammar.lark("start: /(?s:.)*/"),
    Grammar.lark("start: T\nT: ~/a/"),
    Grammar.json_schema({"type": "string"}),
    Grammar.choice(["<|im_end|>", "<|im_start|>system"]),
]


@pytest.mark.parametrize("grammar", FREE_TEXT, ids=lambda grammar: grammar.text[:20])
def test_no_control_token_is_ever_allowed_but_the_end(vocabulary, tokenizer, grammar) -> None:
    controls = tokenizer.control_ids - set(ENDS)
    assert len(controls) > 10
    for seed in range(3):
        matcher = Walk(vocabulary, tokenizer, grammar, seed).matcher
        for at in (vocabulary.matcher(grammar, ENDS), matcher):
            allowed = set(ids_of(at.mask()).tolist()) if not at.finished else set()
            assert not allowed & controls
            assert not at.finished or at.accepting
            if not at.accepting:
                assert not allowed & set(ENDS)
