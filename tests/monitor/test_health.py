"""The verdict: what makes a server degraded or unhealthy, and what is advised."""

from __future__ import annotations

from typing import Any

import pytest

from monitor.test_records import record
from qwick.errors import ParameterError
from qwick.monitor.health import ModelFacts, Thresholds, verdict
from qwick.monitor.records import REFUSED, Averages

MB = 10**6


def judged(
    answers: dict[str, Any], model: dict[str, Any], memory: int | None, **thresholds: float
) -> tuple[str, str]:
    averages = Averages.of([record(**answers) for _ in range(5)])
    facts = ModelFacts("m", **{"state": "ready", "weights": 500 * MB, **model})
    found = verdict(averages, {"m": facts}, Thresholds(**thresholds), memory=memory)
    assert (found.status == "healthy") is not bool(found.reasons)
    assert bool(found.reasons) == bool(found.recommendations)
    return found.status, " ".join(found.reasons)


@pytest.mark.parametrize(
    ("answers", "model", "memory", "thresholds", "status", "words"),
    [
        ({}, {}, 900 * MB, {}, "healthy", ""),
        ({"total": 11.0}, {}, None, {}, "degraded", "11.0 s on average; the threshold is 10 s"),
        ({"total": 31.0}, {}, None, {}, "unhealthy", "31.0 s"),
        ({"total": 11.0}, {}, None, {"latency": 12.0}, "healthy", ""),
        ({"tokens_per_second": 4.0}, {}, None, {}, "degraded", "4.0 tokens/s"),
        ({"tokens_per_second": 1.0}, {}, None, {}, "unhealthy", "1.0 tokens/s"),
        ({}, {}, 1501 * MB, {}, "degraded", "1001 MB are in use beyond the weights"),
        ({}, {}, 1499 * MB, {}, "healthy", ""),
        (
            *({"status": 503}, {}, None, {}, "unhealthy"),
            "5 of the last 5 requests failed, 100%; the threshold is 10%",
        ),
        ({"status": 503}, {}, None, {"errors": 0.5}, "degraded", "the threshold is 50%"),
        ({"status": 503}, {}, None, {"errors": 1.0}, "healthy", ""),
        ({"status": 499}, {}, None, {}, "healthy", ""),
        ({}, {"state": "failed"}, None, {}, "unhealthy", "m is failed"),
        ({}, {"silent": 20.0}, None, {}, "unhealthy", "silent for 20 s"),
        ({}, {"silent": 20.0, "computing": True, "patience": 60.0}, None, {}, "healthy", ""),
        (
            *({}, {"silent": 70.0, "computing": True, "patience": 60.0}, None, {}, "unhealthy"),
            "silent for 70 s; the limit is 60 s",
        ),
        (
            *({"status": 503, "finish": REFUSED}, {}, None, {}, "degraded"),
            "5 of the last 5 requests were turned away, 100%: too many waited",
        ),
        ({"status": 400, "finish": REFUSED}, {}, None, {}, "healthy", ""),
        (
            *({}, {"restarts": 1, "restarted": 5.0}, None, {}, "degraded"),
            "replaced once, the last time 5 s ago",
        ),
        ({}, {"restarts": 2, "restarted": 3599.0}, None, {}, "degraded", "replaced 2 times"),
        ({}, {"restarts": 2, "restarted": 3601.0}, None, {}, "healthy", ""),
        ({}, {"waiting": 1}, None, {}, "degraded", "1 request waits for m"),
        ({}, {"waiting": 3}, None, {}, "degraded", "3 requests wait for m"),
        ({}, {"cache_used": 0.95}, None, {}, "degraded", "95% of the cache"),
        ({}, {"state": "cold"}, None, {}, "healthy", ""),
    ],
)
def test_the_table(
    answers: dict[str, Any],
    model: dict[str, Any],
    memory: int | None,
    thresholds: dict[str, float],
    status: str,
    words: str,
) -> None:
    found, reasons = judged(answers, model, memory, **thresholds)
    assert found == status
    assert words in reasons


def test_an_audit_log_that_lacks_refusals_is_told() -> None:
    for count, words in ((1, "lacks 1 refusal"), (7, "lacks 7 refusals")):
        found = verdict(Averages.of([]), {}, Thresholds(), memory=None, unwritten=count)
        assert found.status == "degraded"
        assert found.reasons == (f"the audit log cannot be written and {words}",)
        assert "make room on the disk" in found.recommendations[0]


def test_one_slow_answer_is_no_verdict() -> None:
    averages = Averages.of([record(total=100.0)])
    assert verdict(averages, {}, Thresholds(), memory=None).status == "healthy"


def test_one_failed_request_is_no_verdict() -> None:
    averages = Averages.of([record(status=500)])
    assert verdict(averages, {}, Thresholds(), memory=None).status == "healthy"


def test_a_flood_hides_no_failures_and_is_none() -> None:
    away, good, bad = record(status=503, finish=REFUSED), record(), record(status=500)
    flood = Averages.of([*[away] * 7, *[good] * 3])
    assert (flood.errors, flood.turned_away, flood.latency_mean) == (0, 7, good.total)
    found = verdict(flood, {}, Thresholds(), memory=None)
    assert (found.status, len(found.reasons)) == ("degraded", 1)
    found = verdict(Averages.of([*[away] * 7, bad, bad, good]), {}, Thresholds(), memory=None)
    assert found.status == "unhealthy"
    assert found.reasons[0].startswith("2 of the last 3 requests failed, 67%")
    few = Averages.of([*[away] * 5, *[good] * 95])
    assert verdict(few, {}, Thresholds(), memory=None).status == "healthy"


def test_the_worst_finding_is_the_status_and_advice_comes_once() -> None:
    slow = Averages.of([record(total=11.0)] * 3)
    models = {n: ModelFacts(n, "failed") for n in ("a", "b")}
    found = verdict(slow, models, Thresholds(), memory=None)
    assert found.status == "unhealthy"
    assert len(found.reasons) == 3
    assert len(found.recommendations) == len(set(found.recommendations)) == 2


def test_thresholds_that_are_none() -> None:
    for bad in ({"latency": 0.0}, {"memory": -1.0}, {"speed": float("nan")}, {"errors": 1.1}):
        with pytest.raises(ParameterError):
            Thresholds(**bad)
