"""Long documents: parts, rounds, sources and what is told, with the default checkpoint's texts.

What a model would say is written by hand, but for the last tests, which ask the real one.
"""

from __future__ import annotations

import itertools
import json
from collections.abc import Callable
from typing import Any

import pytest

from llm.small import small_qwen
from qwick import tasks
from qwick.errors import ContextLengthError
from qwick.llm import Qwen, Reply
from qwick.llm.texts import Texts
from qwick.tasks import Answer, Task
from qwick.tasks.task import Model, Prompt, _sent
from qwick.tasks.words import Words, words_of
from tasks.conftest import reply_of

pytestmark = pytest.mark.model

FILLER = "\n\n".join(
    f"Paragraph {i}. The village has a harbour and a market. Fishermen sell cod and herring there."
    for i in range(10)
)
DOCUMENT = (
    "The lighthouse was built in 1874 by the engineer Maria Keller.\n\n"
    f"{FILLER}\n\fIts keeper in 1950 was Tom Baird. He kept bees on the roof.\n"
)
QUESTION = "Who was the keeper in 1950?"


def carried_out(
    task: Task[Any], texts: Texts, say: Callable[[Prompt, int], Reply], context: int = 2048
) -> tuple[Any, list[str], list[list[Prompt]]]:
    """Carry a plan out with replies by hand; return value, troubles and the prompts by round."""
    plan = task._plan(Model(texts, context))
    prompts, result = _sent(plan, None)
    rounds: list[list[Prompt]] = []
    while prompts is not None:
        rounds.append(prompts)
        prompts, result = _sent(plan, [say(prompt, len(rounds)) for prompt in prompts])
    return result[0], list(result[1]), rounds


def tokens_of(texts: Texts, prompt: Prompt) -> int:
    return len(texts.render(prompt.messages, None, {}).ids)


def asked(prompt: Prompt) -> str:
    return str(prompt.messages[-1]["content"])


# -- summaries ------------------------------------------------------------------------------------


def test_a_short_document_is_one_prompt(texts: Texts) -> None:
    value, troubles, rounds = carried_out(
        tasks.summarise("A short text."), texts, lambda *_: reply_of(" Short. ")
    )
    assert (value.text, troubles, len(rounds)) == ("Short.", [], 1)
    assert [(part.text, part.source.text) for part in value.parts] == [("Short.", "A short text.")]


def test_parts_are_put_together_in_rounds(texts: Texts) -> None:
    task = tasks.summarise(DOCUMENT * 12, tokens=48, chunk=128)
    summary = "A village with a lighthouse by Maria Keller and a keeper called Tom Baird. " * 2
    value, troubles, rounds = carried_out(task, texts, lambda *_: reply_of(summary), context=600)
    assert len(rounds) >= 4
    counts = [len(prompts) for prompts in rounds]
    assert counts == sorted(counts, reverse=True)
    assert counts[-1] == 1
    assert troubles == []
    sources = [part.source for part in value.parts]
    whole = DOCUMENT * 12
    assert sources[0].start == 0
    assert not whole[sources[-1].end :].strip()
    for before, after in itertools.pairwise(sources):
        assert not whole[before.end : after.start].strip()
    for prompts in rounds:
        for prompt in prompts:
            assert tokens_of(texts, prompt) + prompt.keywords["max_tokens"] <= 600
            assert prompt.keywords["max_tokens"] == 48
    assert asked(rounds[1][0]).count(summary.strip()) >= 2


def test_what_was_cut_off_is_told(texts: Texts) -> None:
    def say(prompt: Prompt, number: int) -> Reply:
        cut = number == 1 and "Maria" in asked(prompt)
        return reply_of("Short.", finish_reason="length" if cut else "stop")

    _, troubles, rounds = carried_out(tasks.summarise(DOCUMENT, tokens=48, chunk=128), texts, say)
    assert len(rounds[0]) > 1
    (trouble,) = troubles
    assert trouble.startswith("the summary of the characters 0 to ")
    assert "cut off after 7 tokens" in trouble


def test_too_small_a_context_is_refused_with_what_it_takes(texts: Texts) -> None:
    for task in (tasks.summarise(DOCUMENT), tasks.ask(DOCUMENT, QUESTION)):
        with pytest.raises(ContextLengthError, match=f"the task {task.name} needs") as failure:
            carried_out(task, texts, lambda *_: reply_of("x"), context=512)
        needed = int(failure.value.message.split("needs ")[1].split()[0])
        carried_out(task, texts, lambda *_: states(), context=needed)
        with pytest.raises(ContextLengthError):
            carried_out(task, texts, lambda *_: states(), context=needed - 1)


# -- questions ------------------------------------------------------------------------------------


def states(*statements: tuple[str, list[int]]) -> Reply:
    items = [{"text": text, "sources": sources} for text, sources in statements]
    return reply_of(json.dumps({"statements": items}))


def number_of(prompt: Prompt, words: str) -> int:
    """The number of the passage that has these words, as the model sees it."""
    (line,) = (line for line in asked(prompt).split("\n") if words in line and line[0] == "[")
    return int(line[1 : line.index("]")])


def answers(prompt: Prompt, _: int) -> Reply:
    if "Tom Baird" in asked(prompt):
        return states(("Its keeper in 1950 was Tom Baird.", [number_of(prompt, "Tom Baird")]))
    return states()


def test_a_statement_has_its_place(texts: Texts) -> None:
    value, troubles, rounds = carried_out(
        tasks.ask(DOCUMENT, QUESTION, tokens=64, chunk=150), texts, answers, context=700
    )
    assert (value.found, value.text, troubles) == (True, "Its keeper in 1950 was Tom Baird.", [])
    (statement,) = value.statements
    (source,) = statement.sources
    assert statement.checked
    assert source.text == DOCUMENT[source.start : source.end]
    assert "Tom Baird" in source.text
    assert (source.page, source.first_line) == (2, DOCUMENT[: source.start].count("\n") + 1)
    assert len(rounds) == 1
    assert len(rounds[0]) > 2
    for prompt in rounds[0]:
        assert tokens_of(texts, prompt) + prompt.keywords["max_tokens"] <= 700
        schema = json.loads(prompt.keywords["grammar"].text)
        items = schema["properties"]["statements"]["items"]["properties"]["sources"]["items"]
        assert items["maximum"] == asked(prompt).count("\n[") + 1


def test_a_wrong_number_gives_way_to_the_passage_that_has_the_words(texts: Texts) -> None:
    def say(prompt: Prompt, _: int) -> Reply:
        if "Tom Baird" not in asked(prompt):
            return states()
        wrong = 1 if number_of(prompt, "Tom Baird") != 1 else 2
        return states(("Its keeper in 1950 was Tom Baird.", [wrong, wrong]))

    value, _, _ = carried_out(tasks.ask(DOCUMENT, QUESTION), texts, say)
    assert ["Tom Baird" in s.text for s in value.statements[0].sources] == [True]
    assert value.statements[0].checked


def test_what_no_passage_bears_out_is_left_out_and_told(texts: Texts) -> None:
    made_up = "The keeper in 1950 was John Doe of Hamburg."

    def say(prompt: Prompt, number: int) -> Reply:
        found = answers(prompt, number)
        return found if "Tom Baird" in asked(prompt) else states((made_up, [1]))

    task = tasks.ask(DOCUMENT, QUESTION, tokens=64, chunk=150)
    value, troubles, _ = carried_out(task, texts, say)
    assert [s.text for s in value.statements] == ["Its keeper in 1950 was Tom Baird."]
    assert any("John Doe" in trouble for trouble in troubles)
    value, troubles, _ = carried_out(task, texts, lambda *_: states((made_up, [1])))
    assert (value.text, value.statements[0].checked) == (made_up, False)
    assert "no passage bears out" in troubles[-1]


def test_a_part_that_was_not_read_is_told(texts: Texts) -> None:
    def say(prompt: Prompt, number: int) -> Reply:
        if "Maria" in asked(prompt):
            return reply_of('{"statements": [', finish_reason="length")
        return answers(prompt, number)

    task = tasks.ask(DOCUMENT, QUESTION, tokens=64, chunk=150)
    value, troubles, _ = carried_out(task, texts, say)
    assert value.found
    assert troubles == [
        t for t in troubles if t.startswith("what is said about the characters 0 to ")
    ]
    assert "cut off" in troubles[0]


def test_where_nothing_is_said_nothing_is_found(texts: Texts) -> None:
    value, troubles, _ = carried_out(tasks.ask(DOCUMENT, "?"), texts, lambda *_: states())
    assert (value.found, value.text, value.statements, troubles) == (False, "", (), [])


def test_words() -> None:
    assert words_of("The über-Größe, 1874; x_y 灯台!") == {
        *("the", "über", "grösse", "1874", "x", "y", "灯", "台")
    }
    words = Words(["the cat sat", "the dog sat", "the cow lay"])
    assert words.share("the cat", ["the cat sat"]) == 1.0
    assert words.share("the zebra", ["the cat sat"]) < 0.5 < words.share("the cat", ["a cat"])
    assert words.share("", ["x"]) == words.share("...", ["x"]) == 0.0


# -- the real model -------------------------------------------------------------------------------


def test_the_real_model_finds_and_cites(qwen: Qwen) -> None:
    small = "The lamp came from Hamburg in 1911.\n\nThe keeper in 1950 was Tom Baird.\n"
    answer: Answer[Any] = tasks.ask(small, "Who was the keeper in 1950?", tokens=64).run(qwen)
    assert "Tom Baird" in answer.value.text
    assert any("Tom Baird" in s.text for st in answer.value.statements for s in st.sources)
    summary = tasks.summarise(small, tokens=32).run(qwen)
    assert summary.value.text
    assert len(summary.replies) == 1


def test_the_real_model_does_the_others(qwen: Qwen) -> None:
    schema = {
        "type": "object",
        "properties": {"name": {"type": "string"}, "age": {"type": "integer"}},
        "required": ["name", "age"],
        "additionalProperties": False,
    }
    text = "Anna Schmidt, 34, lives in Berlin."
    assert tasks.extract(text, schema).run(qwen).value == {"name": "Anna Schmidt", "age": 34}
    assert tasks.math("What is 12 + 5?").run(qwen, max_tokens=96).value.answer == "17"
    code = tasks.code("A function add(a, b) that returns the sum.").run(qwen, max_tokens=64)
    assert "return a + b" in (code.value.code or "")
    before = "def mean(values):\n    return "
    filled = tasks.fill(before, "\n\nprint(mean([1, 2]))\n").run(qwen, stop=["\n"])
    assert filled.value == "sum(values) / len(values)"
    found = tasks.languages("What is the capital of France?", ["English", "French"]).run(
        qwen, max_tokens=16
    )
    assert "Paris" in found.value["English"]
    assert "capitale" in found.value["French"]


def test_a_document_through_the_whole_of_a_small_model() -> None:
    with small_qwen(context=2048, cache_tokens=4096) as small:
        answer = tasks.summarise("Some text. " * 20, tokens=16, chunk=64).run(small)
        assert len(answer.value.parts) > 1
        assert len(answer.replies) > len(answer.value.parts)
