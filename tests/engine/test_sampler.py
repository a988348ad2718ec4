"""The sampler against its definition in plain NumPy, and by what it draws."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from qwick.engine.history import History
from qwick.engine.request import Sampling
from qwick.engine.sampler import BadLogitsError, Sampler, top_ids, uniform

F32 = NDArray[np.float32]
F64 = NDArray[np.float64]


def rows(seed: int, size: int, kind: str, scale: float) -> F32:
    rng = np.random.default_rng(seed)
    if kind == "normal":
        values = rng.standard_normal(size) * scale
    elif kind == "ties":
        values = rng.integers(-3, 4, size).astype(float)
    else:  # one constant, in which every value ties
        values = np.full(size, scale)
    return values.astype(np.float32)


def defined(
    logits: F32, s: Sampling, seen: list[int] | None = None, allowed: list[int] | None = None
) -> F64:
    """The distribution that the head of sampler.py describes, the plain and slow way."""
    row = logits.astype(np.float64)
    for i in set(seen or ()):
        penalty = float(np.float32(s.repetition_penalty))
        row[i] = row[i] * penalty if row[i] < 0 else row[i] / penalty
    if allowed is not None:
        row[[i for i in range(row.size) if i not in allowed]] = -np.inf
    if s.temperature == 0:
        p = np.zeros(row.size)
        p[int(row.argmax())] = 1
        return p
    e = np.exp((row - row.max()) / s.temperature)
    p = e / e.sum()
    if s.top_k:
        p[row < np.sort(row)[::-1][min(s.top_k, row.size) - 1]] = 0
        p /= p.sum()
    if s.top_p < 1:
        order = np.argsort(-p, kind="stable")
        before = np.cumsum(p[order]) - p[order]
        p[order[before >= s.top_p]] = 0
        p /= p.sum()
    p[p < s.min_p * p.max()] = 0
    p /= p.sum()
    return p


def drawn(sampler: Sampler, logits: F32, s: Sampling, n: int, **more: Any) -> F64:
    """How often each id comes in n draws."""
    counts = np.zeros(sampler.n_vocab)
    for index in range(n):
        counts[sampler.pick(logits.copy(), s, seed=11, index=index, **more)[0]] += 1
    return counts / n


SETTINGS = [
    Sampling(),
    Sampling(temperature=0.3),
    Sampling(temperature=5.0),
    Sampling(top_k=3),
    Sampling(top_k=20, top_p=0.8, temperature=0.7),
    Sampling(top_p=0.6),
    Sampling(top_p=0.999),
    Sampling(min_p=0.2),
    Sampling(top_k=10, min_p=0.1, top_p=0.9),
    Sampling(top_p=0.9, min_p=0.05, temperature=1.5),
    Sampling(top_k=400),
]


@pytest.mark.parametrize("s", SETTINGS, ids=str)
@pytest.mark.parametrize("size", [5, 300, 3000])
def test_what_is_drawn_is_what_is_defined(s: Sampling, size: int) -> None:
    """Total variation against the definition: n draws of a distribution over m ids stay within
    about sqrt(m / (2 pi n)) of it; m is what holds all but a hundredth of it."""
    logits = rows(size, size, "normal", 3.0)
    expected = defined(logits, s)
    n = 2000
    got = drawn(Sampler(size), logits, s, n)
    assert not got[expected == 0].any(), "an id was drawn that a filter removes"
    m = 1 + int(np.searchsorted(np.cumsum(np.sort(expected)[::-1]), 0.99))
    assert np.abs(got - expected).sum() / 2 < 2 * np.sqrt(m / (2 * np.pi * n)) + 0.01


@settings(deadline=None, max_examples=200)
@given(
    seed=st.integers(0, 10**6),
    size=st.sampled_from([1, 2, 127, 128, 129, 1000, 5000]),
    kind=st.sampled_from(["normal", "ties", "constant"]),
    scale=st.sampled_from([0.1, 2.0, 8.0]),
    s=st.builds(
        Sampling,
        temperature=st.sampled_from([0.5, 1.0, 3.0]),
        top_k=st.sampled_from([0, 1, 2, 20, 100, 4999]),
        top_p=st.sampled_from([1.0, 0.951234, 0.611234, 0.013123]),
        min_p=st.sampled_from([0.0, 0.013, 0.61]),
        repetition_penalty=st.sampled_from([1.0, 1.3]),
    ),
    u=st.floats(0, 1, exclude_max=True),
)
def test_every_number_of_the_stream_hits_the_right_id(
    seed: int, size: int, kind: str, scale: float, s: Sampling, u: float
) -> None:
    """For any u the id must be one whose share of [0, 1) holds u: exact, no statistics."""
    logits = rows(seed, size, kind, scale)
    seen = [0, size // 2, size - 1]
    p = defined(logits, s, seen)
    sampler = Sampler(size)
    penalised = logits.copy()
    for i in set(seen):
        penalty = np.float32(s.repetition_penalty)
        penalised[i] = penalised[i] * penalty if penalised[i] < 0 else penalised[i] / penalty
    token = sampler._draw(penalised, float(penalised.max()), s, u)
    # top_p compares sums; where one meets it to rounding, the edge may move by one id.
    slack = 1e-5 + (p[p > 0].min() if s.top_p < 1 else 0)
    if p[token] == 0:
        assert s.top_p < 1
        rank = np.argsort(-penalised, kind="stable").tolist().index(token)
        assert rank == np.count_nonzero(p), f"id {token} has probability 0"
        return
    groups = -(-size // 128)
    plain = not s.top_k and s.top_p == 1 and s.min_p == 0
    order = np.argsort(np.arange(size) % groups, kind="stable") if plain else np.arange(size)
    end = np.cumsum(p[order])
    at = int(np.flatnonzero(order == token)[0])
    assert end[at] - p[token] - slack <= u <= end[at] + slack


@settings(deadline=None, max_examples=200)
@given(
    seed=st.integers(0, 10**6),
    size=st.sampled_from([1, 100, 128, 4000, 20000]),
    kind=st.sampled_from(["normal", "ties", "constant"]),
    count=st.integers(1, 30000),
    masked=st.booleans(),
)
def test_top_ids_are_exact(seed: int, size: int, kind: str, count: int, masked: bool) -> None:
    row = rows(seed, size, kind, 2.0)
    if masked:
        row[np.random.default_rng(seed).random(size) < 0.9] = -np.inf
    edge = np.sort(row)[::-1][min(count, size) - 1]
    expected = [i for i in range(size) if row[i] >= edge and row[i] > -np.inf]
    assert top_ids(row, count).tolist() == expected


@pytest.mark.parametrize("size", [1, 129, 299, 4999])
def test_the_plain_draw_reaches_every_column(size: int) -> None:
    """The width is no multiple of the groups: the columns left over are drawn like the others."""
    logits = np.zeros(size, np.float32)
    sampler = Sampler(size)
    drawn_ids = {sampler._draw(logits, 0.0, Sampling(), (i + 0.5) / size) for i in range(size)}
    assert drawn_ids == set(range(size))


def test_min_p_of_one_keeps_the_best() -> None:
    logits = rows(3, 1000, "normal", 3.0)
    for s in (Sampling(min_p=1.0), Sampling(min_p=1.0, top_k=9), Sampling(min_p=1.0, top_p=0.9)):
        assert drawn(Sampler(1000), logits, s, 20)[int(logits.argmax())] == 1


def test_greedy_takes_the_lowest_of_equals_and_ignores_the_seed() -> None:
    sampler = Sampler(1000)
    logits = rows(3, 1000, "ties", 1.0)
    expected = int(np.flatnonzero(logits == logits.max())[0])
    s = Sampling(temperature=0, top_k=5, top_p=0.1)
    assert {sampler.pick(logits, s, seed=i, index=i)[0] for i in range(20)} == {expected}


@pytest.mark.parametrize("temperature", [1e-3, 1e-20, 1e-300, 5e-324])
@pytest.mark.parametrize("more", [{}, {"top_k": 5}, {"top_p": 0.5}, {"min_p": 0.1}])
@pytest.mark.filterwarnings("error")
def test_a_tiny_temperature_is_greedy_and_does_not_overflow(
    temperature: float, more: dict[str, Any]
) -> None:
    logits = rows(5, 3000, "normal", 3.0)
    s = Sampling(temperature=temperature, **more)
    sampler = Sampler(3000)
    picked = {sampler.pick(logits, s, seed=1, index=i)[0] for i in range(10)}
    assert picked == {int(logits.argmax())}


@pytest.mark.filterwarnings("error")
def test_huge_finite_logits_do_not_overflow() -> None:
    logits = np.array([-3e38, 3e38, 0, 1], np.float32)
    for s in SETTINGS:
        assert Sampler(4).pick(logits, s, seed=1, index=0)[0] == 1
    assert Sampler(4).score(logits, 1) == (0.0, 1)


@pytest.mark.parametrize("s", [Sampling(temperature=0), *SETTINGS], ids=str)
def test_padding_is_never_sampled(s: Sampling) -> None:
    logits = np.concatenate([rows(1, 500, "normal", 1.0), np.full(50, 1e4, np.float32)])
    sampler = Sampler(500)
    for index in range(50):
        token, report = sampler.pick(
            logits, Sampling(**{**vars(s), "logprobs": 5}), seed=2, index=index
        )
        assert token < 500
        assert report is not None
        assert all(i < 500 for i, _ in report.top)


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("s", [Sampling(temperature=0), Sampling(), Sampling(top_k=2)])
@pytest.mark.parametrize("at", [0, 77, 299])
def test_bad_logits_are_an_error(bad: float, s: Sampling, at: int) -> None:
    logits = rows(1, 300, "normal", 1.0)
    logits[at] = bad
    with pytest.raises(BadLogitsError, match="1 of 300 logits"):
        Sampler(300).pick(logits, s, seed=1, index=0)
    with pytest.raises(BadLogitsError, match="1 of 300 logits"):
        Sampler(300).score(logits, 5)


@pytest.mark.parametrize("logprobs", [None, 1])
def test_an_infinity_that_the_history_would_cover_up_is_an_error(logprobs: int | None) -> None:
    s = Sampling(top_k=5, min_tokens=3, stop_ids=(77,), logprobs=logprobs)
    logits = rows(1, 300, "normal", 1.0)
    logits[77] = np.inf
    with pytest.raises(BadLogitsError, match="1 of 300 logits"):
        Sampler(300).pick(logits, s, seed=1, index=0, history=History(s, (1, 2)))


@pytest.mark.parametrize("top_k", [0, 5])
@pytest.mark.filterwarnings("error")
def test_huge_logits_stay_finite_under_every_penalty(top_k: int) -> None:
    s = Sampling(top_k=top_k, repetition_penalty=0.01, logit_bias={3: 100.0})
    logits = rows(1, 300, "normal", 1.0)
    logits[[3, 77, 80]] = 3.4e38, 3e37, -3e38
    history = History(s, (77, 80))
    assert Sampler(300).pick(logits, s, seed=1, index=0, history=history)[0] in (3, 77)


def test_bad_padding_is_nobodys_business() -> None:
    logits = np.array([1, 2, np.nan, np.inf], np.float32)
    assert Sampler(2).pick(logits, Sampling(temperature=0), seed=1, index=0)[0] == 1


@pytest.mark.parametrize("s", [Sampling(temperature=0), *SETTINGS], ids=str)
def test_a_mask_is_obeyed(s: Sampling) -> None:
    logits = rows(9, 700, "normal", 3.0)
    allowed = [3, 77, 500, 699]
    bits = np.zeros(700, np.bool_)
    bits[allowed] = True
    mask = np.packbits(bits, bitorder="little")
    got = drawn(Sampler(700), logits, s, 300, mask=mask)
    expected = defined(logits, s, allowed=allowed)
    assert set(np.flatnonzero(got)) <= set(allowed)
    assert np.abs(got - expected).sum() / 2 < 0.1


def test_a_mask_that_allows_nothing_is_an_error() -> None:
    with pytest.raises(BadLogitsError, match="allows no id"):
        Sampler(20).pick(
            rows(1, 20, "normal", 1.0), Sampling(), seed=1, index=0, mask=np.zeros(3, np.uint8)
        )


def test_the_penalty_equals_transformers() -> None:
    torch = pytest.importorskip("torch")
    from transformers import RepetitionPenaltyLogitsProcessor

    logits = rows(4, 200, "normal", 3.0)
    ids = [5, 9, 9, 199, 0]
    processed = RepetitionPenaltyLogitsProcessor(1.1)(
        torch.tensor([ids]), torch.from_numpy(logits.copy())[None]
    )
    mine = logits.copy()
    sampling = Sampling(temperature=0, repetition_penalty=1.1)
    history = History(sampling, tuple(ids[:3]))
    for i in ids[3:]:
        history.add(i)
    Sampler(200).pick(mine, sampling, seed=0, index=0, history=history)
    np.testing.assert_array_equal(mine, processed[0].numpy())


@pytest.mark.parametrize("s", SETTINGS[3:], ids=str)
def test_the_kept_set_equals_transformers(s: Sampling) -> None:
    torch = pytest.importorskip("torch")
    from transformers import (
        MinPLogitsWarper,
        TemperatureLogitsWarper,
        TopKLogitsWarper,
        TopPLogitsWarper,
    )

    logits = rows(8, 2000, "normal", 3.0)
    scores = TemperatureLogitsWarper(s.temperature)(None, torch.from_numpy(logits.copy())[None])
    if s.top_k:
        scores = TopKLogitsWarper(s.top_k)(None, scores)
    if s.top_p < 1:
        scores = TopPLogitsWarper(s.top_p)(None, scores)
    if s.min_p:
        scores = MinPLogitsWarper(s.min_p)(None, scores)
    theirs = torch.softmax(scores[0].double(), -1).numpy()
    np.testing.assert_allclose(defined(logits, s), theirs, atol=1e-5)


@pytest.mark.parametrize("n", [0, 1, 5, 20])
def test_logprobs_are_the_models_own(n: int) -> None:
    logits = rows(2, 900, "normal", 3.0)
    exact = logits.astype(np.float64)
    exact -= exact.max() + np.log(np.exp(exact - exact.max()).sum())
    s = Sampling(temperature=0.3, top_k=7, repetition_penalty=1.5, logprobs=n)
    best = int(logits.argmax())
    before = logits.copy()
    token, report = Sampler(900).pick(logits, s, seed=1, index=0, history=History(s, (best, 4)))
    assert report is not None
    assert report.id == token
    assert report.logprob == pytest.approx(exact[token], abs=1e-6)
    assert [i for i, _ in report.top] == np.argsort(-exact, kind="stable")[:n].tolist()
    assert [v for _, v in report.top] == pytest.approx(np.sort(exact)[::-1][:n], abs=1e-6)
    np.testing.assert_array_equal(logits, before)


def test_score_is_log_softmax() -> None:
    logits = rows(6, 3000, "normal", 5.0)
    exact = logits.astype(np.float64)
    exact -= exact.max() + np.log(np.exp(exact - exact.max()).sum())
    sampler = Sampler(3000)
    for target in (0, 5, int(logits.argmax()), 2999):
        value, best = sampler.score(logits, target)
        assert value == pytest.approx(exact[target], abs=1e-6)
        assert best == logits.argmax()


def test_the_stream_is_a_function_of_seed_and_index() -> None:
    """Known answers, so that no release changes what a seed yields."""
    got = [uniform(0, 0), uniform(0, 1), uniform(1, 0), uniform(2**64 - 1, 2**31)]
    assert got == [
        0.011546754286331562,
        0.5023796042735054,
        0.3035680343067586,
        0.4927357250286325,
    ]
    sample = np.array([uniform(7, i) for i in range(4000)])
    assert 0 <= sample.min() < sample.max() < 1
    assert abs(np.histogram(sample, 10, (0, 1))[0] - 400).max() < 5 * np.sqrt(400)
