"""What is counted of a model's experts, as plain numbers."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any


@dataclass(frozen=True, slots=True)
class ExpertUse:
    """How experts were used so far. A call is one layer's part of a step; shared experts apart.

    Where rows of prompts have their own arithmetic (`ops.prompts_differ`), it is a call for each
    kind of row that a step has, and an expert that both kinds take is read, and counted, twice.
    budget: bytes of them that may be in memory, and None where all always are.
    """

    layers: int
    experts: int  # of a layer
    calls: int
    taken: int  # experts that were read, each once a call, shared ones too
    rows: int  # tokens times the experts that each took
    busiest: float  # the largest share that one expert has of its layer's rows
    idle: int  # experts that no token has taken
    budget: int | None = None
    held: int = 0  # bytes of experts in memory
    hits: int = 0  # experts that were to be read and in memory
    misses: int = 0  # and those that were not
    read: int = 0  # bytes of the latter, which came from the disk or the system's copy of it

    @property
    def per_call(self) -> float:
        """Experts that a call reads, on the average."""
        return self.taken / self.calls if self.calls else 0.0

    def to_dict(self) -> dict[str, Any]:
        """Return all numbers by name."""
        return {**asdict(self), "per_call": self.per_call}
