"""One record per request, the last of them kept, and what they say on average.

Numbers, words of this program and pseudonyms: no content, and nobody's name.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from qwick.values import whole

KEPT = 1000  # records; each is some 500 bytes
MOST_KEPT = 1_000_000
REFUSED = "refused"


@dataclass(frozen=True, slots=True)
class RequestRecord:
    """How one request went.

    time: seconds since 1970, at its end. kind: that of `Ask`. key, user: pseudonyms.
    queue: seconds in queues; ttft: from arrival to the first token, None if there was none; total:
    to the end; tpot: per output token after the first, None without a second one.
    tokens_per_second: after the first token, 0 where nothing was measured; of several answers, it
    and tpot are their means. finish: why it ended, REFUSED for what was refused before it began.
    error: the code of what ended it, None if nothing did. status: HTTP. memory: bytes of server and
    engines at its end; device_memory: None where there is no device.
    """

    time: float
    request: str
    model: str
    kind: str
    status: int
    finish: str
    streamed: bool
    choices: int
    prompt_tokens: int
    cached_tokens: int
    completion_tokens: int
    reasoning_tokens: int
    queue: float
    prefill: float
    decode: float
    ttft: float | None
    total: float
    tpot: float | None
    tokens_per_second: float
    memory: int | None
    device_memory: int | None = None
    max_tokens: int | None = None
    key: str | None = None
    user: str | None = None
    error: str | None = None

    def to_dict(self) -> dict[str, Any]:
        """Return every field by name."""
        return asdict(self)


def percentile(values: Sequence[float], share: float) -> float | None:
    """Return the value below which `share` (0 to 1) of them lie, linearly between two; or None.

    As numpy.percentile does by default; without it, for a handful of numbers.
    """
    if not values:
        return None
    ordered = sorted(values)
    place = share * (len(ordered) - 1)
    low = math.floor(place)
    high = min(low + 1, len(ordered) - 1)
    return ordered[low] + (ordered[high] - ordered[low]) * (place - low)


@dataclass(frozen=True, slots=True)
class Averages:
    """What some records say together. Times in seconds; None where none of them has any."""

    count: int
    errors: int  # a status of 500 and above, but for those turned away
    turned_away: int  # refused with such a status: more waited than may
    cancelled: int
    prompt_tokens: int
    completion_tokens: int
    latency_mean: float | None
    latency_p50: float | None
    latency_p95: float | None
    ttft_p50: float | None
    ttft_p95: float | None
    tpot_p50: float | None
    tpot_p95: float | None
    tokens_per_second: float | None  # mean over answers
    memory_max: int | None

    @classmethod
    def of(cls, records: Iterable[RequestRecord]) -> Averages:
        """Return those of some records. Answers that were cancelled have no say about times."""
        found = list(records)
        answered = [r for r in found if r.status < 400]
        latencies = [r.total for r in answered]
        firsts = [r.ttft for r in answered if r.ttft is not None]
        each = [r.tpot for r in answered if r.tpot is not None]
        speeds = [r.tokens_per_second for r in answered if r.tokens_per_second > 0]
        memories = [r.memory for r in found if r.memory is not None]
        return cls(
            count=len(found),
            errors=sum(r.status >= 500 and r.finish != REFUSED for r in found),
            turned_away=sum(r.status >= 500 and r.finish == REFUSED for r in found),
            cancelled=sum(r.status == 499 for r in found),
            prompt_tokens=sum(r.prompt_tokens for r in found),
            completion_tokens=sum(r.completion_tokens for r in found),
            latency_mean=sum(latencies) / len(latencies) if latencies else None,
            latency_p50=percentile(latencies, 0.5),
            latency_p95=percentile(latencies, 0.95),
            ttft_p50=percentile(firsts, 0.5),
            ttft_p95=percentile(firsts, 0.95),
            tpot_p50=percentile(each, 0.5),
            tpot_p95=percentile(each, 0.95),
            tokens_per_second=sum(speeds) / len(speeds) if speeds else None,
            memory_max=max(memories, default=None),
        )

    def to_dict(self) -> dict[str, Any]:
        """Return every figure by name."""
        return asdict(self)


class Records:
    """The last records, at most `kept` of them."""

    def __init__(self, kept: int = KEPT) -> None:
        self._records: deque[RequestRecord] = deque(maxlen=whole("kept", kept, 1, MOST_KEPT))

    def add(self, record: RequestRecord) -> None:
        """Keep one more."""
        self._records.append(record)

    def last(
        self, n: int, where: Callable[[RequestRecord], bool] | None = None
    ) -> list[RequestRecord]:
        """Return the last n, the newest first; where: only those that it accepts."""
        whole("n", n, 0, MOST_KEPT)
        found = (r for r in reversed(self._records) if where is None or where(r))
        return [record for record, _ in zip(found, range(n), strict=False)]

    def averages(self, n: int = 100) -> Averages:
        """Return what the last n say together."""
        return Averages.of(self.last(n))
