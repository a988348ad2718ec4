"""A verdict over what was recorded: healthy, degraded or unhealthy, why, and what to do.

Pure. Thresholds can be set; their defaults are what people put up with, not what a model can do.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

from qwick.monitor.records import Averages
from qwick.values import real

LEAST = 3  # requests from which errors and times are judged
BAD = 3.0  # so many times beyond a threshold: unhealthy, not just degraded
FULL = 0.9  # of the pages of keys and values in use
SILENT = 10.0  # seconds without a sign of life, unless it computes a long step
LESS_AT_ONCE = (
    "limit what keys may have at once (`qwick keys create --concurrent`), or serve a smaller "
    "checkpoint"
)
RECENT = 3600.0  # seconds, for which the replacing of an engine is held against it


@dataclass(frozen=True, slots=True)
class Thresholds:
    """When a server is no longer healthy.

    latency: seconds, of the mean answer. memory: MB beyond the weights of the loaded models: the
    server, its caches, and what may leak. speed: tokens per second of an answer. errors: share of
    the requests that failed, and of those that were turned away, 0 to 1.
    """

    latency: float = 10.0
    memory: float = 1000.0
    speed: float = 5.0
    errors: float = 0.1

    def __post_init__(self) -> None:
        """Raise ParameterError for what is no threshold."""
        real("latency", self.latency, 0.001, 1e6)
        real("memory", self.memory, 1.0, 1e9)
        real("speed", self.speed, 0.0, 1e6)
        real("errors", self.errors, 0.0, 1.0)

    def to_dict(self) -> dict[str, float]:
        """Return every threshold by name."""
        return asdict(self)


@dataclass(frozen=True, slots=True)
class ModelFacts:
    """A served model at this moment."""

    name: str
    state: str  # cold, loading, ready, failed, closed
    running: int = 0
    waiting: int = 0
    cache_used: float = 0.0  # share of the pages of keys and values, 0 to 1
    restarts: int = 0
    restarted: float | None = None  # seconds since the last of them
    silent: float = 0.0  # seconds since the engine's last sign of life
    patience: float = SILENT  # for which it may be, now
    computing: bool = False
    context: int | None = None
    pid: int | None = None
    memory: int | None = None  # bytes of the engine's process
    weights: int = 0  # bytes of them that are its checkpoint
    experts: Mapping[str, Any] | None = None  # how it used them (engine.stats), if it has some

    def to_dict(self) -> dict[str, Any]:
        """Return every field by name."""
        return asdict(self)


@dataclass(frozen=True, slots=True)
class Verdict:
    """healthy, degraded (slow, or nearly full) or unhealthy (does not answer, or hardly)."""

    status: str
    reasons: tuple[str, ...]
    recommendations: tuple[str, ...]

    def to_dict(self) -> dict[str, Any]:
        """Return it as plain data."""
        return {
            "status": self.status,
            "reasons": list(self.reasons),
            "recommendations": list(self.recommendations),
        }


class _Judge:
    def __init__(self) -> None:
        self.worst = 0
        self.reasons: list[str] = []
        self.advice: list[str] = []

    def find(self, grade: int, reason: str, *advice: str) -> None:
        self.worst = max(self.worst, grade)
        self.reasons.append(reason)
        self.advice += [step for step in advice if step not in self.advice]


def verdict(
    averages: Averages,
    models: Mapping[str, ModelFacts],
    thresholds: Thresholds,
    *,
    memory: int | None,
    unwritten: int = 0,
) -> Verdict:
    """Judge; memory: bytes of server and engines together, None where that cannot be told.

    unwritten: refusals that the audit log lacks, for it cannot be written.
    """
    judge = _Judge()
    for model in models.values():
        _judge_model(judge, model)
    _judge_answers(judge, averages, thresholds)
    if memory is not None:
        beyond = (memory - sum(model.weights for model in models.values())) / 1e6
        if beyond > thresholds.memory:
            judge.find(
                1,
                f"{beyond:.0f} MB are in use beyond the weights; the threshold is "
                f"{thresholds.memory:.0f} MB",
                "serve with a smaller context (--ctx), or raise --memory-above",
            )
    if unwritten:
        judge.find(
            1,
            f"the audit log cannot be written and lacks {_refusals(unwritten)}",
            "see the server's log for why (audit_unwritten), and make room on the disk of its "
            "state folder (QWICK_STATE)",
        )
    status = ("healthy", "degraded", "unhealthy")[judge.worst]
    return Verdict(status, tuple(judge.reasons), tuple(judge.advice))


def _judge_model(judge: _Judge, model: ModelFacts) -> None:
    if model.state in ("failed", "closed"):
        judge.find(
            2,
            f"{model.name} is {model.state}",
            "see the server's log; `qwick doctor` looks at the machine",
        )
    if model.state == "ready" and model.silent > model.patience:
        judge.find(
            2,
            f"the engine of {model.name} has been silent for {model.silent:.0f} s; the limit is "
            f"{model.patience:.0f} s",
            "it is replaced after --stuck-after seconds, or many times that while it computes; "
            "report it if it comes back",
        )
    if model.restarted is not None and model.restarted < RECENT:
        judge.find(
            1,
            f"the engine of {model.name} was replaced {_times(model.restarts)}, the last time "
            f"{model.restarted:.0f} s ago",
            "see the server's log for why, and report it",
        )
    if model.waiting:
        judge.find(
            1,
            f"{_requests(model.waiting, 'wait')} for {model.name}",
            LESS_AT_ONCE,
        )
    if model.cache_used > FULL:
        judge.find(
            1,
            f"{model.cache_used:.0%} of the cache of {model.name} are in use; the limit is "
            f"{FULL:.0%}",
            "ask for fewer tokens at once, or serve with 8-bit pages (QWICK_KV=int8)",
        )


def _judge_answers(judge: _Judge, averages: Averages, thresholds: Thresholds) -> None:
    tried = averages.count - averages.turned_away
    failed = averages.errors / max(1, tried)
    if tried >= LEAST and failed > thresholds.errors:
        judge.find(
            2 if failed > BAD * thresholds.errors else 1,
            f"{averages.errors} of the last {tried} requests failed, {failed:.0%}; the "
            f"threshold is {thresholds.errors:.0%}",
            "see the server's log for the errors",
        )
    # A server that has more to do than it can is not broken: never worse than degraded.
    away = averages.turned_away / max(1, averages.count)
    if averages.count >= LEAST and away > thresholds.errors:
        judge.find(
            1,
            f"{averages.turned_away} of the last {averages.count} requests were turned away, "
            f"{away:.0%}: too many waited; the threshold is {thresholds.errors:.0%}",
            LESS_AT_ONCE,
        )
    if tried - averages.cancelled < LEAST:
        return
    latency, speed = averages.latency_mean, averages.tokens_per_second
    if latency is not None and latency > thresholds.latency:
        judge.find(
            2 if latency > BAD * thresholds.latency else 1,
            f"answers take {latency:.1f} s on average; the threshold is {thresholds.latency:g} s",
            "ask for fewer tokens (max_tokens), or stream the answers",
        )
    if speed is not None and speed < thresholds.speed:
        judge.find(
            2 if speed * BAD < thresholds.speed else 1,
            f"answers come at {speed:.1f} tokens/s on average; the threshold is "
            f"{thresholds.speed:g}",
            "serve a smaller checkpoint, or let fewer answers be computed at once (--places)",
        )


def _times(count: int) -> str:
    return "once" if count == 1 else f"{count} times"


def _refusals(count: int) -> str:
    return "1 refusal" if count == 1 else f"{count} refusals"


def _requests(count: int, verb: str) -> str:
    return f"1 request {verb}s" if count == 1 else f"{count} requests {verb}"
