"""A grammar, in Lark, of an answer that calls tools, in the format of a checkpoint's family.

Each form is that of the family's chat template, byte for byte, so that the model writes what it was
trained to write. Arguments follow the tool's schema. Knows no tokens, and nothing of reading calls.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any

from qwick.errors import ParameterError, UnsupportedError
from qwick.family import ToolFormat
from qwick.text.grammar.lark import ANY_LAYOUT, Rules, quoted, too_long, with_layout
from qwick.text.grammar.schema import MAX_TEXT, read_schema
from qwick.text.grammar.xml_values import Values
from qwick.values import check_kind, check_switch, refused

_NEW_LINE = "\n"  # by name, as no f-string of Python 3.10 may hold a backslash
_HERMES_END = "}\n</tool_call>"
_ROOT = "#/$defs/root"  # where the schema of all arguments lies for that of one of them
# Characters of all tools' schemas in the XML format, where what no parameter uses is in no rule.
MAX_READ = 2 * MAX_TEXT
# What an object of arguments may say where each of them is a text of its own.
_OF_ARGUMENTS = ("type", "properties", "required", "additionalProperties", "$defs", "definitions")

Tools = Sequence[Mapping[str, Any]]


def write_tool_calls(
    format: ToolFormat, tools: Tools, names: Collection[str] | None, parallel: bool, text: bool
) -> str:
    """Return the Lark grammar; arguments and errors as for `Grammar.tool_calls`."""
    check_switch("parallel", parallel)
    check_switch("text", text)
    opener, write = _form(format)
    rules = Rules()
    calls = []
    for tool in _chosen(tools, names):
        calls.append(write(rules, *tool))
    rules.named("call", " | ".join(calls))
    in_turn = format.value == "react"  # a thought comes first, and each call waits for its result
    first = quoted(opener)
    if text or in_turn:
        first = "opening"
        before = "(?s:.*)" if text else r"(Thought: (?s:.*)\n)?"
        rules.named("opening[lazy]", f"/{before}{opener}/")
    more = f"({quoted(_NEW_LINE + opener)} call)*" if parallel and not in_turn else ""
    rules.named("start", f"{first} call {more}")
    return rules.text


def write_arguments(format: ToolFormat, function: Mapping[str, Any], where: str) -> str:
    """Return the Lark grammar; arguments and errors as for `Grammar.tool_arguments`."""
    _form(format)
    check_kind(where, function, Mapping, "an object with a name")
    schema = _arguments(function, where)
    rules, where = Rules(), f"{where}.parameters"
    if format is ToolFormat.XML:
        parts = [*_parameters(rules, schema, where), quoted("</function>")]
    else:
        layout = with_layout(read_schema(schema, where), ANY_LAYOUT)
        parts = [rules.new(f"%json {layout}")]
    before, behind = _AROUND[format.value]
    rules.named("start", " ".join([before, *parts, behind]))
    return rules.text


def _chosen(tools: Tools, names: Collection[str] | None) -> list[tuple[str, Any, str]]:
    """Return those that may be called: name, schema of the arguments, what messages call it."""
    check_kind("tools", tools, (list, tuple), "a list of tools")
    known = {}
    for i, tool in enumerate(tools):
        check_kind(f"tools[{i}]", tool, Mapping, "an object with type and function")
        function, where = tool.get("function", tool), f"tools[{i}].function"
        check_kind(where, function, Mapping, "an object with a name")
        name = function.get("name")
        if not isinstance(name, str) or not _fits_a_tag(name) or name in known:
            raise refused(f"{where}.name", name, "a str of one line without < and >, once each")
        known[name] = (name, _arguments(function, where), f"{where}.parameters")
    if names is None:
        names = list(known)
    check_kind("names", names, (list, tuple, set, frozenset), "a list of tools' names")
    for name in names:
        if not isinstance(name, str) or name not in known:
            raise refused("names", name, f"names of the tools: {', '.join(known) or 'none'}")
    if not names:
        raise ParameterError("there is no tool that may be called; allowed: at least one")
    wanted = set(names)
    return [tool for name, tool in known.items() if name in wanted]


def _arguments(function: Mapping[str, Any], where: str) -> Any:
    """Return the schema of a tool's arguments, which always are an object."""
    schema = function.get("parameters")
    if schema is None or function.get("strict") is False:
        return {"type": "object"}
    check_kind(f"{where}.parameters", schema, Mapping, "a JSON schema of an object")
    if schema.get("type", "object") != "object":
        raise refused(f"{where}.parameters/type", schema["type"], "object")
    return {"type": "object", **schema}


def _fits_a_tag(name: str) -> bool:
    return bool(name) and not any(character in name for character in "\n\r<>")


def _form(format: ToolFormat) -> tuple[str, Callable[[Rules, str, Any, str], str]]:
    check_kind("format", format, ToolFormat, "a ToolFormat")
    if format.value not in _FORMS:
        raise UnsupportedError(
            "this checkpoint was not trained to call tools", hint="take an instruct checkpoint"
        )
    return _FORMS[format.value]


# Each of these returns a rule for what follows the opener in a call of one tool.


def _hermes(rules: Rules, name: str, schema: Any, where: str) -> str:
    head = f'\n{{"name": {json.dumps(name, ensure_ascii=False)}, "arguments": '
    arguments = rules.json(read_schema(schema, where))
    return rules.new(f"{quoted(head)} {arguments} {quoted(_HERMES_END)}")


def _qwen_agent(rules: Rules, name: str, schema: Any, where: str) -> str:
    arguments = rules.json(read_schema(schema, where))
    return rules.new(f"{quoted(f'{name}{_NEW_LINE}✿ARGS✿: ')} {arguments}")


def _react(rules: Rules, name: str, schema: Any, where: str) -> str:
    arguments = rules.json(read_schema(schema, where))
    return rules.new(f"{quoted(f'{name}{_NEW_LINE}Action Input: ')} {arguments}")


def _xml(rules: Rules, name: str, schema: Any, where: str) -> str:
    parts = _parameters(rules, schema, where)
    end = "</function>\n</tool_call>"
    return rules.new(" ".join([quoted(f"\n<function={name}>\n"), *parts, quoted(end)]))


def _parameters(rules: Rules, schema: Any, where: str) -> list[str]:
    """Write the parameters in the schema's order, those that are not required with a choice."""
    root = read_schema(schema, where, _ROOT)
    rules.read += len(json.dumps(root, ensure_ascii=False))
    if rules.read > MAX_READ:
        raise too_long(MAX_READ)
    for key in root:
        if key not in _OF_ARGUMENTS:
            raise UnsupportedError(
                f"{where}/{key} cannot be held to in this checkpoint's format of calls",
                hint=f"allowed there: {', '.join(_OF_ARGUMENTS)}",
            )
    properties, required = root.get("properties", {}), dict.fromkeys(root.get("required", ()))
    for key in (*properties, *required):
        if key not in properties or not _fits_a_tag(key):
            raise refused(f"{where}: parameter", key, "properties, of one line without < and >")
    values = Values(rules, root)
    parts = []
    for key, of_one in properties.items():
        value = values.write(of_one, f"{where}/properties/{key}")
        part = rules.new(f"{quoted(f'<parameter={key}>{_NEW_LINE}')} {value}")
        parts.append(part if key in required else f"{part}?")
    others = root.get("additionalProperties", True)
    if not properties and others is not False:
        value = values.write(others, f"{where}/additionalProperties")
        parts.append(f'("<parameter=" /[^<>\\n]+/ ">\\n" {value})*')
    return parts


# By a ToolFormat's value: what opens a call, and how the rest is written.
_FORMS: Mapping[str, tuple[str, Callable[[Rules, str, Any, str], str]]] = {
    "hermes": ("<tool_call>", _hermes),
    "xml": ("<tool_call>", _xml),
    "qwen_agent": ("✿FUNCTION✿: ", _qwen_agent),
    "react": ("Action: ", _react),
}
# What may stand around the arguments alone, as far as a token may hold it together with them: from
# where a reader waits for them (the key's closing quote in JSON) up to the line's end.
_AROUND: Mapping[str, tuple[str, str]] = {
    "hermes": (r'"\":" " "?', r'("}" "\n"? | "\n")?'),
    "xml": (r'"\n"?', r'"\n"?'),
    "qwen_agent": ('":"? " "?', r'"\n"?'),
    "react": ('" "?', r'"\n"?'),
}
