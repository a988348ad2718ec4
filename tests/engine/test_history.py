"""Bias, penalties and min_tokens against their definition in plain NumPy."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from engine.test_sampler import rows
from engine.toy import Sink, ToyModel
from qwick.engine.engine import Engine
from qwick.engine.history import History
from qwick.engine.request import FinishReason, Request, Sampling
from qwick.engine.sampler import BadLogitsError, Sampler
from qwick.errors import ContextLengthError, ParameterError


def defined(row: np.ndarray, s: Sampling, prompt: list[int], answer: list[int]) -> np.ndarray:
    """What the head of history.py says, id by id."""
    out = row.astype(np.float64)
    for i, value in s.logit_bias:
        out[i] += value
    for i in {*prompt, *answer}:
        penalty = s.repetition_penalty
        out[i] = out[i] * penalty if out[i] < 0 else out[i] / penalty
    for i, times in Counter(answer).items():
        out[i] -= s.presence_penalty + s.frequency_penalty * times
    if len(answer) < s.min_tokens:
        out[list(s.stop_ids)] = -np.inf
    return out


IDS = st.integers(0, 49)


@settings(deadline=None, max_examples=300)
@given(
    seed=st.integers(0, 10**6),
    kind=st.sampled_from(["normal", "ties", "constant"]),
    prompt=st.lists(IDS, max_size=8),
    answer=st.lists(IDS, max_size=20),
    s=st.builds(
        Sampling,
        repetition_penalty=st.sampled_from([1.0, 0.5, 1.3]),
        presence_penalty=st.sampled_from([0.0, -2.0, 0.7]),
        frequency_penalty=st.sampled_from([0.0, 2.0, -0.3]),
        logit_bias=st.dictionaries(IDS, st.floats(-100, 100, width=32), max_size=4),
        min_tokens=st.sampled_from([0, 1, 5, 50]),
        stop_ids=st.lists(IDS, max_size=3),
    ),
)
def test_what_is_applied_is_what_is_defined(
    seed: int, kind: str, prompt: list[int], answer: list[int], s: Sampling
) -> None:
    row = rows(seed, 50, kind, 3.0)
    expected = defined(row, s, prompt, answer)
    history = History.of(s, tuple(prompt))
    if history is None:
        np.testing.assert_array_equal(expected, row)
        return
    for token in answer:
        history.add(token)
    history.apply(row)
    np.testing.assert_allclose(row, expected, rtol=1e-5, atol=1e-5)


def test_fields_that_do_nothing_need_no_history() -> None:
    assert History.of(Sampling(stop_ids=(3,), ignore_eos=True, loop_detection=True), (1,)) is None


def greedy(ids: list[int], **more: object) -> Request:
    return Request(ids, sampling=Sampling(temperature=0, **{"max_tokens": 30, **more}))  # type: ignore[arg-type]


def run(request: Request, model: ToyModel | None = None) -> Sink:
    engine = Engine(model or ToyModel(), n_vocab=40, cache_tokens=640)
    sink = Sink()
    engine.submit(request, sink)
    while engine.step():
        engine.check()
    return sink


def test_a_bias_bans_and_forces() -> None:
    free = run(greedy([3, 1, 4]))
    banned = run(greedy([3, 1, 4], logit_bias={free.ids[0]: -100}))
    assert free.ids[0] not in banned.ids
    assert run(greedy([3, 1, 4], logit_bias={17: 100})).ids == [17] * 30


def test_no_stop_id_comes_before_min_tokens() -> None:
    free = run(greedy([3, 1, 4]))
    stop = free.ids[4]
    first = free.ids.index(stop)
    early = run(greedy([3, 1, 4], stop_ids=(stop,)))
    assert (early.end.reason, early.ids) == (FinishReason.STOP, free.ids[:first])
    for least in (first + 1, 12, 30):
        late = run(greedy([3, 1, 4], stop_ids=(stop,), min_tokens=least))
        assert len(late.ids) >= least
        assert stop not in late.ids
    at_once = run(greedy([3, 1, 4], stop_ids=(stop,), min_tokens=first))
    assert at_once.ids == free.ids[:first], "exactly as many are enough"


def test_min_tokens_that_nothing_can_fill_are_an_error() -> None:
    s = Sampling(stop_ids=range(4), min_tokens=1)
    for more in ({}, {"top_k": 2}, {"temperature": 0}):
        sampling = Sampling(stop_ids=range(4), min_tokens=1, **more)
        with pytest.raises(BadLogitsError, match="which min_tokens forbids"):
            Sampler(4).pick(
                rows(1, 4, "normal", 1.0), sampling, seed=1, index=0, history=History(s, ())
            )


def test_what_an_engine_cannot_hold_is_refused() -> None:
    engine = Engine(ToyModel(), n_vocab=40, cache_tokens=640)
    with pytest.raises(ParameterError, match="an id in logit_bias is 40; allowed: 0 to 39"):
        engine.submit(greedy([1], logit_bias={40: 1}), Sink())
    context = ToyModel().context
    with pytest.raises(ContextLengthError, match=f"min_tokens is {context}"):
        engine.submit(Request([1], sampling=Sampling(temperature=0, min_tokens=context)), Sink())


@pytest.mark.parametrize("top_p", [1 - 2**-53, 0.999999999])
def test_a_mass_that_rounding_cannot_reach_ends(top_p: float) -> None:
    """With forbidden ids the candidates never are the whole row: their sum may fall short."""
    logits = np.full(1000, -1.0, np.float32)
    s = Sampling(top_p=top_p, stop_ids=(3,), min_tokens=1)
    for seed in range(50):
        token, _ = Sampler(1000).pick(logits.copy(), s, seed=seed, index=0, history=History(s, ()))
        assert token != 3
