"""Grammars meant to cost much, each measured in this process: `python hostile.py`.

Writes a JSON line for each: what it was refused with and when, the CPU seconds of making, compiling
and beginning it, the longest of a mask and of an accepted token, and how much memory it took.
"""

from __future__ import annotations

import json
import random
import re
import resource
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from qwick import hub
from qwick.errors import ParameterError, UnsupportedError
from qwick.family import ToolFormat
from qwick.formats.open import open_checkpoint
from qwick.text.grammar import Grammar, Vocabulary
from qwick.text.tokenizer import Tokenizer

STEPS = 60


def nested(depth: int, wrap: Callable[[Any], Any], inner: Any) -> Any:
    for _ in range(depth):
        inner = wrap(inner)
    return inner


def properties(count: int, of_one: Callable[[int], Any]) -> dict[str, Any]:
    return {"type": "object", "properties": {f"p{i}": of_one(i) for i in range(count)}}


def cycle() -> Any:
    schema: dict[str, Any] = {"type": "array"}
    schema["items"] = schema
    return schema


def tool(schema: Any) -> list[Any]:
    return [{"function": {"name": "f", "parameters": schema}}]


SCHEMAS: dict[str, Any] = {
    "deep": nested(200, lambda s: {"type": "array", "items": s}, True),
    "as deep as may be": nested(30, lambda s: {"type": "object", "properties": {"a": s}}, True),
    "contains itself": cycle(),
    "doubling anyOf": nested(12, lambda s: {"anyOf": [s, {"type": "array", "items": s}]}, True),
    "allOf of anyOf": {
        "allOf": [
            {"anyOf": [{"properties": {f"p{i}{j}": {}}, "required": [f"p{i}{j}"]} for j in "abcd"]}
            for i in range(8)
        ]
    },
    "doubling $ref": {
        "$defs": {
            **{
                f"d{i}": {"anyOf": [{"$ref": f"#/$defs/d{i + 1}"}, {"items": {"$ref": "#"}}]}
                for i in range(40)
            },
            "d40": {"type": "null"},
        },
        "$ref": "#/$defs/d0",
    },
    "doubling allOf": {
        "$defs": {
            **{f"d{i}": {"allOf": [{"$ref": f"#/$defs/d{i + 1}"}] * 2} for i in range(25)},
            "d25": {"type": "object", "properties": {"a": {"type": "string"}}},
        },
        "$ref": "#/$defs/d0",
    },
    "$ref to itself": {"$ref": "#"},
    "$ref in a circle": {"$defs": {"a": {"$ref": "#/$defs/b"}, "b": {"$ref": "#/$defs/a"}}}
    | {"$ref": "#/$defs/a"},
    "$ref that never ends": {"type": "object", "properties": {"a": {"$ref": "#"}}}
    | {"required": ["a"]},
    "remote $ref": {"$ref": "https://example.com/schema.json"},
    "file $ref": {"$ref": "file:///etc/passwd"},
    "$id elsewhere": {"$id": "https://example.com/a", "$ref": "#/$defs/x"},
    "15,000 constants": {"enum": [f"value {i}" for i in range(15_000)]},
    "50,000 constants": {"enum": list(range(50_000))},
    "a long constant": {"const": "ab c" * 4000},
    "too long a constant": {"const": "a" * 1_000_000},
    "huge minLength": {"type": "string", "minLength": 10**12},
    "large minLength": {"type": "string", "minLength": 1_000_000},
    "large maxItems": {"type": "array", "minItems": 999_999, "maxItems": 1_000_000},
    "nested maxItems": nested(
        20, lambda s: {"type": "array", "items": s, "minItems": 9, "maxItems": 10**6}, True
    ),
    "many properties": properties(3000, lambda i: {"type": "string"}),
    "many patterns": properties(200, lambda i: {"type": "string", "pattern": f"(.*[a-f]){{8}}{i}"}),
    "many formats": properties(
        200, lambda i: {"type": "string", "format": "uri", "pattern": f"a.*{i}"}
    ),
    "many divisors": properties(
        200, lambda i: {"type": "integer", "multipleOf": 9973, "minimum": i}
    ),
    "a large divisor": {"type": "integer", "multipleOf": 999_983},
    "divisors without end": {"allOf": [{"multipleOf": n} for n in (997, 991, 983, 977)]},
    "a slow pattern": {"type": "string", "pattern": "(.*a){20}", "maxLength": 1000},
    "a pattern of 2^20 states": {"type": "string", "pattern": "a.{20}$"},
    "patternProperties": {
        "type": "object",
        "patternProperties": {f"a.{{{i}}}": {} for i in range(9, 19)},
    },
    "1,000 overlapping objects": {
        "anyOf": [{"type": "object", "properties": {"a": {"maxLength": i}}} for i in range(1000)]
    },
    "300 overlapping lists": {
        "anyOf": [{"type": "array", "items": {}, "minItems": i} for i in range(300)]
    },
    "oneOf": {"oneOf": [properties(20, lambda i: {"const": i}) for _ in range(300)]},
    "wide numbers": properties(300, lambda i: {"type": "number", "minimum": -1e300 / (i + 1)}),
    "lenient": {"x-guidance": {"lenient": True}, "not": {}},
}
REGEXES = {
    "repeated repetition": "(a{1,1000}){1,1000}",
    "forced repetition": "(x{1000}){1000}",
    "a long repetition": "x{100000}",
    "(.*a){30}": "(.*a){30}",
    "2^200 states": "(?s:.*)[ab].{200}c",
    "three far apart": ".{0,1000}a.{0,1000}b.{0,1000}c",
    "classes": r"(\p{L}{1,100}\s?){1,100}",
    "nested stars": "(([a-z]+)*)+!",
    "deep brackets": "(" * 3000 + "a" + ")" * 3000,
    "many alternatives": "|".join(f"{i:x}" for i in range(5000)),
    "look-around": "a(?=b)",
    "1 MB": "ab" * 500_000,
}
LARKS = {
    "right recursion": 'start: "a" start | "a"',
    "without an end": 'start: "ab" start',
    "ambiguous": 'start: start start | "a" | "b" | ""',
    "very ambiguous": "start: start start start start | /[a-z]/",
    "mutual": 'start: a*\na: b*\nb: "x" | a a',
    "single characters": 'start: /[a-z]/* /[a-z]/* /[a-z]/* "!"',
    "repeated repetition": 'start: (("a"{1,1000}){1,1000}){1,1000}',
    "a chain of doublings": "start: r0\n"
    + "\n".join(f'r{i}: r{i + 1} r{i + 1} | "a"' for i in range(60))
    + '\nr60: "a"',
    "many rules": "start: "
    + " | ".join(f"r{i}" for i in range(1000))
    + "\n"
    + "\n".join(f'r{i}: "a{i}" start?' for i in range(1000)),
    "many terminals": "start: "
    + " | ".join(f"T{i}" for i in range(800))
    + "\n"
    + "\n".join(f"T{i}: /[a-z]*{i}.*x/" for i in range(800)),
    "and": "start: T\nT: " + " & ".join(f"/(?s:.*){chr(97 + i)}(?s:.*)/" for i in range(20)),
    "not": "start: T\nT: ~(" + "|".join(f"/(?s:.*)a.{{{i}}}b/" for i in range(20)) + ")",
    "nothing": 'start: n n n n n "x"\nn: "" | n n',
    "deep brackets": "start: " + "(" * 3000 + '"a"' + ")" * 3000,
    "a forced text": 'start: "' + "ab c" * 8000 + '"',
    "1 MB": 'start: "' + "a" * 1_000_000 + '"',
    "a control token": 'start: <|im_start|> "system"',
    "a control token by number": "start: <[151644]>",
    "any token": "start: <[*]>",
    "a long substring": 'start: T\nT: %regex {"substring_chars": "' + "abcab" * 6000 + '"}',
    "lenient": 'start: %json {"x-guidance": {"lenient": true}, "not": {}}',
    "a schema": 'start: %json {"type": "integer", "multipleOf": 999983}',
}
GBNFS = {
    "deep brackets": "root ::= " + "(" * 5000 + '"a"' + ")" * 5000,
    "a chain": "\n".join(f"r{i} ::= r{i + 1}" for i in range(290)) + '\nr290 ::= "a"\nroot ::= r0',
    "many rules": "\n".join(f'r{i} ::= "a"' for i in range(2000)),
    "a long text": 'root ::= "' + "a" * 32_000 + '"',
    "no end": 'root ::= "a',
}
OTHERS: dict[str, Callable[[], Grammar]] = {
    "20,000 choices": lambda: Grammar.choice([f"choice {i}" for i in range(10_000)]),
    "1 MB of choices": lambda: Grammar.choice(["a" * 1000] * 1000),
    "128 tools": lambda: Grammar.tool_calls(
        ToolFormat.HERMES,
        [
            {
                "function": {
                    "name": f"t{i}",
                    "parameters": properties(20, lambda j: {"type": "string"}),
                }
            }
            for i in range(128)
        ],
        parallel=True,
    ),
    "tools without end": lambda: Grammar.tool_calls(
        ToolFormat.HERMES,
        [
            {"function": {"name": f"t{i}", "parameters": properties(5000, lambda j: {})}}
            for i in range(128)
        ],
    ),
    "values in a circle": lambda: Grammar.tool_calls(
        ToolFormat.XML,
        tool(properties(1, lambda i: {"anyOf": [{"$ref": "#/properties/p0"}] * 9})),
    ),
    "many limited texts": lambda: Grammar.tool_calls(
        ToolFormat.XML,
        tool(properties(150, lambda i: {"type": "string", "pattern": f"(.*[a-f]){{5}}{i}"})),
    ),
}


def cases() -> dict[str, Callable[[], Grammar]]:
    found: dict[str, Callable[[], Grammar]] = dict(OTHERS)
    for kind, make, table in (
        ("schema", Grammar.json_schema, SCHEMAS),
        ("regex", Grammar.regex, REGEXES),
        ("lark", Grammar.lark, LARKS),
        ("gbnf", Grammar.gbnf, GBNFS),
    ):
        for name, value in table.items():
            found[f"{kind}: {name}"] = lambda make=make, value=value: make(value)
    return found


def status(key: str) -> int:
    found = re.search(rf"{key}:\s+(\d+) kB", Path("/proc/self/status").read_text())
    return int(found[1]) if found else 0


def measure(vocabulary: Vocabulary, make: Callable[[], Grammar]) -> dict[str, Any]:
    Path("/proc/self/clear_refs").write_text("5")  # the peak starts anew
    before = status("VmRSS")
    row: dict[str, Any] = {"error": None, "tokens": 0, "mask": 0.0, "accept": 0.0}
    draw = random.Random(1)

    def timed(name: str, call: Callable[..., Any], *arguments: Any) -> Any:
        start = time.process_time()
        try:
            return call(*arguments)
        finally:
            row[name] = max(row.get(name, 0.0), time.process_time() - start)

    try:
        grammar = timed("make", make)
        timed("check", vocabulary.check, grammar)
        matcher = timed("compile", vocabulary.matcher, grammar, [151_645])
        while row["tokens"] < STEPS and not matcher.finished:
            allowed = np.flatnonzero(np.unpackbits(timed("mask", matcher.mask), bitorder="little"))
            few = [int(id) for id in draw.choices(list(allowed), k=8) if id != 151_645]
            if not few:
                break
            timed("accept", matcher.accept, few[-1])
            row["tokens"] += 1
    except (ParameterError, UnsupportedError) as error:
        row["error"] = f"{type(error).__name__}: {error}"
    row["megabytes"] = (status("VmHWM") - before) / 1024
    return row


def main() -> None:
    with open_checkpoint(hub.resolve()) as checkpoint:
        vocabulary = Vocabulary(Tokenizer.from_data(checkpoint.tokenizer))
    used = status("VmSize") * 1024
    resource.setrlimit(resource.RLIMIT_AS, (used + (1 << 30), used + (1 << 30)))
    resource.setrlimit(resource.RLIMIT_CPU, (180, 180))
    vocabulary.check(Grammar.json_object())  # what is loaded once
    for name, make in cases().items():
        print(json.dumps({"name": name, **measure(vocabulary, make)}), flush=True)


if __name__ == "__main__":
    main()
