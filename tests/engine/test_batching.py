"""A step's rows: which are of prompts and which of answers, whoever shares the step."""

from __future__ import annotations

import pytest

from qwick.engine.batching import build
from qwick.engine.scheduler import Chunk
from qwick.engine.sequence import Sequence
from qwick.model.batch import Run

SIZE = 4


def sequence(number: int, prompt: int, answered: int = 0) -> Sequence:
    """A sequence with pages for all of its ids, `answered` of which it was given since."""
    made = Sequence(number, list(range(prompt)), prompt - 1)
    made.pages = list(range(10 * number, 10 * number + 10))
    for token in range(answered):
        made.append(token)
    return made


def runs_of(*chunks: Chunk) -> tuple[Run, ...]:
    batch, _ = build(chunks, SIZE)
    at = 0
    for run in batch.runs:
        assert run.begin == at, "every row in turn"
        at = run.end
    assert at in (0, len(batch.ids))
    return batch.runs


def test_a_prompt_in_chunks() -> None:
    one = sequence(1, 9)
    assert runs_of(Chunk(one, 0, 8, 0)) == (Run(0, 8, prompt=True),)
    assert runs_of(Chunk(one, 8, 1, 0)) == (Run(0, 1, prompt=True),)  # its last id, alone


def test_answers_alone_need_no_runs() -> None:
    one, two = sequence(1, 9, answered=1), sequence(2, 3, answered=2)
    assert runs_of(Chunk(one, 9, 1, 0), Chunk(two, 4, 1, 0)) == ()


def test_answers_beside_a_prompt() -> None:
    one, two, three = sequence(1, 9, answered=1), sequence(2, 3, answered=2), sequence(3, 12)
    found = runs_of(Chunk(one, 9, 1, 0), Chunk(two, 4, 1, 0), Chunk(three, 0, 7, 0))
    assert found == (Run(0, 2, prompt=False), Run(2, 9, prompt=True))


def test_prompts_side_by_side_are_one_run() -> None:
    found = runs_of(Chunk(sequence(1, 5), 0, 5, 0), Chunk(sequence(2, 6), 0, 3, 0))
    assert found == (Run(0, 8, prompt=True),)


@pytest.mark.parametrize(("start", "runs"), [
    (0, (Run(0, 6, prompt=True), Run(6, 9, prompt=False))),
    (4, (Run(0, 2, prompt=True), Run(2, 5, prompt=False))),
    (7, ()),
])  # fmt: skip
def test_computed_again_as_it_was(start: int, runs: tuple[Run, ...]) -> None:
    """After a preemption, what had been answered is computed as answers are."""
    one = sequence(1, 6, answered=3)
    assert runs_of(Chunk(one, start, 9 - start, 0)) == runs


def test_drafts_are_of_answers() -> None:
    one = sequence(1, 6, answered=1)
    one.draft = [1, 2, 3]
    assert runs_of(Chunk(one, 6, 4, 0, drafted=3)) == ()
