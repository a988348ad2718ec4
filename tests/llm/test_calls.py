"""Calls held and cut: stop strings are about content, strict arguments by their schema."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import pytest

from llm.small import TOKENIZER
from llm.test_thinking import PLAIN, asked
from llm.test_tools import CALL, TOOLS, WITH_TOOLS
from qwick.engine.steer import Force, Steer, SteerSpec, Verdict
from qwick.errors import ParameterError
from qwick.family import ToolFormat
from qwick.formats.open import open_checkpoint
from qwick.llm.steers import Guide, SteerFactory
from qwick.text.grammar import Grammar
from qwick.text.tokenizer import Tokenizer

PARIS = '<tool_call>\n{"name": "f", "arguments": {"city": "Paris"}}\n</tool_call>'
TICKET: dict[str, Any] = {
    "type": "function",
    "function": {
        "name": "book",
        "strict": True,
        "parameters": {
            "type": "object",
            "properties": {"city": {"type": "string"}, "class": {"enum": ["Y", "J", "F"]}},
            "required": ["city", "class"],
            "additionalProperties": False,
        },
    },
}
FREE: dict[str, Any] = {"type": "function", "function": {"name": "free"}}
ARGUMENTS = '{"city": "Rome", "class": "J"}'


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("choice", ["auto", "required"])
@pytest.mark.parametrize("stop", ["Paris", "city", "}", "\n", "</tool_call>", "Pari", '"'])
def test_a_stop_string_within_a_call_is_none(stop: str, choice: str, stream: bool) -> None:
    given = {"stop": [stop], "tool_choice": choice, "parallel_tool_calls": choice == "auto"}
    given |= {"enable_thinking": False, "logprobs": 0}  # with them, no id is forced
    reply, _ = asked(PARIS, "qwen2.5", WITH_TOOLS, stream=stream, tools=TOOLS, **given)
    ((name, arguments),) = ((call.name, call.arguments) for call in reply.tool_calls)
    assert (name, json.loads(arguments)) == ("f", {"city": "Paris"})
    assert (reply.finish_reason, reply.stop, reply.text) == ("tool_calls", None, "")


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize(
    ("said", "text", "names", "stop", "reason"),
    [
        (f"I ask Paris. {PARIS}", "I ask ", [], "Paris", "stop"),
        (f"I ask.\n{PARIS}\nParis it is", "I ask.\n", ["f"], "Paris", "tool_calls"),
        (f"{PARIS}Paris", "", ["f"], "Paris", "tool_calls"),
        (f"Pa{PARIS}ris it is", "", ["f"], "Paris", "tool_calls"),
        ("<tool_call>Paris", "<tool_call>", [], "Paris", "stop"),
        ("A\n\nB", "A", [], "\n\n", "stop"),
        ("A\n\n", "A", [], "\n\n", "stop"),
        ("A\n\nB", "A", ["f"], None, "tool_calls"),
    ],
)
def test_a_stop_string_in_content_is_one(
    said: str, text: str, names: list[str], stop: str | None, reason: str, stream: bool
) -> None:
    """Also where a call comes before or behind it."""
    if stop is None:
        said, text, stop = f"A\n\n{CALL}", "A", "\n\n"
        names = ["f"]
    given = {"stop": [stop], "enable_thinking": False}
    reply, (_, shown) = asked(said, "qwen3", WITH_TOOLS, stream=stream, tools=TOOLS, **given)
    assert (reply.text, shown) == (text, text)
    assert [call.name for call in reply.tool_calls] == names
    assert reply.finish_reason == reason


@pytest.mark.parametrize("early", range(30))
def test_both_ends_agree_about_the_first_tokens(early: int) -> None:
    """Where the engine stops, the caller's side has found the stop string too."""
    said = "ab\nab<tool ab\n\nab" + CALL + "ab\n"
    given = {"stop": ["ab"], "min_tokens": early, "enable_thinking": False}
    reply, _ = asked(said, "qwen3", WITH_TOOLS, tools=TOOLS, **given)
    assert (reply.stop == "ab") is (reply.usage.completion_tokens < len(said) + 1)
    assert reply.usage.completion_tokens > early


@pytest.mark.parametrize("stream", [False, True])
def test_the_stop_string_of_a_format_ends_all(stream: bool) -> None:
    said = '✿FUNCTION✿: f\n✿ARGS✿: {"a": 1}\n✿RESULT✿: 5'
    reply, _ = asked(said, "qwen2", PLAIN, stream=stream, tools=TOOLS, stop=["a"])
    assert [call.arguments for call in reply.tool_calls] == ['{"a": 1}']
    assert (reply.stop, reply.finish_reason, reply.text) == ("✿RESULT✿", "tool_calls", "")


def test_stop_strings_after_thinking() -> None:
    said = f"<think>\nParis\n</think>\n\n{PARIS}"
    reply, _ = asked(said, "qwen3", WITH_TOOLS, tools=TOOLS, stop=["Paris"])
    assert (reply.thinking, reply.finish_reason) == ("Paris", "tool_calls")


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize(("family", "template"), [("qwen2.5", WITH_TOOLS), ("qwen2", PLAIN)])
def test_a_demanded_call_that_is_cut_is_no_content(
    family: str, template: str, stream: bool
) -> None:
    said = CALL if family == "qwen2.5" else "✿FUNCTION✿: f\n✿ARGS✿: {}"
    said = said.replace("f", "find", 1) if family == "qwen2.5" else said.replace(" f", " find")
    tools = [{"type": "function", "function": {"name": "find"}}]
    off: dict[str, Any] = {"enable_thinking": False} if family == "qwen2.5" else {}
    for most in range(1, 40):
        reply, (_, shown) = asked(
            said, family, template, stream=stream, tools=tools, tool_choice="required",
            max_tokens=most, parallel_tool_calls=False, logprobs=0, **off,
        )  # fmt: skip
        assert (reply.text, shown) == ("", "")
        if reply.finish_reason == "length":
            assert set(reply.troubles) <= {"a call was cut off", "the arguments of a call are no"
                                           " JSON object"}  # fmt: skip
            assert reply.troubles or reply.tool_calls[0].arguments == "{}"


def test_a_second_call_that_is_cut_is_no_content() -> None:
    said = f"{CALL}\n{CALL}"
    for most in range(len(CALL) + 1, 2 * len(CALL)):
        reply, _ = asked(
            said, "qwen2.5", WITH_TOOLS, tools=TOOLS, tool_choice="required", max_tokens=most,
            logprobs=0, enable_thinking=False,
        )  # fmt: skip
        assert reply.text == ""
        assert reply.finish_reason == "length"


def test_an_open_call_is_none_that_was_made() -> None:
    """An id that ends the answer may come within a call."""
    end = TOKENIZER.encode("P", parse_special=False)[0]
    reply, _ = asked(PARIS, "qwen2.5", WITH_TOOLS, tools=TOOLS, extra_stop_ids=(end,))
    assert [call.arguments for call in reply.tool_calls] == ['{"city": "']
    assert reply.finish_reason == "stop"
    assert "a call was cut off" in reply.troubles


# -- strict tools ----------------------------------------------------------------------------------


def steer_of(steers: SteerFactory, format: ToolFormat, jump: bool = False) -> Steer:
    guide = Guide(
        jump=jump,
        calls=(format, (TICKET, FREE)),
        strict={"book": Grammar.tool_arguments(format, TICKET, "tools[0]")},
    )
    return steers(SteerSpec(guide=guide))


def said_to(steer: Steer, tokenizer: Tokenizer, text: str) -> list[bool]:
    """Say a text id by id; whether each was chosen freely. It must be allowed."""
    free = []
    for id in tokenizer.encode(text, parse_special=True):
        mask = steer.mask()
        free.append(mask is None)
        assert mask is None or mask[id // 8] >> (id % 8) & 1, (text, tokenizer.decode([id]))
        assert steer.accept(id) is Verdict.GO
    return free


def allows(steer: Steer, tokenizer: Tokenizer, text: str) -> bool:
    mask, id = steer.mask(), tokenizer.encode(text, parse_special=True)[0]
    return mask is None or bool(mask[id // 8] >> (id % 8) & 1)


XML = "<tool_call>\n<function={}>\n<parameter=city>\nRome\n</parameter>\n<parameter=class>\n"
FORMS = [
    (ToolFormat.HERMES, '<tool_call>\n{{"name": "{}", "arguments": {{"city": "Rome", "class": "',
     '"}}\n</tool_call>'),
    (ToolFormat.HERMES, '<tool_call>\n{{"name":"{}","arguments":{{"city":"Rome","class":"',
     '"} }\n</tool_call>'),
    (ToolFormat.HERMES, '```json\n{{\n  "name": "{}",\n  "arguments": {{\n    "city": "Rome",\n'
     '    "class": "', '"\n  }\n}\n```'),
    (ToolFormat.HERMES, '{{"name": "{}", "parameters": {{"city": "Rome", "class": "', '"}}'),
    (ToolFormat.XML, XML, "\n</parameter>\n</function>\n</tool_call>"),
    (ToolFormat.QWEN_AGENT, '✿FUNCTION✿: {}\n✿ARGS✿: {{"city": "Rome", "class": "', '"}\n'),
    (ToolFormat.REACT, 'Thought: a.\nAction: {}\nAction Input: {{"city": "Rome", "class": "',
     '"}\n'),
]  # fmt: skip


@pytest.fixture(scope="module", params=["bytes", "real"])
def any_tokenizer(request: pytest.FixtureRequest) -> Iterator[Tokenizer]:
    if request.param == "bytes":
        yield TOKENIZER
        return
    with open_checkpoint(request.getfixturevalue("default_checkpoint")) as opened:
        yield Tokenizer.from_data(opened.tokenizer)


@pytest.fixture(scope="module")
def steers(any_tokenizer: Tokenizer) -> SteerFactory:
    return SteerFactory(any_tokenizer)


@pytest.mark.model
@pytest.mark.parametrize(("format", "form", "end"), FORMS)
def test_strict_arguments_are_held_and_the_rest_is_free(
    format: ToolFormat, form: str, end: str, any_tokenizer: Tokenizer, steers: SteerFactory
) -> None:
    steer = steer_of(steers, format)
    for _ in range(2):  # parallel calls
        free = said_to(steer, any_tokenizer, f"Some { {1: 2} }.\n\n{form.format('book')}")
        assert free[0]
        assert not free[-1]
        assert not allows(steer, any_tokenizer, "Economy")
        assert not allows(steer, any_tokenizer, "<|im_end|>")
        assert allows(steer, any_tokenizer, "J")
        said_to(steer, any_tokenizer, f"J{end}")
        assert steer.mask() is None
        said_to(steer, any_tokenizer, "\n")
        assert all(said_to(steer, any_tokenizer, form.format("free")))
        assert all(said_to(steer, any_tokenizer, f"Economy{end}\n"))


def test_what_is_forced_in_strict_arguments_is_appended() -> None:
    steer = steer_of(SteerFactory(TOKENIZER), ToolFormat.HERMES, jump=True)
    text = '<tool_call>\n{"name": "book", "arguments": {"city": "x'
    said: list[int] = []
    left = TOKENIZER.encode(text, parse_special=False)
    while left:
        said.append(left.pop(0))
        verdict = steer.accept(said[-1])
        if isinstance(verdict, Force):
            assert not verdict.stop
            said += verdict.ids
            left = left[len(verdict.ids) :]
    assert TOKENIZER.decode(said) == text


def test_a_strict_schema_that_cannot_be_held_to_is_refused() -> None:
    tool = {"type": "function", "function": {**TICKET["function"], "parameters": {
        "type": "object", "properties": {"a": {"type": "string", "pattern": "(?=a)"}},
    }}}  # fmt: skip
    with pytest.raises(ParameterError, match=r"tools\[0\]\.function"):
        asked("x", "qwen3", WITH_TOOLS, tools=[tool], enable_thinking=False)


def test_strict_tools_and_thinking() -> None:
    call = '<tool_call>\n{"name": "book", "arguments": %s}\n</tool_call>'
    said = f"<think>\n{call % '{}'}\n</think>\n\n{call % ARGUMENTS}"
    reply, _ = asked(said, "qwen3", WITH_TOOLS, tools=[TICKET], logprobs=0)
    assert [call.arguments for call in reply.tool_calls] == [ARGUMENTS]
    assert reply.thinking == call % "{}"
