"""Records and what they say together, against plain recounts."""

from __future__ import annotations

import os
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from qwick.errors import ParameterError
from qwick.monitor.memory import resident_bytes
from qwick.monitor.records import REFUSED, Averages, Records, RequestRecord, percentile


def record(**fields: Any) -> RequestRecord:
    values: dict[str, Any] = {
        "time": 1.0, "request": "r", "model": "m", "kind": "chat", "status": 200,
        "finish": "stop", "streamed": False, "choices": 1, "prompt_tokens": 10,
        "cached_tokens": 0, "completion_tokens": 5, "reasoning_tokens": 0, "queue": 0.1,
        "prefill": 0.2, "decode": 0.3, "ttft": 0.3, "total": 0.6, "tpot": 0.05,
        "tokens_per_second": 20.0, "memory": 1000,
    }  # fmt: skip
    return RequestRecord(**{**values, **fields})


@given(st.lists(st.floats(0, 1e6), max_size=40), st.floats(0, 1))
def test_percentiles_are_numpys(values: list[float], share: float) -> None:
    found = percentile(values, share)
    if not values:
        assert found is None
    else:
        assert found == pytest.approx(float(np.percentile(values, share * 100)), rel=1e-9, abs=1e-9)


times = st.none() | st.floats(0, 100)
records = st.builds(
    record,
    status=st.sampled_from([200, 400, 499, 500, 503]),
    finish=st.sampled_from(["error", REFUSED]),
    ttft=times,
    tpot=times,
    total=st.floats(0, 100),
    tokens_per_second=st.just(0.0) | st.floats(1, 100),
    memory=st.none() | st.integers(0, 10**10),
)


@given(st.lists(records, max_size=30))
def test_averages_are_a_plain_recount(found: list[RequestRecord]) -> None:
    averages = Averages.of(found)
    good = [r for r in found if r.status == 200]
    assert averages.count == len(found)
    failed = [r.finish for r in found if r.status in (500, 503)]
    assert (averages.errors, averages.turned_away) == (failed.count("error"), failed.count(REFUSED))
    assert averages.cancelled == sum(r.status == 499 for r in found)
    assert averages.latency_mean == (
        pytest.approx(float(np.mean([r.total for r in good]))) if good else None
    )
    speeds = [r.tokens_per_second for r in good if r.tokens_per_second]
    assert averages.tokens_per_second == (pytest.approx(float(np.mean(speeds))) if speeds else None)
    memories = [r.memory for r in found if r.memory is not None]
    assert averages.memory_max == (max(memories) if memories else None)
    assert set(averages.to_dict()) >= {"ttft_p95", "tpot_p50"}


def test_only_the_last_are_kept() -> None:
    kept = Records(3)
    for i in range(10):
        kept.add(record(request=str(i), status=200 if i % 2 else 500))
    assert [r.request for r in kept.last(2)] == ["9", "8"]
    assert [r.request for r in kept.last(9)] == ["9", "8", "7"]
    assert [r.request for r in kept.last(9, lambda r: r.status == 500)] == ["8"]
    assert kept.averages(2).count == 2
    with pytest.raises(ParameterError, match="kept is 0"):
        Records(0)


def test_memory_of_a_process() -> None:
    mine = resident_bytes()
    assert mine is not None
    assert 1 << 20 < mine < 1 << 40
    assert resident_bytes(os.getpid()) == pytest.approx(mine, rel=0.2)
    assert resident_bytes(2**22 + 1) is None
