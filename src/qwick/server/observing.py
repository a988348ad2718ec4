"""What a server notes of its visits, and how it is told: metrics, records, verdict, probes, logs.

Between the desk, which knows visits, and `monitor`, which knows none. For one event loop.
"""

from __future__ import annotations

import logging
import os
import time
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from qwick.errors import OverloadedError
from qwick.llm import Reply
from qwick.monitor.health import ModelFacts, verdict
from qwick.monitor.memory import resident_bytes
from qwick.monitor.metrics import Metrics
from qwick.monitor.records import REFUSED, Averages, Records, RequestRecord
from qwick.server.audit import AuditLog
from qwick.server.hosted import Hosted
from qwick.server.models import Models
from qwick.server.options import ServeOptions
from qwick.server.problems import problem_of
from qwick.server.pseudonyms import Pseudonyms

if TYPE_CHECKING:
    from qwick.server.visit import Visit

log = logging.getLogger("qwick.server")

LAST = 20  # records that a report shows
PATHS = frozenset(
    {
        *("/v1/chat/completions", "/v1/completions", "/v1/models", "/tokenize", "/detokenize"),
        *("/v1/embeddings", "/v1/rerank", "/rerank"),
        *("/health", "/v1/health", "/ping", "/ready", "/health_generate", "/metrics"),
        *("/v1/monitor", "/v1/monitor/probe", "/version", "/openapi.json"),
    }
)


class Observer:
    """Notes and tells; see the head of this file."""

    def __init__(
        self, options: ServeOptions, models: Models, pseudonyms: Pseudonyms, audit: AuditLog
    ) -> None:
        self._options = options
        self._audit = audit
        self._models = models
        self._pseudonyms = pseudonyms
        self._begun = time.time()
        self._records = Records()
        self._metrics = Metrics(
            list(models.hosted), version=options.version, compat=options.metrics_compat
        )

    # -- noting --------------------------------------------------------------------------------

    def answered(self, method: str, path: str, status: int, reason: str | None) -> None:
        """Count an HTTP answer; paths that are no routes are one."""
        known = path if path in PATHS else "other"
        if path.startswith("/v1/models/"):
            known = "/v1/models"
        self._metrics.answered(known, status, reason)

    def record(
        self, visit: Visit, status: int, finish: str, error: BaseException | None = None
    ) -> None:
        """Leave the record of a visit that has ended; error: what ended it, if anything did."""
        early = isinstance(error, OverloadedError) and visit.flight is None
        if early or 400 <= status < 499:
            finish = REFUSED
        code = None if error is None else problem_of(error).error["code"]
        record = self._record_of(visit, status, finish, code)
        self._records.add(record)
        gaps = () if visit.flight is None else visit.flight.tally.gaps
        self._metrics.observe(record, gaps)
        fields: dict[str, Any] = {
            "request": record.request,
            "model": record.model,
            "kind": record.kind,
            "status": record.status,
            "finish": record.finish,
            "error": record.error,
            "streamed": record.streamed,
            "prompt_tokens": record.prompt_tokens,
            "cached_tokens": record.cached_tokens,
            "completion_tokens": record.completion_tokens,
            "reasoning_tokens": record.reasoning_tokens or None,
            "queue": round(record.queue, 4),
            "ttft": None if record.ttft is None else round(record.ttft, 4),
            "seconds": round(record.total, 4),
            "tok_s": round(record.tokens_per_second, 2),
            "key": record.key,
            "user": record.user,
        }
        if self._options.log_content:
            fields["prompt"] = [q.messages or q.prompt for q in visit.ask.prompts]
            replies = visit.flight.tally.replies if visit.flight is not None else []
            fields["answer"] = [reply.text for reply in replies]
        log.info("request", extra=fields)

    def _record_of(
        self, visit: Visit, status: int, finish: str, error: str | None
    ) -> RequestRecord:
        flight = visit.flight
        replies: Sequence[Reply] = () if flight is None else flight.tally.replies
        first = None if flight is None else flight.tally.first
        generated = 0 if flight is None else flight.generated
        # Tokens after the first of each answer, and the seconds that they took.
        later = sum(max(0, reply.usage.completion_tokens - 1) for reply in replies)
        decode = sum(reply.timings.decode for reply in replies)
        if not replies and flight is not None and flight.tally.last is not None:  # broken off
            decode = flight.tally.last - (first or 0.0)
            later = generated - 1 if flight.answers == 1 else 0
        prompts = replies[:: visit.ask.choices]
        key, user = visit.caller.key, visit.ask.user
        return RequestRecord(
            time=time.time(),
            request=visit.caller.request_id,
            model=visit.hosted.name,
            kind=visit.ask.kind,
            status=status,
            finish=finish,
            streamed=visit.streamed,
            choices=visit.ask.choices,
            prompt_tokens=0 if flight is None else flight.prompt_tokens,
            cached_tokens=sum(reply.usage.cached_tokens for reply in prompts),
            completion_tokens=generated,
            reasoning_tokens=sum(reply.usage.reasoning_tokens for reply in replies),
            queue=visit.waited + max((r.timings.queue for r in replies), default=0.0),
            prefill=max((r.timings.prefill for r in replies), default=0.0),
            decode=max((r.timings.decode for r in replies), default=decode),
            ttft=None if first is None else first - visit.begun,
            total=time.monotonic() - visit.begun,
            tpot=decode / later if later > 0 and decode > 0 else None,
            tokens_per_second=later / decode if later > 0 and decode > 0 else 0.0,
            memory=self._memory(),
            max_tokens=visit.ask.max_tokens,
            key=None if key is None else self._pseudonyms.of("key", key.id),
            user=None if user is None else self._pseudonyms.of("user", user),
            error=error,
        )

    # -- telling -------------------------------------------------------------------------------

    def metrics(self) -> tuple[bytes, str]:
        """Return the metrics in Prometheus's text format, and their content type."""
        processes = {"server": resident_bytes()}
        for name, hosted in self._models.hosted.items():
            qwen = hosted.qwen
            if qwen is None:
                self._metrics.engine(name, None, waiting=hosted.queue.waiting)
                continue
            pulse = qwen.engine.pulse
            self._metrics.engine(
                name,
                qwen.engine.snapshot.to_dict(),
                waiting=hosted.queue.waiting,
                restarts=pulse.restarts,
                life=hosted.lives * 1_000_000 + pulse.restarts,
            )
            if pulse.pid is not None:
                processes[name] = resident_bytes(pulse.pid)
        self._metrics.memory(processes)
        self._metrics.audit(self._audit.unwritten)
        return self._metrics.render()

    def report(self, under_way: int, last: int) -> dict[str, Any]:
        """Return everything for people and programs; last: the records that averages are of."""
        models = {name: self._facts(hosted) for name, hosted in self._models.hosted.items()}
        averages = self._records.averages(last)
        memory = self._memory()
        thresholds = self._options.thresholds
        found = verdict(
            averages, models, thresholds, memory=memory, unwritten=self._audit.unwritten
        )
        return {
            "server": {
                "version": self._options.version,
                "pid": os.getpid(),
                "started": round(self._begun, 3),
                "uptime": round(time.time() - self._begun, 3),
                "memory": memory,
                "under_way": under_way,
            },
            "models": [facts.to_dict() for facts in models.values()],
            "verdict": found.to_dict(),
            "averages": averages.to_dict(),
            "thresholds": thresholds.to_dict(),
            "last": [record.to_dict() for record in self._records.last(LAST)],
        }

    def probed(self, records: Sequence[RequestRecord]) -> dict[str, Any]:
        """Return the report of a probe: its rows, their averages, and a verdict over them alone."""
        averages = Averages.of(records)
        models = {name: self._facts(hosted) for name, hosted in self._models.hosted.items()}
        found = verdict(averages, models, self._options.thresholds, memory=self._memory())
        return {
            "verdict": found.to_dict(),
            "averages": averages.to_dict(),
            "rows": [record.to_dict() for record in records],
        }

    def last_record(self, request: str) -> RequestRecord | None:
        """Return the record of a request, if it is kept."""
        found = self._records.last(1, lambda record: record.request == request)
        return found[0] if found else None

    def _facts(self, hosted: Hosted) -> ModelFacts:
        qwen = hosted.qwen
        if qwen is None:
            return ModelFacts(hosted.name, hosted.state, waiting=hosted.queue.waiting)
        pulse, snapshot = qwen.engine.pulse, qwen.engine.snapshot
        return ModelFacts(
            hosted.name,
            hosted.state,
            running=hosted.queue.running,
            waiting=hosted.queue.waiting,
            cache_used=snapshot.pages_used / max(1, snapshot.pages),
            restarts=pulse.restarts,
            restarted=None if pulse.restarted is None else round(pulse.restarted, 3),
            silent=round(pulse.silent, 3),
            patience=hosted.patience,
            computing=pulse.computing,
            context=qwen.context,
            pid=pulse.pid,
            memory=None if pulse.pid is None else resident_bytes(pulse.pid),
            weights=hosted.weights,
            experts=None if snapshot.experts is None else snapshot.experts.to_dict(),
        )

    def _memory(self) -> int | None:
        """Return the bytes of the server and of all engines."""
        pids = [h.qwen.engine.pulse.pid for h in self._models.hosted.values() if h.qwen]
        sizes = [resident_bytes(), *(resident_bytes(pid) for pid in pids if pid is not None)]
        known = [size for size in sizes if size is not None]
        return sum(known) if known else None
