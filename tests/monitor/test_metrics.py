"""What Prometheus reads equals a plain recount, and counters never go back."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from prometheus_client.parser import text_string_to_metric_families

from monitor.test_records import record
from qwick.engine.stats import STEP_TOKENS, Snapshot, Stats
from qwick.model.expert_use import ExpertUse
from qwick.monitor.metrics import COUNTS, FINISHES, LATENCY, PER_TOKEN, TTFT, Metrics
from qwick.monitor.records import REFUSED, RequestRecord

GAPS = (0.01, 0.02, 0.2)


def read(metrics: Metrics) -> dict[tuple[str, tuple[tuple[str, str], ...]], float]:
    body, kind = metrics.render()
    assert kind.startswith("text/plain")
    found = {}
    for family in text_string_to_metric_families(body.decode()):
        for sample in family.samples:
            labels = {k: v for k, v in sample.labels.items() if k != "engine"}
            found[sample.name, tuple(sorted(labels.items()))] = sample.value
    return found


records = st.builds(
    record,
    model=st.sampled_from(["a", "b"]),
    status=st.sampled_from([200, 400, 499, 503]),
    finish=st.sampled_from([*FINISHES, "made up", REFUSED]),
    prompt_tokens=st.integers(1, 300_000),
    completion_tokens=st.integers(0, 300_000),
    ttft=st.none() | st.floats(0, 3000),
    tpot=st.none() | st.floats(0, 100),
    total=st.floats(0, 8000),
    queue=st.floats(0, 8000),
    prefill=st.floats(0, 8000),
    decode=st.floats(0, 8000),
    choices=st.integers(1, 16),
    max_tokens=st.none() | st.integers(1, 300_000),
)
# Each histogram, its bounds, and what is counted in it. Plain, and written apart from the code.
HISTOGRAMS: dict[str, tuple[tuple[float, ...], Callable[[RequestRecord], list[float | None]]]] = {
    "time_to_first_token_seconds": (TTFT, lambda r: [r.ttft]),
    "inter_token_latency_seconds": (PER_TOKEN, lambda r: [*GAPS]),
    "request_time_per_output_token_seconds": (PER_TOKEN, lambda r: [r.tpot]),
    "e2e_request_latency_seconds": (LATENCY, lambda r: [r.total]),
    "request_queue_time_seconds": (LATENCY, lambda r: [r.queue]),
    "request_prefill_time_seconds": (LATENCY, lambda r: [r.prefill]),
    "request_decode_time_seconds": (LATENCY, lambda r: [r.decode]),
    "request_inference_time_seconds": (LATENCY, lambda r: [r.prefill + r.decode]),
    "request_prompt_tokens": (COUNTS, lambda r: [r.prompt_tokens]),
    "request_generation_tokens": (COUNTS, lambda r: [r.completion_tokens]),
    "request_max_num_generation_tokens": (
        COUNTS,
        lambda r: [r.completion_tokens] if r.choices == 1 else [],
    ),
    "request_params_n": ((1, 2, 5, 10, 20), lambda r: [r.choices]),
    "request_params_max_tokens": (COUNTS, lambda r: [r.max_tokens]),
}
VLLM_FINISHES = {"tool_calls": "stop", "cancelled": "abort"}


@settings(deadline=None)
@given(st.lists(records, max_size=20))
def test_a_plain_recount(found: list[RequestRecord]) -> None:
    metrics = Metrics(["a", "b"], version="1", compat=True)
    for one in found:
        metrics.observe(one, GAPS)
    values = read(metrics)
    counted = [r for r in found if r.finish != REFUSED]
    for prefix in ("qwick", "vllm"):
        for model in ("a", "b"):
            label = (("model_name", model),)
            own = [r for r in counted if r.model == model]
            assert values[f"{prefix}:prompt_tokens_total", label] == sum(
                r.prompt_tokens for r in own
            )
            words = VLLM_FINISHES if prefix == "vllm" else {}
            ends = Counter(r.finish if r.finish in FINISHES else "error" for r in own)
            told: Counter[str] = Counter()
            for finish in FINISHES:
                told[words.get(finish, finish)] += ends[finish]
            for finish, count in told.items():
                where = (("finished_reason", finish), ("model_name", model))
                assert values[f"{prefix}:request_success_total", where] == count
            for name, (bounds, of) in HISTOGRAMS.items():
                seen = [value for r in own for value in of(r) if value is not None]
                for bound in (*bounds, None):
                    le = "+Inf" if bound is None else str(float(bound))
                    where = (("le", le), *label)
                    got = values[f"{prefix}:{name}_bucket", where]
                    assert got == sum(bound is None or value <= bound for value in seen)
                assert values[f"{prefix}:{name}_count", label] == len(seen)
                assert values[f"{prefix}:{name}_sum", label] == pytest.approx(sum(seen))


def snapshot(**values: Any) -> dict[str, Any]:
    names = [
        *("running", "waiting", "pages_used", "prefix_hit_tokens", "prefix_miss_tokens"),
        *("preemptions", "drafted", "accepted", "steps", "step_seconds", "failed_steps"),
        *("model_seconds", "between_seconds", "corrupted", "drafts", "prompt_rows", "generated"),
    ]
    cache = {"pages": 10, "page_size": 64, "prefix_reuse": True, "experts": None}
    return {**dict.fromkeys(names, 0), **cache, "step_tokens": [0] * 14, **values}


@settings(deadline=None)
@given(st.lists(st.tuples(st.integers(0, 3), st.integers(0, 100)), max_size=20))
def test_counters_go_on_over_restarts(looks: list[tuple[int, int]]) -> None:
    """Each life of an engine counts from 0; what is told is the sum over its lives."""
    metrics = Metrics(["m"], version="1")
    last, before = 0.0, dict[int, int]()
    for life, steps in sorted(looks):
        before[life] = max(before.get(life, 0), steps)
        metrics.engine("m", snapshot(steps=steps), waiting=0, restarts=0, life=life)
        value = read(metrics)["qwick:engine_steps_total", (("model_name", "m"),)]
        assert value >= last
        last = value
    assert last == sum(before.values())


def test_gauges_and_the_rest() -> None:
    metrics = Metrics(["m"], version="1.2")
    metrics.engine(
        "m",
        snapshot(running=3, waiting=1, pages_used=5, prefix_hit_tokens=7, prefix_miss_tokens=3)
        | {"corrupted": 2, "drafts": 4},
        waiting=4,
        restarts=2,
        life=0,
    )
    metrics.memory({"server": 100, "gone": None})
    metrics.audit(6)
    metrics.answered("/health", 200, None)
    metrics.answered("/v1/models", 401, "authentication")
    values = read(metrics)
    label = (("model_name", "m"),)
    assert values["qwick:num_requests_running", label] == 3
    assert values["qwick:num_requests_waiting", label] == 5
    assert values["qwick:kv_cache_usage_perc", label] == 0.5
    assert values["qwick:prefix_cache_queries_total", label] == 10
    assert values["qwick:prefix_cache_hits_total", label] == 7
    assert values["qwick:engine_restarts_total", label] == 2
    assert values["qwick:corrupted_requests_total", label] == 2
    assert values["qwick:spec_decode_num_drafts_total", label] == 4
    assert values["qwick:audit_unwritten_lines", ()] == 6
    assert values["qwick:process_memory_bytes", (("process", "server"),)] == 100
    assert values["qwick:http_requests_total", (("path", "/health"), ("status", "200"))] == 1
    assert values["qwick:refusals_total", (("reason", "authentication"),)] == 1
    assert values["qwick:build_info", (("version", "1.2"),)] == 1
    assert ("qwick:process_memory_bytes", (("process", "gone"),)) not in values


def test_restarts_are_counted_over_loads() -> None:
    metrics = Metrics(["m"], version="1")
    for restarts, total in ((0, 0), (2, 2), (2, 2), (0, 2), (1, 3), (3, 5)):
        metrics.engine("m", snapshot(), waiting=0, restarts=restarts, life=restarts)
        assert read(metrics)["qwick:engine_restarts_total", (("model_name", "m"),)] == total


def test_what_is_gone_is_not_told_any_more() -> None:
    """A model that was unloaded runs nothing; its process has no memory."""
    metrics = Metrics(["m"], version="1")
    metrics.engine("m", snapshot(running=3, pages_used=5, steps=7), waiting=0)
    metrics.memory({"server": 100, "m": 200})
    metrics.engine("m", None, waiting=2)
    metrics.memory({"server": 100})
    values, label = read(metrics), (("model_name", "m"),)
    assert values["qwick:num_requests_running", label] == 0
    assert values["qwick:num_requests_waiting", label] == 2
    assert values["qwick:kv_cache_usage_perc", label] == 0
    assert values["qwick:engine_steps_total", label] == 7
    assert ("qwick:process_memory_bytes", (("process", "m"),)) not in values


def test_steps_by_their_tokens() -> None:
    """As the engine counts them: within vLLM's bounds, and over the lives of engines."""
    metrics, stats = Metrics(["m"], version="1"), Stats()
    tokens = [1, 1, 2, 8, 9, 16384, 20000]
    for count in tokens:
        stats.count_step(count)
        stats.generated += count
    told = {**snapshot(), **Snapshot(stats, pages=10, page_size=64).to_dict()}
    for life in (0, 1, 1):
        metrics.engine("m", told, waiting=0, life=life)
    values, label = read(metrics), (("model_name", "m"),)
    for bound, count in (("1.0", 2), ("8.0", 4), ("16.0", 5), ("16384.0", 6), ("+Inf", 7)):
        where = (("le", bound), *label)
        assert values["qwick:iteration_tokens_total_bucket", where] == 2 * count
    assert values["qwick:iteration_tokens_total_sum", label] == 2 * sum(tokens)
    cache = {"block_size": "64", "num_gpu_blocks": "10", "enable_prefix_caching": "True"}
    where = tuple(sorted({**cache, "model_name": "m"}.items()))
    assert values["qwick:cache_config_info", where] == 1


def test_the_use_of_experts() -> None:
    metrics, label = Metrics(["m"], version="1"), (("model_name", "m"),)
    use = ExpertUse(48, 128, 96, 800, 7680, 0.25, 3, 10**9, 8 * 10**8, 700, 100, 27 * 10**7)
    counts = {"calls": 96, "taken": 800, "rows": 7680, "hits": 700, "misses": 100}
    for life in (0, 0, 1):  # the second look finds nothing new, the third another engine
        metrics.engine("m", Snapshot(experts=use).to_dict(), waiting=0, life=life)
    values = read(metrics)
    for name, count in counts.items():
        assert values[f"qwick:expert_{name}_total", label] == 2 * count
    assert values["qwick:expert_read_bytes_total", label] == 2 * 27 * 10**7
    gauges = {"busiest_share": 0.25, "idle": 3, "resident_bytes": 8 * 10**8}
    for name, value in gauges.items():
        assert values[f"qwick:expert_{name}", label] == value
    metrics.engine("m", None, waiting=0)  # unloaded
    assert read(metrics)["qwick:expert_resident_bytes", label] == 0
    assert use.per_call == 800 / 96


def test_an_unknown_model_makes_no_series() -> None:
    metrics = Metrics(["m"], version="1")
    before = set(read(metrics))
    with pytest.raises(KeyError):
        metrics.observe(record(model="made up"), [])
    with pytest.raises(KeyError):
        metrics.engine("made up", snapshot(), waiting=0)
    assert set(read(metrics)) == before


def test_two_servers_in_one_process_count_apart() -> None:
    """Nothing is kept for the whole process, and nothing in prometheus_client is changed."""
    from prometheus_client import CollectorRegistry, generate_latest
    from prometheus_client import Counter as Other

    first, second = Metrics(["m"], version="1"), Metrics(["m"], version="2")
    first.observe(record(), [])
    label = (("model_name", "m"),)
    assert read(first)["qwick:prompt_tokens_total", label] == 10
    assert read(second)["qwick:prompt_tokens_total", label] == 0
    registry = CollectorRegistry()
    Other("other", "Somebody else's.", registry=registry).inc()
    assert b"other_created" in generate_latest(registry)


# What vLLM's dashboard asks for (examples/online_serving/prometheus_grafana/grafana.json), and
# what newer ones call it.
DASHBOARD = (
    *("e2e_request_latency_seconds_bucket", "e2e_request_latency_seconds_sum"),
    *("e2e_request_latency_seconds_count", "prompt_tokens_total", "generation_tokens_total"),
    *("time_per_output_token_seconds_bucket", "inter_token_latency_seconds_bucket"),
    *("num_requests_running", "num_requests_waiting", "time_to_first_token_seconds_bucket"),
    *("gpu_cache_usage_perc", "kv_cache_usage_perc", "request_prompt_tokens_bucket"),
    *("request_generation_tokens_bucket", "request_success_total"),
    *("request_queue_time_seconds_sum", "request_prefill_time_seconds_sum"),
    *("request_decode_time_seconds_sum", "request_max_num_generation_tokens_sum"),
)


def test_vllms_dashboard_finds_its_names() -> None:
    told = {name for name, _ in read(Metrics(["m"], version="1", compat=True))}
    assert {f"vllm:{name}" for name in DASHBOARD} <= told
    assert not any(name.startswith("vllm:") for name, _ in read(Metrics(["m"], version="1")))


def test_observing_is_cheap() -> None:
    """An answer of 10,000 tokens must not hold up the others; 2 ms here, a hundred is too much."""
    metrics, gaps = Metrics(["m"], version="1", compat=True), [0.02] * 10_000
    times = []
    for _ in range(5):
        begun = time.perf_counter()
        metrics.observe(record(), gaps)
        times.append(time.perf_counter() - begun)
    assert min(times) < 0.1


VLLM_BUCKETS: dict[tuple[float, ...], str] = {
    TTFT: "0.001 0.005 0.01 0.02 0.04 0.06 0.08 0.1 0.25 0.5 0.75 1 2.5 5 7.5 10 20 40 80 160 640 "
    "2560",
    PER_TOKEN: "0.01 0.025 0.05 0.075 0.1 0.15 0.2 0.3 0.4 0.5 0.75 1 2.5 5 7.5 10 20 40 80",
    STEP_TOKENS: "1 8 16 32 64 128 256 512 1024 2048 4096 8192 16384",
    LATENCY: "0.3 0.5 0.8 1 1.5 2 2.5 5 10 15 20 30 40 50 60 120 240 480 960 1920 7680",
}


def test_buckets_are_vllms() -> None:
    """As vllm/v1/metrics/loggers.py has them."""
    for ours, theirs in VLLM_BUCKETS.items():
        assert list(ours) == [float(word) for word in theirs.split()]
    assert COUNTS[:5] == (1, 2, 5, 10, 20)
    assert COUNTS[-2:] == (100_000, 200_000)


def test_a_server_without_models_is_none() -> None:
    with pytest.raises(KeyError):
        _ = read(Metrics([], version="1"))["qwick:prompt_tokens_total", ()]
