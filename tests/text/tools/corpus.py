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
    tool(
        "mixed",
        limit={"enum": [1, 2, None]},
        either={"oneOf": [{"type": "boolean"}, {"$ref": "#/properties/limit"}]},
        anything={},
    ),
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
    # XML, carelessly
    (
        X,
        "<tool_call>\n<function=edit\n<parameter=text>\na\n</parameter>\n</function>\n</tool_call>",
        "",
        [("edit", {"text": "a"})],
        False,
    ),
    (
        X,
        "<tool_call><function=edit><parameter=text>a</parameter><parameter=line>3</parameter></function></tool_call>",
        "",
        [("edit", {"text": "a", "line": 3})],
        False,
    ),
    (
        X,
        "<tool_call>\n<function=edit>\n<parameter=text>\na</parameter> b\n</parameter>\n</function>\n</tool_call>",
        "",
        [("edit", {"text": "a</parameter> b"})],
        False,
    ),
    (
        X,
        "<tool_call>\n<function=edit>\n<parameter=text>\na</parameter>\n<parameter=line>3</parameter>\n</function>",
        "",
        [("edit", {"text": "a", "line": 3})],
        False,
    ),
    (
        X,
        "<tool_call>\n<function=edit>\n<parameter=text>\n\n  <a>\n<parameter=b>\n</function>\n.\n</parameter>\n</function>\n</tool_call>",
        "",
        [("edit", {"text": "\n  <a>\n<parameter=b>\n</function>\n."})],
        False,
    ),
    (
        X,
        '<tool_call>\n<function=edit>\n{"path": "x"}\n</function>\n</tool_call>',
        "",
        [("edit", '{"path": "x"}')],
        False,
    ),
    (
        X,
        "<tool_call>\n<function=edit>\nso:\n<parameter=text>\na\n</parameter>\n</function>\n</tool_call>",
        "",
        [("edit", {"text": "a"})],
        True,
    ),
    (
        X,
        "<tool_call>\n<function=edit>\n<parameter=text>\na\n</parameter>\n<parameter=text>\nb\n</parameter>\n</function>\n</tool_call>",
        "",
        [("edit", '{"text": "a", "text": "b"}')],
        True,
    ),
    (
        X,
        "<tool_call>\n<function=edit>\n<parameter=tags>\n[1,",
        "",
        [("edit", '{"tags": [1,')],
        True,
    ),
    (
        X,
        "<tool_call>\n<function=edit>\n<parameter=text>\na\n</parameter",
        "",
        [("edit", '{"text": "a\\n</parameter')],
        True,
    ),
    (X, "<tool_call>\n<function=ed", "<tool_call>\n<function=ed", [], True),
    (
        X,
        "<tool_call>\n<function=other>\n<parameter=a>\n1\n</parameter>\n</function>\n</tool_call>",
        "",
        [("other", {"a": "1"})],
        False,
    ),
    (X, "Write <function=other> there.", "Write <function=other> there.", [], False),
    (
        X,
        "<tool_call>\n<function=edit>\n<parameter=text>\na\n</tool_call>\n<tool_call>\n<function=now>\n</tool_call> tail",
        " tail",
        [("edit", {"text": "a"}), ("now", {})],
        False,
    ),
    (
        X,
        '<tool_call>\n<function=edit>\n<parameter=text>\na "q" \\ \t é 😀\r\n\n</parameter>\n<parameter=note>\nnone\n</parameter>\n</function>\n</tool_call>',
        "",
        [("edit", {"text": 'a "q" \\ \t é 😀\r\n', "note": "none"})],
        False,
    ),
    (
        X,
        "<tool_call>\n<function=mixed>\n<parameter=limit>\n2\n</parameter>\n<parameter=either>\nTrue\n</parameter>\n<parameter=anything>\n5\n</parameter>\n</function>\n</tool_call>",
        "",
        [("mixed", {"limit": 2, "either": True, "anything": "5"})],
        False,
    ),
    (
        X,
        "<tool_call>\n<function=edit>\n<parameter=ratio>\nNaN\n</parameter>\n</function>\n</tool_call>",
        "",
        [("edit", {"ratio": "NaN"})],
        True,
    ),
    (
        X,
        "Before.\n\n<tool_call>\n<function=now>\n</function>\n</tool_call>\n\nAfter.",
        "Before.\n\nAfter.",
        [("now", {})],
        False,
    ),
    # Hermes, broken in other ways
    (
        H,
        '<tool_call>\n{"name": "edit", "arguments": {"path": "A"\n</tool_call>\nText.\n<tool_call>\n{"name": "now", "arguments": {}}\n</tool_call>',
        "Text.",
        [("edit", '{"path": "A"\n'), ("now", {})],
        True,
    ),
    (
        H,
        '<tool_call>\n{"name": "edit", "arguments": {"path": "A}}\n</tool_call>\nText.',
        "Text.",
        [("edit", '{"path": "A}}\n')],
        True,
    ),
    (
        H,
        '<tool_call>\n{"name": "edit", "arguments": {"path": 1\n<tool_call>\n{"name": "now"}\n</tool_call>',
        "",
        [("edit", '{"path": 1\n'), ("now", {})],
        True,
    ),
    (
        H,
        '<tool_call>\n{"name": "edit", "arguments": "{\\"path\\": \\"A',
        "",
        [("edit", '"{\\"path\\": \\"A')],
        True,
    ),
    (
        H,
        '<tool_call>\n{"name": "edit", "arguments": "A"}\n</tool_call>',
        "",
        [("edit", '"A"')],
        True,
    ),
    (H, '<tool_call>\n{"name": "now", "arguments": ""}\n</tool_call>', "", [("now", {})], False),
    (H, '<tool_call>\n{"name": "now"\n</tool_call>\nDone.', "Done.", [("now", {})], False),
    (H, '<tool_call>\n{"name": "now", "arguments": {}}}\n</tool_call>', "", [("now", {})], True),
    (
        H,
        '<tool_call>\n{"name": "now", "arguments": {}}\n</tool_call></tool_call>',
        "",
        [("now", {})],
        False,
    ),
    (
        H,
        '<tool_call>\n{"name": "now", "arguments": {"a": NaN}}\n</tool_call>',
        "",
        [("now", '{"a": NaN}')],
        True,
    ),
    (
        H,
        '<tool_call>\n{"name": "now", "arguments": {}, "why": "so"}\n</tool_call>',
        "",
        [("now", {})],
        True,
    ),
    (
        H,
        '<tool_call>\n{"id": 7, "type": "function", "name": "now", "arguments": {}}\n</tool_call>',
        "",
        [("now", {})],
        False,
    ),
    (
        H,
        '<tool_call>\n{"name": 5, "arguments": {}}\n</tool_call>',
        '<tool_call>\n{"name": 5, "arguments": {}}\n</tool_call>',
        [],
        True,
    ),
    (
        H,
        '<tool_call>\n{"arguments": {"city": "A"}}\n</tool_call>',
        '<tool_call>\n{"arguments": {"city": "A"}}\n</tool_call>',
        [],
        True,
    ),
    (
        H,
        "<tool_call>\n{'name': 'now'}\n</tool_call>",
        "<tool_call>\n{'name': 'now'}\n</tool_call>",
        [],
        True,
    ),
    (
        H,
        '<tool_call>\n{"name": "edit", "arguments": {"text": "a\nb"}}\n</tool_call>',
        "",
        [("edit", '{"text": "a\nb"}')],
        True,
    ),
    (
        H,
        '<tool_call>\n```json\n{"name": "now", "arguments": {}}\n```\n</tool_call>',
        "",
        [("now", {})],
        False,
    ),
    (
        H,
        '```xml\n<tool_call>\n{"name": "now", "arguments": {}}\n</tool_call>\n```\nDone.',
        "Done.",
        [("now", {})],
        False,
    ),
    (H, 'Sure.\n{"name": "now", "arguments": {}}\n</tool_call>', "Sure.", [("now", {})], False),
    (
        H,
        'Like this:\n{"name": "now", "arguments": {}}\nSo it goes.',
        'Like this:\n{"name": "now", "arguments": {}}\nSo it goes.',
        [],
        False,
    ),
    (
        H,
        '{"name": "now", "arguments": {}}\n{"name": "now", "arguments": {}}',
        "",
        [("now", {}), ("now", {})],
        False,
    ),
    (
        H,
        '[{"name": "now", "arguments": {}}, {"name": "now", "arguments": {}}]',
        "",
        [("now", {}), ("now", {})],
        False,
    ),
    (H, "[1, 2]", "[1, 2]", [], False),
    (
        H,
        '<tools>\n{"name": "nobody", "arguments": {}}\n</tools>',
        '<tools>\n{"name": "nobody", "arguments": {}}\n</tools>',
        [],
        False,
    ),
    (
        H,
        'One.\n<tool_call>\n{"name": "now"}\n</tool_call>\nTwo.\n<tool_call>\n{"name": "now"}\n</tool_call>\nThree.',
        "One.\nTwo.\nThree.",
        [("now", {}), ("now", {})],
        False,
    ),
    (
        H,
        'Hi.\r\n\r\n<tool_call>\r\n{"name": "now", "arguments": {}}\r\n</tool_call>\r\n',
        "Hi.",
        [("now", {})],
        False,
    ),
    (H, '<tool_call>\n{"name": "now", "arguments": {}}\n</tool_ca', "", [("now", {})], False),
    (
        H,
        '<tool_call>\n{"name": "edit", "arguments": {"text": "'
        + "long " * 400
        + '"}}\n</tool_call>',
        "",
        [("edit", {"text": "long " * 400})],
        False,
    ),
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
    (
        A,
        "Well.\n✿FUNCTION✿: now\n✿ARGS✿: {}\nSo.\n✿RETURN✿: It is.",
        "Well.\nSo.\nIt is.",
        [("now", {})],
        False,
    ),
    (
        A,
        '✿FUNCTION✿: get_weather\n✿ARGS✿: {"city": "A"}\n✿ARGS✿: {"city": "B"}',
        "",
        [("get_weather", {"city": "A"}), ("get_weather", {"city": "B"})],
        False,
    ),
    (
        A,
        '✿FUNCTION✿: edit\n✿ARGS✿: {"text": "a ✿FUNCTION✿: b }"}\n',
        "",
        [("edit", {"text": "a ✿FUNCTION✿: b }"})],
        False,
    ),
    (A, '✿FUNCTION✿: edit\n✿ARGS✿: {"text": "a\n✿RETURN✿: b', "b", [("edit", '{"text": "a')], True),
    (A, "✿FUNCTION✿: other\n✿ARGS✿: {}", "", [("other", {})], False),
    (A, '✿FUNCTION✿: \n✿ARGS✿: {"a": 1}\n', '✿FUNCTION✿: \n✿ARGS✿: {"a": 1}\n', [], True),
    (A, 'x ✿ARGS✿: {"a": 1}', 'x ✿ARGS✿: {"a": 1}', [], True),
    (
        A,
        "✿FUNCTION✿: now\n✿FUNCTION✿: nobody\nHm.",
        "\n✿FUNCTION✿: nobody\nHm.",
        [("now", {})],
        True,
    ),
    (A, "✿FUNCTION✿: now\n✿ARGS✿: none\n", "", [("now", "none")], True),
    (A, "✿RESULT✿: 5\n✿RETURN✿: Five.", "✿RESULT✿: 5\nFive.", [], False),
    (A, "✿ flower ✿FUNC", "✿ flower ✿FUNC", [], False),
    # ReAct
    (
        R,
        'Thought: I look.\nAction: get_weather\nAction Input: {"city": "Bonn"}\nObservation:',
        "I look.",
        [("get_weather", '{"city": "Bonn"}')],
        False,
    ),
    (R, "Thought: I know.\nFinal Answer: 42", "I know.\n42", [], False),
    (R, 'Action: now\nAction Input: {"a"', "", [("now", '{"a"')], True),
    (
        R,
        "Thought: x\nAction: now\nAction Input: {}\nObservation: 3\nThought: y\nFinal Answer: 3\nAction: now",
        "x\nObservation: 3\ny\n3\nAction: now",
        [("now", {})],
        False,
    ),
    (R, "Action: None needed\nHi.", "Action: None needed\nHi.", [], True),
    (R, "I like Action: films\n", "I like Action: films\n", [], False),
    (
        R,
        "Action:now\nAction Input:\n\n{}\n\nHope it helps.\n",
        "Hope it helps.\n",
        [("now", {})],
        False,
    ),
    # No format
    (ToolFormat.NONE, "<tool_call>\n{}\n</tool_call>", "<tool_call>\n{}\n</tool_call>", [], False),
]
