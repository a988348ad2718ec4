"""What counts as a loop, and what does not."""

from __future__ import annotations

import random

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from engine.toy import Sink, ToyModel
from qwick.engine.engine import Engine
from qwick.engine.loops import LEAST_TOKENS, LONGEST_PERIOD, REPEATS, LoopDetector
from qwick.engine.request import FinishReason, Request, Sampling


def defined(ids: list[int]) -> bool:
    """Whether the end of `ids` is one block again and again, as the head of loops.py says."""
    for period in range(1, LONGEST_PERIOD + 1):
        whole = max(REPEATS * period, LEAST_TOKENS)
        end = ids[-whole:]
        if len(end) == whole and all(end[i] == end[i - period] for i in range(period, whole)):
            return True
    return False


def first_loop(ids: list[int]) -> int | None:
    detector = LoopDetector()
    return next((i + 1 for i, token in enumerate(ids) if detector.push(token)), None)


@settings(deadline=None, max_examples=60)
@given(
    seed=st.integers(0, 10**6),
    before=st.integers(0, 40),
    period=st.integers(1, LONGEST_PERIOD + 3),
    vocabulary=st.sampled_from([2, 5, 1000]),
)
def test_what_is_found_is_what_is_defined(
    seed: int, before: int, period: int, vocabulary: int
) -> None:
    rng = random.Random(seed)
    block = [rng.randrange(vocabulary) for _ in range(period)]
    ids = [rng.randrange(vocabulary) for _ in range(before)]
    ids += (block * (1200 // period + 1))[: 1100 - before]
    found = first_loop(ids)
    if found is None:
        assert not defined(ids)
    else:
        assert defined(ids[:found])
        assert not defined(ids[: found - 1])


@pytest.mark.parametrize(
    ("period", "tokens"), [(1, 256), (2, 256), (32, 256), (33, 264), (128, 1024)]
)
def test_how_much_it_takes(period: int, tokens: int) -> None:
    assert first_loop((list(range(period)) * 1100)[:1100]) == tokens


def test_what_people_ask_for_is_no_loop() -> None:
    table = [[1, 2, 100 + i, 2, 200 + i * 7, 2, 3] for i in range(200)]  # its cells differ
    assert first_loop([token for row in table for token in row]) is None
    zeros = [5, *[6, 7] * 127, 8]
    assert first_loop(zeros) is None
    counting = [token for i in range(600) for token in (9, 10, 1000 + i)]
    assert first_loop(counting) is None


def stuck() -> ToyModel:
    """A model that says 7 for ever."""
    model = ToyModel(context=1024)

    def say(logits: np.ndarray) -> None:
        logits[:, 7] = 1e3

    model.change_logits = say
    return model


@pytest.mark.parametrize("drafts", [False, True])
def test_an_answer_ends_with_its_own_reason(drafts: bool) -> None:
    ends = {}
    for detect in (False, True):
        engine = Engine(stuck(), n_vocab=40, cache_tokens=640, drafts=drafts)
        sink = Sink()
        sampling = Sampling(temperature=0, max_tokens=400, loop_detection=detect)
        engine.submit(Request([1, 2], sampling=sampling), sink)
        while engine.step():
            engine.check()
        assert set(sink.ids) == {7}
        ends[detect] = (sink.end.reason, len(sink.ids))
        assert engine.stats.finished[sink.end.reason.value] == 1
    assert ends == {
        False: (FinishReason.LENGTH, 400),
        True: (FinishReason.REPETITION, LEAST_TOKENS),
    }
