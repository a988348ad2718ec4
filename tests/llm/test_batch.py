"""Many prompts at once give the answers that each gives alone, on the real checkpoint, greedy."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from qwick.llm import Logprob, Qwen, Reply
from qwick.native import ops

TOPICS = (
    "a binary search", "merging two sorted lists", "counting words in a file", "a stack class",
    "matrix multiplication", "checking for palindromes", "the sieve of Eratosthenes", "quicksort",
    "parsing a CSV line", "a linked list", "the Fibonacci numbers", "reversing a string",
    "a least-recently-used cache", "flattening nested lists", "finding duplicates", "a timer",
)  # fmt: skip
PROMPTS = [f"Write a Python function for {topic}." for topic in TOPICS]
PROMPTS += [f"Explain {topic} in two sentences, without code." for topic in TOPICS]
# 38 to 47 ids before an answer, and 28 of it: each ends in its third page of 32.
GREEDY = {"temperature": 0, "repetition_penalty": 1.0, "max_tokens": 28, "logprobs": 2}


@pytest.fixture(scope="module")
def qwen(default_checkpoint: Path) -> Iterator[Qwen]:
    # Alone is to mean computed alone: with what the batch left behind it would not be.
    with Qwen.load(default_checkpoint, ctx=2048, prefix_reuse=False) as loaded:
        yield loaded


def _first_difference(a: list[Logprob], b: list[Logprob]) -> int | None:
    return next((i for i, (x, y) in enumerate(zip(a, b, strict=False)) if x.id != y.id), None)


@pytest.fixture(scope="module")
def alone(qwen: Qwen) -> dict[str, Reply]:
    """Every other prompt's answer: one at a time takes time."""
    return {prompt: qwen.chat(prompt, **GREEDY) for prompt in PROMPTS[::2]}


@pytest.mark.model
@pytest.mark.parametrize("at_once", [12, 32])
def test_many_at_once_answer_as_each_alone(
    qwen: Qwen, alone: dict[str, Reply], at_once: int
) -> None:
    """At most 1 of 16 differs, and only where the two best tokens lie closer than the paths do.

    On the matrix unit the rows of more than 12 answers are rounded otherwise
    (docs/reference/sampling.md): there any may differ, by as much as that page says.
    """
    together: list[Reply] = []
    for start in range(0, len(PROMPTS), at_once):
        together += qwen.chat_batch(PROMPTS[start : start + at_once], **GREEDY)
    differing = []
    apart = 0.0  # how far the two paths put the same token's logprob, at most
    for prompt, other in zip(PROMPTS, together, strict=True):
        if prompt not in alone:
            continue
        a, b = _logprobs(alone[prompt]), _logprobs(other)
        at = _first_difference(a, b)
        common = len(a) if at is None else at
        apart = max(
            [apart, *(abs(x.logprob - y.logprob) for x, y in zip(a[:common], b, strict=False))]
        )
        if at is not None:
            best, second = a[at].top[:2]
            differing.append((prompt, at, best[-1] - second[-1]))
    print(f"\n{len(differing)} of {len(alone)} differ; paths up to {apart:.2g} apart: {differing}")
    if at_once > 12 and "amx" in ops.isa():
        assert apart <= 0.2
    else:
        assert len(differing) <= 1, differing
    for prompt, at, margin in differing:
        assert margin <= apart, f"{prompt!r} differs at {at}, where the margin is {margin:.2g}"
    assert len({reply.text for reply in together}) == len(PROMPTS)


def _logprobs(reply: Reply) -> list[Logprob]:
    assert reply.logprobs is not None
    return list(reply.logprobs)
