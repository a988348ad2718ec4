"""Metrics for Prometheus, with vLLM's names and buckets under our prefix.

Names, labels and buckets are those of vLLM (vllm/v1/metrics/loggers.py), so dashboards made for it
work by a change of the prefix, or with `compat` as they are. Label values come from sets that are
known beforehand: whoever asks cannot make a new series.

Counted in plain numbers, and made into Prometheus's families when somebody looks: an answer of
thousands of tokens is counted on the event loop that all answers share. For one thread.
"""

from __future__ import annotations

from bisect import bisect_left
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from itertools import accumulate
from typing import Any

from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.core import (
    CounterMetricFamily,
    GaugeMetricFamily,
    HistogramMetricFamily,
    Metric,
)
from prometheus_client.exposition import CONTENT_TYPE_LATEST
from prometheus_client.registry import Collector
from prometheus_client.utils import floatToGoString

from qwick.engine.stats import STEP_TOKENS
from qwick.monitor.records import REFUSED, RequestRecord

PREFIX, COMPAT = "qwick", "vllm"
LABELS = ("model_name", "engine")
ENGINE = "0"  # vLLM numbers the engines of a model; here it has one

TTFT = (
    *(0.001, 0.005, 0.01, 0.02, 0.04, 0.06, 0.08, 0.1, 0.25, 0.5, 0.75, 1.0, 2.5, 5.0, 7.5, 10.0),
    *(20.0, 40.0, 80.0, 160.0, 640.0, 2560.0),
)
PER_TOKEN = (
    *(0.01, 0.025, 0.05, 0.075, 0.1, 0.15, 0.2, 0.3, 0.4, 0.5, 0.75, 1.0, 2.5, 5.0, 7.5, 10.0),
    *(20.0, 40.0, 80.0),
)
LATENCY = (
    *(0.3, 0.5, 0.8, 1.0, 1.5, 2.0, 2.5, 5.0, 10.0, 15.0, 20.0, 30.0, 40.0, 50.0, 60.0),
    *(120.0, 240.0, 480.0, 960.0, 1920.0, 7680.0),
)
COUNTS = tuple(
    digit * 10**power for power in range(6) for digit in (1, 2, 5) if digit * 10**power <= 200_000
)
FINISHES = ("stop", "length", "tool_calls", "repetition", "cancelled", "error")
_VLLM_FINISHES = {"tool_calls": "stop", "cancelled": "abort"}  # its words, where they differ

_GAUGES = {
    "num_requests_running": "Requests that are being computed.",
    "num_requests_waiting": "Requests that wait.",
    "kv_cache_usage_perc": "Share of the cache in use, 0 to 1.",
}
_COUNTERS = {
    "prompt_tokens": "Tokens of prompts.",
    "generation_tokens": "Generated tokens.",
    "prefix_cache_queries": "Tokens looked for in the prefix cache.",
    "prefix_cache_hits": "Tokens found in the prefix cache.",
    "num_preemptions": "Requests whose pages were taken for others.",
    "corrupted_requests": "Requests that failed because logits were NaN or infinite.",
    "spec_decode_num_drafts": "How often tokens were guessed ahead.",
    "spec_decode_num_draft_tokens": "Tokens guessed ahead.",
    "spec_decode_num_accepted_tokens": "Guessed tokens that were right.",
}
_OWN_COUNTERS = {  # which vLLM does not have
    "engine_steps": "Steps of the engine.",
    "engine_step_seconds": "Seconds within steps of the engine.",
    "engine_model_seconds": "Seconds of them within the model.",
    "engine_between_seconds": "Seconds between steps of the engine while there was work.",
    "engine_failed_steps": "Steps that failed.",
    "engine_restarts": "How often an engine was replaced.",
}
_EXPERT_COUNTERS = {  # of mixtures of experts: 0 for other models
    "expert_calls": "Layers of experts computed: one a layer, step and kind of row.",
    "expert_taken": "Experts read by them, each once a step for each kind of row.",
    "expert_rows": "Tokens times the experts that each took.",
    "expert_hits": "Experts that were in memory when they were to be read.",
    "expert_misses": "Experts that were not.",
    "expert_read_bytes": "Bytes of experts brought into memory.",
}
_EXPERT_GAUGES = {
    "expert_busiest_share": "Largest share that one expert has of its layer's rows, 0 to 1.",
    "expert_idle": "Experts that no token has taken.",
    "expert_resident_bytes": "Bytes of experts in memory, of those that lie in a file.",
}
_HISTOGRAMS: dict[str, tuple[str, Sequence[float]]] = {
    "time_to_first_token_seconds": ("Seconds to the first token.", TTFT),
    "inter_token_latency_seconds": ("Seconds between two pieces of an answer.", PER_TOKEN),
    "request_time_per_output_token_seconds": ("Seconds per token after the first.", PER_TOKEN),
    "e2e_request_latency_seconds": ("Seconds of a request.", LATENCY),
    "request_queue_time_seconds": ("Seconds in queues.", LATENCY),
    "request_prefill_time_seconds": ("Seconds of computing the prompt.", LATENCY),
    "request_decode_time_seconds": ("Seconds from the first token on.", LATENCY),
    "request_inference_time_seconds": ("Seconds of prompt and answer.", LATENCY),
    "request_prompt_tokens": ("Tokens of a prompt.", COUNTS),
    "request_generation_tokens": ("Tokens of an answer.", COUNTS),
    # vLLM's: of the longest choice. Told for requests of one choice, where that is known.
    "request_max_num_generation_tokens": ("Tokens of a request's longest answer.", COUNTS),
    "request_params_n": ("Answers asked for.", (1, 2, 5, 10, 20)),
    "request_params_max_tokens": ("max_tokens asked for.", COUNTS),
    "iteration_tokens_total": ("Tokens of a step: of prompts, and generated.", STEP_TOKENS),
}
_CACHE = ("block_size", "num_gpu_blocks", "enable_prefix_caching")  # vLLM's words, on any machine
# Names of older vLLM, which its published dashboards still have: told with `compat` only.
_OLD_NAMES = {
    "kv_cache_usage_perc": "gpu_cache_usage_perc",
    "inter_token_latency_seconds": "time_per_output_token_seconds",
}


class Metrics:
    """All metrics of one server. models: those that it serves; for others, KeyError."""

    def __init__(self, models: Sequence[str], *, version: str, compat: bool = False) -> None:
        self._models = {name: _Model() for name in models}
        self._prefixes = (PREFIX, COMPAT) if compat else (PREFIX,)
        self._version = version
        self._answers: Counter[tuple[str, str]] = Counter()
        self._refusals: Counter[str] = Counter()
        self._memory: dict[str, int] = {}
        self._unwritten = 0
        self._registry = CollectorRegistry()
        self._registry.register(_Look(self))

    def observe(self, record: RequestRecord, gaps: Sequence[float]) -> None:
        """Count a request; gaps: seconds between the pieces of its answer.

        One that was refused was no request to a model: it is among the refusals.
        """
        if record.finish != REFUSED:
            self._models[record.model].observe(record, gaps)

    def answered(self, path: str, status: int, reason: str | None) -> None:
        """Count an HTTP answer; path: of a known set. reason: why it was refused."""
        self._answers[path, str(status)] += 1
        if reason is not None:
            self._refusals[reason] += 1

    def engine(
        self,
        model: str,
        snapshot: Mapping[str, Any] | None,
        *,
        waiting: int,
        restarts: int = 0,
        life: int = 0,
    ) -> None:
        """Take over an engine's numbers (`engine.stats.Snapshot`); None: it is not loaded.

        waiting: requests that wait outside of it. life: another number for each process, for each
        counts from 0.
        """
        own = self._models[model]
        if snapshot is None:
            own.gauges = {**dict.fromkeys(own.gauges, 0.0), "num_requests_waiting": waiting}
            own.cache = None
        else:
            own.take(snapshot, waiting, restarts, life)

    def memory(self, processes: Mapping[str, int | None]) -> None:
        """Set the memory of each process in bytes; those not named are no more."""
        self._memory = {name: size for name, size in processes.items() if size is not None}

    def audit(self, unwritten: int) -> None:
        """Set how many refusals could not be written to the audit log."""
        self._unwritten = unwritten

    def render(self) -> tuple[bytes, str]:
        """Return all in Prometheus's text format, and its content type."""
        return generate_latest(self._registry), CONTENT_TYPE_LATEST

    def families(self) -> Iterator[Metric]:
        """Yield every metric as it is now."""
        for prefix in self._prefixes:
            yield from self._shared(prefix)
        for name, text in _EXPERT_GAUGES.items():
            gauge = GaugeMetricFamily(f"{PREFIX}:{name}", text, labels=LABELS)
            for model, own in self._models.items():
                gauge.add_metric((model, ENGINE), own.gauges[name])
            yield gauge
        for name, text in (_OWN_COUNTERS | _EXPERT_COUNTERS).items():
            counter = CounterMetricFamily(f"{PREFIX}:{name}", text, labels=LABELS)
            for model, own in self._models.items():
                counter.add_metric((model, ENGINE), own.counters[name])
            yield counter
        http = CounterMetricFamily(
            f"{PREFIX}:http_requests", "Answers by path and status.", labels=("path", "status")
        )
        for labels, count in self._answers.items():
            http.add_metric(labels, count)
        refusals = CounterMetricFamily(
            f"{PREFIX}:refusals", "Refused requests by reason.", labels=("reason",)
        )
        for reason, count in self._refusals.items():
            refusals.add_metric((reason,), count)
        memory = GaugeMetricFamily(
            f"{PREFIX}:process_memory_bytes", "Resident memory by process.", labels=("process",)
        )
        for process, size in self._memory.items():
            memory.add_metric((process,), size)
        unwritten = GaugeMetricFamily(
            f"{PREFIX}:audit_unwritten_lines",
            "Refusals that the audit log lacks, for it cannot be written.",
            value=self._unwritten,
        )
        info = GaugeMetricFamily(f"{PREFIX}:build_info", "The version.", labels=("version",))
        info.add_metric((self._version,), 1)
        yield from (http, refusals, memory, unwritten, info)

    def _shared(self, prefix: str) -> Iterator[Metric]:
        """Yield what vLLM has too."""
        old = _OLD_NAMES if prefix == COMPAT else {}
        for name, text in _GAUGES.items():
            for called in filter(None, (name, old.get(name))):
                gauge = GaugeMetricFamily(f"{prefix}:{called}", text, labels=LABELS)
                for model, own in self._models.items():
                    gauge.add_metric((model, ENGINE), own.gauges[name])
                yield gauge
        for name, text in _COUNTERS.items():
            counter = CounterMetricFamily(f"{prefix}:{name}", text, labels=LABELS)
            for model, own in self._models.items():
                counter.add_metric((model, ENGINE), own.counters[name])
            yield counter
        info = GaugeMetricFamily(
            f"{prefix}:cache_config_info", "The cache.", labels=(*LABELS, *_CACHE)
        )
        for model, own in self._models.items():
            if own.cache is not None:
                info.add_metric((model, ENGINE, *own.cache), 1)
        yield info
        ended = CounterMetricFamily(
            f"{prefix}:request_success",
            "Requests that ended, by why.",
            labels=(*LABELS, "finished_reason"),
        )
        for model, own in self._models.items():
            for finish, count in own.ends(_VLLM_FINISHES if prefix == COMPAT else {}).items():
                ended.add_metric((model, ENGINE, finish), count)
        yield ended
        for name, (text, _) in _HISTOGRAMS.items():
            for called in filter(None, (name, old.get(name))):
                family = HistogramMetricFamily(f"{prefix}:{called}", text, labels=LABELS)
                for model, own in self._models.items():
                    histogram = own.histograms[name]
                    family.add_metric((model, ENGINE), histogram.buckets(), histogram.total)
                yield family


class _Look(Collector):
    """What the registry asks when somebody looks."""

    def __init__(self, metrics: Metrics) -> None:
        self._metrics = metrics

    def collect(self) -> Iterator[Metric]:
        return self._metrics.families()


class _Histogram:
    """How many values are at most each bound, and their sum."""

    __slots__ = ("_bounds", "_counts", "total")

    def __init__(self, bounds: Sequence[float]) -> None:
        self._bounds = bounds
        self._counts: list[float] = [0] * (len(bounds) + 1)
        self.total = 0.0

    def observe(self, value: float) -> None:
        self._counts[bisect_left(self._bounds, value)] += 1
        self.total += value

    def add(self, counts: Sequence[float], total: float) -> None:
        """Count many values: how many lie within each bound and beyond, and their sum."""
        self._counts = [a + b for a, b in zip(self._counts, counts, strict=True)]
        self.total += total

    def buckets(self) -> list[tuple[str, float]]:
        names = [*map(floatToGoString, self._bounds), "+Inf"]
        return list(zip(names, accumulate(self._counts), strict=True))


class _Model:
    """What was counted for one model."""

    def __init__(self) -> None:
        self.gauges: dict[str, float] = dict.fromkeys((*_GAUGES, *_EXPERT_GAUGES), 0.0)
        counters = (*_COUNTERS, *_OWN_COUNTERS, *_EXPERT_COUNTERS)
        self.counters: dict[str, float] = dict.fromkeys(counters, 0.0)
        self.histograms = {name: _Histogram(bounds) for name, (_, bounds) in _HISTOGRAMS.items()}
        self.cache: tuple[str, ...] | None = None  # values of _CACHE, of an engine that is there
        self._finishes: dict[str, int] = dict.fromkeys(FINISHES, 0)
        self._life = 0
        self._seen: dict[str, float] = {}  # the engine's counters at the last look
        self._restarts = 0  # and how often it had been replaced

    def observe(self, record: RequestRecord, gaps: Sequence[float]) -> None:
        self._finishes[record.finish if record.finish in self._finishes else "error"] += 1
        self.counters["prompt_tokens"] += record.prompt_tokens
        self.counters["generation_tokens"] += record.completion_tokens
        for name, value in (
            ("time_to_first_token_seconds", record.ttft),
            ("request_time_per_output_token_seconds", record.tpot),
            ("e2e_request_latency_seconds", record.total),
            ("request_queue_time_seconds", record.queue),
            ("request_prefill_time_seconds", record.prefill),
            ("request_decode_time_seconds", record.decode),
            ("request_inference_time_seconds", record.prefill + record.decode),
            ("request_prompt_tokens", record.prompt_tokens),
            ("request_generation_tokens", record.completion_tokens),
            (
                "request_max_num_generation_tokens",
                record.completion_tokens if record.choices == 1 else None,
            ),
            ("request_params_n", record.choices),
            ("request_params_max_tokens", record.max_tokens),
        ):
            if value is not None:
                self.histograms[name].observe(value)
        between = self.histograms["inter_token_latency_seconds"].observe
        for gap in gaps:
            between(gap)

    def take(self, snapshot: Mapping[str, Any], waiting: int, restarts: int, life: int) -> None:
        experts = snapshot["experts"] or {}
        self.gauges = {
            "expert_busiest_share": experts.get("busiest", 0.0),
            "expert_idle": experts.get("idle", 0),
            "expert_resident_bytes": experts.get("held", 0),
            "num_requests_running": snapshot["running"],
            "num_requests_waiting": snapshot["waiting"] + waiting,
            "kv_cache_usage_perc": snapshot["pages_used"] / max(1, snapshot["pages"]),
        }
        again = restarts < self._restarts  # the model was loaded anew, which counts anew
        self.counters["engine_restarts"] += restarts if again else restarts - self._restarts
        self._restarts = restarts
        if life != self._life:
            self._life, self._seen = life, {}
        self.cache = None
        if snapshot["pages"]:  # else an engine that has told nothing yet
            kept = str(snapshot["prefix_reuse"])
            self.cache = (str(snapshot["page_size"]), str(snapshot["pages"]), kept)
        hits = snapshot["prefix_hit_tokens"]
        for name, value in (
            ("prefix_cache_queries", hits + snapshot["prefix_miss_tokens"]),
            ("prefix_cache_hits", hits),
            ("num_preemptions", snapshot["preemptions"]),
            ("corrupted_requests", snapshot["corrupted"]),
            ("spec_decode_num_drafts", snapshot["drafts"]),
            ("spec_decode_num_draft_tokens", snapshot["drafted"]),
            ("spec_decode_num_accepted_tokens", snapshot["accepted"]),
            ("engine_steps", snapshot["steps"]),
            ("engine_step_seconds", snapshot["step_seconds"]),
            ("engine_model_seconds", snapshot["model_seconds"]),
            ("engine_between_seconds", snapshot["between_seconds"]),
            ("engine_failed_steps", snapshot["failed_steps"]),
            ("expert_calls", experts.get("calls", 0)),
            ("expert_taken", experts.get("taken", 0)),
            ("expert_rows", experts.get("rows", 0)),
            ("expert_hits", experts.get("hits", 0)),
            ("expert_misses", experts.get("misses", 0)),
            ("expert_read_bytes", experts.get("read", 0)),
        ):
            self.counters[name] += self._grown(name, value)
        steps = [self._grown(f"step {i}", n) for i, n in enumerate(snapshot["step_tokens"])]
        tokens = self._grown("step tokens", snapshot["prompt_rows"] + snapshot["generated"])
        self.histograms["iteration_tokens_total"].add(steps, tokens)

    def _grown(self, name: str, value: float) -> float:
        """Return by how much a count of the engine has grown since the last look."""
        seen = self._seen.get(name, 0.0)
        self._seen[name] = max(seen, value)
        return max(0.0, value - seen)

    def ends(self, words: Mapping[str, str]) -> Counter[str]:
        """Return how many requests ended how; words: other names for reasons."""
        found: Counter[str] = Counter()
        for finish, count in self._finishes.items():
            found[words.get(finish, finish)] += count
        return found
