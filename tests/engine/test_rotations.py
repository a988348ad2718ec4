"""Which rotation a request gets, how far it reaches with it, and what it shares with others."""

from __future__ import annotations

from collections.abc import Sequence

import pytest

from engine.toy import Sink, ToyModel, greedy, run
from qwick.engine.engine import Engine
from qwick.engine.request import FinishReason
from qwick.errors import ContextLengthError
from qwick.model.positions import Rotations

STRETCHED = Rotations((24, 64))
BY_PROMPT = Rotations((16, 32, 64), by_prompt=True)


def engine_of(rotations: Rotations) -> tuple[Engine, ToyModel]:
    model = ToyModel(rotations=rotations, page_size=4)
    return Engine(model, n_vocab=40, cache_tokens=256), model


def ask(engine: Engine, ids: Sequence[int], most: int | None = None) -> Sink:
    return run(engine, [greedy(ids, most)])[0]


@pytest.mark.parametrize(
    ("prompt", "most", "rotation", "completion"),
    [
        (10, None, 0, 14),  # to the end of the first rotation, and no further
        (10, 14, 0, 14),
        (10, 15, 1, 15),
        (23, None, 0, 1),
        (24, None, 1, 40),
        (30, 5, 1, 5),
    ],
)
def test_what_is_promised_decides(
    prompt: int, most: int | None, rotation: int, completion: int
) -> None:
    engine, model = engine_of(STRETCHED)
    end = ask(engine, range(prompt), most).end
    assert (end.reason, end.completion_tokens) == (FinishReason.LENGTH, completion)
    assert all(set(batch.rotations or (0,)) == {rotation} for batch in model.batches)


@pytest.mark.parametrize(("prompt", "rotation"), [(16, 0), (17, 1), (32, 1), (33, 2)])
def test_or_the_prompt_alone_and_the_answer_goes_on(prompt: int, rotation: int) -> None:
    engine, model = engine_of(BY_PROMPT)
    end = ask(engine, [i % 40 for i in range(prompt)]).end
    assert prompt + end.completion_tokens == 64
    assert all(set(batch.rotations or (0,)) == {rotation} for batch in model.batches)


def test_pages_are_found_by_requests_with_the_same_rotation_only() -> None:
    engine, _ = engine_of(STRETCHED)
    ids = list(range(20))
    assert ask(engine, ids, 2).end.cached_tokens == 0
    assert ask(engine, ids, 20).end.cached_tokens == 0
    assert ask(engine, ids, 3).end.cached_tokens == 16
    assert ask(engine, ids, 21).end.cached_tokens == 16


def test_requests_with_several_rotations_share_steps() -> None:
    engine, model = engine_of(STRETCHED)
    run(engine, [greedy([1, 2, 3], most) for most in (5, 40, 5)])
    assert (0, 1, 0) in {batch.rotations for batch in model.batches}


def test_what_no_rotation_reaches_is_refused() -> None:
    engine, _ = engine_of(STRETCHED)
    with pytest.raises(ContextLengthError, match="the context holds 64"):
        ask(engine, range(30), 35)
