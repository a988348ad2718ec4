# ruff: noqa: E501
"""Answers with calls as models write them, well and badly, with what they mean."""

from __future__ import annotations

from typing import Any

from qwick.family import ToolFormat

H, X, A, R = ToolFormat.HERMES, ToolFormat.XML, ToolFormat.QWEN_AGENT, ToolFormat.REACT


def tool(name: str, **properties: Any) -> dict[str, Any]:
    parameters = {"type": "object", "properties": properties}
    return {"type": "function", "function": {"name": name, "parameters": parameters}}


TOOLS = [
    tool("get_weather", city={"type": "string"}, days={"type": "integer"}),
    tool(
        "edit",
        path={"type": "string"},
        text={"type": "string"},
        line={"type": "integer"},
        ratio={"type": "number"},
        force={"type": "boolean"},
        tags={"type": "array"},
        options={"type": "object"},
        note={"type": ["string", "null"]},
        either={"anyOf": [{"type": "integer"}, {"type": "null"}]},
    ),
    tool("now"),
]

Case = tuple[ToolFormat, str, str, list[tuple[str, Any]], bool]  # ..., whether there is trouble

# format, text, content, calls (a str of arguments is literal, else it is what the JSON means)
CASES: list[Case] = [
    # Hermes, as trained
    (H, "Just text.", "Just text.", [], False),
    (H, '<tool_call>\n{"name": "now", "arguments": {}}\n</tool_call>', "", [("now", {})], False),
    (
        H,
        'Let me see.\n<tool_call>\n{"name": "get_weather", "arguments": {"city": "Paris"}}\n'
        "</tool_call>",
        "Let me see.",
        [("get_weather", {"city": "Paris"})],
        False,
    ),
    (
        H,
        '<tool_call>\n{"name": "get_weather", "arguments": {"city": "A"}}\n</tool_call>\n'
        '<tool_call>\n{"name": "get_weather", "arguments": {"city": "B"}}\n</tool_call>',
        "",
        [("get_weather", {"city": "A"}), ("get_weather", {"city": "B"})],
        False,
    ),
    (
        H,
        '<tool_call>{"name": "now", "arguments": {}}</tool_call>\nDone.',
        "Done.",
        [("now", {})],
        False,
    ),
    (H, '<tool_call>\n{"name": "now"}\n</tool_call>', "", [("now", {})], False),
    (
        H,
        '<tool_call>\n{"arguments": {"city": "30"}, "name": "get_weather"}\n</tool_call>',
        "",
        [("get_weather", {"city": "30"})],
        False,
    ),
    (
        H,
        '<tool_call>\n{"name": "get_weather", "parameters": {"days": 30}}\n</tool_call>',
        "",
        [("get_weather", '{"days": 30}')],
        False,
    ),
    (
        H,
        '<tool_call>\n{"name": "get_weather", "arguments": "{\\"city\\": \\"Rome\\"}"}\n</tool_call>',
        "",
        [("get_weather", '{"city": "Rome"}')],
        False,
    ),
    (
        H,
        '<tool_call>\n{"name": "edit", "arguments": {"text": "a </tool_call> b \\" } {"}}\n</tool_call>',
        "",
        [("edit", {"text": 'a </tool_call> b " } {'})],
        False,
    ),
    (
        H,
        '<tool_call>\n{"name": "edit", "arguments": {"options": {"a": [1, {"b": "ü😀"}]}}}\n'
        "</tool_call>",
        "",
        [("edit", {"options": {"a": [1, {"b": "ü😀"}]}})],
        False,
    ),
    (
        H,
        '<tool_call>\r\n{"name": "now", "arguments": {}}\r\n</tool_call>',
        "",
        [("now", {})],
        False,
    ),
    # Hermes, carelessly
    (H, '<tool_call>\n{"name": "now", "arguments": {}}', "", [("now", {})], False),
    (H, '<tool_call>\n{"name": "now", "arguments": {}\n</tool_call>', "", [("now", {})], False),
    (H, '{"name": "now", "arguments": {}}\n</tool_call>', "", [("now", {})], False),
    (H, ' {"name": "now", "arguments": {}}', " ", [("now", {})], False),
    (H, '```json\n{"name": "now", "arguments": {}}\n```', "", [("now", {})], False),
    (H, 'So:\n```\n{"name": "now", "arguments": {}}\n```\n', "So:", [("now", {})], False),
    (H, '<tools>\n{"name": "now", "arguments": {}}\n</tools>', "", [("now", {})], False),
    (
        H,
        '```json\n[{"name": "now", "arguments": {}}, {"name": "now"}]\n```',
        "",
        [("now", {}), ("now", {})],
        False,
    ),
    (
        H,
        '<tool_call>\n{"name": "now", "arguments": {}}\n{"name": "now", "arguments": {}}\n</tool_call>',
        "",
        [("now", {}), ("now", {})],
        False,
    ),
    (
        H,
        "<tool_call>\n<function=get_weather>\n<parameter=city>\nOslo\n</parameter>\n</function>\n"
        "</tool_call>",
        "",
        [("get_weather", {"city": "Oslo"})],
        False,
    ),
    (
        H,
        '<tool_call>\n{"name": "unknown_tool", "arguments": {"a": 1}}\n</tool_call>',
        "",
        [("unknown_tool", {"a": 1})],
        False,
    ),
    # What is no call stays as it is
    (
        H,
        '```json\n{"name": "nobody", "age": 3}\n```',
        '```json\n{"name": "nobody", "age": 3}\n```',
        [],
        False,
    ),
    (H, '{"answer": 42}', '{"answer": 42}', [], False),
    (H, "```python\nprint(1)\n```", "```python\nprint(1)\n```", [], False),
    (H, "a < b and <tool", "a < b and <tool", [], False),
    (H, "ends with a line\n", "ends with a line\n", [], False),
    (H, "<tool_call> is a tag.", "<tool_call> is a tag.", [], True),
    (H, '<tool_call>\n{"nam', '<tool_call>\n{"nam', [], True),
    (H, "", "", [], False),
    # Cut off, or broken within
    (
        H,
        '<tool_call>\n{"name": "get_weather", "arguments": {"city": "Par',
        "",
        [("get_weather", '{"city": "Par')],
        True,
    ),
    (
        H,
        '<tool_call>\n{"name": "get_weather", "arguments": {"city": Paris}}\n</tool_call>',
        "",
        [("get_weather", '{"city": Paris}')],
        True,
    ),
    # XML
    (
        X,
        "<tool_call>\n<function=get_weather>\n<parameter=city>\nSão Paulo\n</parameter>\n"
        "<parameter=days>\n30\n</parameter>\n</function>\n</tool_call>",
        "",
        [("get_weather", '{"city": "São Paulo", "days": 30}')],
        False,
    ),
    (
        X,
        'I edit.\n<tool_call>\n<function=edit>\n<parameter=text>\nif a < b:\n    print("x")\n\n'
        "</parameter>\n<parameter=ratio>\n0.5\n</parameter>\n<parameter=force>\nTrue\n</parameter>\n"
        '<parameter=tags>\n["a", 1]\n</parameter>\n<parameter=options>\n{"k": null}\n</parameter>\n'
        "<parameter=note>\nnull\n</parameter>\n<parameter=either>\nnone\n</parameter>\n"
        "</function>\n</tool_call>",
        "I edit.",
        [
            (
                "edit",
                {
                    "text": 'if a < b:\n    print("x")\n',
                    "ratio": 0.5,
                    "force": True,
                    "tags": ["a", 1],
                    "options": {"k": None},
                    "note": None,
                    "either": None,
                },
            )
        ],
        False,
    ),
    (X, "<tool_call>\n<function=now>\n</function>\n</tool_call>", "", [("now", {})], False),
    (
        X,
        "<function=get_weather>\n<parameter=city>\nOslo\n</parameter>\n</function>\n</tool_call>",
        "",
        [("get_weather", {"city": "Oslo"})],
        False,
    ),
    (
        X,
        "<tool_call>\n<function=get_weather>\n<parameter=city>\nOslo\n<parameter=days>\n2\n</function>\n"
        "</tool_call>",
        "",
        [("get_weather", {"city": "Oslo", "days": 2})],
        False,
    ),
    (
        X,
        "<tool_call>\n<function=get_weather>\n<parameter=city>\nOslo\n</tool_call>",
        "",
        [("get_weather", {"city": "Oslo"})],
        False,
    ),
    (
        X,
        "<tool_call>\n<function=get_weather>\n<parameter=city>\nOslo\n</parameter>",
        "",
        [("get_weather", {"city": "Oslo"})],
        False,
    ),
    (
        X,
        "<tool_call>\r\n<function=edit>\r\n<parameter=path>\r\n/a <b> </c>\r\n</parameter>\r\n</function>"
        "\r\n</tool_call>",
        "",
        [("edit", {"path": "/a <b> </c>"})],
        False,
    ),
    (
        X,
        "<tool_call>\n<function=edit>\n<parameter=line>\nseven\n</parameter>\n</function>\n</tool_call>",
        "",
        [("edit", {"line": "seven"})],
        True,
    ),
    (
        X,
        "<tool_call>\n<function=edit>\n<parameter=path>\n\n</parameter>\n<parameter=text></parameter>\n"
        "</function>\n</tool_call>",
        "",
        [("edit", {"path": "", "text": ""})],
        False,
    ),
    (
        X,
        "<tool_call>\n<function=edit>\n<parameter=path>\n/half/way",
        "",
        [("edit", '{"path": "/half/way')],
        True,
    ),
    (
        X,
        "<tool_call>\n<function=now>\n</function>\n</tool_call>\n<tool_call>\n<function=now>\n</function>\n"
        "</tool_call>",
        "",
        [("now", {}), ("now", {})],
        False,
    ),
    (X, '<tool_call>\n{"name": "now", "arguments": {}}\n</tool_call>', "", [("now", {})], False),
    (X, "```json\n{}\n```", "```json\n{}\n```", [], False),
    # Qwen-Agent
    (
        A,
        'Well.\n✿FUNCTION✿: get_weather\n✿ARGS✿: {"city": "Bern"}\n',
        "Well.",
        [("get_weather", '{"city": "Bern"}')],
        False,
    ),
    (
        A,
        '✿FUNCTION✿: get_weather\n✿ARGS✿: {"city": "A"}\n✿FUNCTION✿: now\n✿ARGS✿: {}\n✿RESULT✿: ',
        "",
        [("get_weather", {"city": "A"}), ("now", {})],
        False,
    ),
    (A, "✿RETURN✿: It is sunny.", "It is sunny.", [], False),
    (A, "✿FUNCTION✿: now", "", [("now", "")], True),
    (A, "No call.", "No call.", [], False),
    # ReAct
    (
        R,
        'Thought: I look.\nAction: get_weather\nAction Input: {"city": "Bonn"}\nObservation:',
        "Thought: I look.",
        [("get_weather", '{"city": "Bonn"}')],
        False,
    ),
    (R, "Thought: I know.\nFinal Answer: 42", "Thought: I know.42", [], False),
    (R, 'Action: now\nAction Input: {"a"', "", [("now", '{"a"')], True),
    # No format
    (ToolFormat.NONE, "<tool_call>\n{}\n</tool_call>", "<tool_call>\n{}\n</tool_call>", [], False),
]
