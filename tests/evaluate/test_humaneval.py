"""From answers to programs to counts; the problems' own solutions must pass."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from llm.small import small_qwen
from qwick.errors import ParameterError
from qwick.evaluate.humaneval import (
    Problem,
    answer_problems,
    code_blocks,
    count_passed,
    extract_code,
    program_of,
    question_of,
    read_problems,
    score_answers,
)

PROBLEMS = read_problems()
SAMPLE = PROBLEMS[::8]  # 21; all 164 solutions pass, in 7 s

LINES = st.text(st.characters(exclude_characters="\n", exclude_categories=["Cs"]), max_size=30)
PROSE = st.lists(LINES.filter(lambda line: "```" not in line and "~~~" not in line), max_size=4)


def fenced(code: str, language: str = "python", mark: str = "```") -> str:
    return f"{mark}{language}\n{code}\n{mark}"


# -- problems and questions ------------------------------------------------------------------------


def test_there_are_164_problems() -> None:
    assert len(PROBLEMS) == 164
    assert [p.task_id for p in PROBLEMS] == [f"HumanEval/{i}" for i in range(164)]
    assert [p.task_id for p in read_problems(3)] == ["HumanEval/0", "HumanEval/1", "HumanEval/2"]


@pytest.mark.parametrize("limit", [0, -1])
def test_a_limit_below_one_is_refused(limit: int) -> None:
    with pytest.raises(ParameterError, match=f"limit is {limit}"):
        read_problems(limit)


def test_the_question_holds_the_whole_prompt() -> None:
    question = question_of(PROBLEMS[0])
    assert question.startswith("Please provide a self-contained Python script")
    assert code_blocks(question) == [("python", PROBLEMS[0].prompt.strip())]


def test_every_prompt_is_a_program_by_itself() -> None:
    for problem in PROBLEMS:
        names: dict[str, Any] = {}
        exec(compile(problem.prompt, problem.task_id, "exec"), names)
        assert callable(names[problem.entry_point])


# -- code blocks -----------------------------------------------------------------------------------


@settings(deadline=None)
@given(st.lists(st.tuples(PROSE, st.sampled_from(["python", "", "Bash"]), PROSE)), st.data())
def test_what_is_fenced_comes_back(parts: list[Any], data: st.DataObject) -> None:
    lines: list[str] = []
    for prose, language, code in parts:
        mark = data.draw(st.sampled_from(["```", "````", "~~~", "~~~~~"]))
        lines += [*prose, f"{mark}{language}", *code, mark]
    found = code_blocks("\n".join(lines))
    assert found == [(language.lower(), "\n".join(code)) for _, language, code in parts]


@settings(deadline=None)
@given(PROSE, PROSE, st.integers(0, 200))
def test_an_answer_cut_off_gives_the_beginning_of_its_code(
    prose: list[str], code: list[str], cut: int
) -> None:
    whole = "\n".join([*prose, "```python", *code])
    answer = whole[: len(whole) - min(cut, sum(len(line) + 1 for line in code))]
    ((_, found),) = code_blocks(answer)
    assert "\n".join(code).startswith(found)


def test_blanks_behind_a_fence_cost_nothing() -> None:
    line = "```" + " " * 50_000 + "`"  # half an hour where three patterns share the blanks
    assert code_blocks(line) == []


@settings(deadline=None)
@given(st.text(), st.from_regex(r"[a-z_]{1,8}", fullmatch=True))
def test_any_answer_gives_code(answer: str, name: str) -> None:
    code = extract_code(answer, name)
    assert set(code) <= set(answer)
    if "```" not in answer and "~~~" not in answer:
        assert code == answer


@pytest.mark.parametrize(
    ("answer", "code"),
    [
        ("Sure.\n```python\ndef f(x):\n    return x\n```\nDone.", "def f(x):\n    return x"),
        # the block that defines the function, wherever it stands and whatever it is called
        ("```python\nimport g\n```\n```\ndef f(): 1\n```", "def f(): 1"),
        ("```python\nprint(f(1))\n```\n```python\nasync def f(): 1\n```", "async def f(): 1"),
        # another name that begins alike is another function
        ("```python\ndef f2(): 0\n```\n```python\ndef f(): 1\n```", "def f(): 1"),
        # none defines it: the first of Python, not of the shell
        ("```bash\npip\n```\n```python\nx\n```\n```python\ny\n```", "x"),
        # a block of Markdown around it, closed or not; but code may speak of fences
        ("```markdown\n```python\ndef f(): 1\n```", "def f(): 1"),
        ("```markdown\nSo:\n```python\ndef f(): 1\n```\n```\n", "def f(): 1"),
        ("```python\ndef f(): '\n```python\n'\n```", "def f(): '\n```python\n'"),
        # fences inside a longer fence, in a list, with spaces and Windows line ends
        ("````python\ndef f(): '''\n```\n'''\n````", "def f(): '''\n```\n'''"),
        ("1. so:\n   ```python\n   def f():\n       1\n   ```", "def f():\n    1"),
        ("```  python  \r\ndef f(): 1\r\n```\r\n", "def f(): 1\r"),
        ("``` python copy\ndef f(): 1\n```", "def f(): 1"),
        # no fence; an inline one is none
        ("def f(): 1", "def f(): 1"),
        ("```def f(): 1``` is it", "```def f(): 1``` is it"),
        # characters that only some would call line ends stay
        ("```python\ndef f(): '\x0c\u2028'\n```", "def f(): '\x0c\u2028'"),
        ("", ""),
    ],
)
def test_extraction(answer: str, code: str) -> None:
    assert extract_code(answer, "f") == code


# -- counting --------------------------------------------------------------------------------------


def test_the_canonical_solutions_pass() -> None:
    answers = [f"Here:\n{fenced(p.prompt + p.canonical_solution)}\nThat is it." for p in SAMPLE]
    results = score_answers(SAMPLE, answers)
    assert count_passed(results) == len(SAMPLE), [r for r in results if not r.passed]
    assert [r.task_id for r in results] == [p.task_id for p in SAMPLE]


def test_a_body_alone_continues_the_prompt() -> None:
    results = score_answers(SAMPLE[:3], [p.canonical_solution for p in SAMPLE[:3]])
    assert count_passed(results) == 3


def test_nothing_else_passes() -> None:
    told: list[tuple[int, int]] = []
    cheats = (
        "",
        fenced("import sys\nsys.exit(0)"),
        fenced("raise SystemExit"),
        fenced("import os\nos._exit(0)"),
        fenced("this is no Python"),
    )
    problems = [SAMPLE[i] for i in range(len(cheats))]
    results = score_answers(problems, cheats, progress=lambda *done: told.append(done))
    assert [r.status for r in results] == ["failed", "failed", "failed", "died", "failed"]
    assert count_passed(results) == 0
    assert told == [(i + 1, 5) for i in range(5)]


def test_the_prompt_gives_imports_and_helpers() -> None:
    problem = next(p for p in PROBLEMS if p.entry_point == "decode_cyclic")  # uses encode_cyclic
    code = "def decode_cyclic(s: str):\n    return encode_cyclic(encode_cyclic(s))"
    assert score_answers([problem], [fenced(code)])[0].passed


def test_the_program_ends_with_the_check() -> None:
    problem = Problem("t", "def f():\n    '''doc'''\n", "f", "", "def check(candidate): pass")
    names: dict[str, Any] = {}
    exec(program_of(problem, "def f(): return 7"), names)
    assert names["f"]() == 7
    assert program_of(problem, "x").rstrip().endswith("check(f)")


def test_as_many_answers_as_problems() -> None:
    with pytest.raises(ParameterError, match="1 answers to 2 problems"):
        score_answers(PROBLEMS[:2], [""])


# -- asking ----------------------------------------------------------------------------------------


def test_questions_are_asked_greedily_as_one_batch() -> None:
    """The toy's answers are bytes without sense, but the same ones however they are asked."""
    generation = {"temperature": 0.7, "repetition_penalty": 1.1}  # as the default checkpoint's
    with small_qwen(generation=generation, context=2048) as model:
        replies = answer_problems(model, PROBLEMS[:4], max_tokens=5)
        for problem, reply in zip(PROBLEMS, replies, strict=False):
            ids = model.render_ids(question_of(problem))
            assert reply.usage.prompt_tokens == len(ids)
            assert reply.seed is None
            alone = model.complete(
                model.render(question_of(problem)),
                temperature=0,
                repetition_penalty=1.0,
                max_tokens=5,
            )
            assert alone.ids == reply.ids
            assert reply.usage.completion_tokens <= 5
