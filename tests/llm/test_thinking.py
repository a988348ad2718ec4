"""Thinking through the real engine loop: ids of real formats replayed, with budgets and grammars.

No checkpoint that thinks can be had here, so a model says what it is told to say; everything else
is as with a real one.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from engine.toy import ToyModel
from llm.small import HYBRID, OPENED, PLAIN, TOKENIZER, small_qwen
from qwick.errors import UnsupportedError
from qwick.family import FAMILIES, Thinking
from qwick.llm import Qwen, Reply
from qwick.text.grammar import Grammar
from qwick.text.published import published_template
from qwick.text.thinking import EARLY_END

END = TOKENIZER.id_of("<|im_end|>")


class Scripted(ToyModel):
    """Finds the next id of its script by far the most probable, whatever came before."""

    def __init__(self, script: str) -> None:
        super().__init__(n_vocab=TOKENIZER.n_tokens, context=2048, page_size=16, exact_rows=1)
        assert END is not None
        self._left = [*TOKENIZER.encode(script, parse_special=True), END]
        self.change_logits = self._say

    def _say(self, logits: NDArray[np.float32]) -> None:
        for row in logits:
            row[self._left.pop(0) if len(self._left) > 1 else self._left[0]] = 1e3


def asked(
    script: str,
    family: str,
    template: str,
    *,
    stream: bool = False,
    question: str = "Hi.",
    **keywords: Any,
) -> tuple[Reply, Sequence[str]]:
    """Return a reply, and its streamed pieces, a byte or more each: thinking and text apart."""
    with small_qwen(
        family=family, template=template, model=Scripted(script), context=2048, cache_tokens=4096
    ) as qwen:
        given = {"temperature": 0, **keywords}
        if not stream:
            reply = qwen.chat(question, **given)
            return reply, (reply.thinking, reply.text)
        return streamed(qwen, question, given)


def streamed(qwen: Qwen, question: str, given: dict[str, Any]) -> tuple[Reply, Sequence[str]]:
    thinking, text = "", ""
    with qwen.stream(question, **given) as stream:
        for chunk in stream:
            assert not (chunk.thinking and text), "thinking after the answer began"
            thinking += chunk.thinking
            text += chunk.text
        return stream.reply, (thinking, text)


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize(
    ("family", "template", "script", "keywords", "thinking", "text"),
    [
        ("qwen3", HYBRID, "<think>\nI ponder.\n</think>\n\nYes.", {}, "I ponder.", "Yes."),
        ("qwen3", HYBRID, "<think>\n\n</think>\n\nYes.", {}, "", "Yes."),
        ("qwen3", HYBRID, "Yes.", {"enable_thinking": False}, "", "Yes."),
        ("qwen3", HYBRID, "Yes.", {"thinking_budget": 0}, "", "Yes."),
        ("qwen3", HYBRID, "Yes, at once.", {}, "", "Yes, at once."),
        ("qwen3", HYBRID, "<think>\nnever", {"max_tokens": 12}, "neve", ""),
        ("qwen3-thinking-2507", OPENED, "I ponder.\n</think>\n\nYes.", {}, "I ponder.", "Yes."),
        ("qwq", OPENED, "é\n</think>\n\n<think> is a tag.", {}, "é", "<think> is a tag."),
        ("qwen2.5", PLAIN, "<think> is a tag.", {}, "", "<think> is a tag."),
    ],
)
def test_formats(
    family: str,
    template: str,
    script: str,
    keywords: dict[str, Any],
    thinking: str,
    text: str,
    stream: bool,
) -> None:
    reply, pieces = asked(script, family, template, stream=stream, **keywords)
    assert pieces == (thinking, text)
    assert (reply.thinking, reply.text) == (thinking, text)
    assert (reply.usage.reasoning_tokens > 0) is bool(thinking or "<think>\n\n" in script)
    assert reply.usage.reasoning_tokens <= reply.usage.completion_tokens


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("budget", [1, 7, 30])
def test_a_budget_ends_the_thinking(stream: bool, budget: int) -> None:
    """The script goes on thinking: what follows the early end is read as the answer."""
    reply, pieces = asked(
        "<think>\n" + "x" * 40 + "</think>\n\nYes.",
        "qwen3",
        HYBRID,
        stream=stream,
        thinking_budget=budget,
        max_tokens=400,
    )
    assert pieces == (reply.thinking, reply.text)
    said = EARLY_END.removesuffix("\n</think>\n\n").lstrip("\n")
    assert reply.thinking.endswith(said)
    thought = reply.thinking.removesuffix(said).rstrip("\n")
    assert len(thought) <= budget
    assert reply.text.endswith("x</think>\n\nYes.")
    early = len(TOKENIZER.encode(EARLY_END, parse_special=True))
    assert abs(reply.usage.reasoning_tokens - (budget + early)) <= 2


def test_without_a_budget_some_of_max_tokens_is_left_to_answer() -> None:
    reply, _ = asked("<think>\n" + "x" * 900, "qwen3", HYBRID, max_tokens=800)
    assert "Considering the limited time" in reply.thinking
    assert reply.text.startswith("x")
    assert reply.finish_reason == "length"


def test_a_half_character_is_not_cut_by_a_budget() -> None:
    for budget in range(1, 8):
        reply, _ = asked(
            "<think>\n" + "é漢😀" * 5, "qwen3", HYBRID, thinking_budget=budget, max_tokens=300
        )
        assert "\ufffd" not in reply.thinking


def test_a_budget_of_nothing_where_thinking_cannot_be_switched() -> None:
    reply, _ = asked("Yes.", "qwq", OPENED, thinking_budget=0)
    assert (reply.thinking, reply.text) == ("", "Yes.")


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize(
    ("family", "template", "keywords", "script", "thinking"),
    [
        ("qwen3", HYBRID, {}, "<think>\nfree text\n</think>42", "free text"),
        ("qwen3", HYBRID, {}, "42", ""),  # the block is asked for first
        ("qwen3", HYBRID, {"enable_thinking": False}, "42", ""),
        ("qwq", OPENED, {}, "free text\n</think>42", "free text"),
        ("qwen2.5", PLAIN, {}, "42", ""),
    ],
)
def test_a_grammar_begins_after_the_thinking(
    family: str,
    template: str,
    keywords: dict[str, Any],
    script: str,
    thinking: str,
    stream: bool,
) -> None:
    if family == "qwen3" and script == "42" and not keywords:
        # This vocabulary spells the tag in letters, so it cannot be demanded as a token.
        assert TOKENIZER.id_of("<think>") is None
    reply, pieces = asked(
        script, family, template, stream=stream, grammar=Grammar.regex("[0-9]{2}"), **keywords
    )
    assert pieces == (thinking, "42")
    assert reply.finish_reason == "stop"


@pytest.mark.parametrize("stream", [False, True])
def test_a_call_within_the_thinking_is_none(stream: bool) -> None:
    call = '<tool_call>\n{"name": "f", "arguments": {}}\n</tool_call>'
    template = HYBRID.replace("{% for", "{% if tools %}tools{% endif %}{% for", 1)
    tools = [{"type": "function", "function": {"name": "f"}}]
    reply, _ = asked(
        f"<think>\nI may write {call}\n</think>\n\n{call}",
        "qwen3",
        template,
        stream=stream,
        tools=tools,
    )
    assert [c.name for c in reply.tool_calls] == ["f"]
    assert call in reply.thinking
    assert reply.text == ""
    assert reply.finish_reason == "tool_calls"


@pytest.mark.parametrize(
    ("family", "template", "keywords", "words"),
    [
        ("qwen2.5", PLAIN, {"enable_thinking": True}, "has no thinking"),
        ("qwen2.5", PLAIN, {"thinking_budget": 5}, "this answer has no thinking"),
        ("qwq", OPENED, {"enable_thinking": False}, "always thinks"),
        ("qwen3", HYBRID, {"enable_thinking": False, "thinking_budget": 5}, "has no thinking"),
        ("qwen3", PLAIN, {"enable_thinking": False}, "has no such switch"),
    ],
)
def test_impossible_switches_are_refused(
    family: str, template: str, keywords: dict[str, Any], words: str
) -> None:
    with pytest.raises(UnsupportedError, match=words):
        asked("x", family, template, **keywords)


def test_the_last_soft_switch_in_the_messages_decides_what_is_sampled() -> None:
    with small_qwen(family="qwen3", template=HYBRID) as qwen:

        def temperature(*texts: str) -> float:
            messages = [{"role": "user", "content": text} for text in texts]
            asked = qwen.texts.chat(messages, None, {}, context=qwen.context)
            return asked.request.sampling.temperature

        assert temperature("a") == temperature("a /no_think", "b /think") == 0.6
        assert temperature("a /no_think") == temperature("a /think", "b /no_think") == 0.7
        assert temperature("see src/no_think.py") == 0.6
        silent = {"role": "system", "content": "Be brief. /no_think"}
        for text, expected in (("a", 0.7), ("a /think", 0.6), ("a /think /no_think", 0.7)):
            asking = qwen.texts.chat(
                [silent, {"role": "user", "content": text}], None, {}, context=qwen.context
            )
            assert asking.request.sampling.temperature == expected


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize(
    ("keywords", "script", "text"),
    [
        ({}, "<think>\na\n\nb\n</think>\n\nYes.\n\nNo.", "Yes."),
        ({"thinking_budget": 3}, "<think>\n" + "x" * 40, "x" * 39),
        ({"grammar": Grammar.regex("[0-9]{2}")}, "<think>\na\n\nb\n</think>42", "42"),
    ],
)
def test_stop_strings_are_the_answers(
    keywords: dict[str, Any], script: str, text: str, stream: bool
) -> None:
    """None is met in the thinking, in what ends it early, or at the border behind it."""
    reply, pieces = asked(
        script, "qwen3", HYBRID, stream=stream, stop=["\n\n"], max_tokens=400, **keywords
    )
    assert pieces[1] == reply.text == text
    assert reply.stop == ("\n\n" if text == "Yes." else None)


def test_an_aim_gives_way_to_the_answer() -> None:
    """Thinking for as long as an effort says, unless that left too little of max_tokens."""
    script = "<think>\n" + "x" * 900
    long, _ = asked(script, "qwen3", HYBRID, max_tokens=800, thinking_aim=4096)
    assert long.text.startswith("x")
    short, _ = asked(script, "qwen3", HYBRID, max_tokens=800, thinking_aim=20)
    assert short.thinking.startswith("x" * 18 + "\n\nConsidering")


def test_without_max_tokens_the_context_is_what_is_shared() -> None:
    reply, _ = asked("<think>\n" + "x" * 3000, "qwen3", HYBRID)
    assert "Considering the limited time" in reply.thinking
    assert reply.text.startswith("x")


def test_a_turn_does_not_end_in_the_thinking_where_a_grammar_waits() -> None:
    reply, _ = asked(
        "<think>\nI ponder.", "qwen3", HYBRID, grammar=Grammar.regex("[0-9]{2}"), max_tokens=400
    )
    assert reply.thinking.startswith("I ponder.")
    assert len(reply.text) == 2
    assert reply.text.isdigit()


# -- every family with its own template ------------------------------------------------------

OWN = {
    name: source
    for name, family in FAMILIES.items()
    if (source := published_template(family)) is not None
}
THINKERS = [name for name in OWN if FAMILIES[name].thinking is not Thinking.NONE]
OTHERS = [name for name in OWN if FAMILIES[name].thinking is Thinking.NONE]


def opened(family: str, script: str) -> str:
    """The script without a beginning that the template has written."""
    always = FAMILIES[family].thinking is Thinking.ALWAYS
    return script.removeprefix("<think>\n") if always else script


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("family", THINKERS)
def test_thinkers(family: str, stream: bool) -> None:
    script = opened(family, "<think>\nI pönder, 思考.\n</think>\n\nYes: 是 <think>.\n")
    _, pieces = asked(script, family, OWN[family], stream=stream, stop=["ponder"])
    assert pieces == ("I pönder, 思考.", "Yes: 是 <think>.\n")


@pytest.mark.parametrize("family", THINKERS)
def test_thinkers_keep_to_a_budget(family: str) -> None:
    script = opened(family, "<think>\n" + "x" * 40 + "</think>\n\nYes.")
    reply, _ = asked(script, family, OWN[family], stream=True, thinking_budget=20, max_tokens=400)
    thought, early, _ = reply.thinking.partition("\n\nConsidering the limited time")
    assert early
    assert 10 < len(thought) <= 20
    assert reply.text.endswith("x</think>\n\nYes.")


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("family", OTHERS)
def test_who_does_not_think_may_speak_of_it(family: str, stream: bool) -> None:
    script = "<think>\nso it goes</think> is markup."
    reply, pieces = asked(script, family, OWN[family], stream=stream)
    assert pieces == ("", script)
    assert reply.usage.reasoning_tokens == 0


@pytest.mark.parametrize("family", OWN)
def test_what_a_family_cannot_is_refused(family: str) -> None:
    kind = FAMILIES[family].thinking
    refused: dict[Thinking, list[tuple[dict[str, Any], str]]] = {
        Thinking.NONE: [
            ({"enable_thinking": True}, "enable_thinking is True; small has no thinking"),
            ({"thinking_budget": 9}, "thinking_budget is 9; this answer has no thinking"),
        ],
        Thinking.ALWAYS: [({"enable_thinking": False}, "small always thinks")],
        Thinking.HYBRID: [],
    }
    for keywords, words in refused[kind]:
        with pytest.raises(UnsupportedError, match=words):
            asked("x", family, OWN[family], **keywords)
    with small_qwen(family=family, template=OWN[family]) as qwen:
        assert qwen.texts.thinking is kind
        for wanted in (True, False):
            if kind is Thinking.HYBRID or wanted is (kind is Thinking.ALWAYS):
                qwen.render("Hi.", enable_thinking=wanted)


TWO_TURNS: list[dict[str, Any]] = [
    {"role": "user", "content": "a"},
    {"role": "assistant", "content": "b", "reasoning_content": "earlier"},
    {"role": "user", "content": "c"},
    {"role": "assistant", "content": "<think>\nlater\n</think>\n\nd"},
]
CALLED: list[dict[str, Any]] = [
    {"role": "user", "content": "a"},
    {
        "role": "assistant",
        "content": "",
        "reasoning_content": "I look.",
        "tool_calls": [{"function": {"name": "f", "arguments": "{}"}}],
    },
    {"role": "tool", "content": "5"},
]


def test_a_history_is_cleaned_as_each_template_demands() -> None:
    for family, source in OWN.items():
        with small_qwen(family=family, template=source) as qwen:
            past = qwen.render([*TWO_TURNS, {"role": "user", "content": "e"}])
            last = qwen.render(TWO_TURNS, add_generation_prompt=False)
            calls = qwen.render(CALLED) if "tool_calls" in source else ""
        thinks = family in THINKERS
        assert "assistant\nb<|im_end|>" in past
        # Thinking is dropped when the next question comes; who does not think has none to drop.
        assert ("assistant\nd<|im_end|>" in past) is thinks
        assert ("<think>\nlater\n</think>\n\nd<|im_end|>" in past) is not thinks
        assert "<think>\nlater\n</think>\n\nd<|im_end|>" in last
        # Qwen3 goes on with its thinking over the results of its calls, QwQ begins anew.
        kept = family in ("qwen3", "qwen3-thinking-2507")
        assert ("<think>\nI look.\n</think>" in calls) is kept
        assert "earlier" not in past + last


# -- templates and switches that say more than the family ------------------------------------

CLOSED = PLAIN + "<think>\n\n</think>\n\n"  # qwen3_nonthinking.jinja of QwenLM/Qwen3, its docs


def test_a_template_that_opens_or_closes_every_block_decides() -> None:
    assert asked("I ponder.</think>Yes.", "qwen2.5", OPENED)[1] == ("I ponder.", "Yes.")
    with pytest.raises(UnsupportedError, match="small always thinks"):
        asked("x", "qwen2.5", OPENED, enable_thinking=False)
    assert asked("<think> is a tag.", "qwen3", CLOSED)[1] == ("", "<think> is a tag.")
    with pytest.raises(UnsupportedError, match="small has no thinking"):
        asked("x", "qwen3", CLOSED, enable_thinking=True)
    with small_qwen(family="qwen3", template=CLOSED) as qwen:
        asking = qwen.texts.chat("Hi.", None, {}, context=qwen.context)
        assert asking.request.sampling.temperature == 0.7
    picky = "{{ raise_exception('a system message first') if messages[0].role != 'system' }}"
    with small_qwen(family="qwen3", template=picky + HYBRID) as qwen:
        assert qwen.texts.thinking is Thinking.HYBRID


@pytest.mark.parametrize("stream", [False, True])
def test_the_empty_block_behind_a_soft_switch_is_no_answer(stream: bool) -> None:
    """No stop string is met in it, and a grammar begins behind it."""
    script = "<think>\n\n</think>\n\nYes.\n\nNo."
    soft: dict[str, Any] = {"question": "Hi. /no_think", "stream": stream}
    reply, pieces = asked(script, "qwen3", OWN["qwen3"], stop=["\n\n"], **soft)
    assert pieces == ("", "Yes.")
    assert reply.stop == "\n\n"
    script = "<think>\n\n</think>42"
    number = Grammar.regex("[0-9]{2}")
    assert asked(script, "qwen3", OWN["qwen3"], grammar=number, **soft)[1] == ("", "42")
    script = "<think>\n" + "x" * 60  # it does not listen
    reply, _ = asked(script, "qwen3", OWN["qwen3"], thinking_budget=9, max_tokens=300, **soft)
    assert reply.thinking.startswith("x" * 5 + "x" * 2 + "\n\nConsidering")


def test_a_budget_of_nothing_where_the_template_has_no_switch() -> None:
    with small_qwen(family="qwen3", template=PLAIN, context=2048) as qwen:
        asking = qwen.texts.chat("Hi.", None, {"thinking_budget": 0}, context=qwen.context)
        prompt = qwen.tokenizer.decode(asking.request.ids)
    assert prompt.endswith("<|im_start|>assistant<think>\n\n</think>\n\n")  # as PLAIN ends
    assert asked("Yes.", "qwen3", PLAIN, thinking_budget=0)[1] == ("", "Yes.")
