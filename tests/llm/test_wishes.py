"""The keywords of a question told apart."""

from __future__ import annotations

from typing import Any

import pytest

from qwick.errors import ParameterError
from qwick.llm.wishes import ToolChoice, Wishes, read_wishes
from qwick.text.grammar import Grammar


def test_they_are_told_apart() -> None:
    said = {"seed": 1, "think": True, "namespace": "n", "top_k": None}
    assert read_wishes(said, ["think"]) == Wishes({"seed": 1, "top_k": None}, {"think": True}, "n")
    assert read_wishes({"namespace": None}, []) == Wishes()
    grammar = Grammar.regex("a+")
    said = {
        "enable_thinking": False,
        "thinking_budget": 7,
        "tool_choice": {"name": "f"},
        "parallel_tool_calls": False,
        "grammar": grammar,
        "progress": True,
    }
    assert read_wishes(said, ["enable_thinking"]) == Wishes(
        enable_thinking=False,
        thinking_budget=7,
        tool_choice=ToolChoice("required", "f"),
        parallel_tool_calls=False,
        grammar=grammar,
        progress=True,
    )


@pytest.mark.parametrize("mode", ["auto", "none", "required"])
def test_tool_choices(mode: str) -> None:
    assert read_wishes({"tool_choice": mode}, []).tool_choice == ToolChoice(mode)


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ({"namespac": "n"}, "did you mean namespace"),
        ({"topp": 1}, "did you mean top_p"),
        ({"enable_thinking": 1}, "enable_thinking is 1; allowed: True or False"),
        ({"thinking_budget": -1}, "thinking_budget is -1"),
        ({"thinking_budget": True}, "thinking_budget is True"),
        ({"tool_choice": "any"}, "tool_choice is 'any'; allowed: auto, none"),
        ({"tool_choice": {"name": "f", "more": 1}}, "tool_choice is"),
        ({"parallel_tool_calls": 0}, "parallel_tool_calls is 0"),
        ({"grammar": "a+"}, "grammar is 'a"),
        ({"progress": "yes"}, "progress is 'yes'"),
        ({"chat_template_kwargs": {"seed": 1}}, "has 'seed'; allowed: enable_thinking$"),
        ({"chat_template_kwargs": {"namespace": ""}}, "has 'namespace'; allowed"),
        ({"chat_template_kwargs": [1]}, "chat_template_kwargs is"),
    ],
)
def test_what_is_none_is_refused(given: dict[str, Any], words: str) -> None:
    with pytest.raises(ParameterError, match=words):
        read_wishes(given, [])


@pytest.mark.parametrize("name", ["enable_thinking", "tool_choice", "thinking_budget"])
def test_a_raw_prompt_has_no_chat(name: str) -> None:
    with pytest.raises(ParameterError, match=f"there is no parameter '{name}'"):
        read_wishes({name: None}, [], chat=False)
