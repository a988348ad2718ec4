"""What each task asks, of whom, and how its answer is read; replies written by hand."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterator
from typing import Any

import pytest

from llm.small import HYBRID, OPENED, PLAIN, small_qwen
from qwick import tasks
from qwick.errors import ContextLengthError, ParameterError, UnsupportedError, UsageError
from qwick.family import FAMILIES, family_of
from qwick.llm import Qwen
from qwick.tasks import Task
from qwick.tasks.task import Prompt
from tasks.conftest import reply_of

SCHEMA = {"type": "object", "properties": {"a": {"type": "integer"}}, "required": ["a"]}
HISTORY = [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Hello"}]
ALL: dict[str, Task[Any]] = {
    "steps": tasks.steps("Why?"),
    "math": tasks.math("1 + 1?"),
    "code": tasks.code("Add."),
    "fill": tasks.fill("a", "b"),
    "languages": tasks.languages("Why?", ["French", "German"]),
    "translate": tasks.translate("Hi", "French"),
    "tutor": tasks.tutor("Why?"),
    "support": tasks.support("Help!"),
    "summarise": tasks.summarise("A text."),
    "ask": tasks.ask("A text.", "Why?"),
    "extract": tasks.extract("A text.", SCHEMA),
}
RATING = ("guard", "embedding", "reranker")
CODERS = ("codeqwen1.5", "qwen2.5-coder", "qwen3-coder")


@pytest.fixture(scope="module")
def coder() -> Iterator[Qwen]:
    with small_qwen(template=PLAIN, context=4096, cache_tokens=8192) as qwen:
        yield qwen


def first(task: Task[Any], qwen: Qwen) -> Prompt:
    return task.prompts(qwen)[0]


def said(prompt: Prompt) -> str:
    return "\n".join(message["content"] for message in prompt.messages)


# -- which checkpoints ----------------------------------------------------------------------------


def test_the_names_are_those_of_the_command_line() -> None:
    assert list(tasks.TASKS) == list(ALL)
    assert [task.name for task in ALL.values()] == list(ALL)


@pytest.mark.parametrize("name", ALL)
def test_families(name: str) -> None:
    found = set(ALL[name].families)
    if name == "fill":
        assert found == set(CODERS)
    elif name in ("math", "steps"):
        assert found == {f for f in FAMILIES if not any(kind in f for kind in RATING)}
    else:
        assert found == {f for f in FAMILIES if not any(kind in f for kind in (*RATING, "math"))}


def test_base_models_only_fill_in() -> None:
    base = family_of({"model_type": "qwen2"}, "Qwen2.5-Coder-7B")
    assert base.base
    for name, task in ALL.items():
        reason = task.suits(base)
        assert reason is None if name == "fill" else "base model" in str(reason), name


@pytest.mark.parametrize(
    ("family", "task", "reason", "others"),
    [
        ("qwen2.5", "fill", "has not learned to fill in", "qwen2.5-coder"),
        ("qwen2.5-math", "translate", "recommend for mathematics only", "qwen3"),
    ],
)
def test_who_cannot_is_refused_and_told_who_can(
    family: str, task: str, reason: str, others: str
) -> None:
    with small_qwen(family=family, template=PLAIN) as qwen:
        with pytest.raises(UnsupportedError, match=reason) as failure:
            ALL[task].run(qwen, max_tokens=1)
        assert failure.value.hint is not None
        assert others in failure.value.hint
        assert "anyway=True" in failure.value.hint
        if task == "translate":
            assert ALL[task].run(qwen, max_tokens=1, anyway=True).replies
        else:  # the small tokenizer lacks a mark
            with pytest.raises(UnsupportedError, match="cannot fill in"):
                ALL[task].run(qwen, anyway=True)


# -- what is asked --------------------------------------------------------------------------------


def test_mathematics_is_asked_as_the_cards_say(coder: Qwen) -> None:
    boxed = r"Please reason step by step, and put your final answer within \boxed{}."
    (message,) = first(ALL["math"], coder).messages
    assert message == {"role": "user", "content": f"1 + 1?\n\n{boxed}"}
    for family in ("qwen2-math", "qwen2.5-math"):
        assert FAMILIES[family].system_prompt == boxed
        with small_qwen(family=family, template=PLAIN) as qwen:
            system, question = first(ALL["math"], qwen).messages
        assert system == {"role": "system", "content": boxed}
        assert question == {"role": "user", "content": "1 + 1?"}


def test_one_right_answer_is_greedy_unless_it_is_thought_about(coder: Qwen) -> None:
    for name in ("math", "steps", "code", "translate", "extract", "languages"):
        assert first(ALL[name], coder).keywords["temperature"] == 0, name
    for name in ("tutor", "support"):
        assert "temperature" not in first(ALL[name], coder).keywords
    with small_qwen(family="qwen3", template=HYBRID) as hybrid:
        for name in ("math", "steps", "code"):
            keywords = first(ALL[name], hybrid).keywords
            assert "temperature" not in keywords
            assert "enable_thinking" not in keywords
        for name in ("translate", "extract", "languages"):
            keywords = first(ALL[name], hybrid).keywords
            assert (keywords["temperature"], keywords["enable_thinking"]) == (0, False)
        answer = ALL["translate"].run(hybrid, enable_thinking=True, max_tokens=2)
        assert answer.replies[0].seed is not None, "thinking must not be greedy"
    with small_qwen(family="qwq", template=OPENED) as thinker:
        keywords = first(ALL["translate"], thinker).keywords
        assert not {"temperature", "enable_thinking"} & set(keywords)


def test_a_callers_keywords_win(coder: Qwen) -> None:
    answer = ALL["translate"].run(coder, temperature=1.5, seed=5, max_tokens=3)
    assert answer.replies[0].seed == 5
    assert answer.replies[0].usage.completion_tokens == 3
    assert answer.troubles == ("the answer was cut off after 3 tokens",)
    for name, keyword in (
        ("extract", "grammar"),
        ("ask", "max_tokens"),
        ("summarise", "max_tokens"),
    ):
        with pytest.raises(ParameterError, match=f"{keyword} is set by the task {name}"):
            ALL[name].run(coder, **{keyword: None})
    with pytest.raises(ParameterError, match="there is no parameter 'tempreature'"):
        ALL["translate"].run(coder, tempreature=1)


def test_everything_that_is_given_is_said(coder: Qwen) -> None:
    made = {
        tasks.code("Sort.", language="Rust", constraints=["no unsafe", "O(n)"]): (
            *("Sort.", "Write it in Rust", "- no unsafe", "- O(n)"),
        ),
        tasks.translate("Hi", "Thai", source="Welsh"): ("Hi", "into Thai", "from Welsh"),
        tasks.tutor("Why?", subject="physics", level="age 9", history=HISTORY): (
            *("Why?", "tutor of physics", "age 9", "Hello"),
        ),
        tasks.support("Help!", company="ACME", knowledge="Open 9 to 5.", history=HISTORY): (
            *("Help!", "of ACME", "Open 9 to 5.", "Hello", "HANDOVER"),
        ),
        tasks.extract("A text.", SCHEMA, instructions="In metres."): (
            "A text.",
            '"a"',
            "In metres.",
        ),
        tasks.summarise("A text.", about="prices"): ("A text.", "prices"),
        tasks.ask("A text.", "Why?"): ("[1] A text.", "Why?"),
        tasks.steps("How?"): ("How?", "Answer:"),
    }
    for task, parts in made.items():
        for part in parts:
            assert part in said(first(task, coder)), (task.name, part)
    prompts = ALL["languages"].prompts(coder)
    assert ["French" in said(p) for p in prompts] == [True, False]
    roles = [m["role"] for m in first(tasks.tutor("Why?", history=HISTORY), coder).messages]
    assert roles == ["system", "user", "assistant", "user"]


@pytest.mark.model
def test_fill_takes_the_marks_of_the_tokenizer(qwen: Qwen) -> None:
    raw = first(ALL["fill"], qwen).raw
    assert qwen.tokenizer.decode(list(raw or ())) == "<|fim_prefix|>a<|fim_suffix|>b<|fim_middle|>"


def test_older_marks_are_taken_too() -> None:
    from dataclasses import replace

    from llm.small import TOKENIZER_DATA
    from qwick.text.tokenizer import Tokenizer

    marks = ["<fim_prefix>", "<fim_middle>", "<fim_suffix>", "<fim_pad>"]
    data = replace(
        TOKENIZER_DATA,
        tokens=[*(TOKENIZER_DATA.tokens or ())[:256], "<|endoftext|>", "<|im_end|>", *marks],
        token_types=[1] * 256 + [3] * 6,
        eos_id=257,
    )
    tokenizer = Tokenizer.from_data(data)
    with small_qwen(family="codeqwen1.5", tokenizer=tokenizer, template=PLAIN) as qwen:
        raw = list(first(ALL["fill"], qwen).raw or ())
        assert qwen.tokenizer.decode(raw) == "<fim_prefix>a<fim_suffix>b<fim_middle>"
        asked = qwen.texts.raw(raw, {}, context=64)
        assert qwen.tokenizer.id_of("<fim_pad>") in asked.request.sampling.stop_ids


# -- how answers are read -------------------------------------------------------------------------


def read(task: Task[Any], text: str, **changes: Any) -> tuple[Any, tuple[str, ...]]:
    with small_qwen(template=PLAIN) as qwen:
        answer = task.parse(qwen, reply_of(text, **changes))
    return answer.value, answer.troubles


def test_steps() -> None:
    for text in (
        "1. Add.\nThat is 2.\n2. Done.\nAnswer: 2",
        "**Step 1: Add.**\nThat is 2.\n\n### Step 2. Done.\n\n**Final answer:** 2",
        "1) Add.\nThat is 2.\n2) Done.\nThe answer is 2",
    ):
        found, troubles = read(ALL["steps"], text)
        assert [s.split("\n")[0].strip("* ") for s in found.steps] == ["Add.", "Done."], text
        assert "That is 2." in found.steps[0]
        assert (found.answer, troubles) == ("2", ()), text
    found, troubles = read(ALL["steps"], "I do not know.")
    assert (found.steps, found.answer) == ((), None)
    assert "no line of the reply gives an answer" in troubles[0]


def test_mathematics() -> None:
    assert read(ALL["math"], r"So \boxed{2}.")[0].answer == "2"
    found, troubles = read(ALL["math"], r"So \boxed{2", finish_reason="length")
    assert found.answer is None
    assert troubles[0] == "the answer was cut off after 7 tokens"
    assert "boxed" in troubles[1]


def test_code() -> None:
    found, troubles = read(ALL["code"], "Sure:\n```python\na = 1\n```\nBye.")
    assert (found.code, found.language, found.explanation) == ("a = 1\n", "python", "Sure:\nBye.")
    assert troubles == ()
    text = "```sh\npip install a-very-long-name\n```\n```python\na\n```"
    assert read(ALL["code"], text)[0].code == "a\n"
    found, troubles = read(ALL["code"], "```js\na\n```")
    assert (found.language, troubles) == ("js", ("the block of code is marked js, not python",))
    assert read(ALL["code"], "```python\na")[1] == ("the block of code has no end",)
    found, troubles = read(ALL["code"], "a = 1")
    assert (found.code, troubles) == (None, ("the reply has no fenced block of code",))


def test_lessons_and_support() -> None:
    assert read(ALL["tutor"], "Well. What is 2 + 2? Or\n**What is 3?**")[0].question == "What is 3?"
    assert read(ALL["tutor"], "Just so.")[0].question is None
    found, _ = read(ALL["support"], "I am sorry.\n**HANDOVER**\n")
    assert (found.text, found.handover) == ("I am sorry.", True)
    found, _ = read(ALL["support"], "We do no HANDOVER here.")
    assert (found.text, found.handover) == ("We do no HANDOVER here.", False)


def test_extraction() -> None:
    assert read(ALL["extract"], '{"a": 1}') == ({"a": 1}, ())
    value, troubles = read(ALL["extract"], '{"a": ', finish_reason="length")
    assert value is None
    assert troubles == ("the answer was cut off after 7 tokens", "the reply is no whole JSON")


def test_what_is_wrong_with_a_reply_is_told() -> None:
    assert "repeated itself" in read(ALL["translate"], "x", finish_reason="repetition")[1][0]
    assert read(ALL["translate"], "x", troubles=("odd",))[1] == ("odd",)


# -- how it runs ----------------------------------------------------------------------------------


def test_all_ways_to_run_agree(coder: Qwen) -> None:
    task = tasks.languages("Why?", [f"Language {i}" for i in range(70)])  # more than go at once
    plain = task.run(coder, max_tokens=4, ignore_eos=True)
    again = asyncio.run(task.arun(coder, max_tokens=4, ignore_eos=True))
    assert list(plain.value) == [f"Language {i}" for i in range(70)]
    assert plain.value == again.value
    assert len(plain.replies) == len(plain.troubles) == 70
    assert plain.troubles[3] == "the answer in Language 3 was cut off after 4 tokens"
    one = ALL["translate"]
    with one.stream(coder, max_tokens=6) as stream:
        with pytest.raises(UsageError, match="not complete"):
            _ = stream.answer
        text = "".join(chunk.text for chunk in stream)
    assert stream.answer.value == text == one.run(coder, max_tokens=6).value
    assert one.stream(coder, max_tokens=6).read().value == text
    assert json.dumps(plain.to_dict())


def test_a_failure_leaves_nothing_running(coder: Qwen) -> None:
    task = tasks.languages("Why?", ["French", "German" * 2000])
    for run in (lambda: task.run(coder), lambda: asyncio.run(task.arun(coder))):
        with pytest.raises(ContextLengthError):
            run()
    coder.chat("x", max_tokens=1)  # behind what was cancelled
    assert coder.stats.finished["cancelled"] >= 1


def test_a_task_of_several_prompts_has_no_stream(coder: Qwen) -> None:
    for name in ("languages", "summarise", "ask"):
        assert not ALL[name].streams
        with pytest.raises(UnsupportedError, match="no stream of it"):
            ALL[name].stream(coder)


# -- by name --------------------------------------------------------------------------------------


def test_by_name() -> None:
    assert tasks.named("math", "1 + 1?").name == "math"
    options = [("languages", "French"), ("languages", "Thai")]
    with small_qwen(template=PLAIN) as qwen:
        assert len(tasks.named("languages", "Why?", options).prompts(qwen)) == 2
    assert tasks.named("summarise", "A text.", [("tokens", "64")]).name == "summarise"
    assert tasks.named("extract", "x", [("schema", json.dumps(SCHEMA))]).name == "extract"


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("maths", [], "did you mean math"),
        ("math", [("x", "1")], "the task math has no option 'x'"),
        ("translate", [], "needs the option to"),
        ("translate", [("to", "A"), ("to", "B")], "to is given twice"),
        ("summarise", [("tokens", "x")], "tokens is 'x'; allowed: a whole number"),
        ("summarise", [("tokens", "5")], "tokens is 5; allowed: whole numbers from 16"),
        ("summarise", [("chunk", "100")], "chunk is 100; allowed"),
        ("extract", [("schema", "{")], "which is no JSON"),
        ("extract", [("schema", '{"type": "nonsense"}')], "nonsense"),
        ("tutor", [("history", '[{"role": "system", "content": "x"}]')], "system message"),
    ],
)
def test_by_name_what_is_wrong_is_told(
    name: str, options: list[tuple[str, str]], message: str
) -> None:
    with pytest.raises(ParameterError) as failure:
        tasks.named(name, "x", options)
    assert message in str(failure.value)
