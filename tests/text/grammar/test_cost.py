"""What it costs to read a hostile grammar or schema, before anything is compiled."""

from __future__ import annotations

import re
import time
from collections.abc import Callable
from fractions import Fraction
from typing import Any

import pytest

from qwick.errors import ParameterError, UnsupportedError, UsageError
from qwick.family import ToolFormat
from qwick.text.grammar import Grammar
from qwick.text.grammar.grammar import MAX_SOURCE
from qwick.text.grammar.schema import _digits

MOST = 2.0  # CPU seconds: each took more, up to hours, or takes a tenth of it


def filled(head: str, unit: str, tail: str = "") -> str:
    """Return a text as long as may be."""
    return head + unit * ((MAX_SOURCE - len(head + tail)) // len(unit)) + tail


def chain(how: str, levels: int, last: Any, width: int = 8) -> dict[str, Any]:
    """Return $defs of which each refers to the next, `width` times."""
    defs = {
        f"d{i}": {how: [{"$ref": f"#/$defs/d{i + 1}"} for _ in range(width)]} for i in range(levels)
    }
    return {**defs, f"d{levels}": last}


def xml(*schemas: Any, **defs: Any) -> Grammar:
    parameters = {
        "type": "object",
        "properties": {f"p{i}": schema for i, schema in enumerate(schemas)},
        "required": [f"p{i}" for i in range(len(schemas))],
        "$defs": defs,
    }
    return Grammar.tool_calls(
        ToolFormat.XML, [{"function": {"name": "f", "parameters": parameters}}]
    )


FIRST = {"$ref": "#/$defs/d0"}
MANY = {"enum": [f"{i}" for i in range(9000)]}
NUMBERS = {"enum": list(range(9000))}
LARKS = {
    "an open string": 'start: "' + '\\"' * 16_000,
    "an open expression": "start: /" + "\\/" * 16_000,
    "strings": filled("start: ", '""'),
    "open expressions": filled("start: ", "/\n"),
    "comments": filled("start: ", "#\n"),
    "signs": filled("start: ", "<"),
    "tags": filled("start: ", "<a"),
    "schemas": "start: " + "%json {} " * 3600,
    "backslashes": filled("start: ", "\\"),
    "words": filled("start: ", "stop "),
}
GBNFS = {
    "alternatives": filled("root ::= ", "|"),
    "classes": filled("root ::= ", "[a]"),
    "brackets": "root ::= " + "(" * 190 + "." * 31_000 + ")+" * 190,
    "as deep as may be": "root ::= " + "(" * 31 + "." * 31_000 + ")+" * 31,
    "a chain": "\n".join(f"r{i} ::= {'.' * 90} r{i + 1}" for i in range(298))
    + '\nr298 ::= "a"\nroot ::= r0',
    "backslashes": filled('root ::= "', "\\"),
    "an open text": filled('root ::= "', '\\"'),
    "an open class": filled("root ::= ", "["),
    "a name": filled("", "a"),
    "names": filled("root ::= ", "a "),
}
SCHEMAS: dict[str, Any] = {
    "annotations": {f"x-{i}": 0 for i in range(500_000)},
    "names": {"properties": {f"{i}": True for i in range(1_000_000)}},
    "long constants": {"enum": ["a" * 16_000 + str(i) for i in range(980)]},
    "a constant with names": {"const": {f"{i}": 0 for i in range(1_000_000)}},
    "small divisors": {"anyOf": [{"multipleOf": 5e-324}] * 10_000},
}
VALUES: dict[str, Callable[[], Grammar]] = {
    **{
        f"{how}, {levels}, {last}": lambda how=how, levels=levels, last=last: xml(
            FIRST, **chain(how, levels, last)
        )
        for how in ("anyOf", "oneOf")
        for levels in (7, 15)
        for last in ({"type": "object"}, {"type": "string", "maxLength": 3}, {"enum": [1]})
    },
    "one schema many times": lambda: xml({"anyOf": [{"$ref": "#/$defs/d"}] * 4000}, d=MANY),
    "one schema for many": lambda: xml(*[{"$ref": "#/$defs/d"}] * 1000, d=MANY),
    "of no effect": lambda: xml(*[{"anyOf": [True, {"$ref": "#/$defs/d"}]}] * 1000, d=MANY),
    "unlike each other": lambda: xml({"oneOf": [{"$ref": "#/$defs/d"}] * 4000}, d={"enum": [1, 2]}),
    "a type many times": lambda: xml({"type": ["array"] * 20_000, "items": MANY}),
    "many that are required": lambda: xml(*[True] * 6000),
    "a long pattern": lambda: xml(
        *[{"$ref": "#/$defs/d"}] * 2000, d={"type": "string", "pattern": r"\d" * 8000}
    ),
    "schemas beside": lambda: Grammar.tool_calls(
        ToolFormat.XML,
        [
            {
                "function": {
                    "name": f"t{i}",
                    "parameters": {"$defs": {"d": {"enum": [*range(9000)]}}},
                }
            }
            for i in range(128)
        ],
    ),
}
OTHERS: dict[str, Callable[[], Grammar]] = {
    "choices": lambda: Grammar.choice(["a"] * 4_000_000),
    "tools": lambda: Grammar.tool_calls(
        ToolFormat.HERMES, [{"function": {"name": f"t{i}"}} for i in range(30_000)]
    ),
}
MAKERS = {
    **{f"lark: {key}": lambda text=text: Grammar.lark(text) for key, text in LARKS.items()},
    **{f"gbnf: {key}": lambda text=text: Grammar.gbnf(text) for key, text in GBNFS.items()},
    **{f"schema: {key}": lambda one=one: Grammar.json_schema(one) for key, one in SCHEMAS.items()},
    **{f"value: {key}": make for key, make in VALUES.items()},
    **OTHERS,
}


@pytest.mark.parametrize("name", MAKERS)
def test_it_is_read_or_refused_fast(name: str) -> None:
    refusal: UsageError | None = None
    start = time.process_time()
    try:
        MAKERS[name]()
    except UsageError as error:
        refusal = error
    assert time.process_time() - start < MOST
    if refusal:
        assert len(str(refusal)) < 700
        assert refusal.hint or "allowed: " in refusal.message


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ('start: "abc', """no end of '"abc' in line 1; allowed: a " at the end of a string"""),
        ('start: a\na: "x\n" "y"', """no end of '"x' in line 2; allowed"""),
        ("start: /ab\\/", "no end of '/ab\\\\/' in line 1; allowed: a / at its end"),
        ('start: "a"\n\n/', "no end of '/' in line 3; allowed"),
        ('start: "\\', "no end of '\"\\\\' in line 1"),
        ("start: /a\\\nb/", "no end of '/a\\\\' in line 1"),
    ],
)
def test_a_literal_without_an_end_is_told(text: str, words: str) -> None:
    with pytest.raises(ParameterError, match=re.escape(words)):
        Grammar.lark(text)


@pytest.mark.parametrize(
    "text",
    [
        'u: </>\nstart: <[5-9]> "a"\nw: </>',
        'start: <"> <[5-9]> <">',
        "start: <#>\n",
        'start: "a" </x>',
    ],
)
def test_a_special_token_is_none_the_less_for_what_is_in_its_name(text: str) -> None:
    with pytest.raises(UnsupportedError, match="which is not to be had here"):
        Grammar.lark(text)


@pytest.mark.parametrize(
    "text",
    [
        'start: "a" /b/ "c"i # "d\n',
        'start: "\\"" /\\// // "\n  | /a\nb/ "//" "/"\n',
        'start: "<a>" /<b>/ // <c>\n# <d>\n',
        '%llguidance {"x": "/"}\nstart: %regex {"substring_chars": "a/b\\"<c>"}\n',
        "start: a{1,3}\na[lazy]: /[^<]*</ & ~/x#y/\n%ignore /\\s+/\n",
        'start: "100 %" A\nA: "%json" | "stop = temperature="',
        'start: "' + "é" * 1000 + '"',
    ],
)
def test_a_grammar_without_schemas_stays_as_it_is(text: str) -> None:
    assert Grammar.lark(text).text == text


def test_rules_in_a_row_and_brackets_are_converted_within_limits() -> None:
    rules = "\n".join(f"r{i} ::= r{i + 1}" for i in range(290)) + '\nr290 ::= "a"\nroot ::= r0'
    assert Grammar.gbnf(rules).text.count(":") == 292
    assert Grammar.gbnf("root ::= " + "(" * 60 + '"a"' + ")" * 60).text
    with pytest.raises(ParameterError, match=r"more than 33 deep; allowed: up to 33 with its"):
        Grammar.gbnf(GBNFS["brackets"])


def test_what_several_refer_to_is_written_once() -> None:
    number = {"type": "integer"}
    assert xml(FIRST, **chain("anyOf", 7, number)) == xml(number)
    texts = {"enum": ["a", "b"]}
    assert xml(FIRST, **chain("anyOf", 3, texts)) == xml(texts)
    assert xml({"oneOf": [{"anyOf": [texts, texts]}, {"const": 3}]}) == xml(
        {"oneOf": [texts, {"const": 3}]}
    )
    with pytest.raises(UnsupportedError, match="oneOf has texts"):
        xml({"oneOf": [FIRST, FIRST]}, d0=texts)


def test_the_limits_of_values_are_named() -> None:
    with pytest.raises(ParameterError, match="more than 500000 ways to write them in all; allowed"):
        xml({"anyOf": [{"$ref": "#/$defs/d"}] * 4000}, d=MANY)
    with pytest.raises(ParameterError, match="more than 262144 characters in all; allowed"):
        xml(*[{"$ref": "#/$defs/d"}] * 1000, d=MANY)
    with pytest.raises(ParameterError, match="more than 524288 characters in all; allowed"):
        VALUES["schemas beside"]()


@pytest.mark.parametrize(
    "ref",
    [
        "#/$defs/d/const",
        "#/$defs/d/const/anyOf",
        "#/$defs",
        "#/$defs/none",
        "#/properties/p0/anyOf/" + "1" * 5000,
        "#/properties/p0/anyOf/7",
        "#/required/0",
    ],
)
def test_a_reference_leads_to_a_schema(ref: str) -> None:
    with pytest.raises(ParameterError, match="allowed: the path of a schema"):
        xml({"anyOf": [True, {"$ref": ref}]}, d={"const": {"anyOf": 5}})


def test_a_reference_may_lead_anywhere_in_a_schema() -> None:
    defs = {"const": {"prefixItems": [{"items": {"type": "integer"}}]}, "a/b": {"type": "integer"}}
    for ref in ("const/prefixItems/0/items", "a~1b", "a%2Fb"):
        assert xml({"$ref": f"#/$defs/{ref}"}, **defs) == xml({"type": "integer"})


@pytest.mark.parametrize("number", [1, 400, 10**22, 4.0, 0.25, 1.5e-300, 1e22, 12.5, 0.1, 2.5e-7])
def test_the_digits_of_a_divisor(number: float) -> None:
    exact = Fraction(repr(number))
    while exact.denominator > 1:
        exact *= 10
    assert _digits(number) == exact
