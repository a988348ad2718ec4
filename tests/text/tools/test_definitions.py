"""Definitions of tools: what is taken, and what is refused with its place and value."""

from __future__ import annotations

from types import MappingProxyType
from typing import Any

import pytest

from qwick.errors import ParameterError
from qwick.text.tools import check_tool_definitions


def function(**function: Any) -> dict[str, Any]:
    return {"type": "function", "function": {"name": "f", **function}}


def test_good_ones_come_back_as_plain_dicts() -> None:
    assert check_tool_definitions(None) == check_tool_definitions([]) == []
    schema = {"type": "object", "properties": {"a": {"enum": (1, 2)}}}
    whole = function(description="d", parameters=MappingProxyType(schema), strict=True)
    found = check_tool_definitions((MappingProxyType(whole),))
    plain = {"type": "object", "properties": {"a": {"enum": [1, 2]}}}
    assert found == [function(description="d", parameters=plain, strict=True)]
    assert type(found[0]["function"]["parameters"]) is dict
    empty = function(description=None, parameters=None, strict=None)
    assert check_tool_definitions([empty]) == [empty]
    assert len(check_tool_definitions([function(name=f"f-{i}.x_") for i in range(128)])) == 128


@pytest.mark.parametrize(
    ("tools", "message"),
    [
        ({}, "tools is of type dict; it must be a list"),
        ("f", "tools is of type str; it must be a list"),
        ([5], "tools[0] is of type int; it must be a mapping"),
        ([{}], "tools[0].function is None; allowed: an object with a name"),
        ([{"type": "x", "function": {}}], "tools[0].type is 'x'; allowed: function"),
        ([{"function": {"name": "f"}, "x": 1}], "tools[0] has the unknown key 'x'; known: type,"),
        ([function(x=1)], "tools[0].function has the unknown key 'x'; known: name,"),
        ([function(name="")], "tools[0].function.name is ''; allowed: 1 to 64 letters"),
        ([function(name="a b")], "tools[0].function.name is 'a b'; allowed"),
        ([function(name="a\n")], "tools[0].function.name is 'a\\n'; allowed"),
        ([function(name="é")], "tools[0].function.name is 'é'; allowed"),
        ([function(name="a" * 65)], "tools[0].function.name is 'aaa"),
        ([function(name=None)], "tools[0].function.name is None; allowed"),
        ([function(), function()], "tools[1].function.name is 'f'; allowed: names that no other"),
        ([function(description=5)], "tools[0].function.description"),
        ([function(parameters=[])], "tools[0].function.parameters is []; allowed: a JSON schema"),
        (
            [function(parameters={"type": "array"})],
            "tools[0].function.parameters.type is 'array'; allowed: object",
        ),
        ([function(strict=1)], "tools[0].function.strict is 1; allowed: true, false or null"),
        ([function(parameters={"a": {1}})], "tools[0].function.parameters.a is of type set"),
        ([function(name=f"f{i}") for i in range(129)], "tools has 129 entries; allowed: up to 128"),
    ],
)
def test_bad_ones_are_refused(tools: Any, message: str) -> None:
    with pytest.raises(ParameterError) as caught:
        check_tool_definitions(tools)
    assert caught.value.message.startswith(message)
