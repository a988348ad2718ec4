"""The report of servers under load: ratios the right way round, and its verdict."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from bench.serving_report import ServingReport, write

SETTINGS = {"model": "m.gguf", "cores": 2, "prompt": 128, "answer": 64, "vllm_dtype": "bfloat16"}
MACHINE = {
    "cpu": "a CPU",
    "isa": "avx2",
    "date": "2026-01-01",
    "commit": "abc",
    "versions": {"vLLM": "1"},
}


def row(speed: float, wait: float, *, at_once: int = 8, failed: int = 0, **more: Any) -> Any:
    times = {f"{name}_ms": wait for name in ("ttft_p50", "ttft_p99", "tpot_p50", "tpot_p99")}
    counts = {"at_once": at_once, "requests": 16, "failed": failed}
    return {**counts, "output_tokens_s": speed, **times, **more}


def report(**rows: Any) -> ServingReport:
    return ServingReport(SETTINGS, MACHINE, rows)


def test_more_tokens_and_less_waiting_are_better() -> None:
    told = report(qwick_plain=[row(100.0, 50.0, idle_share=0.01)], vllm_cpu=[row(50.0, 200.0)])
    (ratios,) = told.ratios()["vllm_cpu"]
    assert ratios["output_tokens_s"] == 2
    assert ratios["ttft_p99_ms"] == ratios["tpot_p50_ms"] == 4
    assert "| vLLM | 8 | 2.00 | 4.00 | 4.00 | 4.00 | 4.00 |" in told.markdown()
    assert told.passed


@pytest.mark.parametrize(
    ("rows", "passed"),
    [
        ({"qwick": [row(1.0, 1.0, idle_share=0.09)]}, True),
        ({"qwick": [row(1.0, 1.0, idle_share=0.11)]}, False),
        ({"qwick": [row(1.0, 1.0, failed=1, idle_share=0.01)]}, False),
        ({"qwick_plain": [row(1.0, 1.0, idle_share=0.11)]}, False),
        (
            {"qwick": [row(1.0, 1.0, idle_share=0.01)], "llama_cpp": [row(1.0, 1.0, failed=1)]},
            True,
        ),
        ({"llama_cpp": [row(1.0, 1.0)]}, True),
    ],
)
def test_failures_and_an_idle_engine_fail_it(rows: Any, passed: bool) -> None:
    assert report(**rows).passed is passed


def test_levels_that_only_one_has_are_not_compared(tmp_path: Path) -> None:
    told = report(
        qwick_plain=[row(2.0, 1.0, idle_share=0.0)],
        qwick=[row(9.0, 1.0, idle_share=0.0), row(9.0, 1.0, at_once=32, idle_share=0.0)],
        llama_cpp=[row(0.0, 0.0), row(1.0, 1.0, at_once=32)],
    )
    assert told.ratios() == {"llama_cpp": [{"at_once": 8}]}
    write(told, tmp_path)
    assert json.loads((tmp_path / "serving.json").read_text("utf-8")) == told.to_dict()
    assert "32 at once" in (tmp_path / "serving.svg").read_text("utf-8")
