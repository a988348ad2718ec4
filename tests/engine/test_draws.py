"""100,000 draws of every filter and penalty against the exact distribution.

Chi-square with a fixed stream: of what is right a run exceeds the limit once in a million runs,
and the stream decides once for all. What is nearly right (a temperature 4 % off, an id too many)
must exceed it, or the test could not fail.
"""

from __future__ import annotations

import functools

import numpy as np
import pytest
from numpy.typing import NDArray

from engine.test_history import defined as changed
from engine.test_sampler import defined as filtered
from engine.test_sampler import rows
from qwick.engine.history import History
from qwick.engine.request import Sampling
from qwick.engine.sampler import Sampler

DRAWS = 100_000
SIZE = 24
PROMPT, ANSWER = [1, 2, 3], [3, 3, 5, 8]
CASES = {
    "plain": Sampling(),
    "temperature": Sampling(temperature=0.6),
    "top_k": Sampling(top_k=7),
    "top_p": Sampling(top_p=0.83),
    "min_p": Sampling(min_p=0.06),
    "repetition_penalty": Sampling(repetition_penalty=1.4),
    "presence_penalty": Sampling(presence_penalty=1.1),
    "frequency_penalty": Sampling(frequency_penalty=-0.6),
    "logit_bias": Sampling(logit_bias={4: 1.5, 5: -100, 9: -0.7}),
    "min_tokens": Sampling(min_tokens=9, stop_ids=(6, 7)),
    "all": Sampling(
        temperature=1.3,
        top_k=15,
        top_p=0.95,
        min_p=0.01,
        repetition_penalty=1.2,
        presence_penalty=0.4,
        frequency_penalty=0.3,
        logit_bias={4: 1.0},
        min_tokens=9,
        stop_ids=(6, 7),
    ),
}
LOGITS = rows(5, SIZE, "normal", 1.5)


def expected(s: Sampling) -> NDArray[np.float64]:
    row = changed(LOGITS, s, PROMPT, ANSWER)
    neutral = Sampling(temperature=s.temperature, top_k=s.top_k, top_p=s.top_p, min_p=s.min_p)
    return filtered(row, neutral)


@functools.lru_cache
def counts(name: str) -> NDArray[np.float64]:
    s = CASES[name]
    sampler, history = Sampler(SIZE), History.of(s, tuple(PROMPT))
    for token in ANSWER if history is not None else ():
        history.add(token)  # type: ignore[union-attr]
    found = np.zeros(SIZE)
    for index in range(DRAWS):
        found[sampler.pick(LOGITS.copy(), s, seed=17, index=index, history=history)[0]] += 1
    return found


def excess(found: NDArray[np.float64], p: NDArray[np.float64]) -> float:
    """Chi-square over its limit (mean k, deviation sqrt(2 k): 6 deviations); more than 1 is bad."""
    if found[p == 0].any():
        return np.inf
    some = p > 0
    chi = float(((found[some] - DRAWS * p[some]) ** 2 / (DRAWS * p[some])).sum())
    k = int(some.sum()) - 1
    return chi / (k + 6 * np.sqrt(2 * k) + 6)


@pytest.mark.parametrize("name", CASES)
def test_draws_follow_the_distribution(name: str) -> None:
    assert excess(counts(name), expected(CASES[name])) < 1


def test_what_is_nearly_right_is_caught() -> None:
    plain = counts("plain")
    assert excess(plain, expected(Sampling(temperature=1.04))) > 1
    assert excess(plain, expected(Sampling(presence_penalty=0.05))) > 1
    seven = counts("top_k")
    assert excess(seven, expected(Sampling(top_k=6))) > 1
    assert excess(seven, expected(Sampling(top_k=8))) > 1
    assert excess(counts("top_p"), expected(Sampling(top_p=0.9))) > 1
    assert excess(counts("frequency_penalty"), expected(Sampling(presence_penalty=-0.6))) > 1
