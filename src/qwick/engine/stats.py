"""Counters of one engine: a few additions a step, read at any time from any thread.

Knows numbers only. Who shows them (metrics, `bench`) is elsewhere.
"""

from __future__ import annotations

from bisect import bisect_left
from collections import Counter
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from typing import Any

from qwick.model.expert_use import ExpertUse

# Upper bounds, of tokens of a step, up to which steps are counted together: those of vLLM.
STEP_TOKENS = (1, 8, 16, 32, 64, 128, 256, 512, 1024, 2048, 4096, 8192, 16384)


@dataclass(slots=True)
class Stats:
    """Counts and seconds since the engine started; written by the engine's thread alone.

    Seconds are wall time: `forward` and `logits` inside the model, `plan` for scheduler and index
    arrays, `sample` for reading logits, `deliver` for callbacks; `step` is all of it. `between` is
    what passes from a step to the next one while there is work.
    """

    steps: int = 0
    prompt_rows: int = 0  # rows of chunks, recomputed ones included
    decode_rows: int = 0
    generated: int = 0
    prefix_hit_tokens: int = 0  # of starting requests (scores and preempted ones too): in the cache
    prefix_miss_tokens: int = 0  # and the rest of them, to be computed
    evicted_pages: int = 0  # pages that could have been found again, given to somebody else
    drafts: int = 0  # how often ids were guessed for a sequence
    drafted: int = 0  # rows of guessed ids, beside those above
    accepted: int = 0  # those of them that were right
    preemptions: int = 0
    failed_steps: int = 0
    corrupted: int = 0  # requests that ended because their logits were NaN or infinite
    failed_callbacks: int = 0
    finished: Counter[str] = field(default_factory=Counter)
    # Steps by their tokens (of prompts, and generated): up to each of STEP_TOKENS, and beyond.
    step_tokens: list[int] = field(default_factory=lambda: [0] * (len(STEP_TOKENS) + 1))
    step_seconds: float = 0.0
    between_seconds: float = 0.0
    plan_seconds: float = 0.0
    forward_seconds: float = 0.0
    logits_seconds: float = 0.0
    sample_seconds: float = 0.0
    deliver_seconds: float = 0.0

    def count_step(self, tokens: int) -> None:
        """Count a step of so many tokens."""
        self.steps += 1
        self.step_tokens[bisect_left(STEP_TOKENS, tokens)] += 1

    @property
    def model_seconds(self) -> float:
        """Seconds inside the model."""
        return self.forward_seconds + self.logits_seconds

    @property
    def python_share(self) -> float:
        """Fraction of the step time outside `model.forward` and `model.logits`; 0 at first."""
        if self.step_seconds == 0.0:
            return 0.0
        return max(0.0, 1.0 - self.model_seconds / self.step_seconds)

    def to_dict(self) -> dict[str, Any]:
        """Return every counter by name, the seconds inside the model, and the share outside it."""
        derived = {"model_seconds": self.model_seconds, "python_share": self.python_share}
        return {**asdict(self), "finished": dict(self.finished), **derived}


@dataclass(frozen=True, slots=True)
class Snapshot:
    """An engine at one moment: its counters so far, its requests and the pages of its cache.

    page_size: positions of a page. prefix_reuse: whether pages are found by what is in them.
    experts: how a mixture of experts used them; None for other models.
    """

    stats: Stats = field(default_factory=Stats)
    running: int = 0
    waiting: int = 0
    pages_used: int = 0
    pages_kept: int = 0
    pages: int = 0
    page_size: int = 0
    prefix_reuse: bool = True
    experts: ExpertUse | None = None

    def to_dict(self) -> dict[str, Any]:
        """Return all numbers by name, the counters among them."""
        state = {name: getattr(self, name) for name in self.__dataclass_fields__}
        del state["stats"]
        state["experts"] = None if self.experts is None else self.experts.to_dict()
        return {**self.stats.to_dict(), **state}


class Stopwatch:
    """Seconds since the last lap, so that phases tile a step without gaps."""

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self.begun = self._last = clock()

    def lap(self) -> float:
        """Return the seconds since the last lap (or the start) and begin the next."""
        now = self._clock()
        elapsed, self._last = now - self._last, now
        return elapsed
